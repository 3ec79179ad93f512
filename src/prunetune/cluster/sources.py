"""Where the data of a cluster run are: parquet files and tar archives on any file system, or images one by one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from prunetune.base.errors import InputError
from prunetune.cluster.remote import (
    File,
    Remote,
    address,
    is_data,
    is_image,
    list_base,
    list_files,
    mark_of,
    read_remote_folder,
    read_remote_list,
)
from prunetune.data.images.own import OwnFiles
from prunetune.data.readers.hugging_face import is_saved
from prunetune.own.data import OwnData
from prunetune.own.read import ReadOptions, read
from prunetune.own.read.folder import METADATA, shard_split
from prunetune.own.read.options import check_used
from prunetune.own.read.records import is_address
from prunetune.own.read.scan import scan, why_no_data
from prunetune.own.read.splits import choose_splits, split_kind
from prunetune.own.read.webdataset import chosen_splits, expand, splits_of

PARQUET, TAR = ".parquet", ".tar"


@dataclass(frozen=True, eq=False)
class Source:
    """What DATA are: shards, which the workers list and read, or images that the driver has listed.

    layout: "parquet" or "webdataset" for shards, else that of `held`. files: the shards of the chosen splits, in the
    order of their rows. held: the candidates if the driver has listed them; only their images are read by the workers.
    left_out, notes: as in OwnData. mark: changes when images at addresses do; "" for files, whose times say it.
    """

    name: str
    layout: str
    files: tuple[File, ...] = ()
    held: OwnData | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    mark: str = ""


def find(data: Any, options: ReadOptions) -> Source:
    """Return what DATA are. Nothing is decoded, and no shard is read.

    Args:
        data: a folder, a list or a shard, a pattern of shards with braces or a star, a list of archives, or an address
            such as s3://bucket/folder.
        options: how they are read.

    Raises:
        InputError: there is nothing to read, or it can be read in two ways.
    """
    source = _find(data, options)
    check_used(options, source.layout)
    return source


def find_embeddings(place: str | Path, options: ReadOptions) -> Source:
    """Return parquet files with a column of embeddings.

    Args:
        place: a parquet file, a folder of them, or their address.
        options: `image_column` names the column of embeddings, `label_column` that of labels.

    Raises:
        InputError: there is no parquet file.
    """
    text = str(place)
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if is_address(text):
        found = _remote(text, options)
    elif path.is_dir():
        visible = [
            file
            for file in sorted(path.rglob(f"*{PARQUET}"))
            if why_no_data(file.relative_to(path).parts[:-1], file.name) is None
        ]
        found = _of_shards(_files(list(map(str, visible))), path.name, options)
    else:
        found = _of_shards(_files([str(path)]), path.name, options)
    if found.layout != "parquet" or not all(file.url.lower().endswith(PARQUET) for file in found.files):
        word = options.words("engine", "ray")
        raise InputError(f"{text} are no parquet files, which {word} reads embeddings from; leave {word} out for .npy")
    return replace(found, layout="embeddings")


def _find(data: Any, options: ReadOptions) -> Source:
    if isinstance(data, list | tuple) and data and all(str(one).lower().endswith(TAR) for one in data):
        return _of_shards(_files(list(map(str, data))), "archives", options)
    if not isinstance(data, str | Path):
        return _held(read(data, options), options)
    text = str(data)
    if is_address(text):
        return _remote(text, options)
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if "{" in text and text.endswith(TAR):
        return _of_shards(_files([str(one) for one in expand(text)]), path.name, options)
    if "*" in text and not path.exists():
        return _of_shards(_files([str(one) for one in sorted(path.parent.glob(path.name))]), path.name, options)
    if path.is_file() and path.suffix.lower() in (PARQUET, TAR):
        return _of_shards(_files([str(path)]), path.name, options)
    if path.is_dir() and not is_saved(path) and options.hold_out is None and (files := _shards_in(path, options)):
        return _of_shards(_files(files), path.name, options)
    return _held(read(data, options), options)


def _shards_in(folder: Path, options: ReadOptions) -> list[str]:
    """Return the parquet files of a folder, or its archives; none if it holds images or a list of them."""
    if any((folder / name).is_file() for name in METADATA) or scan(folder, options.leave_out).images:
        return []
    written = None if options.leave_out is None else Path(os.path.realpath(options.leave_out))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if written is None or not Path(os.path.realpath(path)).is_relative_to(written)]
    for suffix in (PARQUET, TAR):
        if found := [str(path) for path in files if path.suffix.lower() == suffix]:
            return found
    return []


def _files(paths: Sequence[str]) -> list[File]:
    """Return files by their paths or addresses."""
    files = []
    for path in paths:
        if is_address(path):
            files += list_files(path)
            continue
        try:
            stat = os.stat(path)
        except OSError:
            raise InputError(f"there is no file {path}; check the path") from None
        files.append(File(os.path.abspath(path), stat.st_size, str(stat.st_mtime_ns)))
    return files


def _held(data: OwnData, options: ReadOptions, mark: str = "") -> Source:
    """Return candidates that the driver has listed; mark: see Source.

    Raises:
        InputError: their images can be read by the driver only, such as the items of a dataset in memory.
    """
    images, word = data.pool.images, options.words("engine", "ray")
    if not isinstance(images, OwnFiles) and not isinstance(getattr(images, "content", None), Remote):
        raise InputError(
            f"{word} reads parquet files, tar archives, and folders and lists of image files, not {data.layout} in "
            f"memory; leave {word} out"
        )
    return Source(data.pool.name, data.layout, held=data, left_out=dict(data.left_out), notes=data.notes, mark=mark)


def _remote(url: str, options: ReadOptions) -> Source:
    files = list_files(url)
    top = address(url.partition("*")[0].rpartition("/")[0] if "*" in url else url)
    if len(files) == 1 and files[0].is_list:
        data = read_remote_list(files[0], options)
        return _held(data, options, mark_of(data, list_files(list_base(files[0], options))))
    if any(is_image(file.url) and is_data(file, top) for file in files) and "*" not in url:
        data = read_remote_folder(files, top, options)
        return _held(data, options, mark_of(data, files))
    for suffix in (PARQUET, TAR):
        if chosen := [file for file in files if file.url.lower().endswith(suffix) and is_data(file, top)]:
            return _of_shards(chosen, PurePosixPath(url).name, options)
    raise InputError(f"{url} holds no parquet files, no tar archives, and no images below a folder")


def _of_shards(files: Sequence[File], name: str, options: ReadOptions) -> Source:
    """Return the shards of the chosen splits."""
    if not files:
        raise InputError(f"{name} names no file; check the pattern")
    is_tar = files[0].url.lower().endswith(TAR)
    paths = {Path(file.url): file for file in files}
    splits = splits_of(list(paths)) if is_tar else {path: shard_split(path) for path in paths}
    if is_tar:
        chosen = chosen_splits(splits, options)
    else:
        known = sorted({split for split in splits.values() if split_kind(split)})
        if len(known) < 2 and options.split is None:
            return Source(name, "parquet", tuple(files))
        chosen = choose_splits(known, name, options)
    kept = tuple(file for path, file in paths.items() if splits[path] in chosen)
    others = sorted({split for split in splits.values() if split not in chosen})
    left_out = {f"{split} ({sum(one == split for one in splits.values())} files)": "another split" for split in others}
    notes = () if is_tar else (f"split: {', '.join(chosen)}",)
    return Source(kept[0].name, "webdataset" if is_tar else "parquet", kept, left_out=left_out, notes=notes)
