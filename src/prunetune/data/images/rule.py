"""How the images of users become pixels: upright, on white, and in the whole range of grey.

The data sets of the paper are decoded by `decode_file` as the published code decodes them, so that no number moves:
without the EXIF orientation, and with the colours below transparent pixels. Own images are decoded as people see them.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.data.images.decode import FORMATS, IMAGE_SUFFIXES, UnreadableImage, reason

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # They begin a HEIF file.
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
OWN_SUFFIXES = IMAGE_SUFFIXES | HEIF_SUFFIXES | {".avif", ".jfif", ".jpe", ".pbm", ".pnm"}
OWN_FORMATS = (*FORMATS, "AVIF", "HEIF")
ORIENTATION = 0x0112  # This is the number of the orientation among the EXIF tags.
GREY_DEPTHS = (8, 10, 12, 14, 16)  # Cameras and scanners give values of these many bits.
DARKEST = 64  # A colour image whose 16-bit values were all below 64 * 256 has at most 14 bits.
VERSION = 1  # This number must be raised when the pixels of an image change.


@dataclass(frozen=True)
class DecodeRule:
    """How a file or an opened image becomes [3, height, width] uint8 RGB.

    Alpha goes on white. Grey images of 16 bits are stretched from the smallest of 8, 10, 12, 14 and 16 bits that holds
    their values: a picture of a 12-bit camera has values up to 4095 and would be black otherwise. An animation gives
    its first frame.

    exif: turn the image as its EXIF orientation says. max_pixels: an image with more pixels is refused before memory is
    allocated for it, and also where the store has it from a call with another limit.
    """

    exif: bool = True
    max_pixels: int = 200_000_000

    @property
    def mark(self) -> str:
        """What the pixels depend on beside the file. A limit of one's own decides which images there are."""
        limit = "" if self.max_pixels == DecodeRule.max_pixels else f", at most {self.max_pixels} pixels"
        return f"own images {VERSION}, exif {self.exif}{limit}"

    def decode_file(self, path: Path) -> Tensor:
        """Return the image of a file, [3, height, width] uint8.

        Raises:
            UnreadableImage: the file is missing, is no image, is cut short, or has more than `max_pixels` pixels.
        """
        try:
            with path.open("rb") as file:
                return self._decode(file)
        except (MemoryError, UnreadableImage):
            raise
        except Exception as error:
            # Pillow's readers raise a dozen types of errors on damaged files.
            raise UnreadableImage(path, _reason(error)) from None

    def decode_bytes(self, content: bytes, place: str) -> Tensor:
        """Return the image of a file's content; `place` names it in errors.

        Raises:
            UnreadableImage: as `decode_file`. Its cause is an InputError if an extra is missing.
        """
        try:
            return self._decode(io.BytesIO(content))
        except MemoryError:
            raise
        except Exception as error:
            raise UnreadableImage(place, _reason(error)) from _missing_extra(error)

    def decode_image(self, image: Image.Image) -> Tensor:
        """Return an opened image as [3, height, width] uint8.

        Raises:
            ValueError: grey values of no known range (32-bit, float), or colours of 16 bits that are nearly black.
        """
        deep = _has_deep_colour(image)
        image.load()  # A file that is cut short is found here, before anything else is read of it.
        if self.exif:
            image = upright(image)
        pixels = _rgb(image)
        if deep and 0 < int(pixels.max(initial=0)) < DARKEST:
            raise ValueError("its 16-bit colours use a low part of their range and would be nearly black; convert it")
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def _decode(self, file: io.BufferedIOBase) -> Tensor:
        with _opened(file) as image:
            if image.width * image.height > self.max_pixels:
                raise ValueError(f"{image.width} x {image.height} pixels, more than the {self.max_pixels} allowed")
            if image.format == "PNG" and image.mode in ("RGB", "RGBA") and _has_deep_colour(image):
                image = _with_all_bits(image, file)
            return self.decode_image(image)


def open_heif() -> None:
    """Let Pillow read HEIC and HEIF files.

    Raises:
        InputError: the extra `heif` is not installed.
    """
    needed("pillow_heif", "heif", "HEIC images").register_heif_opener()


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says; an EXIF block that is damaged turns nothing."""
    try:
        if image.getexif().get(ORIENTATION, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises a dozen types of errors on damaged blocks, and the pixels are sound.
        return image


def _opened(file: io.BufferedIOBase) -> Image.Image:
    """Open an image of our formats without Pillow's limit of pixels, which is one number for the whole process.

    Raises:
        Image.UnidentifiedImageError: the content is of no such format.
    """
    Image.init()
    if "HEIF" not in Image.OPEN and _looks_like_heif(file):
        open_heif()
    prefix = file.read(16)
    for name in OWN_FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        answer = factory is not None and (accept is None or accept(prefix))
        if not answer or isinstance(answer, str):  # A text is the reader's reason not to take the file.
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # Pillow's readers say so that the content is not theirs.
    raise Image.UnidentifiedImageError


def _looks_like_heif(file: io.BufferedIOBase) -> bool:
    start = file.read(12)
    file.seek(0)
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS


def _has_deep_colour(image: Image.Image) -> bool:
    """Return whether colours of 16 bits stand in the file, of which Pillow reads the upper 8 bits."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) > 8  # Tag 258 is BitsPerSample.
    tiles = getattr(image, "tile", None) or []
    return image.format == "PNG" and any(";16" in str(tile[3]) for tile in tiles)


def _with_all_bits(image: Image.Image, file: io.BufferedIOBase) -> Image.Image:
    """Return a PNG with colours of 16 bits as 8 bits, stretched; Pillow itself keeps the upper 8 bits only.

    Pillow can unpack either byte of each value: the first by its name for values with the higher byte first, the second
    by its name for the other order. So the file is read twice.
    """
    exif = image.info.get("exif", b"")
    upper = np.asarray(image).astype(np.int64)  # [H, W, 3] or [H, W, 4]
    file.seek(0)
    again = _opened(file)
    again.tile = [tile._replace(args=tile.args.replace(";16B", ";16L")) for tile in again.tile]
    values = 256 * upper + np.asarray(again)
    eight = _stretched(values[..., :3])
    if values.shape[2] == 4:
        eight = np.concatenate([eight, upper[..., 3:].astype(np.uint8)], axis=2)
    opened = Image.fromarray(eight)
    opened.info["exif"] = exif
    return opened


def _rgb(image: Image.Image) -> np.ndarray:
    """Return [H, W, 3] uint8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = _stretched(np.asarray(image).astype(np.int64))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"grey values of mode {image.mode} have no known range, convert them to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return np.array(Image.alpha_composite(white, coloured).convert("RGB"))
    return np.array(image.convert("RGB"))


def _stretched(values: np.ndarray) -> np.ndarray:
    """Return values of up to 16 bits as uint8: the smallest usual depth that holds them all becomes 0..255."""
    highest = int(values.max(initial=0))
    depth = next(bits for bits in GREY_DEPTHS if highest < 2**bits)
    return np.round(values * (255 / (2**depth - 1))).astype(np.uint8)


def _missing_extra(error: Exception) -> InputError | None:
    return error if isinstance(error, InputError) else None


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):  # The extra heif is missing.
        return str(error)
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is no image of a known format"
    return reason(error)
