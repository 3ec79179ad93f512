"""Images of the library `datasets`: a dataset of the Hugging Face hub, a saved one, or a folder in its layout."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.images.own import EncodedImages
from prunetune.data.images.rule import DecodeRule
from prunetune.data.pool import Dataset, Pool
from prunetune.data.prepare.splits import permute
from prunetune.data.readers.hugging_face import (
    HUB,
    ImageRows,
    as_splits,
    content_of,
    is_saved,
    library,
    open_hub,
    open_saved,
)

log = logging.getLogger(__name__)
TEST_SPLITS = ("test", "validation", "valid", "val", "dev")  # The first of these that exists is the test set.
LABELS = ("label", "labels", "class", "category")


@dataclass(frozen=True)
class Row:
    """One image: its split ("train", "val" or "test"), its id, its class, and where its content is."""

    split: str
    sample_id: str
    class_name: str
    place: tuple[Any, int]


@dataclass(frozen=True)
class HFImages(Dataset):
    """A dataset of images in the form of the library `datasets`.

    id: a name on the hub, a folder that `save_to_disk` has written, or a folder that the library reads as
    `imagefolder`; a folder always wins. part, revision: which configuration and which commit of a dataset on the hub.
    image_column, label_column: by default the only column of images and the only one of named classes. test_split: by
    default test, or else validation. If there is neither, `test_fraction` of each class is set aside for testing; which
    images, depends on `split_seed`, the class and the row only. The pool is the split train, and validation if it
    is not the test set. exif: turn images as their EXIF orientation says, which is what the library does. name: by
    default the last part of the id.
    """

    name: str | None = None
    id: str | None = None
    part: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    test_split: str | None = None
    test_fraction: float = 0.2
    split_seed: int = 0
    exif: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("dataset.test_fraction", self.test_fraction, "(0, 1)")

    @property
    def resolved_name(self) -> str:
        """`name`, or the last part of the id."""
        return self.name or Path(str(self.id).removeprefix(HUB)).name

    def pool(self, part: str) -> Pool:
        if part not in ("train", "test"):
            raise InputError(f"a pool's part must be 'train' or 'test', got {part!r}")
        rows = self._rows(as_splits(self._open()))
        classes = self._classes(rows)
        chosen = [row for row in rows if (row.split == "test") == (part == "test")]
        index = {name: label for label, name in enumerate(classes)}
        places = [row.place for row in chosen]
        ids = tuple(row.sample_id for row in chosen)
        return Pool(
            name=self.resolved_name,
            labels=torch.tensor([index[row.class_name] for row in chosen], dtype=torch.int64),
            sample_ids=ids,
            splits=tuple(row.split for row in chosen),
            classes=classes,
            images=EncodedImages(
                lambda i: content_of(places[i][0][places[i][1]]),
                lambda i: ids[i],
                tuple(range(len(ids))),
                DecodeRule(exif=self.exif),
            ),
        )

    def _open(self) -> Any:
        if self.id is None:
            raise InputError("hf_images needs an id; pass dataset.id=<name on the hub, or folder>")
        folder = Path(str(self.id)).expanduser()
        if not folder.is_dir():
            return open_hub(str(self.id).removeprefix(HUB), self.part, self.revision)
        if is_saved(folder):
            return open_saved(folder)
        datasets = library()
        try:
            return datasets.load_dataset("imagefolder", data_dir=str(folder))
        except Exception as error:  # The library raises many types of errors on folders that it cannot read.
            text = " ".join(str(error).split())[:200]
            raise InputError(
                f"datasets cannot read {folder} as a folder of images ({text}); see dataset=image_folder"
            ) from None

    def _rows(self, splits: dict[str, Any]) -> list[Row]:
        """Return the images of all splits that a run uses."""
        test = self._test_split(list(splits))
        used = {name: kind for name, kind in ((name, _kind(name, test)) for name in splits) if kind is not None}
        for name in splits.keys() - used.keys():
            log.warning("%s: the split %s is not used", self.resolved_name, name)
        if not any(kind == "train" for kind in used.values()):
            raise InputError(f"{self.resolved_name} has no split called train; it has {', '.join(splits)}")
        rows = [row for name, kind in used.items() for row in self._of_split(name, kind, ImageRows.of(splits[name]))]
        return rows if test is not None else self._with_test(rows)

    def _test_split(self, names: Sequence[str]) -> str | None:
        if self.test_split is not None:
            if self.test_split not in names:
                raise InputError(f"{self.resolved_name} has no split {self.test_split!r}; it has {', '.join(names)}")
            return self.test_split
        return next((name for name in TEST_SPLITS if name in names), None)

    def _of_split(self, name: str, kind: str, rows: ImageRows) -> list[Row]:
        image = self.image_column or _only(rows.image_columns, rows, "image")
        label = self.label_column or _only(rows.label_columns or _usual(rows), rows, "label")
        for column in (image, label):
            if column not in rows.dataset.column_names:
                raise InputError(
                    f"{self.resolved_name} has no column {column!r}; it has {', '.join(rows.dataset.column_names)}"
                )
        names, column = rows.class_names(label), rows.column(image)
        width = len(str(max(len(rows) - 1, 0)))
        return [
            Row(kind, f"{name}/{i:0{width}d}", self._class_name(value, names, f"row {i} of {name}"), (column, i))
            for i, value in enumerate(rows.labels(label))
        ]

    def _class_name(self, value: Any, names: list[str] | None, place: str) -> str:
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise InputError(
                f"{self.resolved_name}: {place} has the label {value!r}; labels must be texts or whole numbers, "
                "one each"
            )
        if isinstance(value, str):
            return value
        if value < 0:
            raise InputError(
                f"{self.resolved_name}: {place} has the label {value}, so no label; pass "
                "dataset.test_split=<another split>"
            )
        return names[value] if names is not None else str(value)

    def _with_test(self, rows: list[Row]) -> list[Row]:
        members: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            members[row.class_name].append(row.sample_id)
        chosen: set[str] = set()
        for name, ids in members.items():
            number = min(max(round(len(ids) * self.test_fraction), 1), len(ids) - 1)
            chosen |= set(permute(ids, "image_folder", name, self.split_seed)[:number])
        return [Row("test", *_rest(row)) if row.sample_id in chosen else row for row in rows]

    def _classes(self, rows: Sequence[Row]) -> tuple[str, ...]:
        pool, test = ({row.class_name for row in rows if (row.split == "test") == is_test} for is_test in (False, True))
        if only_test := sorted(test - pool):
            raise InputError(
                f"{self.resolved_name}: classes with test images but none in the pool: {len(only_test)}, first: "
                f"{only_test[0]!r}; pass dataset.test_split=<another split>"
            )
        if len(pool) < 2:
            raise InputError(f"{self.resolved_name}: expected two or more classes, found {', '.join(pool) or 'none'}")
        if all(name.isascii() and name.isdigit() for name in pool):
            return tuple(sorted(pool, key=lambda name: (int(name), name)))
        return tuple(sorted(pool))


def _rest(row: Row) -> tuple[Any, ...]:
    return row.sample_id, row.class_name, row.place


def _kind(name: str, test: str | None) -> str | None:
    """Return what a split is in a run, None if it is not used."""
    if name == test:
        return "test"
    return "train" if name == "train" else "val" if name in TEST_SPLITS[1:] else None


def _usual(rows: ImageRows) -> tuple[str, ...]:
    return tuple(name for name in rows.dataset.column_names if name.lower() in LABELS)


def _only(names: Sequence[str], rows: ImageRows, what: str) -> str:
    if len(names) == 1:
        return names[0]
    found = f"several columns could be the {what}: {', '.join(names)}" if names else f"no column is clearly the {what}"
    raise InputError(
        f"{found} (the columns are {', '.join(rows.dataset.column_names)}); pass dataset.{what}_column=<name>"
    )
