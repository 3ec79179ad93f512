"""Splits into train, val and test that any language can compute again.

The order of the images of a class is the order of SHA-256 digests. A library's shuffle would be shorter, but
libraries do not promise that a seed gives the same shuffle in their next version, let alone in another language. A
digest of names is fixed for ever, and the order of two images does not change when a third one is added.
"""

import csv
import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import PurePosixPath
from typing import NamedTuple

from prunetune.base.errors import InputError

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class Row(NamedTuple):
    """One image of a file list; the prepared file is `<root>/<split>/<path>`."""

    path: str  # The path has the form "<class name>/<file name>".
    label: str  # The label is the class name.
    split: str  # The split is train, val or test.

    @property
    def target(self) -> str:
        """Where the file lies, relative to the data set's root."""
        return f"{self.split}/{self.path}"


def permute(paths: Iterable[str], set_name: str, class_name: str, split_seed: int) -> list[str]:
    """Return the paths in the order of SHA-256(set name, class name, split seed, path).

    The four are joined by newlines, in UTF-8; the seed is written in decimal.
    """
    return sorted(paths, key=lambda path: _digest(set_name, class_name, split_seed, path))


def _digest(set_name: str, class_name: str, split_seed: int, path: str) -> str:
    return hashlib.sha256(f"{set_name}\n{class_name}\n{split_seed}\n{path}".encode()).hexdigest()


def split_sizes(count: int) -> tuple[int, int, int]:
    """Return how many of `count` images go to train, val and test: 60 %, 20 % (both rounded down), the rest."""
    train, val = count * 3 // 5, count // 5
    return train, val, count - train - val


def by_image(files: Mapping[str, list[str]], set_name: str, split_seed: int, per_class: int | None = None) -> list[Row]:
    """Split each class on its own: first 60 % of the permuted images, next 20 %, rest.

    Args:
        files: the file names of each class name.
        set_name: the name of the data set, a part of the key of the permutation.
        split_seed: the seed of the split; another seed gives another split.
        per_class: the number of images to use from the start of the permutation; None uses all.

    Raises:
        InputError: a class has fewer than `per_class` images.
    """
    if per_class is not None:
        _require_splittable(per_class)
    rows = []
    for label, names in files.items():
        paths = permute([f"{label}/{name}" for name in names], set_name, label, split_seed)
        if per_class is not None and len(paths) < per_class:
            raise InputError(
                f"{set_name}: {label} has {len(paths)} images, {per_class} are needed; "
                "leave the class out, lower --per-class or check the label file"
            )
        chosen = paths[:per_class]
        rows += _rows(label, chosen, split_sizes(len(chosen)))
    return sorted(rows)


def _require_splittable(per_class: int) -> None:
    if min(split_sizes(per_class)) < 1:
        raise InputError(f"--per-class must be at least 5, so that no split is empty, got {per_class}")


def _rows(label: str, paths: list[str], sizes: tuple[int, int, int]) -> list[Row]:
    splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    return [Row(path, label, split) for path, split in zip(paths, splits, strict=True)]


def by_group(
    files: Mapping[str, list[str]], group_of: Callable[[str], str], set_name: str, split_seed: int, per_class: int
) -> list[Row]:
    """Split so that a group (a patient) lies in one split only, across all classes, with the same class sizes.

    1. Groups are visited in the order of SHA-256(set name, "group", split seed, group).
    2. Each goes, with all its images, to the split that lags furthest behind its 60/20/20 share in the group's
       rarest class (the one with the fewest images in `files`; ties: train, val, test).
    3. In each class and split the first 300/100/100 (for `per_class` = 500) of the permuted images are kept: a
       group may keep several images, the rest of its images are not used.

    Step 2 keeps every class within about one group's size of 60/20/20, and step 3 needs only `per_class` of the
    images that a class has, so the exact sizes are reached if the class has some to spare.

    Raises:
        InputError: a split of a class falls short.
    """
    _require_splittable(per_class)
    home = _homes(files, group_of, set_name, split_seed)
    rows = []
    for label, names in files.items():
        paths = permute([f"{label}/{name}" for name in names], set_name, label, split_seed)
        for split, size in zip(SPLITS, split_sizes(per_class), strict=True):
            here = [path for path in paths if home[group_of(PurePosixPath(path).name)] == split]
            if len(here) < size:
                raise InputError(
                    f"{set_name}: {split} of {label} gets {len(here)} of {size} images, as no group is split "
                    f"({len(paths)} in the class); try another --split-seed, a smaller --per-class or another class"
                )
            rows += [Row(path, label, split) for path in here[:size]]
    return sorted(rows)


def _homes(
    files: Mapping[str, list[str]], group_of: Callable[[str], str], set_name: str, split_seed: int
) -> dict[str, str]:
    """Return the split of each group."""
    members: dict[str, Counter[str]] = {}
    for label, names in files.items():
        for name in names:
            members.setdefault(group_of(name), Counter())[label] += 1
    # Each value counts the images that have been placed so far.
    placed = {label: dict.fromkeys(SPLITS, 0) for label in files}
    home = {}
    for group in permute(members, set_name, "group", split_seed):
        rarest = min(members[group], key=lambda label: (len(files[label]), label))
        filled = placed[rarest]
        # The factor 3 gives the shares 60/20/20.
        home[group] = min(SPLITS, key=lambda split: filled[split] * (1 if split == "train" else 3))
        for label, count in members[group].items():
            placed[label][home[group]] += count
    return home


def to_csv(rows: Iterable[Row]) -> str:
    """Return the file list: `path,label,split`, sorted by path, a newline (no carriage return) after each line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(sorted(rows))
    return text.getvalue()


def list_sha256(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of the UTF-8 bytes of `to_csv(rows)`."""
    return hashlib.sha256(to_csv(rows).encode()).hexdigest()


def committed_sha256(key: str) -> str | None:
    """Return the committed checksum of a default file list, or None where there is none for these settings."""
    text = (resources.files("prunetune.data.prepare") / "checksums.json").read_text()
    return json.loads(text).get(key, {}).get("sha256")


def check_committed(key: str, rows: Iterable[Row]) -> None:
    """Compare a file list with its committed checksum, if these settings have one.

    Raises:
        InputError: the list differs, so the source's file names or labels are not the published ones.
    """
    expected, found = committed_sha256(key), list_sha256(rows)
    if expected is None:
        log.info("file list: sha256 %s (none is committed for %s)", found, key)
    elif expected != found:
        raise InputError(
            f"the file list of {key} has sha256 {found}, expected {expected}: the archive or label file holds other "
            "names than the published one; check it, or pass --no-checksum to use it as it is"
        )
    else:
        log.info("file list: sha256 %s, as committed", found)
