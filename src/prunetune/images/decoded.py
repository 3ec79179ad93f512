"""Decode once: every image of a pool as raw pixels in one memory-mapped file of the store."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from prunetune.datasets.base import Pool
from prunetune.images.decode import ImageArrays, decode_all
from prunetune.store import Store, read_meta


class Decoded(Protocol):
    """Anything that gives an image's pixels at once."""

    def decode(self, position: int) -> Tensor:
        """Return the image as [3, height, width] uint8."""


@dataclass(frozen=True)
class DecodedImages:
    """Raw pixels, image after image: `pixels` is the flat file, `shapes` [N, 2] the heights and widths."""

    pixels: np.ndarray
    shapes: np.ndarray
    offsets: np.ndarray

    def decode(self, position: int) -> Tensor:
        """Return the image as [3, height, width] uint8."""
        height, width = self.shapes[position]
        flat = np.array(
            self.pixels[self.offsets[position] : self.offsets[position + 1]]
        )  # a copy: the map is read-only
        return torch.from_numpy(flat).view(3, int(height), int(width))


def decode_pool(pool: Pool, store: Store, short_side: int | None) -> tuple[Decoded, float]:
    """Return the decoded images of a pool and the seconds that decoding took when it was done.

    Args:
        pool: N images.
        store: holds the pixels; a pool that lives in memory is left there and costs nothing.
        short_side: pixels to shrink the short side to, or None for the original size (the published protocol).
    """
    if isinstance(pool.images, ImageArrays):
        return pool.images, 0.0
    key = decoded_key(pool, short_side)
    entry = store.entry("images", pool.name, key, lambda folder: _write(pool, folder, short_side))
    shapes = np.load(entry / "shapes.npy")
    offsets = np.concatenate([[0], np.cumsum(3 * shapes.prod(axis=1))])
    pixels = np.memmap(entry / "pixels.bin", dtype=np.uint8, mode="r")
    return DecodedImages(pixels, shapes, offsets), read_meta(entry)["seconds"]


def decoded_key(pool: Pool, short_side: int | None) -> dict[str, Any]:
    """Return what decoded pixels depend on."""
    return {"dataset": pool.fingerprint, "short_side": short_side}


def _write(pool: Pool, folder: Path, short_side: int | None) -> dict[str, Any]:
    start = time.perf_counter()
    shapes = np.zeros((len(pool), 2), dtype=np.int64)
    with (folder / "pixels.bin").open("wb") as file:
        for position, image in decode_all(pool.images):
            if short_side is not None and min(image.shape[1:]) > short_side:
                image = functional.resize(image, [short_side], antialias=True)
            shapes[position] = image.shape[1:]
            file.write(image.numpy().tobytes())
    np.save(folder / "shapes.npy", shapes)
    return {"seconds": time.perf_counter() - start, "images": len(pool)}
