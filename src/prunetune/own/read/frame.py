"""Frames of pandas and polars, and lists of paths, of pairs (image, label) and of dicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.own.data import OwnData
from prunetune.own.read.columns import Columns
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.records import Records, read_records


def is_frame(data: Any) -> bool:
    """Return whether this is a data frame of pandas or polars."""
    return type(data).__module__.split(".")[0] in ("pandas", "polars") and type(data).__name__.endswith("Frame")


def read_frame(frame: Any, options: ReadOptions) -> OwnData:
    """Return the images of a frame; rows are counted from 0, whatever the index of the frame says."""
    if type(frame).__name__ == "LazyFrame":
        raise InputError("the frame is lazy, so that its rows have no numbers; call .collect() on it first")
    names = tuple(frame.columns)
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the frame has the column {twice[0]!r} twice; give each column a name of its own")
    return read_records(
        Records(
            names=names,
            column=lambda name: list(frame[name]),
            count=len(frame),
            place=lambda row: f"row {row}",
            base=Path.cwd(),
            layout="table",
            source=frame,
            called="the frame",
        ),
        options,
    )


def read_dicts(rows: Sequence[dict[str, Any]], options: ReadOptions) -> OwnData:
    """Return the images of rows that are dicts."""
    names = tuple(dict.fromkeys(key for row in rows for key in row))
    return read_records(_records(rows, names, lambda name: [row.get(name) for row in rows]), options)


def read_pairs(rows: Sequence[Any], options: ReadOptions) -> OwnData:
    """Return the images of a list of (path or image, label)."""
    for row, pair in enumerate(rows):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"row {row} is no pair (path, label) like row 0; got {_short(pair)}")
    if not options.reads_labels:
        return read_paths([path for path, _ in rows], options)
    names = ("image", "label")
    records = _records(rows, names, lambda name: [pair[names.index(name)] for pair in rows], "list")
    return read_records(records, options, Columns("image", "label"))


def read_paths(rows: Sequence[Any], options: ReadOptions) -> OwnData:
    """Return the images of a list of paths, which has no labels."""
    return read_records(_records(rows, ("image",), lambda name: list(rows), "list"), options, Columns("image", None))


def _records(rows: Sequence[Any], names: tuple[str, ...], column: Any, layout: str = "table") -> Records:
    return Records(
        names=names,
        column=column,
        count=len(rows),
        place=lambda row: f"row {row}",
        base=Path.cwd(),
        layout=layout,
        source=rows,
        called="the list",
    )


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
