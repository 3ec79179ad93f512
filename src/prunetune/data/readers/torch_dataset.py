"""Conversion of a torch dataset, a folder or a pool to a pool."""

import hashlib
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.images.decode import Images, UnreadableImage, decode_image
from prunetune.data.pool import Pool
from prunetune.data.readers.image_folder import ImageFolder


def as_pool(data: str | Path | Pool | Sized) -> Pool:
    """Return a folder, a dataset of (image, label) or a pool as a Pool."""
    if isinstance(data, Pool):
        return data
    if isinstance(data, str | Path):
        return ImageFolder(root=str(data)).pool("train")
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise InputError(
            f"data must be a folder, a map-style dataset of (image, label) or a Pool, got {type(data).__name__}"
        )
    labels = dataset_labels(data)
    names = [str(name) for name in getattr(data, "classes", [])]
    num_classes = max(len(names), int(labels.max()) + 1 if len(labels) else 0)
    classes = tuple(names) if len(names) == num_classes else tuple(map(str, range(num_classes)))
    width = len(str(max(len(labels) - 1, 0)))
    # Ids of equal width sort in the dataset's own order.
    ids = tuple(f"{position:0{width}d}" for position in range(len(labels)))
    return Pool("dataset", labels, ids, ("train",) * len(ids), classes, DatasetImages(data, tuple(range(len(ids)))))


def dataset_labels(dataset: Any) -> Tensor:
    """Return the labels [N] int64 of a map-style dataset: its `targets` if it has them, else the label of each item."""
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [dataset[position][1] for position in range(len(dataset))]
    try:
        return torch.tensor([int(label) for label in targets], dtype=torch.int64)
    except (TypeError, ValueError):
        raise InputError("the dataset's labels must be whole numbers from 0") from None


@dataclass(frozen=True)
class DatasetImages(Images):
    """The images of a map-style dataset of (image, label)."""

    dataset: Any
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def decode(self, position: int) -> Tensor:
        try:
            image = self.dataset[self.indices[position]][0]
            if isinstance(image, Image.Image):
                return decode_image(image)
        except (OSError, ValueError) as error:  # Files, Pillow and `decode_image` raise these errors.
            raise UnreadableImage(f"item {self.indices[position]}", str(error) or type(error).__name__) from None
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
            return image
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"item {self.indices[position]} should be a PIL image or a uint8 tensor [3, h, w], is {what}; "
            "pass the dataset without its transform"
        )

    def digest(self, position: int) -> str:
        image = self.decode(position)
        return hashlib.sha256(f"{list(image.shape)}".encode() + image.contiguous().numpy().tobytes()).hexdigest()

    def take(self, positions: Sequence[int]) -> "DatasetImages":
        return DatasetImages(self.dataset, tuple(self.indices[position] for position in positions))
