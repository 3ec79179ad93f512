"""Small data sets in the layout of the real ones, written with Pillow: one hue per class, brightness per image."""

import colorsys
import hashlib
import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

CLASSES = ("banded", "dotted", "woven")
VARIANTS = ("Boeing 707-320", "F/A-18", "A340-200")  # This is the order of variants.txt, which is not sorted.
PER_SPLIT = {"train": 4, "val": 3, "test": 2}


def make_image(path: Path, class_name: str, size: tuple[int, int] = (48, 40)) -> Path:
    """Write an image of size (width, height) whose hue tells the class and whose noise depends on the file's name."""
    draws = np.random.default_rng(_number(path.name))
    hue = _number(class_name) % 360 / 360
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, draws.uniform(0.4, 0.9)))
    pixels = colour + draws.normal(0, 20, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def make_dtd(
    root: Path, classes: Sequence[str] = CLASSES, per_split: Mapping[str, int] = PER_SPLIT, partition: int = 1
) -> Path:
    """Write `images/<class>/<class>_0001.jpg` and `labels/{train,val,test}1.txt`."""
    lines: dict[str, list[str]] = {split: [] for split in per_split}
    for class_name in classes:
        number = 0
        for split, count in per_split.items():
            for _ in range(count):
                number += 1
                line = f"{class_name}/{class_name}_{number:04d}.jpg"
                make_image(root / "images" / line, class_name)
                lines[split].append(line)
    for split, listed in lines.items():
        write_lines(root / "labels" / f"{split}{partition}.txt", listed)
    return root


def make_fgvcaircraft(root: Path, variants: Sequence[str] = VARIANTS, per_split: Mapping[str, int] = PER_SPLIT) -> Path:
    """Write `data/images/<number>.jpg`, `data/images_variant_{train,val,test}.txt` and `data/variants.txt`."""
    data = root / "data"
    number = 34308
    for split, count in per_split.items():
        lines = []
        for variant in variants:
            for _ in range(count):
                number += 1
                make_image(data / "images" / f"{number:07d}.jpg", variant)
                lines.append(f"{number:07d} {variant}")
        write_lines(data / f"images_variant_{split}.txt", lines)
    write_lines(data / "variants.txt", variants)
    return root


def make_split_folders(root: Path, classes: Sequence[str] = CLASSES, per_split: Mapping[str, int] = PER_SPLIT) -> Path:
    """Write `{train,val,test}/<class>/<file>.png`."""
    for split, count in per_split.items():
        for class_name in classes:
            for number in range(count):
                make_image(root / split / class_name / f"{split}_{number:03d}.png", class_name)
    return root


def make_image_folder(root: Path, sizes: Mapping[str, int]) -> Path:
    """Write `<class>/<file>.jpg` with the given number of images for each class."""
    for class_name, count in sizes.items():
        for number in range(count):
            make_image(root / class_name / f"image_{number:04d}.jpg", class_name)
    return root


def make_image_lists(root: Path, sizes: Mapping[str, tuple[int, int]]) -> Path:
    """Write class folders with (train, test) images of each class, and `train.txt` and `test.txt` of their paths."""
    make_image_folder(root, {class_name: sum(counts) for class_name, counts in sizes.items()})
    lines: tuple[list[str], list[str]] = ([], [])
    for class_name, (num_train, num_test) in sizes.items():
        for number in range(num_train + num_test):
            lines[number >= num_train].append(f"{class_name}/image_{number:04d}.jpg")
    write_lines(root / "train.txt", lines[0])
    write_lines(root / "test.txt", lines[1])
    return root


def make_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, per_batch: int = 4) -> Path:
    """Write five training batches, a test batch and the class names, and have torchvision expect their MD5."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name in names:
        rows = draws.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [(number * 3) % 10 for number in range(per_batch)]
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    label_names = [f"object_{number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": label_names}))
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return root


def cut_in_half(path: Path) -> Path:
    """Keep the first half of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def make_bomb(path: Path, width: int = 60000, height: int = 60000) -> Path:
    """Write a PNG of some 100 bytes that claims width x height RGB pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
