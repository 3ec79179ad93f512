"""CIFAR-10 through torchvision."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torchvision import datasets

from prunetune.base.errors import InputError
from prunetune.data.counts import check_counts
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Dataset, Pool, require_folder
from prunetune.data.readers.listing import OTHER_COUNTS, Counts

FIX = "run `prunetune prepare cifar10` or pass dataset.root=<folder>"


@dataclass(frozen=True)
class CIFAR10(Dataset):
    """CIFAR-10: 50,000 pool images (no val split) and 10,000 test images of 32 x 32 pixels in 10 classes.

    Layout: `<root>/cifar-10-batches-py`, as torchvision's own download leaves it; torchvision compares the MD5 of
    every file before it unpickles it. Ids are "train/00000" and so on, in the order of the batches.
    """

    name: str = "cifar10"
    root: str = "data/cifar10"
    num_classes: int = 10
    num_pool: int = 50000
    num_test: int = 10000
    check_counts: bool = True

    def pool(self, part: str) -> Pool:
        if part not in ("train", "test"):
            raise InputError(f"a pool's part must be 'train' or 'test', got {part!r}")
        train, test = self._read(train=True), self._read(train=False)
        if self.check_counts:
            expected = Counts(self.num_classes, self.num_pool, self.num_test)
            check_counts(self.name, expected, Counts(len(train.classes), len(train), len(test)), OTHER_COUNTS)
        chosen = train if part == "train" else test
        return Pool(
            name=self.name,
            labels=torch.tensor(chosen.targets, dtype=torch.int64),
            sample_ids=tuple(f"{part}/{position:05d}" for position in range(len(chosen))),
            splits=(part,) * len(chosen),
            classes=tuple(chosen.classes),
            images=ImageArrays(chosen.data),  # [N, 32, 32, 3] uint8
        )

    def _read(self, train: bool) -> datasets.CIFAR10:
        folder = require_folder(self.root, self.name, FIX)
        with warnings.catch_warnings():
            # The files are pickles of an old NumPy, and NumPy 2.4 warns about each array in them.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            try:
                return datasets.CIFAR10(str(folder), train=train, download=False)
            except RuntimeError:
                raise InputError(
                    f"{self.name}: {folder} lacks cifar-10-batches-py, or a file in it is damaged; {FIX}"
                ) from None
