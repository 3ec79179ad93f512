"""Where a composed configuration becomes a run: parsed once here, and seen by nothing below.

The key `pipeline` of the root configurations names one of these functions.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


def image(cfg: DictConfig, out_dir: Path) -> None:
    """Carry out one image run in its folder."""
    from prunetune.config.parse import parse_image_run  # these imports load torch, which `--help` does without
    from prunetune.runs import image_run

    image_run.execute(parse_image_run(cfg), out_dir)


def grid(cfg: DictConfig, out_dir: Path) -> None:
    """Carry out all cells of a grid, each in a folder of its own; `out_dir` has the job's own files."""
    from prunetune.config.cells import parse_grid
    from prunetune.runs import grid

    grid.execute(parse_grid(cfg, list(HydraConfig.get().overrides.task)))


def instruct(cfg: DictConfig, out_dir: Path) -> None:
    """Carry out one text run in its folder."""
    from prunetune.instruct import text_run
    from prunetune.instruct.parse import parse_text_run

    text_run.execute(parse_text_run(cfg), out_dir)
