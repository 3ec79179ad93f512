"""What the readers of image folders share: find images, check what was found, make a pool of it. Nothing is decoded."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prunetune.base.errors import InputError
from prunetune.data.counts import check_counts
from prunetune.data.images.decode import IMAGE_SUFFIXES, ImageFiles
from prunetune.data.list_files import read_text
from prunetune.data.pool import Pool

log = logging.getLogger(__name__)
# This is the advice for a data set whose numbers differ from those that its name promises.
OTHER_COUNTS = (
    "prepare the data set again, or for a subset on purpose pass dataset.name=<other> dataset.check_counts=false"
)


@dataclass(frozen=True)
class ListedImage:
    """One image of a data set, before it is decoded: sample_id is its POSIX path below the root."""

    path: Path
    sample_id: str
    class_name: str
    split: str

    def __post_init__(self) -> None:
        try:
            self.sample_id.encode()
        except UnicodeEncodeError:
            raise InputError(f"the file name {self.sample_id!r} is not UTF-8; rename the file") from None


@dataclass(frozen=True)
class Counts:
    """The numbers that a data set of this name must have: classes, pool images (train and val), test images."""

    num_classes: int
    num_pool: int
    num_test: int

    def __str__(self) -> str:
        return f"{self.num_classes} classes, {self.num_pool} pool and {self.num_test} test images"


def require_file(path: Path, name: str, fix: str) -> Path:
    """Return the file, or say in one line that this data set is incomplete and how to get it."""
    if not path.is_file():
        raise InputError(f"{name} is incomplete: {path} is missing; {fix}")
    return path


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines without surrounding space, empty ones left out.

    Raises:
        InputError: the file is no regular file, cannot be read, is not UTF-8, has no line or an endless one.
    """
    lines = [line for line in map(str.strip, read_text(path).splitlines()) if line]
    if not lines:
        raise InputError(f"the list {path} is empty; expected one image per line")
    return lines


def scan_class_folders(folder: Path, root: Path, name: str, split: str, skip: Path | None = None) -> list[ListedImage]:
    """Return every image below the class folders of `folder`, at any depth; the class is the folder's direct child.

    Hidden files and folders and files without an image suffix are left out and counted in one log line. Symbolic
    links are followed.

    Raises:
        InputError: a class folder has no images.
    """
    listed: list[ListedImage] = []
    ignored: Counter[str] = Counter()
    for class_folder in sorted(path for path in folder.iterdir() if _is_class_folder(path) and path != skip):
        paths = _walk(class_folder, ignored)
        if not paths:
            raise InputError(f"{name}: the class folder {class_folder} holds no images; add images to it or remove it")
        listed += [ListedImage(path, path.relative_to(root).as_posix(), class_folder.name, split) for path in paths]
    ignored.update({"image outside the class folders": sum(_is_image(path) for path in folder.iterdir())})
    _report_ignored(name, folder, ignored)
    return listed


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _walk(folder: Path, ignored: Counter[str]) -> list[Path]:
    """Return the images below a folder, sorted; count the other files by kind."""
    paths: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # A link to a parent folder would otherwise cause an endless loop.
            continue
        seen.add(real)
        for name in files:
            path = Path(place, name)
            if _is_image(path):
                paths.append(path)
            else:
                ignored["hidden" if name.startswith(".") else path.suffix.lower() or "without suffix"] += 1
    return sorted(paths)


def _report_ignored(name: str, folder: Path, ignored: Counter[str]) -> None:
    kinds = {kind: count for kind, count in sorted(ignored.items()) if count}
    if kinds:
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        log.info(
            "%s: ignored %d files in %s that are not images of a class (%s)", name, sum(kinds.values()), folder, words
        )


def check_files(name: str, listed: Sequence[ListedImage], fix: str) -> None:
    """Refuse a list in which some files do not exist."""
    missing = [image.path for image in listed if not os.path.isfile(image.path)]
    if missing:
        raise InputError(
            f"{name}: {len(missing)} of {len(listed)} listed files are missing, first: {missing[0]}; {fix}"
        )


def make_pool(
    name: str, part: str, listed: Sequence[ListedImage], classes: Sequence[str], counts: Counts | None = None
) -> Pool:
    """Return the pool (part "train": the splits train and val) or the test set ("test") of the listed images.

    Args:
        name: the name of the data set.
        part: "train" or "test".
        listed: the images of all splits, in any order.
        classes: class names in index order.
        counts: the numbers that the data set must have, or None for any numbers.

    Raises:
        InputError: wrong numbers, a class that only the test set has, one file in both parts.
    """
    if part not in ("train", "test"):
        raise InputError(f"a pool's part must be 'train' or 'test', got {part!r}")
    if counts is not None:
        _check_counts(name, listed, classes, counts)
    _check_classes(name, part, listed)
    _check_overlap(name, listed)
    chosen = [image for image in listed if (image.split == "test") == (part == "test")]
    index = {class_name: label for label, class_name in enumerate(classes)}
    return Pool(
        name=name,
        labels=torch.tensor([index[image.class_name] for image in chosen], dtype=torch.int64),
        sample_ids=tuple(image.sample_id for image in chosen),
        splits=tuple(image.split for image in chosen),
        classes=tuple(classes),
        images=ImageFiles(tuple(image.path for image in chosen)),
    )


def sorted_classes(listed: Sequence[ListedImage]) -> tuple[str, ...]:
    """Return the class names in index order: sorted as text, or as numbers if all of them are (2 before 10)."""
    names = {image.class_name for image in listed}
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _check_counts(name: str, listed: Sequence[ListedImage], classes: Sequence[str], expected: Counts) -> None:
    num_test = sum(image.split == "test" for image in listed)
    check_counts(name, expected, Counts(len(classes), len(listed) - num_test, num_test), OTHER_COUNTS)


def _check_classes(name: str, part: str, listed: Sequence[ListedImage]) -> None:
    in_pool = {image.class_name for image in listed if image.split != "test"}
    in_test = {image.class_name for image in listed if image.split == "test"}
    if only_test := sorted(in_test - in_pool):
        raise InputError(
            f"{name}: classes with test images but none in the pool: {len(only_test)}, first: {only_test[0]!r}; "
            f"add training images of it or remove its test images"
        )
    if part == "test" and (absent := sorted(in_pool - in_test)):
        log.warning(
            "%s: %d of %d classes have no test image, first: %r; accuracy is over the classes that the test set has",
            *(name, len(absent), len(in_pool), absent[0]),
        )


def _check_overlap(name: str, listed: Sequence[ListedImage]) -> None:
    test = {image.path for image in listed if image.split == "test"}
    both = [image.path for image in listed if image.split != "test" and image.path in test]
    if both:
        raise InputError(
            f"{name}: files both in the pool and in the test set: {len(both)}, first: {min(both)}; leave each in one"
        )
