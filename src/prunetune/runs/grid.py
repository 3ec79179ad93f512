"""Many runs in one job: every method x ratio x seed of one (dataset, backbone), all linear probes trained together.

A cell has exactly the configuration, the folder and the result of a single run.
"""

import copy
import functools
import itertools
import logging
import multiprocessing
import os
import pickle
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunetune.base.errors import InputError
from prunetune.config.identity import compared
from prunetune.config.names import Names, names, run_folder
from prunetune.runs import failures, image_run, records
from prunetune.runs.tracking import Tracker, open_run
from prunetune.training.recipe import FinetuneResult

log = logging.getLogger(__name__)
PLURALS = ("methods", "ratios", "seeds")
SINGULARS = ("method", "ratio", "seed")
SHARED = ("dataset", "backbone", "finetune", "images", "batch_size", "device", "precision", "until", "results_dir")
AT_ONCE = 4  # whole networks that share a GPU, at most
FILLING = 64 * 128 * 128  # pixels of a batch with which one training is taken to fill a GPU: not measured
EXAMPLE = "'dlc sampler.gamma=0.3 tag=g0.3'"


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    cfg: DictConfig
    names: Names
    out_dir: Path


def run(cfg: DictConfig, grid_names: Names, out_dir: Path) -> None:
    """Run every cell that is not finished; what is finished is left as it is.

    Raises:
        InputError: what the grid asks for cannot be, or some of its cells failed while the others went on.
    """
    cells = expand(cfg, list(HydraConfig.get().overrides.task))
    for cell in cells:
        image_run.check(cell.cfg)
    listing = functools.cache(lambda: image_run.listing_of(cells[0].cfg))  # once for all cells
    todo = [cell for cell in cells if not records.is_finished(cell.out_dir, compared(cell.cfg), listing)]
    log.info("%d runs, %d finished before", len(cells), len(cells) - len(todo))
    if not todo:
        return
    title = f"grid {grid_names.dataset} {grid_names.backbone_folder} {grid_names.finetune}"
    with open_run(cfg.wandb, "prunetune", title, compared(cfg), Path(cfg.results_dir) / "wandb") as tracker:
        results = run_cells(todo, tracker)
        tracker.log_results(results)


def expand(cfg: DictConfig, overrides: Sequence[str]) -> list[Cell]:
    """Return the grid's cells: `config` composed with the job's own overrides and those of the cell.

    Raises:
        InputError: what the grid asks for cannot be.
    """
    if not (cfg.methods and cfg.ratios and cfg.seeds):
        raise InputError("a grid needs at least one of each: methods=[...], ratios=[...], seeds=[...]")
    composed = {entry: compose_cell(entry, shared_words(overrides)) for entry in cfg.methods}
    cells = []
    for entry, ratio, seed in itertools.product(cfg.methods, cfg.ratios, cfg.seeds):
        cell = copy.deepcopy(composed[entry])
        cell.ratio, cell.seed = ratio, seed
        cells.append(Cell(cell, names(cell), Path(cell.results_dir) / "runs" / run_folder(cell)))
    _check_together(list(composed.values()), cells)
    return cells


def shared_words(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides that a job's cells have in common.

    Raises:
        InputError: one of them sets what a grid has lists of.
    """
    for word in overrides:
        if _key(word) in SINGULARS:
            raise InputError(f"a grid takes {_key(word)}s=[...], got {word}")
    return tuple(word for word in overrides if _key(word) not in PLURALS)


def _check_together(composed: list[DictConfig], cells: list[Cell]) -> None:
    for key in SHARED:
        if any(cfg[key] != composed[0][key] for cfg in composed):
            raise InputError(f"the methods of a grid may differ in scorer and sampler, but not in {key}")
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

    Its ratio and seed are set afterwards, since composing takes a while.

    Raises:
        InputError: the entry cannot be read or composed.
    """
    method, own = read_entry(entry)
    try:
        return compose("config", overrides=[*overrides, f"method={method}", *own])
    except (HydraException, OmegaConfBaseException) as error:
        reason = f"{error} {error.__cause__ or ''}"
        raise InputError(f"method {entry} cannot be composed: {reason}") from None


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


@dataclass
class Attempts:
    """Cells that failed so far; one of them stops none of the others."""

    failed: list[tuple[Cell, Exception]] = field(default_factory=list)

    @contextmanager
    def of(self, cells: Sequence[Cell]) -> Iterator[None]:
        """Note an error of the block for these cells, in their folders too, and go on."""
        try:
            yield
        except Exception as error:
            if type(error).__module__.startswith("submitit"):  # the cluster ends the job; no cell is at fault
                raise
            for cell in cells:
                self.failed.append((cell, error))
                failures.note(cell.out_dir, error)
                log.error("failed: %s: %s", cell.out_dir, " ".join(str(error).split()))

    def close(self) -> None:
        """Raise one error for all that failed.

        Raises:
            InputError: some of the grid's cells could not be run.
            Exception: the grid has this one cell, or a bug stopped them all alike.
        """
        if not self.failed:
            return
        cell, error = self.failed[0]
        if all(other is error for _, other in self.failed):
            raise error
        raise InputError(f"{len(self.failed)} runs of the grid failed, first {cell.out_dir}: {error}") from error


def run_cells(cells: list[Cell], tracker: Tracker) -> list[dict[str, Any]]:
    """Score and prune cell by cell, train the heads together (whole networks one after another), write every cell.

    Raises:
        Exception: of what failed, after all the others are done.
    """
    task_of = functools.cache(lambda place: image_run.open_task(cells[place].cfg))
    place_of = [_first_alike(cells, i) for i in range(len(cells))]
    task_of(0)  # what no cell can do without
    attempts = Attempts()
    pruned: list[tuple[Cell, image_run.Task, image_run.Pruned]] = []
    # searched ones first: they keep masked features for the rest
    for i in sorted(range(len(cells)), key=lambda i: not image_run.is_searched(cells[i].cfg)):
        cell = cells[i]
        failures.forget(cell.out_dir)
        with attempts.of([cell]):
            task = task_of(place_of[i])
            scores = image_run.score(cell.cfg, task)
            if cell.cfg.until != "score":
                made = image_run.prune(cell.cfg, task, scores)
                image_run.write_pruned(cell.out_dir, task, made)
                pruned.append((cell, task, made))
    results = _train(pruned, tracker, attempts) if cells[0].cfg.until == "finetune" else []
    attempts.close()
    return results


def _first_alike(cells: list[Cell], place: int) -> int:
    """Return the first cell with the same scoring backbone: such cells share their networks."""
    wanted = cells[place].cfg.scoring_backbone
    return next(i for i, cell in enumerate(cells) if cell.cfg.scoring_backbone == wanted)


def _train(
    pruned: list[tuple[Cell, image_run.Task, image_run.Pruned]], tracker: Tracker, attempts: Attempts
) -> list[dict[str, Any]]:
    if not pruned:
        return []
    first, task, _ = pruned[0]
    is_probe = image_run.recipe_of(first.cfg).trained == "head"
    results = []
    batches = [pruned] if is_probe else [[one] for one in pruned]
    with _finetunings(first.cfg, task, batches, 1 if is_probe else trainings_at_once(first.cfg, task)) as finetunings:
        for batch, finetuning in zip(batches, finetunings, strict=True):
            with attempts.of([cell for cell, _, _ in batch]):
                for one, outcome in zip(batch, finetuning(), strict=True):
                    results.append(_write(*one, outcome, tracker))
    return results


def trainings_at_once(cfg: DictConfig, task: image_run.Task) -> int:
    """Return how many whole networks are trained at the same time: several where one does not fill the GPU."""
    if task.device == "cpu":
        return 1
    pixels = image_run.recipe_of(cfg).batch_size * task.tuned.embedding.network.input_size**2
    return max(1, min(AT_ONCE, FILLING // pixels, os.cpu_count() or 1))


@contextmanager
def _finetunings(
    cfg: DictConfig,
    task: image_run.Task,
    batches: Sequence[Sequence[tuple[Cell, image_run.Task, image_run.Pruned]]],
    at_once: int,
) -> Iterator[list[Callable[[], list[FinetuneResult]]]]:
    """Give, for each batch of cells, what trains them: here one after another, or in processes that share a GPU.

    What fails in such a process is trained here again, alone: it may have lacked memory only because of the others.
    """

    def words(batch: Sequence[tuple[Cell, image_run.Task, image_run.Pruned]]) -> tuple[list, list, list]:
        made = [pruned for *_, pruned in batch]
        return [each.subset for each in made], [cell.cfg.seed for cell, *_ in batch], [each.schedule for each in made]

    def here(batch: Sequence[tuple[Cell, image_run.Task, image_run.Pruned]]) -> list[FinetuneResult]:
        return image_run.finetune(cfg, task, *words(batch))

    if at_once == 1 or len(batches) == 1:
        yield [functools.partial(here, batch) for batch in batches]
        return
    workers = ProcessPoolExecutor(
        min(at_once, len(batches)),
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,  # as here, so that a CPU rounds alike
        initargs=(torch.get_num_threads(),),
    )
    try:
        text = OmegaConf.to_yaml(cfg)
        futures = [workers.submit(_finetune_apart, text, pickle.dumps(words(batch))) for batch in batches]

        def outcome(number: int) -> list[FinetuneResult]:
            error = futures[number].exception()
            if error is None:
                return pickle.loads(futures[number].result())
            log.info("trained again, alone: %s", error)
            return here(batches[number])

        yield [functools.partial(outcome, number) for number in range(len(batches))]
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def _finetune_apart(text: str, packed: bytes) -> bytes:
    """Train in a process of its own; tensors travel as bytes, not as shared memory."""
    cfg, task = _opened(text)
    return pickle.dumps(image_run.finetune(cfg, task, *pickle.loads(packed)))


@functools.cache
def _opened(text: str) -> tuple[DictConfig, image_run.Task]:
    cfg = OmegaConf.create(text)
    return cfg, image_run.open_task(cfg)


def _write(
    cell: Cell, task: image_run.Task, pruned: image_run.Pruned, outcome: FinetuneResult, tracker: Tracker
) -> dict[str, Any]:
    prefix = f"{cell.names.scorer}-{cell.names.sampler}/{cell.cfg.ratio:g}/{cell.cfg.seed}/{cell.cfg.tag}"
    settled = image_run.settled(pruned, outcome)
    return image_run.write(cell.cfg, cell.names, cell.out_dir, task, settled, outcome, tracker, prefix)
