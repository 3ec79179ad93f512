"""Your own images: any folder with one folder per class."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Dataset, Pool, require_folder
from prunetune.data.prepare.splits import permute
from prunetune.data.readers.listing import (
    ListedImage,
    check_files,
    make_pool,
    read_lines,
    scan_class_folders,
    sorted_classes,
)

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
FIX = "pass dataset.root=<folder with one folder per class>"


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Images in folders named after their classes; the first of these that applies says which ones are for testing.

    1. `train_list` and `test_list`: text files, one image a line, as a path below the root (or below a folder of the
       root). The class is the name of the image's own folder; or a line is `<path> <label>`: if the whole line is no
       existing file, its longest beginning that is one, ended by a space, tab or comma, is the path and the rest is
       the label. So names and labels may contain spaces.
    2. `test_root`: a second folder of class folders.
    3. `<root>/train`, `<root>/test` and, if you like, `<root>/val` (or `valid`, `validation`), each with class folders.
    4. Otherwise `test_fraction` of each class, at least one image of a class of two or more; a class of one image
       stays in the pool. Which images, depends on `split_seed`, the class and the path below the root only.

    A relative list or test_root is looked for below the root, then in the working directory. Without lists, images are
    found at any depth below a class folder. `name` is the root folder's name if it is None.
    """

    name: str | None = None
    root: str | None = None
    train_list: str | None = None
    test_list: str | None = None
    test_root: str | None = None
    test_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        if (self.train_list is None) != (self.test_list is None):
            raise InputError(
                "image_folder needs both lists or none; pass dataset.train_list=<file> dataset.test_list=<file>"
            )
        if self.train_list is not None and self.test_root is not None:
            raise InputError("image_folder takes either lists or dataset.test_root, got both; leave one of them out")
        checks.number("dataset.test_fraction", self.test_fraction, "(0, 1)", what="the fraction that is for testing")
        super().__post_init__()

    @property
    def resolved_name(self) -> str:
        """`name`, or the root folder's name."""
        return self.name or Path(os.path.abspath(Path(str(self.root or "")).expanduser())).name

    def pool(self, part: str) -> Pool:
        if self.root is None:
            raise InputError(f"image_folder needs a root; {FIX}")
        folder = Path(os.path.abspath(require_folder(self.root, self.resolved_name, FIX)))
        listed = self._listed(folder)
        classes = sorted_classes(listed)
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            raise InputError(f"{self.resolved_name}: expected two or more classes in {folder}, found {found}; {FIX}")
        return make_pool(self.resolved_name, part, listed, classes)

    def _listed(self, folder: Path) -> list[ListedImage]:
        if self.train_list is not None and self.test_list is not None:
            return self._from_lists(folder, _locate(folder, self.train_list), _locate(folder, self.test_list))
        if self.test_root is not None:
            return self._with_test_root(folder, _locate(folder, self.test_root))
        if split_folders := _split_folders(folder):
            if "test" not in split_folders:
                raise InputError(
                    f"{folder} has a folder train but none test; add it or pass dataset.test_root=<folder>"
                )
            return self._scan_splits(folder, split_folders)
        return self._split_by_us(scan_class_folders(folder, folder, self.resolved_name, "train"))

    def _scan_splits(self, folder: Path, names: Sequence[str]) -> list[ListedImage]:
        scans = (scan_class_folders(folder / name, folder, self.resolved_name, SPLIT_NAMES[name]) for name in names)
        return [image for scan in scans for image in scan]

    def _with_test_root(self, folder: Path, test_folder: Path) -> list[ListedImage]:
        if not test_folder.is_dir():
            raise InputError(
                f"dataset.test_root={self.test_root} is not a folder; pass a folder with one folder for each class"
            )
        if os.path.realpath(test_folder) == os.path.realpath(folder):
            raise InputError("dataset.test_root is dataset.root itself; pass another folder, or leave test_root out")
        if split_folders := [name for name in _split_folders(folder) if SPLIT_NAMES[name] != "test"]:
            pool = self._scan_splits(folder, split_folders)
        else:
            pool = scan_class_folders(folder, folder, self.resolved_name, "train", skip=test_folder)
        root = folder if test_folder.is_relative_to(folder) else test_folder
        return pool + scan_class_folders(test_folder, root, self.resolved_name, "test")

    def _split_by_us(self, listed: Sequence[ListedImage]) -> list[ListedImage]:
        members: dict[str, list[str]] = defaultdict(list)
        for image in listed:
            members[image.class_name].append(image.sample_id)
        chosen = {sample_id for name in members for sample_id in self._test_ids(name, members[name])}
        return [replace(image, split="test") if image.sample_id in chosen else image for image in listed]

    def _test_ids(self, class_name: str, sample_ids: Sequence[str]) -> list[str]:
        """Return the first images in the hashed order; the hash does not depend on the name of the data set."""
        num_test = min(max(round(len(sample_ids) * self.test_fraction), 1), len(sample_ids) - 1)
        return permute(sample_ids, "image_folder", class_name, self.split_seed)[:num_test]

    def _from_lists(self, folder: Path, train_list: Path, test_list: Path) -> list[ListedImage]:
        lines = [
            (line, split) for path, split in ((train_list, "train"), (test_list, "test")) for line in read_lines(path)
        ]
        base = _base(folder, [line for line, _ in lines])
        parsed = [(*_parse(base, line), split) for line, split in lines]  # Each item is (path, label or None, split).
        listed = [_listed_image(folder, base, path, label, split) for path, label, split in parsed]
        check_files(self.resolved_name, listed, f"correct {train_list.name} and {test_list.name}, or dataset.root")
        unlabelled = [path for path, label, _ in parsed if label is None]
        if 0 < len(unlabelled) < len(parsed):
            raise InputError(
                f"{self.resolved_name}: {len(unlabelled)} of {len(parsed)} listed images have no label, first: "
                f"{unlabelled[0]}; give every line a label or none"
            )
        if unlabelled and (loose := [image.path for image in listed if image.path.parent == folder]):
            raise InputError(
                f"the listed file {loose[0]} is in no class folder; write lines '<path> <label>' or move it"
            )
        return listed


def _locate(folder: Path, given: str) -> Path:
    path = Path(given).expanduser()
    below_root = os.path.normpath(folder / path)
    return Path(below_root if os.path.exists(below_root) else os.path.abspath(path))


def _split_folders(folder: Path) -> list[str]:
    """Return the names of the root's split folders, or none if its folders are classes."""
    children = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    splits = sorted(name for name in children if name in SPLIT_NAMES and _has_folders(folder / name))
    if "train" in splits and ("test" in splits or len(splits) == len(children)):
        return splits
    return []


def _has_folders(folder: Path) -> bool:
    return any(path.is_dir() for path in folder.iterdir())


def _base(folder: Path, lines: Sequence[str]) -> Path:
    """Return the folder that a list's paths start from: the root, or a folder of it that holds the class folders."""
    for base in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if any(os.path.isfile(base / _parse(base, line)[0]) for line in lines[:10]):
            return base
    return folder


def _parse(base: Path, line: str) -> tuple[str, str | None]:
    """Return a line's path, below base, and its label if it has one."""
    if os.path.isfile(base / line):
        return line, None
    for end in reversed([i for i, letter in enumerate(line) if letter in " \t,"]):
        path, label = line[:end].rstrip(" \t,"), line[end + 1 :].strip()
        if os.path.isfile(base / path):
            return path, label
    return line, None


def _listed_image(folder: Path, base: Path, line_path: str, label: str | None, split: str) -> ListedImage:
    path = Path(os.path.normpath(base / line_path))
    relative = PurePath(os.path.relpath(path, folder))
    if relative.parts[0] == "..":
        raise InputError(f"the listed file {path} is not below dataset.root={folder}; list paths below the root")
    return ListedImage(path, relative.as_posix(), label or path.parent.name, split)
