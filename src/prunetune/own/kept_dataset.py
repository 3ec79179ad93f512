"""The kept samples as a map-style dataset of torch, for data that were none: a folder, a table, arrays, embeddings."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from prunetune.data.images.decode import Images
from prunetune.own.data import OwnData


class KeptDataset(torch.utils.data.Dataset):
    """M kept samples: items (sample, label), or samples alone if the data have no labels.

    A sample is a PIL image in RGB, decoded as it was for scoring, or a row of the embeddings, [D] float32. A label is
    an index into `classes`.

    Args:
        data: the candidates.
        order: [M] int64, the positions of the kept samples in the pool, in the order of the user's rows.
        transform: what is done with each sample before it is returned; None for nothing.
    """

    def __init__(self, data: OwnData, order: Tensor, transform: Callable[[Any], Any] | None = None) -> None:
        self.classes = list(data.pool.classes) if data.is_labelled else []
        self.targets = data.pool.labels[order].tolist() if data.is_labelled else None
        self.transform = transform
        self._features = None if data.features is None else data.features[order]
        self._images = None if data.features is not None else data.pool.images.take(order.tolist())
        self._count = len(order)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Any:
        sample = as_pil(self._images, row) if self._features is None else self._features[row]
        if self.transform is not None:
            sample = self.transform(sample)
        return sample if self.targets is None else (sample, self.targets[row])


def as_pil(images: Images, position: int) -> Image.Image:
    """Return an image as a PIL image in RGB."""
    return Image.fromarray(images.decode(position).permute(1, 2, 0).numpy())
