"""Hostile files among the images of a folder."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.drill.cases import Suite
from scripts.drill.inputs.hostile import ACCEPTED, EITHER, REFUSED, Hostile, cases
from scripts.drill.inputs.odd_files import ODD
from scripts.drill.tiny_runs import QUICK, photos

KIND = "hostile image"


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Return an image of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as the bytes of a file."""
    memory = io.BytesIO()
    image.save(memory, kind, **options)
    return memory.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG that claims this size, with any data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def cut(content: bytes, part: float = 0.5) -> bytes:
    """Return the beginning of a file."""
    return content[: int(len(content) * part)]


def flipped(content: bytes, place: int) -> bytes:
    """Return a file with one bit flipped."""
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def _grey16() -> bytes:
    return encoded(Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24) * 8), "PNG")


def _float_tiff(value: float) -> bytes:
    return encoded(Image.fromarray(np.full((20, 24), value, dtype=np.float32)), "TIFF")


def _oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned.
    return encoded(picture(), "JPEG", exif=exif)


def _transparent() -> bytes:
    image = Image.new("RGBA", (24, 20), (0, 0, 0, 0))
    return encoded(image, "PNG")


def _animated() -> bytes:
    frames = [picture("P"), picture("P", (24, 20))]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


FILES: dict[str, tuple[str, str, Callable[[], bytes]]] = {  # The name of a file, what is expected, its content.
    "plain JPEG": ("x.jpg", ACCEPTED, lambda: encoded(picture(), "JPEG")),
    "plain WebP": ("x.webp", ACCEPTED, lambda: encoded(picture(), "WEBP")),
    "plain BMP": ("x.bmp", ACCEPTED, lambda: encoded(picture(), "BMP")),
    "suffix in capitals": ("X.JPG", ACCEPTED, lambda: encoded(picture(), "JPEG")),
    "PNG named .jpg": ("x.jpg", ACCEPTED, lambda: encoded(picture(), "PNG")),
    "grey": ("x.png", ACCEPTED, lambda: encoded(picture("L"), "PNG")),
    "black and white": ("x.png", ACCEPTED, lambda: encoded(picture("1"), "PNG")),
    "palette": ("x.png", ACCEPTED, lambda: encoded(picture("P"), "PNG")),
    "CMYK": ("x.jpg", ACCEPTED, lambda: encoded(picture("CMYK"), "JPEG")),
    "16 bits": ("x.png", ACCEPTED, _grey16),
    "all transparent": ("x.png", EITHER, _transparent),
    "turned camera": ("x.jpg", ACCEPTED, _oriented),
    "animation": ("x.gif", ACCEPTED, _animated),
    "one pixel": ("x.png", ACCEPTED, lambda: encoded(picture(size=(1, 1)), "PNG")),
    "1 x 5000 pixels": ("x.png", EITHER, lambda: encoded(picture(size=(1, 5000)), "PNG")),
    "12000 x 9000 pixels": ("x.png", EITHER, lambda: encoded(Image.new("RGB", (12000, 9000)), "PNG")),
    "bytes behind the end": ("x.jpg", EITHER, lambda: encoded(picture(), "JPEG") + b"more" * 100),
    "JPEG without its end": ("x.jpg", EITHER, lambda: encoded(picture(), "JPEG")[:-2]),
    "JPEG cut in half": ("x.jpg", REFUSED, lambda: cut(encoded(picture(), "JPEG"))),
    "JPEG cut in its header": ("x.jpg", REFUSED, lambda: encoded(picture(), "JPEG")[:100]),
    "PNG cut in half": ("x.png", REFUSED, lambda: cut(encoded(picture(), "PNG"))),
    "GIF cut in half": ("x.gif", REFUSED, lambda: cut(encoded(picture("P"), "GIF"))),
    "WebP cut in half": ("x.webp", REFUSED, lambda: cut(encoded(picture(), "WEBP"))),
    "BMP cut in half": ("x.bmp", REFUSED, lambda: cut(encoded(picture(), "BMP"))),
    "TIFF cut in half": ("x.tif", REFUSED, lambda: cut(encoded(picture(), "TIFF"))),
    "PPM cut in half": ("x.ppm", REFUSED, lambda: cut(encoded(picture(), "PPM"))),
    "PNG with a flipped bit in its pixels": ("x.png", REFUSED, lambda: flipped(encoded(picture(), "PNG"), 700)),
    "PNG with a flipped bit in its header": ("x.png", REFUSED, lambda: flipped(encoded(picture(), "PNG"), 18)),
    "PNG of 60000 x 60000 pixels in 200 bytes": ("x.png", REFUSED, lambda: png(60000, 60000, bytes(1000))),
    "PNG of 2^31 x 2^31 pixels": ("x.png", REFUSED, lambda: png(2**31 - 1, 2**31 - 1, bytes(1000))),
    "PNG of 0 x 0 pixels": ("x.png", REFUSED, lambda: png(0, 0, b"")),
    "PNG with fewer pixels than it claims": ("x.png", REFUSED, lambda: png(24, 20, bytes(100))),
    "PNG of an unknown colour type": ("x.png", REFUSED, lambda: png(24, 20, bytes(2000), colour=5)),
    "PNG with a text that grows to 100 MB": (
        *("x.png", EITHER),
        lambda: (
            encoded(picture(), "PNG")[:-12]
            + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
            + chunk(b"IEND", b"")
        ),
    ),
    "PPM of a million x a million pixels": ("x.ppm", REFUSED, lambda: b"P6\n1000000 1000000\n255\n" + bytes(100)),
    "PPM with a negative size": ("x.ppm", REFUSED, lambda: b"P6\n-5 -5\n255\n" + bytes(100)),
    "BMP of a negative width": (
        *("x.bmp", REFUSED),
        lambda: encoded(picture(), "BMP")[:18] + struct.pack("<i", -24) + encoded(picture(), "BMP")[22:],
    ),
    "TIFF of floats": ("x.tif", REFUSED, lambda: _float_tiff(0.5)),
    "TIFF of NaN": ("x.tif", REFUSED, lambda: _float_tiff(float("nan"))),
    "TIFF whose directory is itself": ("x.tif", REFUSED, lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(50)),
    "SVG named .png": ("x.png", REFUSED, lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "PostScript named .jpg": (
        "x.jpg",
        REFUSED,
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(evil) run\n",
    ),
    "text named .jpg": ("x.jpg", REFUSED, lambda: b"text"),
    "a name with a line end": ("a\nb.png", EITHER, lambda: encoded(picture(), "PNG")),
    "a name with a comma and quotes": ('a,"b".png', ACCEPTED, lambda: encoded(picture(), "PNG")),
    "a name with an escape sequence": ("\x1b[31m.png", EITHER, lambda: encoded(picture(), "PNG")),
    "a name of 250 letters": ("a" * 246 + ".png", ACCEPTED, lambda: encoded(picture(), "PNG")),
    "a name of two scripts": ("\u0430\u202eb.png", EITHER, lambda: encoded(picture(), "PNG")),
    "a name that is not UTF-8": (os.fsdecode(b"\xff.png"), REFUSED, lambda: encoded(picture(), "PNG")),
    "JFIF": ("x.jfif", EITHER, lambda: encoded(picture(), "JPEG")),
}


def _case(name: str, expected: str, file: str, make: Callable[[Path], None]) -> Hostile:
    def words(folder: Path) -> list[str]:
        root = photos(folder / "photos")
        make(root / "moss" / file)
        return ["run", "experiment=demo", "dataset=image_folder", f"dataset.root={root}", "ratio=0.3", *QUICK]

    return Hostile(name, expected, words)


def _writing(content: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content())

    return make


def inputs() -> list[Hostile]:
    """Return all images."""
    found = [_case(name, expected, file, _writing(content)) for name, (file, expected, content) in FILES.items()]
    # What is no file is left out and counted, as are hidden files.
    files = ("an empty file", "one line of a megabyte", "random bytes", "zeros", "a web page")
    found += [_case(name, REFUSED if name in files else EITHER, "x.png", make) for name, make in ODD.items()]
    return found


def prepare(shared: Path) -> None:
    """Nothing is shared."""


SUITE = Suite("images", cases(KIND, inputs()), prepare)
