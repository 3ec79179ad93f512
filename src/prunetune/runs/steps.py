"""The order of the steps of one run, the same for images and text: score -> prune -> fine-tune -> write the result."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from prunetune.config.names import Names
from prunetune.runs import records
from prunetune.runs.scores import Scores
from prunetune.runs.tracking import Tracker, open_run

log = logging.getLogger(__name__)
Pruned = TypeVar("Pruned")
Tuned = TypeVar("Tuned")


class Run(Protocol):
    """What the order of the steps reads of a parsed run.

    until: the last step that is taken. record: the configuration as result.json records it.
    """

    names: Names
    ratio: float
    seed: int
    until: str
    wandb: str
    results_dir: Path
    record: dict[str, Any]


class Steps(ABC, Generic[Pruned, Tuned]):
    """The steps of one kind of run, once its data and networks are open.

    Pruned is what its pruning gives, Tuned what its fine-tuning gives. last: the step that ends with result.json.
    tested: what the accuracy is about, for the log's last line.
    """

    last: ClassVar[str]
    tested: ClassVar[str]

    @property
    def is_main(self) -> bool:
        """Whether this process writes what a run leaves behind."""
        return True

    @abstractmethod
    def score(self) -> Scores:
        """Return one number per sample, from the store or computed into it."""

    @abstractmethod
    def prune(self, scores: Scores) -> Pruned:
        """Choose what is kept."""

    @abstractmethod
    def write_subset(self, pruned: Pruned, out_dir: Path) -> None:
        """Write subset.csv."""

    @abstractmethod
    def finetune(self, pruned: Pruned) -> Tuned:
        """Train on what is kept."""

    @abstractmethod
    def write(self, pruned: Pruned, tuned: Tuned, out_dir: Path, tracker: Tracker) -> dict[str, Any]:
        """Evaluate where the training has not, write the result and return it; the tracker shows curves and scores."""


def take(run: Run, listing: Callable[[], str | None], opened: Callable[[], Steps], out_dir: Path) -> None:
    """Take the steps of a run up to `run.until`; a run that has its result in the folder returns at once.

    Args:
        run: the parsed run.
        listing: gives the hash of the data set's list of samples as it is now, None where the data are gone.
        opened: reads the data's lists, prepares the networks and returns the steps; not called for a finished run.
        out_dir: the run's folder.

    Raises:
        InputError: another run has its result there, or a step cannot be taken.
    """
    if records.is_finished(out_dir, run.record, listing):
        return
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
    title = run.names.title(run.ratio, run.seed)
    return open_run(run.wandb, "prunetune", title, run.record, run.results_dir / "wandb")
