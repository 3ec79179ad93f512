"""Objects of the library `datasets`, folders that it has saved, and names on the hub."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.data.readers.hugging_face import ImageRows, as_splits, joined, open_hub, open_saved
from prunetune.own.data import OwnData
from prunetune.own.read.columns import Columns, choose_columns
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.records import Records, encoded_others, read_records
from prunetune.own.read.splits import choose_splits


def read_saved(folder: Path, options: ReadOptions) -> OwnData:
    """Return the images of a folder that `save_to_disk` has written."""
    return read_hugging_face(open_saved(folder), options)


def read_hub(name: str, options: ReadOptions) -> OwnData:
    """Return the images of a dataset of the hub."""
    return read_hugging_face(open_hub(name), options)


def read_hugging_face(data: Any, options: ReadOptions) -> OwnData:
    """Return the images of a Dataset, or of the chosen splits of a DatasetDict.

    Args:
        data: a Dataset or a DatasetDict.
        options: which splits and columns.

    Raises:
        InputError: a streamed dataset, several columns that could be meant, or see `read_records`.
    """
    if not isinstance(data, Mapping):
        if options.split is not None:
            raise InputError(f"the dataset has no splits; leave {options.words('split', '<name>')} out")
        return _of_one(data, options)
    splits = as_splits(data)
    if not splits:
        raise InputError("the dataset has no splits; expected one with images")
    chosen = choose_splits(list(splits), "the dataset", options)
    found = _of_one(joined([splits[name] for name in chosen]), options)
    note = f"split: {', '.join(chosen)}" + ("; rows are counted through all of them" if chosen[1:] else "")
    rest = {name: ImageRows.of(part) for name, part in splits.items() if name not in chosen}
    left_out = {**found.left_out, **{f"{name} ({len(rows)} rows)": "another split" for name, rows in rest.items()}}
    columns = [(name, rows.column(rows.image_columns[0])) for name, rows in rest.items() if rows.image_columns]
    return dataclasses.replace(
        found, left_out=left_out, others=encoded_others(columns, options), notes=(note, *found.notes)
    )


def _of_one(dataset: Any, options: ReadOptions) -> OwnData:
    rows = ImageRows.of(dataset)
    records = _records(rows, dataset)
    return read_records(records, dataclasses.replace(options, split=None), _columns(rows, options))


def _records(rows: ImageRows, source: Any) -> Records:
    return Records(
        names=tuple(rows.dataset.column_names),
        column=lambda name: rows.column(name) if name in rows.image_columns else rows.labels(name),
        count=len(rows),
        place=lambda row: f"row {row}",
        base=Path.cwd(),
        layout="hugging_face",
        source=source,
        called="the dataset",
        class_names=rows.class_names,
    )


def _columns(rows: ImageRows, options: ReadOptions) -> Columns:
    """Return the columns: those that the user named, else those whose type says what they are, else by their names."""
    image, label = options.image_column, options.label_column
    image = image or _only(rows.image_columns, "image", options)
    if options.reads_labels:
        label = label or _only(rows.label_columns, "label", options)
    wanted = dataclasses.replace(options, image_column=image, label_column=label)
    found = choose_columns(rows.dataset.column_names, "the dataset", wanted)
    guessed = [f"{what} column: {name}" for what, name in (("image", image), ("label", label)) if name is not None]
    given = (options.image_column, options.label_column)
    notes = [note for note, name in zip(guessed, (image, label), strict=False) if name not in given]
    return Columns(found.image, found.label, (*notes, *found.notes))


def _only(names: tuple[str, ...], what: str, options: ReadOptions) -> str | None:
    if len(names) > 1:
        raise InputError(
            f"the columns {' and '.join(names)} of the dataset could both be the {what}; name one with "
            f"{options.words(f'{what}_column', names[0])}"
        )
    return names[0] if names else None
