"""Map-style datasets of torch, and of torchvision with their files."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import data as torch_data

from prunetune.base.errors import InputError
from prunetune.data.images.own import KeptImages, KeptItems, OwnFiles
from prunetune.own.data import OwnData
from prunetune.own.read.assemble import Found, assemble, numbered
from prunetune.own.read.columns import IMAGE_NAMES, LABEL_NAMES, usual
from prunetune.own.read.labels import plain
from prunetune.own.read.options import ReadOptions, leave_out

TARGETS = ("targets", "labels", "_labels")  # The datasets of torchvision keep their labels under these names.
TRANSFORMS = ("transforms", "transform")
WAY_OUT = "update targets, or set them to None, and the labels of the items are read"


def read_dataset(dataset: Any, options: ReadOptions) -> OwnData:
    """Return the images of a map-style dataset of (image, label), of dicts, or of images alone.

    Transforms are switched off in a copy of the dataset. The labels come from its `targets` if it has them; when an
    item is read, its own label is compared with them. Each item is read once; the files of torchvision's ImageFolder
    are read as files.

    Raises:
        InputError: an item is neither a PIL image nor uint8, it cannot be read, a label is wrong, or `targets` are not
            those of the items.
    """
    count = len(dataset)
    if count == 0:
        raise InputError("the dataset has no items; expected one for each image")
    opened = without_transforms(dataset)
    files = _files(opened)
    if files is not None:
        _check_no_keys(options)
        return _of_files(dataset, opened, files, options)
    targets = known_labels(opened) if options.reads_labels else None
    read = _Item(opened, options, targets)
    items = KeptItems(count, read, lambda row: f"item {row}", options.rule)
    left_out: dict[str, str] = {}
    rows = list(range(count))
    if targets is None and options.reads_labels:
        targets = items.labels if items.labels and read.has_labels else None
        left_out = {failure.place: failure.reason for failure in items.failures.values()}
        leave_out(left_out, count, "items", options)
        rows = [row for row in rows if row not in items.failures]
    ids = numbered(count)
    return assemble(
        Found(
            layout="dataset",
            source=dataset,
            num_rows=count,
            rows=rows,
            sample_ids=[ids[row] for row in rows],
            names=[str(row) for row in rows],
            images=KeptImages(items, tuple(rows)),
            place=lambda row: f"item {row}",
            labels=None if targets is None else [targets[row] for row in rows],
            class_names=class_names(opened),
            left_out=left_out,
        ),
        "dataset",
        options,
    )


def _of_files(dataset: Any, opened: Any, files: "Files", options: ReadOptions) -> OwnData:
    ids = [_relative(path, files.root) for path in files.paths]
    return assemble(
        Found(
            layout="dataset",
            source=dataset,
            num_rows=len(ids),
            rows=list(range(len(ids))),
            sample_ids=ids,
            names=[str(path) for path in files.paths],
            images=OwnFiles(tuple(Path(path).absolute() for path in files.paths), options.rule),
            place=lambda row: f"item {row}",
            labels=files.labels,
            class_names=class_names(opened),
            paths=[Path(path).absolute() for path in files.paths],
        ),
        "dataset",
        options,
    )


def _relative(path: str, root: str) -> str:
    given = Path(path)
    return given.relative_to(root).as_posix() if given.is_relative_to(root) else given.as_posix()


@dataclass(frozen=True)
class Files:
    """The files of a dataset: their paths, labels and the folder that the paths start from."""

    paths: Sequence[str]
    labels: Sequence[int]
    root: str


def _files(dataset: Any) -> Files | None:
    """Return the files of torchvision's ImageFolder or of a Subset of it, if it reads them as torchvision does."""
    if isinstance(dataset, torch_data.Subset):
        inner = _files(dataset.dataset)
        if inner is None or len(set(dataset.indices)) < len(dataset.indices):
            return None
        chosen = [int(index) for index in dataset.indices]
        return Files([inner.paths[i] for i in chosen], [inner.labels[i] for i in chosen], inner.root)
    from torchvision.datasets import DatasetFolder, ImageFolder
    from torchvision.datasets.folder import default_loader

    is_plain = type(dataset) in (DatasetFolder, ImageFolder) and dataset.loader is default_loader
    if not is_plain or getattr(dataset, "target_transform", None) is not None:
        return None
    paths, labels = [path for path, _ in dataset.samples], [label for _, label in dataset.samples]
    if dataset.targets is not None and list(dataset.targets) != labels:
        raise InputError(f"the targets of the dataset differ from the labels of its samples; {WAY_OUT}")
    return Files(paths, labels, str(dataset.root)) if len(set(paths)) == len(paths) else None


def without_transforms(dataset: Any) -> Any:
    """Return the dataset with its image transforms off, as a copy if it has any; the caller's object stays as it is."""
    if isinstance(dataset, torch_data.Subset):
        return torch_data.Subset(without_transforms(dataset.dataset), dataset.indices)
    if isinstance(dataset, torch_data.ConcatDataset):
        return torch_data.ConcatDataset([without_transforms(part) for part in dataset.datasets])
    names = [name for name in TRANSFORMS if getattr(dataset, name, None) is not None]
    if not names:
        return dataset
    plain_copy = copy.copy(dataset)
    labels_too = getattr(dataset, "target_transform", None)
    for name in names:
        # A StandardTransform of torchvision holds both transforms; that of the labels stays.
        keeps_target = name == "transforms" and labels_too is not None
        setattr(plain_copy, name, _target_only(labels_too) if keeps_target else _neutral(plain_copy))
    return plain_copy


def _neutral(dataset: Any) -> Any:
    """Return what switches a transform off: None for torchvision, else a function that changes nothing."""
    from torchvision.datasets import VisionDataset

    return None if isinstance(dataset, VisionDataset) else _unchanged


def _unchanged(image: Any, *others: Any) -> Any:
    """Return what a transform is given."""
    return (image, *others) if others else image


def _target_only(transform: Callable[[Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    return lambda image, target: (image, transform(target))


def known_labels(dataset: Any) -> Sequence[Any] | None:
    """Return the labels that a dataset has as a list, so that no item must be read; None if it has none."""
    if isinstance(dataset, torch_data.Subset):
        inner = known_labels(dataset.dataset)
        return None if inner is None else [inner[int(index)] for index in dataset.indices]
    if isinstance(dataset, torch_data.ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        return None if None in parts else [label for part in parts for label in part]
    targets = getattr(dataset, "targets", None)
    if targets is not None and hasattr(targets, "__len__") and len(targets) != len(dataset):
        raise InputError(f"the dataset has {len(dataset)} items, and its targets are {len(targets)}; {WAY_OUT}")
    for name in TARGETS:
        labels = getattr(dataset, name, None)
        if labels is not None and hasattr(labels, "__len__") and len(labels) == len(dataset):
            labels = labels.tolist() if isinstance(labels, Tensor) else list(labels)
            change = getattr(dataset, "target_transform", None)
            return labels if change is None else [change(label) for label in labels]
    return None


def class_names(dataset: Any) -> list[str] | None:
    """Return the names of a dataset's classes, if labels are indices into them."""
    if isinstance(dataset, torch_data.Subset):
        return class_names(dataset.dataset)
    if isinstance(dataset, torch_data.ConcatDataset):
        names = [class_names(part) for part in dataset.datasets]
        return names[0] if all(part == names[0] for part in names) else None
    names = getattr(dataset, "classes", None)
    if names is None or isinstance(names, str) or getattr(dataset, "target_transform", None) is not None:
        return None
    return [name if isinstance(name, str) else str(name) for name in names]


def _check_no_keys(options: ReadOptions) -> None:
    """Refuse options that name keys of items which are no dicts."""
    for name in ("image_column", "label_column"):
        key = getattr(options, name)
        if key is not None:
            raise InputError(f"the items of the dataset are no dicts with keys; leave {options.words(name, key)} out")


class _Item:
    """Reads an item of a dataset as (image, label). has_labels: whether the last item had a label.

    targets: the labels that the dataset has as a list; an item of another label is refused.
    """

    def __init__(self, dataset: Any, options: ReadOptions, targets: Sequence[Any] | None) -> None:
        self._dataset, self._options, self.has_labels, self._targets = dataset, options, False, targets

    def __call__(self, row: int) -> tuple[Any, Any]:
        image, label = self._read(row)
        if self._targets is not None and label is not None and plain(label) != plain(self._targets[row]):
            raise InputError(
                f"item {row} of the dataset has the label {plain(label)}, and its targets say "
                f"{plain(self._targets[row])}; {WAY_OUT}"
            )
        return image, label

    def _read(self, row: int) -> tuple[Any, Any]:
        item = self._dataset[row]
        if isinstance(item, Mapping):
            return self._of_mapping(row, item)
        _check_no_keys(self._options)
        if isinstance(item, tuple | list):
            if not item:
                raise InputError(f"item {row} is empty; expected (image, label)")
            self.has_labels = self.has_labels or len(item) > 1
            return item[0], item[1] if len(item) > 1 else None
        return item, None

    def _of_mapping(self, row: int, item: Mapping[str, Any]) -> tuple[Any, Any]:
        image = self._key(row, item, "image", IMAGE_NAMES)
        if image is None:
            raise InputError(
                f"item {row} is a dict with the keys {', '.join(map(str, item))}, none of them usual for an "
                "image; name "
                f"one with {self._options.words('image_column', '<key>')}"
            )
        label = self._key(row, item, "label", LABEL_NAMES) if self._options.reads_labels else None
        self.has_labels = self.has_labels or label is not None
        return item[image], None if label is None else plain(item[label])

    def _key(self, row: int, item: Mapping[str, Any], what: str, known: frozenset[str]) -> str | None:
        given = self._options.image_column if what == "image" else self._options.label_column
        if given is not None:
            if given not in item:
                raise InputError(f"item {row} has no key {given!r}; it has {', '.join(map(str, item))}")
            return given
        keys = [key for key in item if usual(key, known)]
        if len(keys) > 1:
            raise InputError(
                f"the keys {' and '.join(keys)} of item {row} could both be the {what}; name one with "
                f"{self._options.words(f'{what}_column', keys[0])}"
            )
        return keys[0] if keys else None
