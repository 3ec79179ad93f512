"""From rows that were read to `OwnData`: what all readers share at their end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.images.decode import Images
from prunetune.data.pool import Pool
from prunetune.own.data import OwnData
from prunetune.own.read.labels import is_empty, plain, read_labels
from prunetune.own.read.options import ReadOptions, leave_out

WITHOUT_LABELS = "all images"  # The one class of a pool whose images have no labels.


@dataclass
class Found:
    """What a reader has found in the user's data, in the user's order.

    layout, source: as in OwnData. num_rows: the rows of the data, those without an image included. rows: N numbers, the
    row of each image. sample_ids: N different ids. names: N texts, each image as the user gave it. images: N images, or
    None with features. paths: N paths of files, or None where there are none. labels: N labels as they were given, None
    if there are none. class_names: the names of the classes if labels are indices. are_names: labels are names of
    folders, which may look like anything. place: returns the name of a row for
    messages. left_out, notes, others: as in OwnData. splits: the split of each image, if it is not "train".
    """

    layout: str
    source: Any
    num_rows: int
    rows: list[int]
    sample_ids: list[str]
    names: list[str]
    images: Images | None
    place: Callable[[int], str]
    labels: Sequence[Any] | None = None
    class_names: Sequence[str] | None = None
    are_names: bool = False
    paths: list[Path | None] | None = None
    features: Tensor | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    others: Pool | None = None
    notes: list[str] = field(default_factory=list)
    splits: list[str] | None = None

    def keep(self, chosen: Sequence[int]) -> None:
        """Keep the images at these places only; the caller says in `left_out` why the others go."""
        for name in ("rows", "sample_ids", "names", "labels", "paths", "splits"):
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, [values[place] for place in chosen])
        if self.images is not None:
            self.images = self.images.take(chosen)
        if self.features is not None:
            self.features = self.features[torch.tensor(chosen, dtype=torch.int64)]


def assemble(found: Found, name: str, options: ReadOptions) -> OwnData:
    """Return the data that a reader has found.

    Args:
        found: rows in the user's order.
        name: what the data are called in messages and in the store.
        options: how they were read.

    Raises:
        InputError: nothing was found, or a label is missing or wrong.
    """
    labels = found.labels if options.reads_labels else None
    if labels is not None:
        _leave_out_unlabelled(found, options)
    if not found.rows:
        raise InputError(_nothing(found, name))
    if labels is None:
        indices, classes = (0,) * len(found.rows), (WITHOUT_LABELS,)
    else:
        read = read_labels(
            found.labels, lambda i: found.place(found.rows[i]), options, found.class_names, found.are_names
        )
        indices, classes = read.indices, read.classes
        found.notes.extend(read.notes)
    splits = tuple(found.splits or ("train",) * len(found.rows))
    order = torch.tensor(sorted(range(len(found.rows)), key=found.sample_ids.__getitem__), dtype=torch.int64)
    # The rows are sorted here. A pool that sorts them itself warns that it cannot sort what belongs to them.
    in_order = order.tolist()
    pool = Pool(
        name=name,
        labels=torch.tensor(indices, dtype=torch.int64)[order],
        sample_ids=tuple(found.sample_ids[i] for i in in_order),
        splits=tuple(splits[i] for i in in_order),
        classes=classes,
        images=None if found.images is None else found.images.take(in_order),
    )
    return OwnData(
        pool=pool,
        rows=torch.tensor(found.rows, dtype=torch.int64)[order],
        num_rows=found.num_rows,
        names=tuple(found.names[i] for i in in_order),
        paths=tuple((found.paths or [None] * len(in_order))[i] for i in in_order),
        layout=found.layout,
        is_labelled=labels is not None,
        features=None if found.features is None else found.features[order],
        left_out=found.left_out,
        others=found.others,
        source=found.source,
        notes=tuple(found.notes),
    )


def _leave_out_unlabelled(found: Found, options: ReadOptions) -> None:
    empty = {i for i, label in enumerate(found.labels) if is_empty(plain(label))}
    bad = {found.place(found.rows[i]): "it has no label" for i in sorted(empty)}
    if len(empty) == len(found.rows) and empty:
        raise InputError(f"no row has a label; score without labels with {options.without_labels()}")
    leave_out(bad, len(found.rows), "rows", options)
    if bad:
        found.left_out.update(bad)
        found.keep([i for i in range(len(found.rows)) if i not in empty])


def _nothing(found: Found, name: str) -> str:
    if not found.left_out:
        return f"{name} holds no images"
    first = next(iter(found.left_out.items()))
    return f"{name} holds no images that can be read; {len(found.left_out)} left out, first: {first[0]} ({first[1]})"


def other_splits(images: Images, sample_ids: Sequence[str], splits: Sequence[str]) -> Pool:
    """Return images that are no candidates, to look for duplicates in; they have one class."""
    labels = torch.zeros(len(sample_ids), dtype=torch.int64)
    return Pool("other splits", labels, tuple(sample_ids), tuple(splits), ("other splits",), images)


def numbered(count: int, prefix: str = "") -> list[str]:
    """Return ids of equal width, which sort in the order of the rows."""
    width = len(str(max(count - 1, 0)))
    return [f"{prefix}{row:0{width}d}" for row in range(count)]
