import resource
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from made_data import cut_in_half, make_bomb, make_image
from prunetune.base.errors import InputError
from prunetune.data.images.decode import ImageArrays, ImageFiles, Images, UnreadableImage, decode_all, decode_file


def pixel(path: Path, row: int = 0, column: int = 0) -> list[int]:
    return decode_file(path)[:, row, column].tolist()


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_an_rgb_image_decodes_to_channels_rows_columns(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = decode_file(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 2, 3)
    assert image[:, 1, 2].tolist() == [15, 16, 17]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    # 257 becomes 257 / 257 = 1, and 32768 becomes 32768 / 257 = 127.502 before rounding.
    grey = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + grey.astype(">u2").tobytes())
    else:
        save(Image.fromarray(grey), path)
    assert decode_file(path).tolist() == [[[0, 1, 128, 255]]] * 3


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_grey_values_of_an_unknown_range_are_refused(tmp_path: Path, dtype: type, mode: str) -> None:
    path = save(Image.fromarray(np.ones((2, 2), dtype=dtype)), tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=f"mode {mode} have no known range"):
        decode_file(path)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = save(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), tmp_path / "a.tif")
    assert pixel(path) == [255, 0, 0]


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    path = save(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=100)
    assert pixel(path) == pytest.approx([0, 255, 255], abs=3)


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128])])
def test_a_palette_image_shows_its_palettes_colours_whatever_its_transparency(
    tmp_path: Path, transparency: int | bytes | None
) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 250])
    image.putpixel((1, 0), 1)
    options = {} if transparency is None else {"transparency": transparency}
    path = save(image, tmp_path / "a.png", **options)
    assert pixel(path) == [200, 10, 20]
    assert pixel(path, column=1) == [30, 40, 250]


def test_alpha_is_dropped(tmp_path: Path) -> None:
    assert pixel(save(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), tmp_path / "a.png")) == [10, 20, 30]
    assert pixel(save(Image.new("LA", (2, 2), (77, 5)), tmp_path / "b.png")) == [77, 77, 77]


@pytest.mark.parametrize(("mode", "colour", "expected"), [("L", 9, 9), ("1", 1, 255)])
def test_a_grey_image_of_one_pixel_decodes(tmp_path: Path, mode: str, colour: int, expected: int) -> None:
    image = decode_file(save(Image.new(mode, (1, 1), colour), tmp_path / "a.png"))
    assert image.tolist() == [[[expected]]] * 3


def test_the_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # The value 6 asks for a rotation by 90 degrees.
    path = save(Image.new("RGB", (20, 10)), tmp_path / "a.jpg", exif=exif)
    assert decode_file(path).shape == (3, 10, 20)


def test_a_jpeg_cut_in_half_is_unreadable(tmp_path: Path) -> None:
    path = cut_in_half(make_image(tmp_path / "a.jpg", "cat", size=(200, 200)))
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_file(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_every_format_cut_in_half_is_unreadable(tmp_path: Path, suffix: str) -> None:
    path = cut_in_half(make_image(tmp_path / f"a.{suffix}", "cat"))
    with pytest.raises(UnreadableImage):
        decode_file(path)


@pytest.mark.parametrize("content", [b"", b"this is no picture\n", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match="photo.jpg is not a readable image") as caught:
        decode_file(path)
    assert str(caught.value).endswith("repair or remove it")
    assert str(caught.value).count("photo.jpg") == 1


def test_a_postscript_file_is_not_given_to_ghostscript(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 4)).save(path, "EPS")
    with Image.open(path) as image:  # Pillow alone would accept this file.
        assert image.format == "EPS"
    with pytest.raises(UnreadableImage, match="its content is not JPEG, PNG"):
        decode_file(path)


def test_a_missing_file_is_unreadable_to_decode_and_digest(tmp_path: Path) -> None:
    images = ImageFiles((tmp_path / "gone.jpg",))
    with pytest.raises(UnreadableImage, match="No such file"):
        images.decode(0)
    with pytest.raises(UnreadableImage, match="No such file"):
        images.digest(0)


# Above twice its limit Pillow raises an error; above the limit it only warns.
@pytest.mark.parametrize("side", [60000, 12000])
def test_an_image_bomb_is_refused_before_it_is_allocated(tmp_path: Path, side: int) -> None:
    path = make_bomb(tmp_path / "bomb.png", side, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage, match="more than 89478485 pixels"):
        decode_file(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # A decoded image of 12000 x 12000 x 3 bytes would need 432 MB.
    assert grown * (1 if sys.platform == "darwin" else 1024) < 100e6


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_bomb_is_refused_even_if_warnings_are_not_errors(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="more than 89478485 pixels"):
        decode_file(make_bomb(tmp_path / "bomb.png", 12000, 12000))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp", "ppm"])
def test_damaged_bytes_give_an_image_or_an_unreadable_one(tmp_path: Path, suffix: str) -> None:
    content = np.frombuffer(make_image(tmp_path / f"whole.{suffix}", "cat").read_bytes(), dtype=np.uint8)
    draws = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        damaged = content.copy()
        # Most of the damaged bytes are in the header.
        damaged[draws.integers(0, min(len(content), 200), 3)] = draws.integers(0, 256, 3)
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        outcomes.append(decode_or_none(tmp_path / "damaged"))
    assert any(image is None for image in outcomes)
    assert all(image.shape[0] == 3 for image in outcomes if image is not None)


def decode_or_none(path: Path) -> Tensor | None:
    try:
        return decode_file(path)
    except UnreadableImage:
        return None


class Counting(Images):
    """Images whose decoding is counted."""

    def __init__(self, num_images: int) -> None:
        self.num_images, self.decoded, self.lock = num_images, 0, threading.Lock()

    def __len__(self) -> int:
        return self.num_images

    def decode(self, position: int) -> Tensor:
        with self.lock:
            self.decoded += 1
        return torch.full((3, 1, 1), position % 256, dtype=torch.uint8)

    def digest(self, position: int) -> str:
        return str(position)

    def take(self, positions: object) -> "Counting":
        raise NotImplementedError


@pytest.mark.parametrize("num_images", [1, 3, 100])
def test_decode_all_keeps_the_order(num_images: int) -> None:
    assert [(i, int(image[0, 0, 0])) for i, image in decode_all(Counting(num_images))] == [
        (i, i) for i in range(num_images)
    ]


def test_decode_all_decodes_only_a_limited_number_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    images = Counting(1000)
    decoded = decode_all(images)
    for _ in range(10):
        next(decoded)
    decoded.close()
    assert 10 <= images.decoded <= 10 + 2 * 3


def read_into(read: dict[int, Tensor], paths: tuple[Path, ...]) -> None:
    for position, image in decode_all(ImageFiles(paths)):
        read[position] = image


def test_decode_all_reports_every_unreadable_image_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = tuple(make_image(tmp_path / f"{number}.jpg", "cat") for number in range(8))
    cut_in_half(paths[2])
    paths[5].write_bytes(b"")
    paths[7].write_text("text")
    read: dict[int, Tensor] = {}
    with pytest.raises(InputError) as caught:
        read_into(read, paths)
    assert list(read) == [0, 1, 3, 4, 6]
    assert all(torch.equal(image, decode_file(paths[position])) for position, image in read.items())
    assert str(caught.value).startswith(f"3 of 8 images cannot be read, first: {paths[2]} (")
    assert str(caught.value).endswith("); repair or remove them")
    assert [str(path) in caplog.text for path in paths] == [False, False, True, False, False, True, False, True]


def test_decode_all_does_not_hide_errors_of_the_program() -> None:
    with pytest.raises(RuntimeError, match="permute"):
        list(decode_all(ImageArrays(np.zeros((2, 4), dtype=np.uint8))))


def test_arrays_decode_take_and_digest_by_content() -> None:
    pixels = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    images = ImageArrays(pixels)
    assert images.decode(1)[:, 0, 0].tolist() == [12, 13, 14]
    taken = images.take([2, 0])
    assert [taken.digest(0), taken.digest(1)] == [images.digest(2), images.digest(0)]
    assert len({images.digest(i) for i in range(3)}) == 3
