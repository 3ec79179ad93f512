"""Embeddings in parquet files: they take the place of the features of a network, in the dtype that they have."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.cluster.catalogue import Catalogue
from prunetune.cluster.parquet import damaged, is_damage, parquet_file
from prunetune.cluster.parts import Part, Segment
from prunetune.cluster.remote import File, open_url
from prunetune.cluster.stages import Item, Stage, named_file
from prunetune.cluster.workers import FEATURES

ROWS = 16384  # A part has at most this many rows.


def read_all(catalogue: Catalogue, stage: Stage) -> list[Part]:
    """Write the embeddings of all parts as features, see `passes.run_passes`, and return the parts.

    The parts of a segment are read together. So the record of the first one has the files of all of them.

    Raises:
        InputError: a row is no embedding: it has another length, is zero, or has numbers that are not finite.
    """
    segments = catalogue.segments(ROWS)
    items = [Item(segment.parts[0].name, sum(part.count for part in segment.parts), segment) for segment in segments]
    stage.run(items, read_segment, catalogue, what="reading embeddings")
    stage.write_manifest(item.name for item in items)
    return [part for segment in segments for part in segment.parts]


def read_segment(item: Item, stage: Stage, catalogue: Catalogue) -> dict[str, Any]:
    """Write the embeddings of the parts of a segment."""
    width, paths = None, []
    for part, rows in zip(item.work.parts, _parts(catalogue, item.work), strict=True):
        labels = catalogue.labels(part)
        _check(catalogue, part, rows, width)
        width, kept = rows.shape[1], labels >= 0
        paths.append(stage.file(part.name, FEATURES))
        with named_file(paths[-1]) as file:
            positions = np.arange(part.first, part.first + part.count)[kept]
            np.savez(file, positions=positions, labels=labels[kept], features=rows[kept])
    return stage.finish(item.name, paths, {})


def _parts(catalogue: Catalogue, segment: Segment) -> Iterator[np.ndarray]:
    """Yield the embeddings of each part, [n, D]."""
    file = catalogue.files[segment.shard]
    with open_url(file.url) as stream:
        batches = parquet_file(stream).iter_batches(
            ROWS, row_groups=list(segment.groups), columns=[catalogue.columns.image]
        )
        waiting: list[np.ndarray] = []
        for part in segment.parts:
            while sum(map(len, waiting)) < part.count:
                waiting.append(_matrix(_next(batches, file), catalogue, part))
            joined = np.concatenate(waiting)
            yield joined[: part.count]
            waiting = [joined[part.count :]]


def _next(batches: Iterator[Any], file: File) -> Any:
    """Return the next embeddings of a file as a column of Arrow.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return next(batches).column(0)
    except Exception as error:
        if not is_damage(error):
            raise
        raise damaged(file.url, error) from None


def _matrix(column: Any, catalogue: Catalogue, part: Part) -> np.ndarray:
    """Return a column of lists as [n, D] float16, or float32 for any other kind of number."""
    compute = needed("pyarrow.compute", "cluster", "parquet files")
    lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if column.null_count or len(lengths) != 1 or not lengths[0]:
        name = catalogue.files[catalogue.shard_of(part.first)].name
        raise InputError(f"the embeddings of {name} differ in length, or a row has none; give rows of one length")
    if flat.dtype.kind not in "fiu":
        raise InputError(f"embeddings must be numbers, got {flat.dtype}; convert them to float32")
    return flat.reshape(len(column), -1).astype(np.float16 if flat.dtype == np.float16 else np.float32, copy=False)


def _check(catalogue: Catalogue, part: Part, rows: np.ndarray, width: int | None) -> None:
    """Refuse rows that the in-process engine refuses too, in the same words."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    zero = np.flatnonzero(~rows.any(axis=1))
    for which, what in ((bad, "holds NaN, infinity or a number beyond float32"), (zero, "is zero")):
        if len(which):
            position = part.first + int(which[0])
            raise InputError(f"row {position} of the embeddings {what}; compute it again or leave it out")
    if width is not None and rows.shape[1] != width:
        raise InputError(f"the embeddings have {width} and {rows.shape[1]} numbers a row; give rows of one length")
