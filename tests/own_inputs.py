"""Small inputs of the kinds that people bring, and what a reader says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_data import make_image
from prunetune.base import words
from prunetune.own.data import OwnData
from prunetune.own.read import ReadOptions, read

CLASSES = ("crab", "eel", "owl")
SIZE = (16, 12)


def make_folders(root: Path, *folders: str, count: int = 4) -> Path:
    """Write some images into each of the folders below root; "" is root itself."""
    for folder in folders:
        for number in range(count):
            make_image(root / folder / f"{Path(folder).name}{number:02d}.jpg", folder, size=SIZE)
    return root


def in_classes(*tops: str) -> list[str]:
    """Return the class folders below each of these folders."""
    return [f"{top}/{name}" for top in tops for name in CLASSES]


def rows(count: int = 4) -> list[tuple[str, str]]:
    """Return (path, label) of the images that `make_folders(root, *CLASSES)` writes."""
    return [(f"{name}/{name}{number:02d}.jpg", name) for name in CLASSES for number in range(count)]


def by_command(data: Any, **options: Any) -> OwnData:
    """Read as `prunetune prune` does."""
    return read(data, ReadOptions(words=words.command, **options))


def classes_of(data: OwnData) -> dict[str, int]:
    """Return how many images each class has."""
    return dict(zip(data.pool.classes, data.pool.class_counts.tolist(), strict=True))


def labels_by_row(data: OwnData) -> Sequence[str]:
    """Return the class names in the order of the user's rows."""
    order = data.rows.argsort().tolist()
    return [data.pool.classes[int(data.pool.labels[position])] for position in order]
