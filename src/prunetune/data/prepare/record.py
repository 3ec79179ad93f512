"""What a finished preparation leaves beside the data: `preparation.json`, the settings and the counts."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.base.publish import require_writable, write_json
from prunetune.data.prepare.disk import OTHER_DISK, explained
from prunetune.data.prepare.splits import SPLITS, Row

RECORD = "preparation.json"
OTHER_COUNTS = "download the archive again, or pass --no-check-counts to use it as it is"


@dataclass(frozen=True)
class Counts:
    """Classes and images of a prepared set."""

    classes: int
    train: int
    val: int
    test: int

    def __str__(self) -> str:
        pool = self.train + self.val
        return f"{self.classes} classes, pool {pool} (train {self.train}, val {self.val}), test {self.test}"


PROTOCOL = {
    "cxrb10": Counts(10, 3000, 1000, 1000),
    "deepweeds": Counts(8, 4800, 1600, 1600),
    "dtd": Counts(47, 1880, 1880, 1880),
    "fgvcaircraft": Counts(100, 3334, 3333, 3333),
    "sketch": Counts(250, 12000, 4000, 4000),
    "cifar10": Counts(10, 50000, 0, 10000),
}


def count_rows(rows: Iterable[Row]) -> Counts:
    """Count the classes and images of a file list."""
    rows = list(rows)
    sizes = Counter(row.split for row in rows)
    return Counts(len({row.label for row in rows}), *(sizes[split] for split in SPLITS))


def write_record(folder: Path, name: str, settings: dict[str, Any], counts: Counts, **facts: Any) -> None:
    """Write `preparation.json`, the last file of a preparation."""
    content = {"dataset": name, "settings": settings, "counts": asdict(counts), **facts}
    write_json(folder / RECORD, content)


def read_finished(root: Path, name: str, settings: dict[str, Any]) -> Counts | None:
    """Return the counts of a finished preparation, or None if there is none yet.

    Raises:
        InputError: the folder holds another preparation.
    """
    path = root / RECORD
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        counts, dataset, before = Counts(**content["counts"]), content["dataset"], content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a record of a preparation ({error}); delete {root} or pass --root") from error
    if (dataset, before) != (name, settings):
        raise InputError(
            f"{root} was prepared as {_words(dataset, before)}; {_words(name, settings)} was asked for: "
            "delete the folder or pass --root=<another folder>"
        )
    return counts


def require_free(root: Path, name: str) -> None:
    """Refuse a place for a data set before anything is downloaded.

    Raises:
        InputError: the folder has content without a record of a finished preparation, or the folder around it cannot be
            written.
    """
    with explained(root.parent, OTHER_DISK):
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise InputError(f"{root} exists but is not a finished {name}; delete it or pass --root=<another folder>")
        require_writable(root.parent)


def _words(name: str, settings: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
