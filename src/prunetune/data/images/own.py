"""The images of users: files, encoded contents, and items of a dataset that are read once."""

import hashlib
import logging
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.data.images.decode import Images, UnreadableImage, UnreadableImages
from prunetune.data.images.rule import DecodeRule

log = logging.getLogger(__name__)
UNREADABLE = "unreadable"  # The digest of what cannot be read, so that decoding finds all such images at once.


@dataclass(frozen=True)
class OwnFiles(Images):
    """Images in files, decoded by a rule."""

    paths: tuple[Path, ...]
    rule: DecodeRule = DecodeRule()

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, position: int) -> Tensor:
        return self.rule.decode_file(self.paths[position])

    def digest(self, position: int) -> str:
        """Return the SHA-256 of the rule and the bytes of the file, or a word if the file cannot be read."""
        try:
            return _digest(self.rule, self.paths[position].read_bytes())
        except OSError:
            return UNREADABLE

    def take(self, positions: Sequence[int]) -> "OwnFiles":
        return OwnFiles(tuple(self.paths[position] for position in positions), self.rule)


@dataclass(frozen=True, eq=False)
class EncodedImages(Images):
    """Images whose encoded content lies in a table, an archive or a dataset.

    content: returns the content of the file of an item; several threads may call it at the same time. place: returns
    the name of an item for messages. indices: the items, one for each image.
    """

    content: Callable[[int], bytes]
    place: Callable[[int], str]
    indices: tuple[int, ...]
    rule: DecodeRule = DecodeRule()

    def __len__(self) -> int:
        return len(self.indices)

    def decode(self, position: int) -> Tensor:
        item = self.indices[position]
        try:
            content = self.content(item)
        except OSError as error:
            raise UnreadableImage(self.place(item), error.strerror or str(error)) from None
        return self.rule.decode_bytes(content, self.place(item))

    def digest(self, position: int) -> str:
        """Return the SHA-256 of the rule and the content, or a word if the content cannot be read."""
        try:
            return _digest(self.rule, self.content(self.indices[position]))
        except OSError:
            return UNREADABLE

    def take(self, positions: Sequence[int]) -> "EncodedImages":
        return EncodedImages(self.content, self.place, tuple(self.indices[i] for i in positions), self.rule)


def _digest(rule: DecodeRule, content: bytes) -> str:
    return hashlib.sha256(rule.mark.encode() + content).hexdigest()


class KeptItems:
    """The items of a dataset, read once and in order; their pixels are kept in a temporary file without a name.

    One thread reads the items, since a dataset may share an open file between them. Other threads convert the images.

    Args:
        count: the number of items.
        read: returns the image and the label of an item. It is called once for each item.
        place: returns the name of an item for messages.
        rule: how a PIL image becomes pixels.
    """

    def __init__(
        self, count: int, read: Callable[[int], tuple[Any, Any]], place: Callable[[int], str], rule: DecodeRule
    ) -> None:
        self.count, self.place, self.rule = count, place, rule
        self._read, self._lock, self._is_read = read, threading.Lock(), False
        self._starts: list[int] = []  # The first byte of each image in the file.
        self._shapes: list[tuple[int, int]] = []  # Its height and width.
        self._labels: list[Any] = []
        self._failures: dict[int, UnreadableImage] = {}

    @property
    def labels(self) -> list[Any]:
        """The label of each item, None of one that cannot be read."""
        self._ensure()
        return self._labels

    @property
    def failures(self) -> dict[int, UnreadableImage]:
        """The items whose image cannot be read."""
        self._ensure()
        return self._failures

    def pixels(self, item: int) -> Tensor:
        """Return the image of an item, [3, height, width] uint8."""
        self._ensure()
        height, width = self._shapes[item]
        flat = bytearray(3 * height * width)
        if os.preadv(self._descriptor, [flat], self._starts[item]) != len(flat):
            raise InputError("the temporary file of decoded images is cut short; is the disk full?")
        return torch.frombuffer(flat, dtype=torch.uint8).view(3, height, width)

    def _ensure(self) -> None:
        with self._lock:
            if self._is_read:
                return
            try:
                self._read_all()
            except OSError as error:
                raise InputError(
                    f"the folder {tempfile.gettempdir()} for temporary files could not be written ({error}); free some "
                    "space or set TMPDIR=<folder>"
                ) from error
            self._is_read = True

    def _read_all(self) -> None:
        file = tempfile.TemporaryFile()
        weakref.finalize(self, file.close)
        self._descriptor, written = file.fileno(), 0
        self._starts, self._shapes, self._labels = [], [], []
        for item, (image, label) in track(self._converted(), "reading items", self.count):
            self._labels.append(label)
            self._starts.append(written)
            if isinstance(image, UnreadableImage):
                self._failures[item] = image
                self._shapes.append((0, 0))
            else:
                self._shapes.append((image.shape[1], image.shape[2]))
                written += _write(self._descriptor, image, written)

    def _converted(self) -> Iterator[tuple[int, tuple[Tensor | UnreadableImage, Any]]]:
        """Yield each item's pixels and label in order, a few items ahead of the caller."""
        waiting: deque[tuple[int, Future[Tensor | UnreadableImage], Any]] = deque()
        look_ahead = 2 * (os.cpu_count() or 1)
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            for item in range(self.count + look_ahead):
                if item < self.count:
                    image, label = self._item(item)
                    waiting.append((item, workers.submit(self._pixels, item, image), label))
                if item >= look_ahead and waiting:
                    done, pixels, label = waiting.popleft()
                    yield done, (pixels.result(), label)

    def _item(self, item: int) -> tuple[Any, Any]:
        try:
            return self._read(item)
        except InputError:
            raise
        except (OSError, ValueError) as error:  # Files and Pillow raise these errors.
            return UnreadableImage(self.place(item), str(error) or type(error).__name__), None

    def _pixels(self, item: int, image: Any) -> Tensor | UnreadableImage:
        if isinstance(image, UnreadableImage):
            return image
        if isinstance(image, Image.Image):
            try:
                return self.rule.decode_image(image)
            except (OSError, ValueError, SyntaxError) as error:
                return UnreadableImage(self.place(item), str(error) or type(error).__name__)
        pixels = torch.from_numpy(image).permute(2, 0, 1) if _is_pixel_array(image) else image
        if isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3:
            return pixels.cpu().contiguous()
        has_shape = isinstance(image, Tensor | np.ndarray)
        what = f"{image.dtype} {list(image.shape)}" if has_shape else type(image).__name__
        raise InputError(
            f"{self.place(item)} should be a PIL image, a uint8 tensor [3, h, w] or a uint8 array [h, w, 3] in RGB, is "
            f"{what}; pass the dataset without its transform"
        )


def _is_pixel_array(image: Any) -> bool:
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def _write(descriptor: int, image: Tensor, start: int) -> int:
    """Write the pixels of an image to a file from this byte on, and return their number."""
    data, done = image.numpy().tobytes(), 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], start + done)
    return len(data)


@dataclass(frozen=True, eq=False)
class KeptImages(Images):
    """Images of items that are read once; the first use of any of them reads them all."""

    is_decoded: ClassVar[bool] = True
    items: KeptItems
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _unreadable(self) -> dict[int, UnreadableImage]:
        failures = self.items.failures
        return {position: failures[item] for position, item in enumerate(self.indices) if item in failures}

    def decode(self, position: int) -> Tensor:
        """Return the image as [3, height, width] uint8.

        Raises:
            UnreadableImages: one for all the images that could not be read.
        """
        if self._unreadable:
            raise UnreadableImages(self._unreadable, len(self))
        return self.items.pixels(self.indices[position])

    def digest(self, position: int) -> str:
        """Return the SHA-256 of the rule and the pixels, or a word for an image that cannot be read."""
        if position in self._unreadable:
            return UNREADABLE
        image = self.items.pixels(self.indices[position])
        return _digest(self.items.rule, f"{list(image.shape)}".encode() + image.numpy().tobytes())

    def take(self, positions: Sequence[int]) -> "KeptImages":
        return KeptImages(self.items, tuple(self.indices[position] for position in positions))
