"""`read`: look at what the user gave, and let the right reader read it."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.data.readers.hugging_face import HUB, is_hugging_face, is_saved
from prunetune.own.data import OwnData, left_out_lines
from prunetune.own.read.arrays import is_array, read_arrays
from prunetune.own.read.dataset import read_dataset
from prunetune.own.read.folder import read_folder, read_held_out
from prunetune.own.read.frame import is_frame, read_dicts, read_frame, read_pairs, read_paths
from prunetune.own.read.hugging_face import read_hub, read_hugging_face, read_saved
from prunetune.own.read.options import ReadOptions, check_used
from prunetune.own.read.table import SUFFIXES, read_table
from prunetune.own.read.webdataset import expand, read_webdataset

log = logging.getLogger(__name__)
EXPECTED = (
    "data must be a folder, a table, a list of (path, label), a data frame, a map-style dataset, arrays (images, "
    "labels), "
    "a Hugging Face dataset or a Pool"
)
ARCHIVES = (".zip", ".tgz", ".gz", ".7z", ".rar", ".bz2", ".xz")


def read(data: Any, options: ReadOptions | None = None) -> OwnData:
    """Return what a user's data were understood to be. Nothing is decoded that does not have to be.

    Args:
        data: a path of a folder, a table (csv, tsv, jsonl, parquet), tar archives or a folder that `datasets` has
            saved; a name on the Hugging Face hub, hf:<name>; a pandas or polars frame; a list of (path, label), of
            paths, of dicts or of (image, label); a map-style dataset; arrays (images, labels); a Dataset or
            DatasetDict; a Pool.
        options: how it is read.

    Raises:
        InputError: the data cannot be read, or can be read in two ways. The message is one line.
    """
    return _checked(_read(_as_list(data), options or ReadOptions()), options)


def read_labelled(images: Any, labels: Any, options: ReadOptions | None = None) -> OwnData:
    """Return what arrays or a list of images, whose labels are given beside them, were understood to be.

    Args:
        images: an array of images, or a list of paths or of images.
        labels: [N] texts or whole numbers.
        options: how they are read.

    Raises:
        InputError: the images are of another form, or as in `read`.
    """
    images = _as_list(images)
    is_bare = isinstance(images, list | tuple) and not (images and isinstance(images[0], tuple | list | Mapping))
    if not (is_array(images) or is_bare):
        raise InputError(
            "labels may be given beside embeddings, arrays of images and lists of images; other data, such as this "
            f"{type(images).__name__}, bring their labels themselves: leave labels out"
        )
    return _checked(_of_two((images, labels), options or ReadOptions()), options)


def _checked(found: OwnData, options: ReadOptions | None) -> OwnData:
    """Return the data; say what was left out, and refuse options that they have no use for."""
    check_used(options or ReadOptions(), found.layout)
    for line in left_out_lines(found.left_out):
        log.warning("%s", line)
    return found


def _read(data: Any, options: ReadOptions) -> OwnData:
    if isinstance(data, Pool):
        return _of_pool(data)
    if isinstance(data, str | Path):
        return _of_text(str(data), options)
    if is_hugging_face(data):
        return read_hugging_face(data, options)
    if is_frame(data):
        return read_frame(data, options)
    if is_array(data):
        return read_arrays(data, None, options, data)
    if isinstance(data, tuple | list) and _are_columns(data):
        return _of_two((data[0], data[1]), options)
    if isinstance(data, list | tuple):
        return _of_list(data, options)
    _check_map_style(data)
    return read_dataset(data, options)


def _check_map_style(data: Any) -> None:
    if isinstance(data, IterableDataset):
        raise InputError("an IterableDataset has no items by number; collect it into a list of (image, label) first")
    if isinstance(data, DataLoader):
        raise InputError("a DataLoader gives batches; give its dataset instead: loader.dataset")
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or isinstance(data, Mapping):
        raise InputError(f"{EXPECTED}, got {type(data).__name__}")


def _of_text(text: str, options: ReadOptions) -> OwnData:
    """Read a path, or a name on the hub; an existing path always wins."""
    path = Path(os.path.expanduser(text))
    # Unlike the methods of a Path these return False for a text that is too long for a path.
    is_folder = os.path.isdir(path)
    if is_folder and options.hold_out is not None:
        return read_held_out(path, options)
    if is_folder:
        return read_saved(path, options) if is_saved(path) else read_folder(path, options)
    if os.path.isfile(path):
        return _of_file(path, options)
    if text.startswith(HUB):
        name = text.removeprefix(HUB)
        return _of_text(name, options) if os.path.exists(os.path.expanduser(name)) else read_hub(name, options)
    if "{" in text and text.endswith(".tar"):
        return read_webdataset(expand(text), options)
    raise InputError(
        f"there is no file or folder {text}; check the path, or write hf:{text} for a dataset of the Hugging Face hub"
    )


def _of_file(path: Path, options: ReadOptions) -> OwnData:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return read_table(path, options)
    if suffix == ".tar":
        return read_webdataset([path], options)
    if suffix in (".npy", ".npz"):
        raise InputError(f"{path} holds arrays; give it as {options.words('embeddings', str(path))}")
    if suffix in ARCHIVES:
        raise InputError(f"{path} is an archive; unpack it and give the folder")
    raise InputError(
        f"{path} is no folder and no table; tables end in {', '.join(sorted(SUFFIXES))} and have a header such as "
        "path,label"
    )


def _are_columns(data: Sequence[Any]) -> bool:
    """Return whether these are (images, labels), and no two rows."""
    if len(data) != 2:
        return False
    if isinstance(data, list):
        return is_array(data[0]) and data[0].ndim == 4  # One image has three dimensions at most.
    return not isinstance(data[0], str | Path | tuple)


def _of_two(data: tuple[Any, Any], options: ReadOptions) -> OwnData:
    """Read (images, labels): arrays, or lists of paths or images."""
    images, labels = _as_list(data[0]), data[1]
    if is_array(images):
        return read_arrays(images, labels, options, data)
    if not isinstance(images, Sequence) or not hasattr(labels, "__len__"):
        raise InputError(f"{EXPECTED}, got a tuple of {type(images).__name__} and {type(labels).__name__}")
    if len(images) != len(labels):
        raise InputError(f"there are {len(images)} images and {len(labels)} labels; give one label for each image")
    return read_pairs(list(zip(images, labels, strict=True)), options)


def _as_list(data: Any) -> Any:
    """Return a column of a frame, or an array of one dimension, as a list; anything else as it is."""
    if type(data).__name__ == "Series" and hasattr(data, "to_list"):
        return data.to_list()
    return data.tolist() if is_array(data) and data.ndim == 1 else data


def _of_list(data: Sequence[Any], options: ReadOptions) -> OwnData:
    if not data:
        raise InputError("the list is empty; expected pairs (path, label)")
    if all(isinstance(one, str | os.PathLike) and str(one).lower().endswith(".tar") for one in data):
        return read_webdataset([Path(os.path.expanduser(one)) for one in data], options)
    if isinstance(data[0], Mapping):
        return read_dicts(data, options)
    if isinstance(data[0], str | os.PathLike):
        return read_paths(data, options)
    if isinstance(data[0], tuple | list):
        return read_pairs(data, options)
    return read_paths(data, options)


def _of_pool(pool: Pool) -> OwnData:
    """Return a pool as it is; its rows are the positions at which its images were given."""
    if pool.images is None:
        raise InputError("the pool has no images; give its features as embeddings")
    return OwnData(
        pool=pool,
        rows=torch.as_tensor(pool.order),
        num_rows=len(pool),
        names=pool.sample_ids,
        paths=tuple(getattr(pool.images, "paths", (None,) * len(pool))),
        layout="dataset",
        is_labelled=len(pool.classes) > 1,
        source=pool,
    )
