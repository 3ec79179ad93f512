"""Parse a composed configuration and execute the run, grid or text run that it describes.

The key `pipeline` of each root configuration names one of these functions. Code below them receives no configuration.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from prunetune.base.errors import InputError


def image(cfg: DictConfig, out_dir: Path) -> None:
    """Execute one image run. out_dir: its folder."""
    from prunetune.config.parse import parse_image_run  # Imported here, since it loads torch, which `--help` avoids.
    from prunetune.runs import image_run

    run = parse_image_run(cfg)
    with _remote(run) as remote:
        image_run.execute(run, out_dir, remote)


def grid(cfg: DictConfig, out_dir: Path) -> None:
    """Execute all cells of a grid, each in its own folder. out_dir: the folder of the job's files, such as its log."""
    from prunetune.config.cells import parse_grid
    from prunetune.runs import grid

    asked = parse_grid(cfg, list(HydraConfig.get().overrides.task))
    with _remote(asked.cells[0].run) as remote:  # All cells have the same engine.
        grid.execute(asked, remote)


@contextmanager
def _remote(run: Any) -> Iterator[Any]:
    """Yield the workers of the run's engine, or None for this process; Ray is imported only if it is the engine."""
    if run.engine == "local":
        yield None
        return
    from prunetune.cluster.pool_passes import RayPasses

    with RayPasses(run.ray_address, run.device, run.results_dir / "store") as passes:
        yield passes


def instruct(cfg: DictConfig, out_dir: Path) -> None:
    """Execute one text run. out_dir: its folder."""
    from prunetune.instruct import text_run
    from prunetune.instruct.parse import parse_text_run

    text_run.execute(parse_text_run(cfg), out_dir)


def pipeline(cfg: DictConfig) -> Callable[[DictConfig, Path], None]:
    """Return the function of this module that the root configuration names. No other function is ever called.

    Raises:
        InputError: the key `pipeline` names something else than the root configuration does.
    """
    door = instruct if "corpus" in cfg else grid if "methods" in cfg else image
    own = f"{__name__}.{door.__name__}"
    if cfg.get("pipeline") != own:
        raise InputError(f"pipeline is set by the root configuration and must be {own}, got {cfg.get('pipeline')!r}")
    return door
