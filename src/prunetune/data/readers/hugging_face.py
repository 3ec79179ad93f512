"""Datasets of the library `datasets`: from the hub, saved to a folder, or in memory."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from prunetune.base.errors import InputError
from prunetune.base.extra import needed

SECONDS_TO_ANSWER = 5
SAVED = ("dataset_dict.json", "state.json")  # save_to_disk writes one of these files.
HUB = "hf:"  # The beginning of the name of a dataset on the hub.


def library() -> ModuleType:
    """Return the library `datasets`.

    Raises:
        InputError: the extra `data` is not installed.
    """
    return needed("datasets", "data", "Hugging Face datasets")


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def open_saved(folder: Path) -> Any:
    """Return the Dataset or DatasetDict of a folder that `save_to_disk` has written.

    Raises:
        InputError: the extra `data` is not installed, or the folder is damaged.
    """
    try:
        return library().load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} cannot be read as a saved dataset ({_short(error)}); save it again") from None


def open_hub(name: str, part: str | None = None, revision: str | None = None) -> Any:
    """Return the DatasetDict of a dataset on the hub; the library keeps it in its cache.

    Args:
        name: its id, such as "beans" or "user/photos".
        part: which of the configurations that it has, such as "en".
        revision: a commit or tag.

    Raises:
        InputError: the extra `data` is not installed, there is no such dataset, or it cannot be fetched.
    """
    datasets = library()
    try:
        with offline_if_unreachable(datasets):
            return datasets.load_dataset(name, part, revision=revision)
    except Exception as error:  # The library and the libraries below it raise many types of errors.
        raise InputError(
            f"the dataset {name!r} could not be fetched from the Hugging Face hub ({_short(error)}); check the "
            "name and the "
            "network, or save it to a folder with save_to_disk and give the folder"
        ) from None


@contextmanager
def offline_if_unreachable(datasets: ModuleType) -> Iterator[None]:
    """Read the library's cache only if the hub does not answer; the library itself would try for half a minute."""
    hub = needed("huggingface_hub.constants", "data", "Hugging Face datasets")
    places = [(datasets.config, "HF_HUB_OFFLINE"), (hub, "HF_HUB_OFFLINE")]
    before = [getattr(holder, name) for holder, name in places]
    try:
        if not any(before) and not _answers(hub.ENDPOINT):
            for holder, name in places:
                setattr(holder, name, True)
        yield
    finally:
        for (holder, name), value in zip(places, before, strict=True):
            setattr(holder, name, value)


def _answers(address: str) -> bool:
    import requests  # Its import takes a third of a second, in each worker of Ray too, and only the hub needs it.

    try:
        requests.head(address, timeout=SECONDS_TO_ANSWER)
    except requests.RequestException:
        return False
    return True


def joined(parts: Sequence[Any]) -> Any:
    """Return datasets of the same columns as one, one after another.

    Raises:
        InputError: their columns differ.
    """
    if len(parts) == 1:
        return parts[0]
    try:
        return library().concatenate_datasets(list(parts))
    except (ValueError, TypeError) as error:
        raise InputError(f"the splits cannot be joined ({_short(error)}); choose one of them") from None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def is_hugging_face(data: Any) -> bool:
    """Return whether this is an object of the library `datasets`, without importing it."""
    return type(data).__module__.split(".")[0] == "datasets"


@dataclass(frozen=True, eq=False)
class ImageRows:
    """The rows of a Dataset, whose images are not decoded.

    dataset: without its format and transform; images are maps of bytes and path. image_columns: the columns that hold
    images. label_columns: those with named classes.
    """

    dataset: Any
    image_columns: tuple[str, ...]
    label_columns: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Any) -> "ImageRows":
        """Return the rows of a Dataset."""
        datasets = library()
        if not isinstance(dataset, datasets.Dataset):
            raise InputError(
                f"expected a Dataset with numbered rows, got {type(dataset).__name__}; load it without streaming"
            )
        plain = dataset.with_format(None)
        images = tuple(name for name, kind in plain.features.items() if isinstance(kind, datasets.Image))
        labels = tuple(name for name, kind in plain.features.items() if isinstance(kind, datasets.ClassLabel))
        for name in images:
            plain = plain.cast_column(name, datasets.Image(decode=False))
        return cls(plain, images, labels)

    def __len__(self) -> int:
        return len(self.dataset)

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column, read one by one."""
        return _Column(self.dataset, name)

    def labels(self, name: str) -> list[Any]:
        """Return the values of a column of labels."""
        return list(self.dataset.select_columns([name])[name])

    def class_names(self, name: str) -> list[str] | None:
        """Return the names of the classes of a column, None if its values are no indices of named classes."""
        return list(self.dataset.features[name].names) if name in self.label_columns else None


class _Column(Sequence):
    """One column of a Dataset; several threads may read it."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self._name, self._lock = dataset.select_columns([name]), name, threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Column, (self._dataset, self._name)  # A worker gets a lock of its own.

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> Any:
        with self._lock:
            return self._dataset[row][self._name]


def as_splits(data: Any) -> dict[str, Any]:
    """Return the splits of a DatasetDict by name; those of a Dataset are the one split that it says it is."""
    if isinstance(data, Mapping):
        return dict(data)
    return {str(getattr(data, "split", None) or "train"): data}


def content_of(cell: Any) -> bytes:
    """Return the encoded image of a cell.

    Raises:
        OSError: the cell is empty, or its file cannot be read.
    """
    if isinstance(cell, bytes):
        return cell
    content = cell.get("bytes") if isinstance(cell, Mapping) else None
    if content is not None:
        return content
    if isinstance(cell, Mapping) and cell.get("path"):
        return Path(cell["path"]).read_bytes()
    raise OSError("the row holds no image")
