"""The start of every run: Hydra composes the configuration and calls the pipeline that the root config names.

`python run.py ...`, `prunetune run ...` and the jobs that submitit starts all call this module. So they all read the
configs of the package `prunetune.configs`. It does not import torch, so that `--help` answers quickly.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import prunetune.config  # noqa: F401  registers the schemas with Hydra
from prunetune import doors
from prunetune.base.errors import InputError
from prunetune.config.explain import UNREADABLE, explain, is_from_composing
from prunetune.config.words import arranged, check_choices
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.runs import failures


def run_job(cfg: DictConfig) -> None:
    """Run the pipeline that the root config names.

    `hydra.main` is not used as a decorator here. A decorator would replace the function in this module, and submitit
    could then not pickle it by its name.
    """
    job = HydraConfig.get()
    out_dir = Path(job.runtime.output_dir)
    try:
        with failures.noted(out_dir):
            doors.pipeline(cfg)(cfg, out_dir)
    except InputError as error:
        if job.mode == RunMode.MULTIRUN:
            raise  # sys.exit would end the whole sweep. Hydra handles the error and continues with the other jobs.
        sys.exit(f"error: {error}")
    if os.environ.get("RANK", "0") == "0":  # If several processes share a run, only the first one prints the folder.
        print(f"run: {out_dir}")


def start(program: str, words: Sequence[str]) -> None:
    """Start Hydra with a command line. Bad input prints one line and exits with code 1.

    Args:
        program: the name of the command in Hydra's messages, such as "run.py".
        words: the command line after the program's name.
    """
    # With this variable Hydra raises its errors, so that they are explained below, and bugs keep their full traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    entry = hydra.main(version_base="1.3", config_path="pkg://prunetune.configs", config_name="config")(run_job)
    try:
        check_choices(words)
        sys.argv = [program, *arranged(words)]  # Hydra reads its command line only from sys.argv.
        entry()
    except (HydraException, OmegaConfBaseException, InputError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; give the same command again to continue: stored results are not computed again")
    except (PermissionError, NotADirectoryError) as error:  # The usual cause is that the run's folder cannot be made.
        sys.exit(f"error: {error}; check the path, or pass results_dir=<folder>")
    except UNREADABLE as error:
        if not is_from_composing(error):
            raise
        sys.exit(f"error: a file of the configuration cannot be used: {explain(error)}")
