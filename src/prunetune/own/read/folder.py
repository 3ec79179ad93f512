"""A folder of images: class folders, splits, or neither; with the list `metadata.csv` if it has one."""

import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch

from prunetune.base.errors import InputError
from prunetune.data.images.decode import Images
from prunetune.data.images.own import OwnFiles
from prunetune.data.pool import Pool
from prunetune.data.readers.image_folder import ImageFolder
from prunetune.own.data import OwnData
from prunetune.own.read.assemble import Found, assemble, other_splits
from prunetune.own.read.columns import LABEL_NAMES, choose_columns, usual
from prunetune.own.read.layout import Layout, understand
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.records import Records, encoded_others, read_records
from prunetune.own.read.scan import Scan, scan
from prunetune.own.read.splits import choose_splits, split_kind
from prunetune.own.read.table import parquet_records, table_records

# The library `datasets` looks for these files in a folder of images. Paths are in the column file_name.
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


def read_folder(folder: Path, options: ReadOptions) -> OwnData:
    """Return the images of a folder.

    Raises:
        InputError: the folder holds no images, or its folders can be read in two ways.
    """
    folder = Path(os.path.abspath(folder))
    metadata = _metadata_of(folder, options)
    if metadata is not None and _has_labels(metadata, options):
        return _with_metadata(folder, metadata, options)
    found = scan(folder, options.leave_out)
    if not found.images:
        return _without_images(found, options)
    return _of_layout(found, understand(found.images, folder.name, options), options)


def _of_layout(found: Scan, layout: Layout, options: ReadOptions) -> OwnData:
    folder = found.folder
    paths = [folder.joinpath(*parts) for parts in layout.in_order]
    of_layout = found_in(layout, folder, OwnFiles(tuple(paths), options.rule), found.left_out)
    of_layout.paths = list(paths)
    if layout.others:
        files = tuple(folder.joinpath(*parts) for parts, _ in layout.others)
        splits = [split for _, split in layout.others]
        ids = ["/".join(parts) for parts, _ in layout.others]
        of_layout.others = other_splits(OwnFiles(files, options.rule), ids, splits)
    return assemble(of_layout, folder.name, options)


def found_in(layout: Layout, source: Any, images: Images, left_out: Mapping[str, str]) -> Found:
    """Return the images of folders that are understood.

    Args:
        layout: which images are candidates, and their classes.
        source: the folder or its address.
        images: those of `layout.in_order`.
        left_out: maps other files to the reason why they are no candidates.
    """
    ids = ["/".join(parts) for parts in layout.in_order]
    classes = None if layout.classes is None else dict(zip(layout.chosen, layout.classes, strict=True))
    return Found(
        layout="flat" if classes is None else "folders",
        source=source,
        num_rows=len(ids),
        rows=list(range(len(ids))),
        sample_ids=ids,
        names=list(ids),
        images=images,
        place=ids.__getitem__,
        labels=None if classes is None else [classes[parts] for parts in layout.in_order],
        are_names=True,
        left_out={**left_out, **layout.left_out},
        notes=layout.notes,
    )


def _without_images(found: Scan, options: ReadOptions) -> OwnData:
    """Read a folder of tables or archives, or say what it holds instead of images."""
    from prunetune.own.read.webdataset import read_webdataset

    files = sorted(path for path in found.folder.rglob("*") if path.is_file())
    by_suffix = {suffix: [path for path in files if path.suffix.lower() == suffix] for suffix in (".parquet", ".tar")}
    if by_suffix[".parquet"]:
        return _of_shards(by_suffix[".parquet"], found.folder, options)
    if by_suffix[".tar"]:
        return read_webdataset(by_suffix[".tar"], options)
    if not files:
        raise InputError(f"{found.folder} is empty; expected images, or folders of them")
    first = next(iter(found.left_out.items()), ("", ""))
    raise InputError(f"{found.folder} holds no images; {len(found.left_out)} left out, first: {first[0]} ({first[1]})")


def _of_shards(files: list[Path], folder: Path, options: ReadOptions) -> OwnData:
    """Read the parquet files of one split; `train-00000-of-00002.parquet` belongs to the split train."""
    splits = {path: shard_split(path) for path in files}
    names = sorted({name for name in splits.values() if split_kind(name)})
    if len(names) < 2 and options.split is None:
        return read_records(parquet_records(files), options)
    chosen = choose_splits(names, folder.name, options)
    plain = dataclasses.replace(options, split=None)
    data = read_records(parquet_records([path for path in files if splits[path] in chosen]), plain)
    left_out, others = dict(data.left_out), []
    for name in names:
        if name not in chosen:
            records = parquet_records([path for path in files if splits[path] == name])
            left_out[f"{name} ({records.count} rows)"] = "another split"
            image = choose_columns(records.names, records.called, options).image
            others.append((name, records.column(image)))
    notes = (f"split: {', '.join(chosen)}", *data.notes)
    return dataclasses.replace(data, left_out=left_out, others=encoded_others(others, options), notes=notes)


def shard_split(path: PurePath) -> str:
    """Return the first word of a parquet file's name if it names a split, else the name of its folder."""
    word = path.stem.split("-")[0]
    return word if split_kind(word) else path.parent.name


def _metadata_of(folder: Path, options: ReadOptions) -> Path | None:
    """Return the list of a folder of images, or of the chosen split of it, if there is one with paths and labels."""
    if options.labels_from == "folders":
        return None
    for name in METADATA:
        if _has_file_names(folder / name):
            return folder / name
    children = {path.name: path for path in folder.iterdir() if path.is_dir() and split_kind(path.name)}
    listed = {name: path / file for name, path in children.items() for file in METADATA if _has_file_names(path / file)}
    if not listed:
        return None
    chosen = choose_splits(sorted(listed), folder.name, options)
    if len(chosen) > 1:
        raise InputError(
            f"{' and '.join(chosen)} of {folder.name} have a list each; choose one with "
            f"{options.words('split', chosen[0])}"
        )
    return listed[chosen[0]]


def _has_labels(metadata: Path, options: ReadOptions) -> bool:
    """Return whether a list gives labels; one that does not leaves the classes to the folders."""
    return options.label_column is not None or any(usual(name, LABEL_NAMES) for name in table_records(metadata).names)


def _has_file_names(path: Path) -> bool:
    """Return whether a list names files in the column `file_name`."""
    if not path.is_file():
        return False
    try:
        if path.suffix == ".parquet":
            return FILE_NAME in table_records(path).names
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
        return FILE_NAME in (json.loads(line) if path.suffix == ".jsonl" else next(csv.reader([line]), []))
    except (ValueError, UnicodeDecodeError):
        return False


def _with_metadata(folder: Path, metadata: Path, options: ReadOptions) -> OwnData:
    """Read the images that the list names; those that it does not name are left out."""
    split = metadata.parent.name if metadata.parent != folder else None
    wanted = dataclasses.replace(
        options, image_column=options.image_column or FILE_NAME, split=None if split else options.split
    )
    records: Records = table_records(metadata)
    data = read_records(dataclasses.replace(records, base=metadata.parent), wanted)
    named = {path for path in data.paths if path is not None}
    found = scan(metadata.parent, options.leave_out)
    absent = ["/".join(parts) for parts in found.images if metadata.parent.joinpath(*parts) not in named]
    left_out = {**data.left_out, **{name: f"not in {metadata.name}" for name in absent}}
    notes = (*data.notes, f"labels from {metadata.relative_to(folder).as_posix()}")
    others = data.others
    if split is not None:
        others = _split_folders(folder, split, left_out, options)
    return dataclasses.replace(data, left_out=left_out, notes=notes, source=folder, others=others)


def _split_folders(folder: Path, chosen: str, left_out: dict[str, str], options: ReadOptions) -> Pool | None:
    """Return the images of the splits that were not chosen, and name these in `left_out`."""
    paths, ids, kinds = [], [], []
    for other in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != chosen):
        found = scan(other, options.leave_out)
        if found.images and split_kind(other.name):
            left_out[f"{other.name}/ ({len(found.images)} images)"] = "another split"
            paths += [other.joinpath(*parts) for parts in found.images]
            ids += ["/".join((other.name, *parts)) for parts in found.images]
            kinds += [split_kind(other.name)] * len(found.images)
        elif found.images:
            left_out[f"{other.name}/ ({len(found.images)} images)"] = "no split"
    return other_splits(OwnFiles(tuple(paths), options.rule), ids, kinds) if paths else None


def read_held_out(folder: Path, options: ReadOptions) -> OwnData:
    """Return the pool of a folder as a run reads it with dataset=image_folder; the test images are other splits.

    Raises:
        InputError: see `prunetune.data.readers.ImageFolder`.
    """
    try:
        given = ImageFolder(root=str(folder), test_fraction=options.hold_out)
        pool, test = given.pool("train"), given.pool("test")
    except InputError as error:  # The fixes that the message gives are keys of a run.
        fault = str(error).partition("; pass dataset.")[0].replace("dataset.test_fraction", "hold_out")
        raise InputError(f"{fault} (with hold_out a folder is read as in a run)") from None
    place = {name: row for row, name in enumerate(sorted((*pool.sample_ids, *test.sample_ids)))}
    return OwnData(
        pool=dataclasses.replace(pool, images=OwnFiles(pool.images.paths, options.rule)),
        rows=torch.tensor([place[name] for name in pool.sample_ids]),
        num_rows=len(place),
        names=pool.sample_ids,
        paths=pool.images.paths,
        layout="folders",
        left_out={name: "set aside for testing" for name in test.sample_ids},
        others=dataclasses.replace(test, images=OwnFiles(test.images.paths, options.rule)),
        source=folder,
    )
