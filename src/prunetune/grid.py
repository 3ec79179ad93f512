"""Many runs in one job: every method x ratio x seed of one (dataset, backbone), all linear probes trained together.

A cell has exactly the configuration, the folder and the result of a single run.
"""

import copy
import functools
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from prunetune import pipeline, records
from prunetune.config import Names, compared, names, run_folder
from prunetune.errors import InputError
from prunetune.recipe import FinetuneResult
from prunetune.tracking import Tracker, open_run

log = logging.getLogger(__name__)
PLURALS = ("methods", "ratios", "seeds")
SHARED = ("dataset", "backbone", "scoring_backbone", "finetune", "images", "batch_size", "device", "precision", "until")


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    cfg: DictConfig
    names: Names
    out_dir: Path


def run(cfg: DictConfig, grid_names: Names, out_dir: Path) -> None:
    """Run every cell that is not finished; what is finished is left as it is."""
    cells = expand(cfg, list(HydraConfig.get().overrides.task))
    for cell in cells:
        pipeline.check(cell.cfg)
    listing = functools.cache(lambda: pipeline.listing_of(cells[0].cfg))  # once for all cells
    todo = [cell for cell in cells if not records.is_finished(cell.out_dir, cell.cfg, listing)]
    log.info("%d runs, %d finished before", len(cells), len(cells) - len(todo))
    if not todo:
        return
    title = f"grid {grid_names.dataset} {grid_names.backbone_folder} {grid_names.finetune}"
    with open_run(cfg.wandb, "prunetune", title, compared(cfg), Path(cfg.results_dir) / "wandb") as tracker:
        results = run_cells(todo, tracker)
        tracker.log_results(results)


def expand(cfg: DictConfig, overrides: list[str]) -> list[Cell]:
    """Return the grid's cells: `config` composed with the job's own overrides and those of the cell."""
    if not (cfg.methods and cfg.ratios and cfg.seeds):
        raise InputError("a grid needs at least one of each: methods=[...], ratios=[...], seeds=[...]")
    for word in overrides:
        key = word.split("=")[0].lstrip("+~")
        if key in ("method", "ratio", "seed"):
            raise InputError(f"a grid takes {key}s=[...], got {word}")
    common = [word for word in overrides if word.split("=")[0].lstrip("+~") not in PLURALS]
    cells = []
    composed = {method: _compose(method, common) for method in cfg.methods}
    for method, ratio, seed in itertools.product(cfg.methods, cfg.ratios, cfg.seeds):
        cell = copy.deepcopy(composed[method])
        cell.ratio, cell.seed = ratio, seed
        cells.append(Cell(cell, names(cell), Path(cell.results_dir) / "runs" / run_folder(cell)))
    for key in SHARED:
        if any(cell.cfg[key] != cells[0].cfg[key] for cell in cells):
            raise InputError(f"the methods of a grid may differ in scorer and sampler, but not in {key}")
    twice = [cell.out_dir for cell in cells]
    if len(set(twice)) < len(twice):
        raise InputError("two cells of the grid would share a folder; list every method, ratio and seed once")
    return cells


def _compose(method: str, overrides: list[str]) -> DictConfig:
    """Return a single run's configuration; its ratio and seed are set afterwards, since composing takes a while."""
    try:
        return compose("config", overrides=[*overrides, f"method={method}"])
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"method {method} cannot be composed: {error}") from None


def run_cells(cells: list[Cell], tracker: Tracker) -> list[dict[str, Any]]:
    """Score and prune cell by cell, train the heads together (whole networks one after another), write every cell."""
    task = pipeline.open_task(cells[0].cfg)
    cells = sorted(cells, key=lambda cell: not pipeline.is_searched(cell.cfg))  # they keep masked features for the rest
    pruned = []
    for cell in cells:
        scores = pipeline.score(cell.cfg, task)
        if cell.cfg.until != "score":
            pruned.append(pipeline.prune(cell.cfg, task, scores))
            pipeline.write_pruned(cell.out_dir, task, pruned[-1])
    if cells[0].cfg.until != "finetune":
        return []
    is_probe = pipeline.recipe_of(cells[0].cfg).trained == "head"
    batches = [range(len(cells))] if is_probe else [[i] for i in range(len(cells))]
    results = []
    for batch in batches:
        subsets, schedules = [pruned[i].subset for i in batch], [pruned[i].schedule for i in batch]
        seeds = [cells[i].cfg.seed for i in batch]
        outcomes = pipeline.finetune(cells[batch[0]].cfg, task, subsets, seeds, schedules)
        for i, outcome in zip(batch, outcomes, strict=True):
            results.append(_write(cells[i], task, pruned[i], outcome, tracker))
    return results


def _write(
    cell: Cell, task: pipeline.Task, pruned: pipeline.Pruned, outcome: FinetuneResult, tracker: Tracker
) -> dict[str, Any]:
    prefix = f"{cell.names.scorer}-{cell.names.sampler}/{cell.cfg.ratio:g}/{cell.cfg.seed}/{cell.cfg.tag}"
    settled = pipeline.settled(pruned, outcome)
    return pipeline.write(cell.cfg, cell.names, cell.out_dir, task, settled, outcome, tracker, prefix)
