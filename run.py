"""Score, prune and fine-tune: `python run.py dataset=dtd scorer=dlc ratio=0.1`; `--help` lists every option."""

import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from prunetune.base.errors import InputError
from prunetune.config.names import names
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.instruct.names import is_text, text_names
from prunetune.runs import failures


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Run the pipeline that the root config names."""
    job = HydraConfig.get()
    out_dir = Path(job.runtime.output_dir)
    try:
        with failures.noted(out_dir):
            called = text_names(cfg) if is_text(cfg) else names(cfg)
            get_method(cfg.pipeline)(cfg, called, out_dir)
    except InputError as error:
        if job.mode == RunMode.MULTIRUN:
            raise  # the other jobs go on
        sys.exit(f"error: {error}")
    if os.environ.get("RANK", "0") == "0":  # of several processes one says it
        print(f"run: {out_dir}")


def one_line(error: Exception) -> str:
    """Return what Hydra or we found wrong, with our advice instead of Hydra's."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    if isinstance(error, OverrideParseException):
        return f"{text}; a value with special characters needs quotes of its own: 'key=\"value\"'"
    return re.sub(r"To append to your config use \S+", "There is no such option; --help lists them all.", text)


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's errors come here, and bugs keep their whole traceback
    try:
        main()
    except (HydraException, OmegaConfBaseException, InputError) as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; give the same command again: what the store has is not computed again")
    except (PermissionError, NotADirectoryError) as error:  # mostly a run's folder that cannot be made
        sys.exit(f"error: {error}; check the path, or pass results_dir=<folder>")
