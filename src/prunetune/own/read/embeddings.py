"""Embeddings: features that users have already, with labels and ids in their own order."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunetune.base.disk import special_kind
from prunetune.base.errors import InputError
from prunetune.own.data import OwnData
from prunetune.own.read.arrays import check_length
from prunetune.own.read.assemble import Found, assemble, numbered
from prunetune.own.read.labels import is_empty, plain
from prunetune.own.read.options import ReadOptions, check_used

NPY = b"\x93NUMPY"  # A file of np.save begins so.


def read_embeddings(
    embeddings: Any, labels: Any = None, ids: Any = None, options: ReadOptions | None = None
) -> OwnData:
    """Return rows of features as candidates, in the caller's order.

    Args:
        embeddings: [N, D] finite numbers without rows of zeros, or a .npy file of them.
        labels: [N] texts or whole numbers, a .npy file of them, a .txt file with one in each line, or None.
        ids: [N] different texts or numbers, such a file of them, or None for the numbers of the rows.
        options: whether labels are read, and how the door writes its options.

    Raises:
        InputError: another shape or type, another number of labels or ids; the message names the row.
    """
    options = options or ReadOptions()
    check_used(options, "embeddings")
    features = _features(_loaded(embeddings, "embeddings", options))
    count = len(features)
    given = None if ids is None else _ids(check_length(_loaded(ids, "ids", options), count, "ids"))
    if labels is not None:
        labels = check_length(_loaded(labels, "labels", options), count, "labels")
    found = Found(
        layout="embeddings",
        source=embeddings,
        num_rows=count,
        rows=list(range(count)),
        sample_ids=given or numbered(count),
        names=given or [str(row) for row in range(count)],
        images=None,
        place=lambda row: f"row {row}",
        labels=labels,
        features=features,
    )
    if labels is not None and options.reads_labels:
        found.notes += _lonely(labels)
    return assemble(found, "embeddings", options)


def _loaded(given: Any, what: str, options: ReadOptions) -> Any:
    """Return the array of a .npy file, the lines of a .txt file, or what was given instead of a file."""
    if not isinstance(given, str | Path):
        return given
    path, option = Path(os.path.expanduser(given)), options.words(what, str(given))
    kind = special_kind(path)
    if kind is not None:
        raise InputError(f"{option}: it is {kind}; pass a file")
    try:
        if path.suffix.lower() == ".txt" and what != "embeddings":
            return path.read_text(encoding="utf-8-sig").splitlines()
        if not _is_of_numpy(path):
            lines = "" if what == "embeddings" else f", or a text file .txt with one of the {what} in each line"
            raise InputError(f"{option}: expected a file that np.save has written{lines}")
        loaded = np.load(path, allow_pickle=False)
    except InputError:  # It is a ValueError too.
        raise
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{option}: there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        if "pickle" in str(error).lower() or "Object arrays" in str(error):
            raise InputError(
                f"{option}: the file holds Python objects, which are not loaded because they can run code; save plain "
                "numbers or texts, such as np.save(file, values.astype(str))"
            ) from None
        raise InputError(f"{option}: the file cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{option}: the file holds the arrays {', '.join(loaded.files)}; save one of them as .npy")
    return loaded


def _is_of_numpy(path: Path) -> bool:
    """Return whether a file has the form of np.save, or that of np.savez."""
    if zipfile.is_zipfile(path):  # Files of torch.save have this form too.
        return all(name.endswith(".npy") for name in zipfile.ZipFile(path).namelist())
    with path.open("rb") as file:
        return file.read(len(NPY)) == NPY


def _features(embeddings: Any) -> torch.Tensor:
    """Return [N, D] float32."""
    if hasattr(embeddings, "to_numpy"):
        embeddings = embeddings.to_numpy()
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().cpu().double().numpy()
    try:
        values = np.asarray(embeddings)
    except ValueError:
        raise InputError("embeddings must be [N, D], but their rows differ in length") from None
    if values.dtype.kind not in "fiu":
        raise InputError(f"embeddings must be numbers [N, D], got an array of {values.dtype}; convert it to float32")
    if values.ndim != 2 or 0 in values.shape:
        hint = "; images are no embeddings, give them as data" if values.ndim > 2 else ""
        raise InputError(f"embeddings must be [N, D], one row for each sample, got {list(values.shape)}{hint}")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    _refuse(~np.isfinite(numbers).all(axis=1), "holds NaN, infinity or a number beyond float32")
    _refuse(~numbers.any(axis=1), "is zero, so that it has no direction")
    return torch.from_numpy(numbers)


def _refuse(bad: np.ndarray, what: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        others = f", and {len(rows) - 1} more rows too" if len(rows) > 1 else ""
        raise InputError(f"row {rows[0]} of the embeddings {what}{others}; compute it again or leave it out")


def _ids(ids: list[Any]) -> list[str]:
    first: dict[str, int] = {}
    for row, value in enumerate(ids):
        text = str(plain(value))
        if is_empty(plain(value)):
            raise InputError(f"row {row} has no id; give every row one, or no ids at all")
        if first.setdefault(text, row) != row:
            raise InputError(f"the id {text!r} is that of row {first[text]} and of row {row}; ids must be different")
    return list(first)


def _lonely(labels: list[Any]) -> list[str]:
    """Return a note on classes of one row, among which nothing can be chosen."""
    rows: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(str(plain(label)), []).append(row)
    alone = [f"{name} (row {places[0]})" for name, places in rows.items() if len(places) == 1]
    shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
    return [f"classes of one row, of which at most that row can be kept: {shown}"] if alone else []
