"""The fourth stage: rows in the order of their classes, so that a worker can read one class without reading the rest.

Each task takes some parts and sorts their rows by class, then by position. The sorted rows are called a run. In a run
the rows of one class stand together: <run>.offsets.npy [C + 1] says where each class begins. The other files of the run
hold positions, scores and features in the same order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunetune.cluster.parts import Bundle
from prunetune.cluster.scores import SCORES
from prunetune.cluster.stages import Item, Stage, bundled, named_file
from prunetune.cluster.workers import FEATURES

RUN_BYTES = 256 << 20  # A run holds at most this many bytes, so that a worker can sort it in memory.
OFFSETS, POSITIONS, VALUES, ROWS = ".offsets.npy", ".positions.npy", ".scores.npy", ".features.npy"


@dataclass(frozen=True, eq=False)
class Runs:
    """Sorted runs. stage: where they are. names: of the runs, in the order of positions. sizes: [C] int64 rows."""

    stage: Stage
    names: tuple[str, ...]
    sizes: np.ndarray

    def read(self, label: int, what: str) -> Iterator[np.ndarray]:
        """Yield the pieces of one class in ascending order of positions.

        Args:
            label: the index of the class.
            what: POSITIONS, VALUES or ROWS.
        """
        for name in self.names:
            start, stop = self._place(name, label)
            if stop > start:
                yield np.load(self.stage.file(name, what), mmap_mode="r")[start:stop]

    def _place(self, name: str, label: int) -> tuple[int, int]:
        """Return where a class begins and ends in a run."""
        offsets = np.load(self.stage.file(name, OFFSETS), mmap_mode="r")
        return int(offsets[label]), int(offsets[label + 1])

    def with_class(self, label: int) -> list[tuple["Runs", int]]:
        """Return each run that has rows of a class, alone, and how many these are."""
        places = ((name, *self._place(name, label)) for name in self.names)
        return [(replace(self, names=(name,)), stop - start) for name, start, stop in places if stop > start]

    def whole(self, label: int, what: str) -> np.ndarray:
        """Return all of one class."""
        return np.concatenate(list(self.read(label, what)))


def sort_by_class(
    of: Sequence[Bundle], passes: Stage, scores: Stage | None, stage: Stage, num_classes: int, width: int
) -> Runs:
    """Write sorted runs of all rows, and return them.

    Args:
        of: all parts in bundles, in the order of positions.
        passes: the stage that holds positions, labels and features.
        scores: the stage that holds the scores of each bundle; None if they are 0 or are computed class by class.
        stage: where the runs go.
        num_classes: C.
        width: bytes of the features of a row; 0 leaves them out.
    """
    together = bundled(of, lambda bundle: bundle.rows, max(1, RUN_BYTES // (width + 24)))
    items = [Item(f"run-{i:06d}", sum(one.rows for one in some), tuple(some)) for i, some in enumerate(together)]
    stage.run(items, sort_run, passes, scores, num_classes, width > 0, what="sorting by class")
    sizes = sum(np.diff(np.load(stage.file(item.name, OFFSETS))) for item in items)
    return Runs(stage, tuple(item.name for item in items), np.asarray(sizes))


def sort_run(
    item: Item, stage: Stage, passes: Stage, scores: Stage | None, num_classes: int, with_features: bool
) -> dict[str, Any]:
    """Sort the rows of some bundles by class; within a class they stay in the order of positions."""
    columns: dict[str, list[np.ndarray]] = {POSITIONS: [], VALUES: [], ROWS: []}
    labels = []
    for part in (part for bundle in item.work for part in bundle.parts):
        with np.load(passes.file(part.name, FEATURES)) as file:
            labels.append(file["labels"])
            columns[POSITIONS].append(file["positions"])
            if with_features:
                columns[ROWS].append(file["features"])
    if scores is not None:
        columns[VALUES] = [np.load(scores.file(bundle.name, SCORES)) for bundle in item.work]
    return write_run(item.name, stage, np.concatenate(labels), num_classes, columns)


def write_run(
    name: str, stage: Stage, labels: np.ndarray, num_classes: int, columns: dict[str, list[np.ndarray]]
) -> dict[str, Any]:
    """Write one run, and return its record.

    Args:
        name: of the run.
        stage: where it goes.
        labels: [n] by which the rows are sorted, in 0..num_classes - 1.
        num_classes: C.
        columns: maps the ending of a file to the pieces of its rows; it is emptied, so that memory is freed.
    """
    order = labels.argsort(kind="stable")
    written = {OFFSETS: np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=num_classes))])}
    for suffix in [suffix for suffix, pieces in columns.items() if pieces]:
        written[suffix] = np.concatenate(columns.pop(suffix))[order]
    paths = []
    for suffix, values in written.items():
        paths.append(stage.file(name, suffix))
        with named_file(paths[-1]) as file:
            np.save(file, values)
    return stage.finish(name, paths, {})
