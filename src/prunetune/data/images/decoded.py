"""Decode once: every image of a pool as raw pixels in one memory-mapped file of the store."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from prunetune.base.store import Store, read_meta
from prunetune.base.stored_array import StoredArray
from prunetune.data.images.decode import decode_all
from prunetune.data.pool import Pool

PIXELS = "pixels.bin"


class Decoded(Protocol):
    """Anything that gives the pixels of an image without decoding a file."""

    def decode(self, position: int) -> Tensor:
        """Return the image as [3, height, width] uint8."""


@dataclass(frozen=True)
class ShownImages:
    """Some images of a pool, and where their pixels come from.

    pool: N images. pixels: the pixels of all N images. positions: [n] int64, the images that a training or pass reads.
    """

    pool: Pool
    pixels: Decoded
    positions: Tensor

    @classmethod
    def whole(cls, pool: Pool, pixels: Decoded) -> "ShownImages":
        """Return all images of a pool."""
        return cls(pool, pixels, torch.arange(len(pool)))


@dataclass(frozen=True)
class DecodedImages:
    """Raw pixels, image after image: `pixels` is the flat file, `shapes` [N, 2] the heights and widths."""

    pixels: StoredArray
    shapes: np.ndarray
    offsets: np.ndarray

    def decode(self, position: int) -> Tensor:
        """Return the image as [3, height, width] uint8."""
        height, width = self.shapes[position]
        flat = self.pixels[self.offsets[position] : self.offsets[position + 1]]
        return torch.from_numpy(flat).view(3, int(height), int(width))


def decode_pool(pool: Pool, store: Store, short_side: int | None) -> tuple[Decoded, float]:
    """Return the decoded images of a pool and the seconds that decoding took when it was done.

    Args:
        pool: N images.
        store: holds the pixels; images that are decoded already stay where they are and cost nothing.
        short_side: pixels to shrink the short side to, or None for the original size (the published protocol).
    """
    if pool.images.is_decoded:
        return pool.images, 0.0
    entry = _entry(pool, store, short_side)
    shapes = np.load(entry / "shapes.npy")
    offsets = np.concatenate([[0], np.cumsum(3 * shapes.prod(axis=1))])
    pixels = StoredArray(store, lambda: _entry(pool, store, short_side), PIXELS)
    return DecodedImages(pixels, shapes, offsets), read_meta(entry)["seconds"]


class Decoding:
    """Images that a background thread decodes into the store.

    Each image can be read as soon as it is decoded, so that a first pass runs while the rest is decoded.
    """

    def __init__(self, pool: Pool, store: Store, short_side: int | None) -> None:
        # Each position maps to the image's first byte, its height and its width.
        self._places: dict[int, tuple[int, int, int]] = {}
        self._descriptor: int | None = None
        self._stored: Decoded | None = None  # These are the images if they were in the store already.
        self._error: BaseException | None = None
        self._is_over, self._news = False, threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(pool, store, short_side), daemon=True)
        self._thread.start()

    def decode(self, position: int) -> Tensor:
        """Wait until an image is decoded and return it as [3, height, width] uint8.

        Raises:
            InputError: this image or an earlier one cannot be read, or the store cannot be written.
        """
        with self._news:
            self._news.wait_for(lambda: position in self._places or self._is_over)
            if self._stored is not None:
                return self._stored.decode(position)
            if position not in self._places:
                raise self._error or RuntimeError(f"image {position} was not decoded")
            start, height, width = self._places[position]
        flat = bytearray(3 * height * width)
        os.preadv(self._descriptor, [flat], start)
        return torch.frombuffer(flat, dtype=torch.uint8).view(3, height, width)

    def join(self) -> None:
        """Wait until the thread ends; an error in it is raised when the images are decoded again."""
        self._thread.join()

    def _run(self, pool: Pool, store: Store, short_side: int | None) -> None:
        try:
            _entry(pool, store, short_side, self._note)
            if self._descriptor is None:  # The entry existed before, or another process made it.
                self._stored, _ = decode_pool(pool, store, short_side)
        except BaseException as error:  # The error is raised again in the thread that asks for an image.
            self._error = error
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def _note(self, file: Path, position: int, start: int, height: int, width: int) -> None:
        with self._news:
            if self._descriptor is None:
                self._descriptor = os.open(file, os.O_RDONLY)
            self._places[position] = (start, height, width)
            self._news.notify_all()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)


def shrunk(image: Tensor, short_side: int | None) -> Tensor:
    """Return an image [3, height, width] with a short side of at most so many pixels; None keeps its size."""
    if short_side is None or min(image.shape[1:]) <= short_side:
        return image
    return functional.resize(image, [short_side], antialias=True)


def decoded_key(pool: Pool, short_side: int | None) -> dict[str, Any]:
    """Return what decoded pixels depend on."""
    return {"dataset": pool.fingerprint, "short_side": short_side}


Note = Callable[[Path, int, int, int, int], None]  # The arguments are the file, position, start, height and width.


def _entry(pool: Pool, store: Store, short_side: int | None, note: Note | None = None) -> Path:
    key = decoded_key(pool, short_side)
    return store.entry("images", pool.name, key, lambda folder: _write(pool, folder, short_side, note), [PIXELS])


def _write(pool: Pool, folder: Path, short_side: int | None, note: Note | None) -> dict[str, Any]:
    start, written = time.perf_counter(), 0
    shapes = np.zeros((len(pool), 2), dtype=np.int64)
    with (folder / PIXELS).open("wb") as file:
        for position, image in decode_all(pool.images):
            image = shrunk(image, short_side)
            shapes[position] = image.shape[1:]
            file.write(image.numpy().tobytes())
            if note is not None:
                file.flush()
                note(folder / PIXELS, position, written, *image.shape[1:])
            written += image.numel()
    np.save(folder / "shapes.npy", shapes)
    return {"seconds": time.perf_counter() - start, "images": len(pool)}
