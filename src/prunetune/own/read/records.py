"""Rows with named columns, wherever they come from: tables, frames, lists of dicts, Hugging Face datasets."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.images.decode import Images
from prunetune.data.images.own import EncodedImages, KeptImages, KeptItems, OwnFiles
from prunetune.data.pool import Pool
from prunetune.data.readers.hugging_face import content_of
from prunetune.own.data import OwnData
from prunetune.own.read.assemble import Found, assemble, numbered, other_splits
from prunetune.own.read.columns import SPLIT_COLUMNS, Columns, choose_columns, usual, without_labels
from prunetune.own.read.labels import is_empty, plain
from prunetune.own.read.options import ReadOptions, leave_out
from prunetune.own.read.splits import choose_splits, split_kind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """N rows with named columns.

    names: the names of the columns. column: returns the N values of a column; a column of images may be lazy. count: N.
    place: returns the name of a row for messages. base: the folder that paths start from. layout, source: as in
    OwnData. called: what the rows are called in messages. class_names: returns the names of the classes of a column
    whose values are indices, else None. where: the file of the rows, whose folder is no limit for paths.
    """

    names: tuple[str, ...]
    column: Callable[[str], Sequence[Any]]
    count: int
    place: Callable[[int], str]
    base: Path
    layout: str
    source: Any
    called: str
    class_names: Callable[[str], Sequence[str] | None] = lambda name: None


def read_records(
    records: Records,
    options: ReadOptions,
    columns: Columns | None = None,
    of_paths: Callable[[Records, Sequence[Any], ReadOptions], Found] | None = None,
) -> OwnData:
    """Return the images of rows.

    Args:
        records: the rows.
        options: which columns, which root, which splits.
        columns: the columns, if it is known which ones they are.
        of_paths: finds the images that cells name; by default in files.

    Raises:
        InputError: a row cannot be read, and `options.on_error` is "stop"; or see `choose_columns` and `read_labels`.
    """
    if records.count == 0:
        raise InputError(f"{records.called} has no rows; expected one for each image")
    columns = columns or choose_columns(records.names, records.called, options)
    if line := without_labels(records.names, columns, options):
        log.warning("%s", line)
    cells = records.column(columns.image)
    first = next((cell for cell in cells if not is_empty(cell)), None)
    find = (of_paths or _of_paths) if isinstance(first, str | Path) else _of_images
    found = find(records, cells, options)
    found.notes[:0] = columns.notes
    if columns.label is not None:
        labels = records.column(columns.label)
        found.labels = [labels[row] for row in found.rows]
        found.class_names = records.class_names(columns.label)
    _choose_rows(found, records, columns, options)
    _leave_out_repeats(found, options)
    return assemble(found, records.called, options)


def _of_paths(records: Records, cells: Sequence[Any], options: ReadOptions) -> Found:
    """Find the files that rows name."""
    root = None if options.root is None else _folder(options.root, options)
    base = root or records.base
    bad: dict[str, str] = {}
    rows, paths, ids, names = [], [], [], []
    for row, cell in enumerate(cells):
        text = "" if is_empty(cell) else os.fspath(cell) if isinstance(cell, str | Path) else cell
        try:
            path = _file(text, base, root, options)
        except ValueError as error:
            bad[f"{records.place(row)}{f': {text}' if text else ''}"] = str(error)
            continue
        rows.append(row)
        paths.append(path)
        ids.append(path.relative_to(root).as_posix() if root else normal(str(text)))
        names.append(str(text))
    hint = f"; paths start from {base}, {options.words('root', '<folder>')} gives another folder"
    if bad and len(bad) == records.count and options.root is None:
        first = next(iter(bad.items()))
        raise InputError(
            f"none of the {records.count} images of {records.called} is there, first: {first[0]} ({first[1]}){hint}"
        )
    leave_out(bad, records.count, "rows", options)
    return Found(
        layout=records.layout,
        source=records.source,
        num_rows=records.count,
        rows=rows,
        sample_ids=ids,
        names=names,
        images=OwnFiles(tuple(paths), options.rule),
        place=records.place,
        paths=paths,
        left_out=bad,
    )


def _folder(root: Path | str, options: ReadOptions) -> Path:
    folder = Path(os.path.abspath(os.path.expanduser(root)))
    if not folder.is_dir():
        raise InputError(f"{options.words('root', str(root))} is no folder; give the folder that the paths start from")
    return folder


def _file(text: Any, base: Path, root: Path | None, options: ReadOptions) -> Path:
    """Return the file that a cell names.

    Raises:
        ValueError: the cell names no file, or one outside the root. The message is the reason.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected a path like the other rows, got {type(text).__name__}")
    if not text.strip():
        raise ValueError("it names no image")
    if is_address(text):
        raise ValueError("an address on the network is not read, download the image")
    path = _existing(base, text.strip())
    if root is not None and not path.is_relative_to(root):
        raise ValueError(f"outside {options.words('root', str(root))}")
    # Unlike the methods of a Path these return False for a text that is too long for a path.
    if not os.path.isfile(path):
        raise ValueError("it is a folder" if os.path.isdir(path) else "no such file")
    return path


def _existing(base: Path, text: str) -> Path:
    """Return a path below the base; where no such file exists, backslashes separate folders, as Windows writes them."""
    path = Path(os.path.normpath(base / os.path.expanduser(text)))
    if "\\" in text and not os.path.exists(path):
        return Path(os.path.normpath(base / text.replace("\\", "/")))
    return path


def is_address(text: str) -> bool:
    """Return whether a text is an address such as s3://bucket/name or https://host/name."""
    return re.match(r"^[a-z][a-z0-9+]+://", text, re.IGNORECASE) is not None


def normal(text: str) -> str:
    """Return a path as an id: with slashes, without `./`."""
    return PurePosixPath(os.path.normpath(text.strip().replace("\\", "/"))).as_posix()


def _of_images(records: Records, cells: Sequence[Any], options: ReadOptions) -> Found:
    """Find images that stand in the rows themselves: encoded as bytes, or decoded."""
    count = records.count
    images = encoded(cells, count, records.place, options)
    if images is None:
        items = KeptItems(count, lambda row: (cells[row], None), records.place, options.rule)
        images = KeptImages(items, tuple(range(count)))
    return Found(
        layout=records.layout,
        source=records.source,
        num_rows=count,
        rows=list(range(count)),
        sample_ids=numbered(count),
        names=[str(row) for row in range(count)],
        images=images,
        place=records.place,
    )


def encoded(cells: Sequence[Any], count: int, place: Callable[[int], str], options: ReadOptions) -> Images | None:
    """Return the images of cells that hold bytes, or maps with the keys bytes and path; None for other cells."""
    first = next((cells[row] for row in range(count) if not is_empty(cells[row])), None)
    if isinstance(first, Image.Image | np.ndarray | Tensor) or first is None:
        return None
    if not isinstance(first, bytes) and not (isinstance(first, Mapping) and {"bytes", "path"} & set(first)):
        raise InputError(
            f"{place(0)} should hold a path, an image or the bytes of one, holds {type(first).__name__}; name another "
            f"column with {options.words('image_column', '<name>')}"
        )
    return EncodedImages(lambda row: content_of(cells[row]), place, tuple(range(count)), options.rule)


def encoded_others(columns: Sequence[tuple[str, Sequence[Any]]], options: ReadOptions) -> Pool | None:
    """Return the images of splits that are no candidates, None if there are none.

    Args:
        columns: the name of each split, and its column of images, which holds bytes or maps of bytes and path.
        options: how images are decoded.
    """
    cells, ids, kinds = [], [], []
    for name, column in columns:
        cells += [(column, row) for row in range(len(column))]
        ids += numbered(len(column), f"{name}/")
        kinds += [split_kind(name) or "test"] * len(column)
    if not cells:
        return None

    def content(i: int) -> bytes:
        column, row = cells[i]
        return content_of(column[row])

    return other_splits(EncodedImages(content, ids.__getitem__, tuple(range(len(ids))), options.rule), ids, kinds)


def _choose_rows(found: Found, records: Records, columns: Columns, options: ReadOptions) -> None:
    """Keep the rows of the chosen splits, if a column says to which split each row belongs."""
    named = [n for n in records.names if usual(n, SPLIT_COLUMNS) and n not in (columns.image, columns.label)]
    for name in named:
        values = [str(plain(value)) for value in records.column(name)]
        if not all(split_kind(value) for value in values):
            continue
        present = sorted(set(values))
        chosen = set(choose_splits(present, f"the column {name} of {records.called}", options))
        kept = [i for i, row in enumerate(found.rows) if values[row] in chosen]
        rest = [i for i, row in enumerate(found.rows) if values[row] not in chosen]
        if rest:
            splits = [split_kind(values[found.rows[i]]) for i in rest]
            ids = [f"{values[found.rows[i]]}/{found.sample_ids[i]}" for i in rest]
            if len(set(ids)) == len(ids):
                found.others = other_splits(found.images.take(rest), ids, splits)
            for split in present:
                if split not in chosen:
                    count = sum(values[found.rows[i]] == split for i in rest)
                    found.left_out[f"{split} ({count} rows)"] = "another split"
        found.keep(kept)
        return
    if options.split is not None:
        raise InputError(
            f"{records.called} has no column that names splits, so leave {options.words('split', '<name>')} out"
        )


def _leave_out_repeats(found: Found, options: ReadOptions) -> None:
    """Leave out an image that is listed again with the same label, and refuse one with another label."""
    first: dict[str, int] = {}
    kept = []
    for i, sample_id in enumerate(found.sample_ids):
        before = first.setdefault(sample_id, i)
        if before == i:
            kept.append(i)
            continue
        place, earlier = found.place(found.rows[i]), found.place(found.rows[before])
        if found.labels is not None and options.reads_labels:
            label, other = plain(found.labels[i]), plain(found.labels[before])
            if label != other and not (is_empty(label) and is_empty(other)):
                raise InputError(
                    f"{found.names[i]} has the label {other!r} in {earlier} and {label!r} in {place}; an image must "
                    "have one label: correct one of the rows"
                )
        found.left_out[f"{place}: {found.names[i]}"] = "listed before"
    if len(kept) < len(found.sample_ids):
        found.keep(kept)
