"""The steps of one run, in the same order for images and text: score, prune, fine-tune, write the result."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from prunetune.base import leftovers
from prunetune.config.names import Names
from prunetune.runs import records
from prunetune.runs.scores import Scores
from prunetune.runs.tracking import Tracker, open_run

log = logging.getLogger(__name__)
Pruned = TypeVar("Pruned")
Tuned = TypeVar("Tuned")


class Run(Protocol):
    """The part of a parsed run that `take` needs.

    title: the run's name in the viewer of runs. until: the last step to take. record: the configuration as result.json
    keeps it.
    """

    names: Names
    until: str
    wandb: str
    results_dir: Path
    record: dict[str, Any]

    @property
    def title(self) -> str: ...


class Steps(ABC, Generic[Pruned, Tuned]):
    """The steps of one kind of run, with its data and networks loaded.

    Pruned and Tuned are the types that pruning and fine-tuning return. last: the step after which result.json is
    written. tested: what the model is tested on, such as "test images", for the last line of the log.
    """

    last: ClassVar[str]
    tested: ClassVar[str]

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files of the run."""
        return True

    @abstractmethod
    def score(self) -> Scores:
        """Return one score per sample. Scores are read from the store, or computed and stored."""

    @abstractmethod
    def prune(self, scores: Scores) -> Pruned:
        """Choose the samples to keep."""

    @abstractmethod
    def write_subset(self, pruned: Pruned, out_dir: Path) -> None:
        """Write subset.csv."""

    @abstractmethod
    def finetune(self, pruned: Pruned) -> Tuned:
        """Train on the kept samples."""

    @abstractmethod
    def write(self, pruned: Pruned, tuned: Tuned, out_dir: Path, tracker: Tracker) -> dict[str, Any]:
        """Evaluate the model if the training has not done so, write the result, log it, and return it."""


def take(run: Run, listing: Callable[[], str | None], opened: Callable[[], Steps], out_dir: Path) -> None:
    """Take the steps of a run up to `run.until`. A run that is finished is not repeated.

    Args:
        run: the parsed run.
        listing: returns the hash of the data set's present list of samples, None if the data are no longer there.
        opened: loads the lists of the data and the networks, and returns the steps. It is not called if the run is
            finished.
        out_dir: the run's folder.

    Raises:
        InputError: the folder holds the result of another run or cannot be written, or a step cannot be taken.
    """
    leftovers.tidy(run.results_dir / "store")
    leftovers.remove_from(out_dir)
    if records.is_finished(out_dir, run.record, listing):
        return
    if run.until != "score":
        records.claim(out_dir)
    leftovers.sweep(run.results_dir / "store", [run.results_dir / "runs", run.results_dir / "grids"])
    steps = opened()
    scores = steps.score()
    if not scores.is_new:
        log.info("the scores of %s were in the store: %s", run.names.scorer, scores.folder.name)
    if run.until == "score":
        return
    pruned = steps.prune(scores)
    if steps.is_main:
        steps.write_subset(pruned, out_dir)
    if run.until == "prune":
        return
    writes_result = run.until == steps.last and steps.is_main
    with _tracker(run) if writes_result else nullcontext() as tracker:
        tuned = steps.finetune(pruned)
        if tracker is None:
            return
        result = steps.write(pruned, tuned, out_dir, tracker)
        tracker.log_result(result)
    log.info("accuracy %.2f %% on %d %s", 100 * result["accuracy"], result["num_test"], steps.tested)


def _tracker(run: Run) -> AbstractContextManager[Tracker]:
    return open_run(run.wandb, "prunetune", run.title, run.record, run.results_dir / "wandb")
