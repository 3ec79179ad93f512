"""Where the pixels come from: files or arrays, each image as a uint8 tensor of its own size."""

import hashlib
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.progress import track

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
# The content of a file decides its format. EPS is left out because Pillow runs Ghostscript on it.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
UNREADABLE_NAMED = 20  # The log names at most this many files. The error counts all of them.
# An image above Pillow's limit is refused below, so Pillow's own warning would say the same in another line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(InputError):
    """An image that cannot be decoded: where it is, and why not."""

    def __init__(self, place: str | Path, reason: str) -> None:
        super().__init__(f"{place} is not a readable image ({reason}); repair or remove it")
        self.place = str(place)
        self.reason = reason


class UnreadableImages(InputError):
    """Images of one sequence that cannot be decoded.

    failures: maps the position of each of them to its place and the reason.
    """

    def __init__(self, failures: Mapping[int, UnreadableImage], total: int) -> None:
        first = failures[min(failures)]
        super().__init__(
            f"{len(failures)} of {total} images cannot be read, first: {first.place} ({first.reason}); "
            "repair or remove them"
        )
        self.failures = dict(failures)


class Images(ABC):
    """A sequence of N images that can be decoded and identified one by one.

    is_decoded: whether the pixels are at hand, so that they need not be decoded into the store.
    """

    is_decoded: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def decode(self, position: int) -> Tensor:
        """Return the image as [3, height, width] uint8 RGB, in its own size."""

    @abstractmethod
    def digest(self, position: int) -> str:
        """Return the SHA-256 of the data of the image (file bytes or pixels)."""

    @abstractmethod
    def take(self, positions: Sequence[int]) -> "Images":
        """Return the images at these positions, in this order."""


@dataclass(frozen=True)
class ImageFiles(Images):
    """Images in files that Pillow can read."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, position: int) -> Tensor:
        return decode_file(self.paths[position])

    def digest(self, position: int) -> str:
        try:
            return hashlib.sha256(self.paths[position].read_bytes()).hexdigest()
        except OSError as error:
            raise UnreadableImage(self.paths[position], reason(error)) from None

    def take(self, positions: Sequence[int]) -> "ImageFiles":
        return ImageFiles(tuple(self.paths[position] for position in positions))


@dataclass(frozen=True)
class ImageArrays(Images):
    """Images of one size in memory: [N, height, width, 3] uint8."""

    is_decoded: ClassVar[bool] = True
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def decode(self, position: int) -> Tensor:
        return torch.from_numpy(self.pixels[position]).permute(2, 0, 1).contiguous()  # [3, H, W]

    def digest(self, position: int) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.pixels[position]).tobytes()).hexdigest()

    def take(self, positions: Sequence[int]) -> "ImageArrays":
        return ImageArrays(self.pixels[np.asarray(positions, dtype=np.int64)])


def decode_all(images: Images) -> Iterator[tuple[int, Tensor]]:
    """Yield (position, [3, height, width] uint8) for every image that can be read, in order, decoded by threads.

    At most twice as many images as there are threads wait in memory for the caller.

    Raises:
        UnreadableImages: at the end, one for all the images that could not be read; the log names the first ones.
    """
    failures: dict[int, UnreadableImage] = {}
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for position, image in track(_in_order(images, workers), "decoding images", len(images)):
            if isinstance(image, UnreadableImage):
                failures[position] = image
            else:
                yield position, image
    refuse_any(failures, len(images))


def refuse_any(failures: Mapping[int, UnreadableImage], total: int) -> None:
    """Name the first images that could not be read in the log, and raise one error for all; do nothing without any.

    Raises:
        UnreadableImages: there are such images.
    """
    for failure in list(failures.values())[:UNREADABLE_NAMED]:
        log.warning("cannot read %s (%s)", failure.place, failure.reason)
    if failures:
        raise UnreadableImages(failures, total)


def _in_order(images: Images, workers: ThreadPoolExecutor) -> Iterator[tuple[int, Tensor | UnreadableImage]]:
    waiting: deque[Future[Tensor | UnreadableImage]] = deque()
    look_ahead = 2 * (os.cpu_count() or 1)
    try:
        for position in range(len(images) + look_ahead):
            if position < len(images):
                waiting.append(workers.submit(_decode_or_failure, images, position))
            if position >= look_ahead and waiting:
                yield position - look_ahead, waiting.popleft().result()
    finally:  # This block also runs when the caller stops early.
        for future in waiting:
            future.cancel()


def _decode_or_failure(images: Images, position: int) -> Tensor | UnreadableImage:
    try:
        return images.decode(position)
    except UnreadableImage as failure:
        return failure


def decode_file(path: Path) -> Tensor:
    """Return a file's image as [3, height, width] uint8 RGB; the first frame if there are several.

    Grey, palette, CMYK and alpha images are converted (alpha is dropped, as torchvision's loader does), 16-bit grey
    is scaled from 0..65535 to 0..255. The EXIF orientation is ignored, again like torchvision's loader, so that
    features agree with the published code's.

    Raises:
        UnreadableImage: the file is missing, is no image, is cut short, has more pixels than Pillow's bomb limit
            (checked before anything is allocated), or holds grey values of no known range (32-bit, float).
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse_bomb(image)
            return decode_image(image)
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:
        # Pillow's readers raise a dozen types of errors on damaged files.
        raise UnreadableImage(path, reason(error)) from None


def decode_image(image: Image.Image) -> Tensor:
    """Return an opened image as [3, height, width] uint8 RGB, converted as `decode_file` says.

    Raises:
        ValueError: grey values of no known range (32-bit, float).
    """
    return torch.from_numpy(_rgb(image)).permute(2, 0, 1).contiguous()  # The array has the shape [H, W, 3].


def _refuse_bomb(image: Image.Image) -> None:
    """Refuse an image above Pillow's limit of pixels; Pillow itself only warns up to twice that limit."""
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def _rgb(image: Image.Image) -> np.ndarray:
    """Return [H, W, 3] uint8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # In both cases the grey values are in 0..65535.
        # Pillow itself would clip values at 255.
        grey = np.round(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"grey values of mode {image.mode} have no known range, convert them to 8 or 16 bits")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # This step changes no colour and avoids a warning from Pillow.
    return np.array(image.convert("RGB"))


def reason(error: Exception) -> str:
    """Return why an image cannot be read, without its path, since the message names the path already."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is not " + ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
