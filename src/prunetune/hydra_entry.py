"""The start of every run: Hydra composes the configuration and calls the pipeline that the root config names.

`python run.py ...`, `prunetune run ...` and the jobs that submitit starts all call this module. So they all read the
configs of the package `prunetune.configs`. It does not import torch, so that `--help` answers quickly.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import prunetune.config  # noqa: F401  registers the schemas with Hydra
from prunetune import doors
from prunetune.base import disk
from prunetune.base.errors import InputError
from prunetune.base.publish import write_text
from prunetune.config.explain import UNREADABLE, explain, is_from_composing
from prunetune.config.words import arranged, check_choices, check_folders, with_lists
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.runs import failures

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")


def run_job(cfg: DictConfig) -> None:
    """Run the pipeline that the root config names.

    `hydra.main` is not used as a decorator here. A decorator would replace the function in this module, and submitit
    could then not pickle it by its name.
    """
    job = HydraConfig.get()
    out_dir = Path(job.runtime.output_dir)
    _write_configuration(cfg, out_dir)
    try:
        with failures.noted(out_dir):
            doors.pipeline(cfg)(cfg, out_dir)
        if os.environ.get("RANK", "0") == "0":  # If several processes share a run, only the first one prints this.
            with disk.explained("standard output", "redirect it elsewhere"):
                print(f"run: {out_dir}", flush=True)
    except Exception as error:
        line = f"error: {error}" if isinstance(error, InputError) else _line(error, job.overrides.hydra)
        if line is None or job.mode == RunMode.MULTIRUN:
            raise  # sys.exit would end the whole sweep. Hydra handles the error and continues with the other jobs.
        sys.exit(line)


def start(program: str, words: Sequence[str]) -> None:
    """Start Hydra with a command line. Bad input prints one line and exits with code 1.

    Args:
        program: the name of the command in Hydra's messages, such as "run.py".
        words: the command line after the program's name.
    """
    # With this variable Hydra raises its errors, so that they are explained below, and bugs keep their full traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    words = with_lists(words)
    entry = hydra.main(version_base="1.3", config_path="pkg://prunetune.configs", config_name="config")(run_job)
    with disk.one_line(_fix(words)):  # This is for standard output, which may be redirected to a full disk.
        try:
            check_choices(words)
            check_folders(words)
            sys.argv = [program, *arranged(words)]  # Hydra reads its command line only from sys.argv.
            entry()
        except KeyboardInterrupt:
            sys.exit("interrupted; give the same command again to continue: stored results are not computed again")
        except Exception as error:
            line = _line(error, words)
            if line is None:
                raise
            sys.exit(line)


def _line(error: Exception, words: Sequence[str]) -> str | None:
    """Return the line that explains an error of the user or of the disk, or None for a bug."""
    if isinstance(error, HydraException | OmegaConfBaseException | InputError):
        return f"error: {explain(error)}"
    if isinstance(error, UNREADABLE) and is_from_composing(error):
        return f"error: a file of the configuration cannot be used: {explain(error)}"
    fault = disk.fault_behind(error)
    return None if fault is None else f"error: {disk.not_usable(fault, _fix(words))}"


def _fix(words: Sequence[str]) -> str:
    """Return what else to pass if a folder cannot be used: the folder that the command line names."""
    named = [key for key in FOLDERS if any(word.startswith(f"{key}=") for word in words)]
    return f"pass another {named[0]}" if named else disk.ANOTHER_RESULTS_DIR


def _write_configuration(cfg: DictConfig, out_dir: Path) -> None:
    """Write the files of Hydra's folder `.hydra`, unless the run is finished.

    Hydra itself would write them before the run can see that it is finished. An error is not shown: the same disk
    refuses the run's own files, which are checked.
    """
    job = HydraConfig.get()
    if job.output_subdir is not None or any(word.startswith("hydra.output_subdir=") for word in job.overrides.hydra):
        return  # The command line says where Hydra writes them, or that it does not.
    contents = {"config": cfg, "hydra": HydraConfig.instance().cfg, "overrides": job.overrides.task}
    with suppress(OSError):
        if not (out_dir / "result.json").exists():
            for name, content in contents.items():
                write_text(out_dir / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content))
