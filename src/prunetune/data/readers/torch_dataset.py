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

LOOKED_AT = 16  # The labels of this many items are compared with the targets before anything is computed.
WAY_OUT = "update targets, or set them to None, and the labels of the items are read"


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
    images = DatasetImages(data, tuple(range(len(ids))), labels)
    return Pool("dataset", labels, ids, ("train",) * len(ids), classes, images)


def dataset_labels(dataset: Any) -> Tensor:
    """Return the labels [N] int64 of a map-style dataset: its `targets` if it has them, else the label of each item.

    Targets pass the dataset's `target_transform`, as those of its items do. A sample of items is compared with them.

    Raises:
        InputError: a label is no whole number, or `targets` are not those of the items.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None:
        return torch.tensor([_whole(dataset[position][1]) for position in range(len(dataset))], dtype=torch.int64)
    if len(targets) != len(dataset):
        raise InputError(f"the dataset has {len(dataset)} items, and its targets are {len(targets)}; {WAY_OUT}")
    transform = getattr(dataset, "target_transform", None) or (lambda target: target)
    labels = torch.tensor([_whole(transform(target)) for target in targets], dtype=torch.int64)
    for position in torch.linspace(0, len(labels) - 1, min(LOOKED_AT, len(labels))).long().tolist():
        try:
            item = dataset[position]
        except (OSError, ValueError):
            continue  # An image that cannot be read is reported when all are decoded.
        _check_label(item, position, labels[position])
    return labels


def _whole(label: Any) -> int:
    try:
        return int(label)
    except (TypeError, ValueError):
        raise InputError("the dataset's labels must be whole numbers from 0") from None


def _check_label(item: Any, position: int, label: Tensor) -> None:
    """Refuse an item whose label is another one than that of the pool."""
    if _whole(item[1]) != label:
        raise InputError(
            f"item {position} of the dataset has the label {_whole(item[1])}, and its targets say {label}; {WAY_OUT}"
        )


@dataclass(frozen=True)
class DatasetImages(Images):
    """The images of a map-style dataset of (image, label), those at the given indices; labels [N] of all its items.

    The label of each item is compared when its image is read.
    """

    dataset: Any
    indices: Sequence[int]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def decode(self, position: int) -> Tensor:
        index = self.indices[position]
        try:
            item = self.dataset[index]
            image = decode_image(item[0]) if isinstance(item[0], Image.Image) else item[0]
        except (OSError, ValueError) as error:  # Files, Pillow and `decode_image` raise these errors.
            raise UnreadableImage(f"item {index}", str(error) or type(error).__name__) from None
        _check_label(item, index, self.labels[index])
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
            return image
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"item {index} should be a PIL image or a uint8 tensor [3, h, w], is {what}; "
            "pass the dataset without its transform"
        )

    def digest(self, position: int) -> str:
        image = self.decode(position)
        return hashlib.sha256(f"{list(image.shape)}".encode() + image.contiguous().numpy().tobytes()).hexdigest()

    def take(self, positions: Sequence[int]) -> "DatasetImages":
        return DatasetImages(self.dataset, tuple(self.indices[position] for position in positions), self.labels)
