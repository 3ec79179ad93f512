"""The cells of a grid. A cell is composed exactly as the same single run would be."""

import copy
import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from prunetune.base.errors import InputError
from prunetune.config.explain import UNREADABLE, explain
from prunetune.config.identity import recorded
from prunetune.config.names import Names, resolve_names, run_folder
from prunetune.config.parse import ImageRun, parse_image_run
from prunetune.config.words import check_choices
from prunetune.samplers.amount import plain_ratio

PLURALS = ("methods", "ratios", "seeds")
SINGULARS = ("method", "ratio", "seed")
SHARED = ("dataset", "backbone", "finetune", "images", "batch_size", "device", "precision", "engine", "ray_address")
SHARED += ("until", "results_dir")
EXAMPLE = "'dlc sampler.gamma=0.3 tag=g0.3'"


@dataclass(frozen=True)
class Cell:
    """One run of a grid, and its folder."""

    run: ImageRun
    out_dir: Path


@dataclass(frozen=True)
class GridRun:
    """Many runs of one (dataset, backbone).

    cells: the runs, at least one. record: the grid's own configuration.
    """

    names: Names
    cells: tuple[Cell, ...]
    wandb: str
    results_dir: Path
    record: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The grid's name in the viewer of runs."""
        return f"grid {self.names.dataset} {self.names.backbone_folder} {self.names.finetune}"


def parse_grid(cfg: DictConfig, overrides: Sequence[str]) -> GridRun:
    """Return the grid with its cells. A cell is the root `config`, composed with the job's and the cell's overrides.

    Args:
        cfg: the composed root `grid`.
        overrides: the words of the command line that it was composed with.

    Raises:
        InputError: a list is empty, a cell cannot be composed, or the cells do not fit together.
    """
    if not (cfg.methods and cfg.ratios and cfg.seeds):
        raise InputError("a grid needs at least one of each: methods=[...], ratios=[...], seeds=[...]")
    composed = {entry: compose_cell(entry, shared_words(overrides)) for entry in cfg.methods}
    _check_together(list(composed.values()))
    cells = []
    for entry, ratio, seed in itertools.product(cfg.methods, cfg.ratios, cfg.seeds):
        cell = copy.deepcopy(composed[entry])
        cell.ratio, cell.seed = plain_ratio(ratio), seed
        cells.append(Cell(parse_image_run(cell), Path(cell.results_dir) / "runs" / run_folder(cell)))
    _check_folders(cells)
    return GridRun(resolve_names(cfg), tuple(cells), cfg.wandb, Path(cfg.results_dir), recorded(cfg))


def shared_words(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides that a job's cells have in common.

    Raises:
        InputError: one of them sets method, ratio or seed, for which a grid has lists.
    """
    for word in overrides:
        if _key(word) in SINGULARS:
            raise InputError(f"a grid takes {_key(word)}s=[...], got {word}")
    return tuple(word for word in overrides if _key(word) not in PLURALS)


def _check_together(composed: list[DictConfig]) -> None:
    for key in SHARED:
        if any(cfg[key] != composed[0][key] for cfg in composed):
            raise InputError(f"the methods of a grid may differ in scorer and sampler, but not in {key}")


def _check_folders(cells: list[Cell]) -> None:
    seen: set[Path] = set()
    for cell in cells:
        if cell.out_dir in seen:
            raise InputError(
                f"two cells of the grid would share a folder, {cell.out_dir}; "
                "list every method, ratio and seed once, and give a method with other settings a tag=<name>"
            )
        seen.add(cell.out_dir)


def compose_cell(entry: str, overrides: tuple[str, ...]) -> DictConfig:
    """Return the configuration of one entry of `methods`: the name of a method, then overrides of its own.

    The caller sets ratio and seed afterwards. Composing is slow, so it is done once for all of them.

    Raises:
        InputError: the entry cannot be read or composed.
    """
    method, own = read_entry(entry)
    check_choices(own)
    try:
        return compose("config", overrides=[*overrides, f"method={method}", *own])
    except (HydraException, OmegaConfBaseException, *UNREADABLE) as error:
        raise InputError(f"method {entry} cannot be composed: {explain(error)}") from None


def read_entry(entry: str) -> tuple[str, list[str]]:
    """Return the method's name and the overrides of an entry such as 'dlc sampler.gamma=0.3 tag=g0.3'.

    Raises:
        InputError: it is empty, begins with an override, or sets what the grid sets.
    """
    try:
        name, *own = shlex.split(entry)
    except ValueError as error:
        raise InputError(
            f"an entry of methods is a method and perhaps overrides, {EXAMPLE}, got {entry!r} ({error})"
        ) from None
    if "=" in name:
        raise InputError(f"an entry of methods begins with the name of a method, {EXAMPLE}, got {entry!r}")
    for word in own:
        if "=" not in word:
            raise InputError(f"an override of a method is <key>=<value>, {EXAMPLE}, got {word!r} in {entry!r}")
        if _key(word) in (*PLURALS, *SINGULARS):
            raise InputError(f"a method of a grid cannot set {_key(word)}, got {entry!r}; the grid sets it")
    return name, own


def _key(word: str) -> str:
    return word.split("=")[0].lstrip("+~")
