"""Images in memory as arrays: (X, y)."""

from typing import Any

import numpy as np
import torch

from prunetune.base.errors import InputError
from prunetune.data.images.decode import ImageArrays
from prunetune.own.data import OwnData
from prunetune.own.read.assemble import Found, assemble, numbered
from prunetune.own.read.options import ReadOptions

EXPECTED = "expected images as [N, height, width, 3], [N, 3, height, width] or grey [N, height, width]"


def is_array(data: Any) -> bool:
    """Return whether this is an array of NumPy or a tensor."""
    return isinstance(data, np.ndarray | torch.Tensor)


def read_arrays(images: Any, labels: Any, options: ReadOptions, source: Any = None) -> OwnData:
    """Return images that are in memory.

    Args:
        images: [N, H, W, 3], [N, 3, H, W] or [N, H, W], uint8 or floats in 0..1.
        labels: [N] texts or whole numbers, or None.
        options: whether labels are read.
        source: the object that the user gave.

    Raises:
        InputError: another shape or dtype, or another number of labels.
    """
    pixels, notes = _pixels(_numpy(images))
    count = len(pixels)
    if labels is not None:
        labels = check_length(labels, count, "labels")
    return assemble(
        Found(
            layout="arrays",
            source=source,
            num_rows=count,
            rows=list(range(count)),
            sample_ids=numbered(count),
            names=[str(row) for row in range(count)],
            images=ImageArrays(pixels),
            place=lambda row: f"row {row}",
            labels=labels,
            notes=notes,
        ),
        "arrays",
        options,
    )


def check_length(labels: Any, count: int, what: str) -> list[Any]:
    """Return labels or ids as a list.

    Raises:
        InputError: their number differs from that of the rows, or they are no list.
    """
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
    values = labels.tolist() if hasattr(labels, "tolist") else None
    if values is None:
        try:
            values = list(labels)
        except TypeError:
            raise InputError(f"the {what} must be a list or an array, one for each row, got {labels!r}") from None
    if not isinstance(values, list) or len(values) != count:
        found = len(values) if isinstance(values, list) else 1
        raise InputError(f"there are {count} rows and {found} {what}; give one for each row")
    return values


def _numpy(images: Any) -> np.ndarray:
    return images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)


def _pixels(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return [N, H, W, 3] uint8, and what the user must know of the conversion."""
    if images.ndim == 2:
        raise InputError(f"{EXPECTED}, got {list(images.shape)}; rows of features are given as embeddings")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] in (1, 3):
        raise InputError(f"{EXPECTED}, and {list(images.shape)} can be read in two ways; give [N, height, width, 3]")
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise InputError(f"{EXPECTED}, got {list(images.shape)}")
    images, notes = _bytes(images)
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images, notes


def _bytes(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    if images.dtype == np.uint8:
        return images, []
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"images must be uint8, or floats in 0..1, got {images.dtype}; convert them")
    low, high = float(images.min(initial=0)), float(images.max(initial=0))
    if not (0 <= low and high <= 1):
        raise InputError(
            f"images must be uint8, or floats in 0..1, got {images.dtype} from {low:g} to {high:g}; give them as "
            "they were "
            "before normalisation"
        )
    return np.round(images * 255).astype(np.uint8), ["the floats 0..1 are read as 0..255"]
