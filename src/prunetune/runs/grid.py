"""Run a grid: every method x ratio x seed of one (dataset, backbone) in one job, with all linear probes in one batch.

A cell of a grid is one run. It has the same configuration, folder and result as if it were run alone.
"""

import functools
import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from prunetune.base import leftovers
from prunetune.base.errors import InputError
from prunetune.base.log_file import SHOWN_ONLY
from prunetune.config.cells import Cell, GridRun
from prunetune.config.parse import ImageRun
from prunetune.runs import failures, image_run, records
from prunetune.runs.tracking import Tracker, open_run
from prunetune.signals.remote import RemotePasses
from prunetune.training.recipe import FinetuneResult

log = logging.getLogger(__name__)
AT_ONCE = 4  # At most this many whole networks are trained on one GPU at the same time.
FILLING = 64 * 128 * 128  # A batch of so many pixels is assumed to fill a GPU. This number was not measured.


@dataclass(frozen=True)
class Ready:
    """A cell that is scored and pruned, and not trained yet."""

    cell: Cell
    task: image_run.Task
    pruned: image_run.Pruned

    @property
    def training(self) -> image_run.Training:
        """The training that this cell still needs."""
        return image_run.Training(self.pruned.subset, self.cell.run.seed, self.pruned.sample_order)


def execute(grid: GridRun, remote: RemotePasses | None = None) -> None:
    """Run every cell that is not finished.

    Args:
        grid: the cells.
        remote: the other processes that run frozen networks, None for this one.

    Raises:
        InputError: a cell cannot be run as configured, or some cells failed. The other cells are finished first.
    """
    for cell in grid.cells:
        image_run.check(cell.run)
    leftovers.tidy(grid.results_dir / "store")
    for cell in grid.cells:
        leftovers.remove_from(cell.out_dir)
    listing = functools.cache(lambda: image_run.listing_of(grid.cells[0].run))  # All cells share the data set.
    todo = [cell for cell in grid.cells if not records.is_finished(cell.out_dir, cell.run.record, listing)]
    log.info("%d runs, %d finished before", len(grid.cells), len(grid.cells) - len(todo), extra=SHOWN_ONLY)
    if not todo:
        return
    leftovers.sweep(grid.results_dir / "store", [grid.results_dir / "runs", grid.results_dir / "grids"])
    with open_run(grid.wandb, "prunetune", grid.title, grid.record, grid.results_dir / "wandb") as tracker:
        results = run_cells(todo, Tasks(remote), tracker)
        tracker.log_results(results)


@dataclass
class Attempts:
    """The cells that have failed so far. A failed cell does not stop the others."""

    failed: list[tuple[Cell, Exception]] = field(default_factory=list)

    @contextmanager
    def of(self, cells: Sequence[Cell]) -> Iterator[None]:
        """Record an error of the block for these cells, also in their folders, and do not raise it."""
        try:
            yield
        except Exception as error:
            if type(error).__module__.startswith("submitit"):  # The cluster ends the job, so no cell has failed.
                raise
            for cell in cells:
                self.failed.append((cell, error))
                failures.note(cell.out_dir, error)
                log.error("failed: %s: %s", cell.out_dir, " ".join(str(error).split()))

    def close(self) -> None:
        """Raise one error if any cell has failed.

        Raises:
            InputError: cells failed with different errors.
            Exception: all failed cells have the same error object, which is raised as it is.
        """
        if not self.failed:
            return
        cell, error = self.failed[0]
        if all(other is error for _, other in self.failed):
            raise error
        raise InputError(f"{len(self.failed)} runs of the grid failed, first {cell.out_dir}: {error}") from error


class Tasks:
    """The tasks of a grid's cells. Cells that are scored by the same network share it. remote: as for `execute`."""

    def __init__(self, remote: RemotePasses | None = None) -> None:
        self._remote = remote
        self._opened: list[tuple[ImageRun, image_run.Task]] = []

    def of(self, run: ImageRun) -> image_run.Task:
        """Return the run's task. Lists and networks are loaded once for each scoring backbone."""
        alike = [(other, task) for other, task in self._opened if other.scoring_backbone == run.scoring_backbone]
        for other, task in alike:
            if (other.proxy, other.is_searched) == (run.proxy, run.is_searched):
                return task
        task = alike[0][1].read_for(run) if alike else image_run.open_task(run, self._remote)
        self._opened.append((run, task))
        return task


def run_cells(cells: list[Cell], tasks: Tasks, tracker: Tracker) -> list[dict[str, Any]]:
    """Score and prune each cell, then train them and write their results.

    Linear probes are trained together, logistic regressions are fitted one after another, and so are whole networks, or
    a few of them at the same time.

    Raises:
        Exception: some cells failed. It is raised after all other cells are done.
    """
    attempts = Attempts()
    tasks.of(cells[0].run)  # An error here, such as missing data, concerns all cells, so it is raised at once.
    ready: list[Ready] = []
    # Cells that search their sampler come first: they store the masked features, which the other cells then reuse.
    for cell in sorted(cells, key=lambda cell: not cell.run.is_searched):
        failures.forget(cell.out_dir)
        with attempts.of([cell]):
            if cell.run.until != "score":
                records.claim(cell.out_dir)
            task = tasks.of(cell.run)
            scores = image_run.score(cell.run, task)
            if cell.run.until != "score":
                pruned = image_run.prune(cell.run, task, scores)
                image_run.write_pruned(cell.out_dir, task, pruned)
                ready.append(Ready(cell, task, pruned))
    results = _train(ready, tracker, attempts) if cells[0].run.until == "finetune" else []
    attempts.close()
    return results


def _train(ready: list[Ready], tracker: Tracker, attempts: Attempts) -> list[dict[str, Any]]:
    if not ready:
        return []
    run, task = ready[0].cell.run, ready[0].task
    results = []
    batches = [ready] if run.recipe.trained == "head" else [[one] for one in ready]
    at_once = trainings_at_once(run, task) if run.recipe.trained == "all" else 1
    with _finetunings(run, task, batches, at_once) as finetunings:
        for batch, finetuning in zip(batches, finetunings, strict=True):
            with attempts.of([one.cell for one in batch]):
                for one, outcome in zip(batch, finetuning(), strict=True):
                    results.append(_write(one, outcome, tracker))
    return results


def trainings_at_once(run: ImageRun, task: image_run.Task) -> int:
    """Return how many whole networks to train at the same time. It is more than one if one does not fill the GPU."""
    if task.device == "cpu":
        return 1
    pixels = run.recipe.batch_size * task.tuned.embedding.network.input_size**2
    return max(1, min(AT_ONCE, FILLING // pixels, os.cpu_count() or 1))


@contextmanager
def _finetunings(
    run: ImageRun, task: image_run.Task, batches: Sequence[Sequence[Ready]], at_once: int
) -> Iterator[list[Callable[[], list[FinetuneResult]]]]:
    """Yield one function per batch of cells that trains the batch and returns its results.

    With at_once=1 the functions train in this process. Otherwise worker processes that share the GPU train, and the
    functions wait for them. If a worker fails, its batch is trained again in this process, because the worker may have
    run out of memory only because others used the GPU at the same time.
    """

    def here(batch: Sequence[Ready]) -> list[FinetuneResult]:
        return image_run.finetune(run, task, [one.training for one in batch])

    if at_once == 1 or len(batches) == 1:
        yield [functools.partial(here, batch) for batch in batches]
        return
    workers = ProcessPoolExecutor(
        min(at_once, len(batches)),
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,  # Results on a CPU depend on the number of threads by rounding.
        initargs=(torch.get_num_threads(),),
    )
    try:
        packed_run = pickle.dumps(run)
        futures = [
            workers.submit(_finetune_apart, packed_run, pickle.dumps([one.training for one in batch]))
            for batch in batches
        ]

        def outcome(number: int) -> list[FinetuneResult]:
            error = futures[number].exception()
            if error is None:
                return pickle.loads(futures[number].result())
            log.info("a training beside others failed and is repeated alone: %s", error)
            return here(batches[number])

        yield [functools.partial(outcome, number) for number in range(len(batches))]
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def _finetune_apart(packed_run: bytes, packed_trainings: bytes) -> bytes:
    """Train one batch in a worker process. Tensors are passed as bytes, so that no shared memory is needed."""
    run, task = _opened(packed_run)
    return pickle.dumps(image_run.finetune(run, task, pickle.loads(packed_trainings)))


@functools.cache
def _opened(packed_run: bytes) -> tuple[ImageRun, image_run.Task]:
    run = pickle.loads(packed_run)
    return run, image_run.open_task(run)


def _write(one: Ready, outcome: FinetuneResult, tracker: Tracker) -> dict[str, Any]:
    run = one.cell.run
    prefix = f"{run.names.scorer}-{run.names.sampler}/{run.amount}/{run.seed}/{run.tag}"
    settled = image_run.settled(one.pruned, outcome)
    return image_run.write(run, one.cell.out_dir, one.task, settled, outcome, tracker, prefix)
