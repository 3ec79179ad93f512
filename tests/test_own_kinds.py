"""Every kind of data that prune reads, made of the same real images: both doors keep the same rows of each."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets
from torchvision.transforms import v2

from prunetune import prune
from runs import prunetune_here

pytestmark = pytest.mark.data
CLASSES = ("accordion", "ant", "barrel", "bass")
PER_CLASS = 10
NUMBERS = [number for number in range(len(CLASSES)) for _ in range(PER_CLASS)]
LABELS = [CLASSES[number] for number in NUMBERS]


@pytest.fixture(scope="module")
def photos(real_data, tmp_path_factory):
    """Return a folder of four class folders with ten images each, as prune() reads it and what it keeps."""
    root = tmp_path_factory.mktemp("kinds")
    paths = []
    for name in CLASSES:
        (root / "photos" / name).mkdir(parents=True)
        for path in sorted((real_data / "data" / "caltech101" / "101_ObjectCategories" / name).glob("*.jpg"))[:10]:
            shutil.copy(path, root / "photos" / name)
            paths.append(f"{name}/{path.name}")
    store = root / "store"
    kept = prune(root / "photos", 0.3, backbone="micro", store=store)
    return SimpleNamespace(folder=root / "photos", paths=paths, store=store, kept=kept.positions.tolist())


def copied(photos, folder: Path, place: Callable[[str, str, int], str]) -> Path:
    """Copy the images; place(class, file name, number) returns where each goes below the folder."""
    for number, path in enumerate(photos.paths):
        target = folder / place(*path.split("/"), number)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos.folder / path, target)
    return folder


def opened(photos) -> list[Image.Image]:
    return [Image.open(photos.folder / path).convert("RGB") for path in photos.paths]


def splits(train: str, other: str) -> Callable:
    def make(photos, folder):
        copied(photos, folder, lambda name, file, _: f"{train}/{name}/{file}")
        for name in CLASSES:
            pixels = np.random.default_rng(len(name)).integers(0, 256, (60, 60, 3), dtype=np.uint8)
            (folder / other / name).mkdir(parents=True)
            Image.fromarray(pixels).save(folder / other / name / "x.png")
        return folder

    return make


def table(name: str, line: Callable[[str, str], str], header: str = "") -> Callable:
    def make(photos, folder):
        lines = [line(str(photos.folder / path), label) for path, label in zip(photos.paths, LABELS, strict=True)]
        (folder / name).write_bytes("".join(f"{text}\r\n" for text in [header, *lines] if text).encode("utf-8-sig"))
        return folder / name

    return make


def listed(photos, folder):
    """Write an imagefolder of the library datasets: images beside the list of their labels."""
    copied(photos, folder, lambda name, file, number: f"train/{number:02d}.jpg")
    with (folder / "train" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *((f"{i:02d}.jpg", n) for i, n in enumerate(LABELS))])
    return folder


def archive(photos, folder):
    with tarfile.open(folder / "train-0000.tar", "w") as tar:
        for number, (path, label) in enumerate(zip(photos.paths, LABELS, strict=True)):
            for ending, content in (("jpg", (photos.folder / path).read_bytes()), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder / "train-0000.tar"


def parquet(photos, folder):
    contents = [(photos.folder / path).read_bytes() for path in photos.paths]
    polars.DataFrame({"image": contents, "label": LABELS}).write_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def hugging_face(photos):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    columns = {"image": [str(photos.folder / path) for path in photos.paths], "label": NUMBERS}
    return datasets.Dataset.from_dict(columns, features=features)


def saved(photos, folder):
    hugging_face(photos).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def splits_of_rows(photos, folder):
    made = hugging_face(photos)
    return pytest.importorskip("datasets").DatasetDict(train=made, test=made.select([0]))


class Items(torch.utils.data.Dataset):
    """A dataset of torch with a transform, as users write them."""

    def __init__(self, photos, labels, transform=None):
        self.images, self.labels, self.transform, self.classes = opened(photos), labels, transform, CLASSES

    def __len__(self):
        return len(self.images)

    def __getitem__(self, item):
        image = self.images[item]
        return (image if self.transform is None else self.transform(image)), self.labels[item]


TO_TENSOR = v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
PATHS = {  # Kinds that the command reads too; make(photos, folder) returns the path.
    "nested class folders": lambda photos, folder: copied(photos, folder, lambda n, f, i: f"images/{n}/a/{f}"),
    "Train and Test": splits("Train", "Test"),
    "training and validation": splits("training", "validation"),
    "train and dev": splits("train", "dev"),
    "TRAIN_images and TEST": splits("TRAIN_images", "TEST"),
    "splits in class folders": lambda photos, folder: copied(photos, folder, lambda n, f, i: f"{n}/train/{f}"),
    "csv": table("a.csv", lambda path, label: f'"{path}",{label}', "filename,label"),
    "csv with semicolons": table("a.csv", lambda path, label: f"{path};{label}", "image;class"),
    "tsv": table("a.tsv", lambda path, label: f"{path}\t{label}", "file\tcategory"),
    "jsonl": table("a.jsonl", lambda path, label: json.dumps({"img": path, "y": label})),
    "imagefolder with a list": listed,
    "WebDataset": archive,
    "parquet": parquet,
    "a folder of save_to_disk": saved,
}
OBJECTS = {  # Kinds that only Python has.
    "pandas": lambda photos, folder: pd.DataFrame({"path": photos.paths, "label": LABELS}, index=range(90, 130)),
    "polars": lambda photos, folder: polars.DataFrame({"path": photos.paths, "label": LABELS}),
    "pairs": lambda photos, folder: list(zip(photos.paths, LABELS, strict=True)),
    "two lists": lambda photos, folder: (photos.paths, LABELS),
    "images in memory": lambda photos, folder: list(zip(opened(photos), LABELS, strict=True)),
    "torch, texts": lambda photos, folder: Items(photos, LABELS),
    "torch, numbers and a transform": lambda photos, folder: Items(photos, NUMBERS, TO_TENSOR),
    "torchvision": lambda photos, folder: torchvision_datasets.ImageFolder(photos.folder, TO_TENSOR),
    "Dataset": lambda photos, folder: hugging_face(photos),
    "DatasetDict": splits_of_rows,
}


@pytest.mark.parametrize("kind", PATHS)
def test_the_command_and_the_function_keep_the_rows_of_the_folder(photos, tmp_path, kind):
    (tmp_path / "data").mkdir()
    path = PATHS[kind](photos, tmp_path / "data")
    subset = prune(str(path), 0.3, backbone="micro", store=photos.store)
    assert subset.positions.tolist() == photos.kept
    words = ["--keep", "0.3", "--backbone", "micro", "--store", str(photos.store), "--out", str(tmp_path / "out")]
    done = prunetune_here("prune", str(path), *words)
    assert done.returncode == 0, done.stderr
    assert "40 images, 4 classes: accordion 10, ant 10, barrel 10, bass 10" in done.stderr
    with (tmp_path / "out" / "kept.csv").open(newline="") as file:
        assert [int(row["row"]) for row in csv.DictReader(file)] == photos.kept
    if subset.data.paths[0] is not None:  # What is kept can be given back as a list.
        again = prune(tmp_path / "out" / "kept.csv", 1.0, backbone="micro", store=photos.store)
        assert again.kept_paths == subset.kept_paths


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_python_keep_the_rows_of_the_folder(photos, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(photos.folder)
    subset = prune(OBJECTS[kind](photos, tmp_path), 0.3, backbone="micro", store=photos.store)
    assert subset.positions.tolist() == photos.kept
    assert subset.pool.classes == CLASSES
    assert len(subset.as_torch()) == len(subset.as_hf()) == len(list(subset.to_folder(tmp_path / "k").rglob("*.*")))
