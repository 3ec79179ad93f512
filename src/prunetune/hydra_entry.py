"""Where every run starts: compose the configuration by Hydra and call the pipeline that the root config names.

`python run.py ...` and `prunetune run ...` both come here, and so do the jobs that submitit starts: they read the same
configs, those of the package `prunetune.configs`. Imports no torch, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import prunetune.config  # noqa: F401  registers the schemas with Hydra
from prunetune.base.errors import InputError
from prunetune.config.explain import explain
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.runs import failures


def run_job(cfg: DictConfig) -> None:
    """Run the pipeline that the root config names.

    It is not decorated, so that this module's name for it is the function itself: submitit then pickles the name and
    not the code.
    """
    job = HydraConfig.get()
    out_dir = Path(job.runtime.output_dir)
    try:
        with failures.noted(out_dir):
            get_method(cfg.pipeline)(cfg, out_dir)
    except InputError as error:
        if job.mode == RunMode.MULTIRUN:
            raise  # the other jobs go on
        sys.exit(f"error: {error}")
    if os.environ.get("RANK", "0") == "0":  # of several processes only the first one prints the folder
        print(f"run: {out_dir}")


def start(program: str, words: Sequence[str]) -> None:
    """Hand a command line to Hydra; on bad input print one line and exit with code 1.

    Args:
        program: what Hydra's messages call the command, such as "run.py".
        words: the command line after the program's name. Nothing in it is changed.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's errors come here, and bugs keep their whole traceback
    sys.argv = [program, *words]  # Hydra reads its command line from there only
    entry = hydra.main(version_base="1.3", config_path="pkg://prunetune.configs", config_name="config")(run_job)
    try:
        entry()
    except (HydraException, OmegaConfBaseException, InputError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; give the same command again: what the store has is not computed again")
    except (PermissionError, NotADirectoryError) as error:  # mostly a run's folder that cannot be made
        sys.exit(f"error: {error}; check the path, or pass results_dir=<folder>")
