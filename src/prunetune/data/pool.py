"""A pool: the training images of a task, before pruning, and what is known about them."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.images.decode import Images

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """N labelled images in one fixed order: a pool sorts itself by sample_id, and positions count in that order.

    labels: [N] int64 class indices into `classes`. sample_ids: N different relative paths. splits: N names,
    "train", "val" or "test". images: None for a pool of precomputed tensors. order: [N] int64, the position at which
    each image was given; `features[pool.order]` brings rows that were given in that order into the pool's order.
    """

    name: str
    labels: Tensor
    sample_ids: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    images: Images | None = None
    order: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        order = sorted(range(len(self.sample_ids)), key=self.sample_ids.__getitem__)
        object.__setattr__(self, "order", torch.tensor(order, dtype=torch.int64))
        object.__setattr__(self, "labels", torch.as_tensor(self.labels, dtype=torch.int64)[self.order])
        object.__setattr__(self, "sample_ids", tuple(self.sample_ids[i] for i in order))
        object.__setattr__(self, "splits", tuple(self.splits[i] for i in order))
        if order == list(range(len(order))):
            return
        if self.images is not None:
            object.__setattr__(self, "images", self.images.take(order))
        else:
            log.warning("%s is sorted by sample_id; its tensors must be too: features[pool.order]", self.name)

    def _check(self) -> None:
        num_ids = len(self.sample_ids)
        if num_ids == 0:
            raise InputError(f"{self.name}: expected images, found none; check the data set's root and lists")
        sizes = {len(self.labels), num_ids, len(self.splits)}
        if self.images is not None:
            sizes.add(len(self.images))
        if len(sizes) > 1:
            raise InputError(f"{self.name}: labels, sample_ids, splits and images differ in length: {sorted(sizes)}")
        if len(set(self.sample_ids)) != num_ids:
            twice = next(name for name, count in Counter(self.sample_ids).items() if count > 1)
            raise InputError(f"{self.name}: sample_id {twice!r} occurs twice; every image needs an id of its own")
        try:
            labels = torch.as_tensor(self.labels)
        except (TypeError, ValueError):
            raise InputError(f"{self.name}: labels must be class indices, whole numbers from 0") from None
        if isinstance(self.classes, str) or not isinstance(self.classes, Sequence):
            raise InputError(f"{self.name}: classes must be the classes' names in index order, got {self.classes!r}")
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise InputError(
                f"{self.name}: labels must be class indices, [N] whole numbers from 0, "
                f"got {list(labels.shape)} {labels.dtype}"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.classes):
            raise InputError(
                f"{self.name}: labels must be in 0..{len(self.classes) - 1} for {len(self.classes)} classes, "
                f"got {int(labels.min())}..{int(labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def class_counts(self) -> Tensor:
        """[C] int64, images of each class."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def listing(self) -> str:
        """SHA-256 of ids, labels and splits: unlike the fingerprint it opens no image."""
        rows = zip(self.sample_ids, self.labels.tolist(), self.splits, strict=True)
        return hashlib.sha256(repr(list(rows)).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids, labels, splits and image contents: two pools with the same fingerprint are the same data."""
        with ThreadPoolExecutor() as workers:
            contents = list(workers.map(self.images.digest, range(len(self)))) if self.images else [""] * len(self)
        digest = hashlib.sha256()
        for row in zip(self.sample_ids, self.labels.tolist(), self.splits, contents, strict=True):
            digest.update("\x1f".join(map(str, row)).encode() + b"\n")
        return digest.hexdigest()

    def take(self, positions: Sequence[int] | Tensor) -> "Pool":
        """Return the pool of the images at these positions (their order does not matter: a pool sorts itself)."""
        chosen = [int(position) for position in positions]
        return Pool(
            name=self.name,
            labels=self.labels[torch.tensor(chosen, dtype=torch.int64)],
            sample_ids=tuple(self.sample_ids[i] for i in chosen),
            splits=tuple(self.splits[i] for i in chosen),
            classes=self.classes,
            images=self.images.take(chosen) if self.images is not None else None,
        )


class Dataset(ABC):
    """A named task: a pool to prune and a test set. Subclasses are frozen dataclasses of a few plain settings."""

    def __post_init__(self) -> None:
        """Check the numbers of classes and images, and the types of all settings."""
        for key in ("num_classes", "num_pool", "num_test"):
            if key in getattr(self, "__dataclass_fields__", {}):
                checks.whole_number(f"dataset.{key}", getattr(self, key), least=0)
        checks.fields("dataset", self)

    @abstractmethod
    def pool(self, part: str) -> Pool:
        """Return the pool ("train": train and val images together) or the test set ("test").

        Raises:
            InputError: the data are missing (the message names the preparation command) or not as expected.
        """


def require_folder(root: str | Path, name: str, fix: str) -> Path:
    """Return the folder, or say in one line how to get it."""
    # YAML reads a folder called 2024 as a number, so the value is converted to text.
    folder = Path(str(root)).expanduser()
    if not folder.is_dir():
        raise InputError(f"{name} is not in {root}; {fix}")
    return folder
