"""Own images: upright, on white, not black; every kind of file; what cannot be read is found all at once."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from made_data import cut_in_half, make_bomb, make_image
from prunetune.base import extra
from prunetune.base.errors import InputError
from prunetune.data.images.decode import ImageFiles, UnreadableImage, UnreadableImages, decode_all
from prunetune.data.images.own import EncodedImages, KeptImages, KeptItems, OwnFiles
from prunetune.data.images.rule import DecodeRule

RULE = DecodeRule()


def save(image, path, **options):
    image.save(path, **options)
    return path


def corner(path, rule=RULE):
    return rule.decode_file(path)[:, 0, 0].tolist()


def deep_png(path, pixels):
    """Write colours of 16 bits [h, w, 3 or 4] as PNG, which Pillow cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_the_exif_orientation_is_applied_or_not(tmp_path, suffix):
    image = Image.new("RGB", (20, 10), "blue")
    ImageDraw.Draw(image).rectangle([0, 0, 9, 9], fill="red")  # The left half is red.
    exif = Image.Exif()
    exif[0x0112] = 6  # The value 6 asks for a rotation by 90 degrees to the right: left becomes top.
    path = save(image, tmp_path / f"a.{suffix}", exif=exif)
    turned = RULE.decode_file(path)
    assert turned.shape == (3, 20, 10)
    assert turned[0, 2, 5] > 200 > 55 > turned[0, 17, 5]
    # Pillow turns a TIFF by itself while it reads it.
    assert DecodeRule(exif=False).decode_file(path).shape == ((3, 20, 10) if suffix == "tif" else (3, 10, 20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_turns_nothing(tmp_path):
    path = save(Image.new("RGB", (20, 10)), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2anonsense")
    assert RULE.decode_file(path).shape == (3, 10, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "PA"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image = Image.new("LA" if mode == "LA" else "RGBA", (4, 4))  # It is black and transparent.
    options = {}
    if mode in ("P", "PA"):
        image = image.convert("P")
        options = {"transparency": 0}
        image.putpalette([0, 0, 0])
    if mode == "RGB":
        image, options = Image.new("RGB", (4, 4)), {"transparency": (0, 0, 0)}
    assert corner(save(image, tmp_path / "a.png", **options)) == [255, 255, 255]


def test_half_of_a_colour_is_mixed_with_white_and_all_of_it_stays(tmp_path):
    assert corner(save(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), tmp_path / "a.png")) == [127, 127, 127]
    assert corner(save(Image.new("RGBA", (2, 2), (9, 8, 7, 255)), tmp_path / "b.png")) == [9, 8, 7]


@pytest.mark.parametrize(("highest", "middle"), [(255, 128), (4095, 2048), (3000, 1500), (16383, 8192), (65535, 32768)])
def test_16_bit_grey_is_stretched_from_the_depth_that_holds_it(tmp_path, highest, middle):
    path = save(Image.fromarray(np.array([[0, middle, highest]], dtype=np.uint16)), tmp_path / "a.png")
    depth = next(bits for bits in (8, 12, 14, 16) if highest < 2**bits)
    expected = [round(value * 255 / (2**depth - 1)) for value in (0, middle, highest)]
    assert RULE.decode_file(path).tolist() == [[expected]] * 3
    assert expected[2] > 180


def test_16_bit_colours_are_stretched_too(tmp_path):
    pixels = np.zeros((2, 3, 3), dtype=np.uint16)
    pixels[..., 0], pixels[..., 1] = 4095, 2048 + np.arange(3)
    assert RULE.decode_file(deep_png(tmp_path / "c.png", pixels * 16))[:, 0, 2].tolist() == [255, 128, 0]
    assert corner(deep_png(tmp_path / "a.png", pixels)) == [255, 128, 0]
    alpha = np.concatenate([pixels, np.full((2, 3, 1), 0, dtype=np.uint16)], axis=2)
    assert corner(deep_png(tmp_path / "b.png", alpha)) == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "avif", "pgm", "gif", "heic"])
def test_every_kind_of_file_is_read(tmp_path, suffix):
    if suffix == "heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.new("RGB", (20, 10), (200, 0, 0))).save(tmp_path / "a.heic")
        path = tmp_path / "a.heic"
    else:
        kind = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM"}.get(suffix)
        path = save(Image.new("L" if suffix == "pgm" else "RGB", (20, 10), 150), tmp_path / f"a.{suffix}", format=kind)
    assert RULE.decode_file(path).shape == (3, 10, 20)


def test_heic_without_its_extra_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "OPEN", {name: opener for name, opener in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "init", lambda: 1)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UnreadableImage, match=r"pillow_heif, which is not installed; run pip install -e '\.\[heif\]'"):
        RULE.decode_file(tmp_path / "a.heic")


def test_the_limit_of_pixels_is_a_setting(tmp_path):
    with pytest.raises(UnreadableImage, match="60000 x 60000 pixels, more than the 200000000 allowed"):
        RULE.decode_file(make_bomb(tmp_path / "a.png"))
    with pytest.raises(UnreadableImage, match="more than the 99 allowed"):
        DecodeRule(max_pixels=99).decode_file(make_image(tmp_path / "b.png", "x", size=(10, 10)))
    # An image of 12000 x 9000 pixels is above the limit of Pillow. This file is cut short, which is found later.
    with pytest.raises(UnreadableImage, match="truncated"):
        RULE.decode_file(make_bomb(tmp_path / "c.png", 12000, 9000))


@pytest.mark.slow
def test_an_image_of_12000_x_9000_pixels_is_read(tmp_path):
    path = save(Image.new("L", (12000, 9000), 77), tmp_path / "a.png")
    assert RULE.decode_file(path).shape == (3, 9000, 12000)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_unreadable(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match="a.jpg is not a readable image"):
        RULE.decode_file(tmp_path / "a.jpg")


def test_cmyk_keeps_its_colours(tmp_path):
    path = save(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=100)
    assert corner(path) == pytest.approx([0, 255, 255], abs=3)


def test_plain_images_decode_as_those_of_the_paper_do(tmp_path):
    for suffix in ("jpg", "png", "bmp", "webp"):
        path = make_image(tmp_path / f"a.{suffix}", "cat")
        assert torch.equal(RULE.decode_file(path), ImageFiles((path,)).decode(0))


def test_the_digest_of_a_file_depends_on_the_rule_and_on_a_limit_of_ones_own(tmp_path):
    path = make_image(tmp_path / "a.jpg", "cat")
    rules = (RULE, DecodeRule(exif=False), DecodeRule(max_pixels=10**9))
    digests = {OwnFiles((path,), rule).digest(0) for rule in rules}
    assert len({*digests, ImageFiles((path,)).digest(0)}) == 4


def test_all_unreadable_files_are_found_at_once_with_their_positions(tmp_path):
    paths = [make_image(tmp_path / f"{number}.jpg", "cat") for number in range(6)]
    cut_in_half(paths[1])
    paths[3].write_bytes(b"")
    paths[4].unlink()
    images = OwnFiles(tuple(paths))
    assert images.digest(4) == "unreadable"
    with pytest.raises(UnreadableImages) as caught:
        list(decode_all(images))
    assert list(caught.value.failures) == [1, 3, 4]
    assert [failure.place for failure in caught.value.failures.values()] == [str(paths[i]) for i in (1, 3, 4)]


def test_encoded_images_equal_those_of_files(tmp_path):
    path = make_image(tmp_path / "a.jpg", "cat")
    contents = [path.read_bytes(), b"", path.read_bytes()]
    images = EncodedImages(contents.__getitem__, "row {}".format, (0, 1, 2)).take([2, 1])
    assert torch.equal(images.decode(0), OwnFiles((path,)).decode(0))
    assert images.digest(0) == OwnFiles((path,)).digest(0)
    with pytest.raises(UnreadableImage, match="row 1 is not a readable image"):
        images.decode(1)


class Reads:
    """Items whose reading is counted and that may be damaged."""

    def __init__(self, damaged=()):
        self.items, self.damaged = [], damaged

    def __call__(self, item):
        self.items.append(item)
        if item in self.damaged:
            raise OSError("image file is truncated")
        return Image.new("RGB", (4 + item, 5), (item, 0, 0)), item % 2


def test_items_are_read_once_and_in_order_whatever_is_asked_of_them():
    reads = Reads()
    items = KeptItems(7, reads, "item {}".format, RULE)
    images = KeptImages(items, tuple(range(7))).take([6, 0, 3])
    assert reads.items == []
    assert items.labels == [0, 1, 0, 1, 0, 1, 0]
    assert [images.decode(i)[0, 0, 0].item() for i in (2, 0, 1)] == [3, 6, 0]
    assert images.decode(0).shape == (3, 5, 10)
    assert len({images.digest(i) for i in range(3)}) == 3
    assert reads.items == list(range(7))


def test_items_that_cannot_be_read_are_reported_together():
    items = KeptItems(5, Reads(damaged=(1, 4)), "item {}".format, RULE)
    images = KeptImages(items, (4, 2, 1))
    with pytest.raises(UnreadableImages) as caught:
        images.decode(1)
    assert [(i, f.place) for i, f in caught.value.failures.items()] == [(0, "item 4"), (2, "item 1")]
    assert images.take([1]).decode(0).shape == (3, 5, 6)


def test_a_missing_extra_is_one_line():
    with pytest.raises(InputError, match=r"^parquet files need no_such_library, which is not installed; run pip inst"):
        extra.needed("no_such_library", "data", "parquet files")


def test_the_temporary_folder_that_is_full_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunetune.data.images.own._write", full)
    with pytest.raises(InputError, match="for temporary files could not be written.*TMPDIR=<folder>"):
        KeptItems(2, Reads(), "item {}".format, RULE).pixels(0)


def test_the_rule_reads_paths_of_all_kinds(tmp_path):
    assert RULE.decode_file(Path(make_image(tmp_path / "ä b" / "c,d.jpg", "cat"))).shape == (3, 40, 48)
