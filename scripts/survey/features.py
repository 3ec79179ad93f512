"""Features of real images for the surveys: four sets with test images of their own, by ViT-Tiny.

dtd10, caltech101 and cifar10mini have a test set. Of the chest X-rays (nih_cxr) two images in five are tested, by
patient; their classes are "with a finding" and "without". `<data>/data/<set>/README.md` describes each set.
"""

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prunetune.base.devices import resolve_device
from prunetune.base.store import Store
from prunetune.signals.network import Embedding, NetworkSignals
from scripts.bench import benchmarks
from scripts.real_data import backbones, check_folder, datasets

SETS = ("dtd10", "caltech101", "cifar10mini", "nih_cxr")
BACKBONE = "vit_tiny"


@dataclass(frozen=True)
class Features:
    """One set: the pool's features [N, D] float32 and labels [N] int64, and the same of its test images."""

    name: str
    pool: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor


def features_of(data: Path, names: tuple[str, ...], store: Path) -> Iterator[Features]:
    """Yield the features of each set.

    Args:
        data: folder with data/ and weights/.
        names: of SETS.
        store: the features are computed once and kept here.
    """
    check_folder(data)
    data = data.resolve()
    with tempfile.TemporaryDirectory() as lists:
        sets = {**datasets(data), **_more(data, Path(lists))}
        for name in names:
            pool, test, network = benchmarks.opened([*sets[name], *backbones(data)[BACKBONE]])
            embedding = Embedding(network, Store(store), device=resolve_device("auto"))
            parts = [NetworkSignals(part, embedding).features() for part in (pool, test)]
            yield Features(name, parts[0], pool.labels, parts[1], test.labels)


def _more(data: Path, lists: Path) -> dict[str, list[str]]:
    """Return the overrides of the sets that only the surveys read; `lists` is a folder for lists of files."""
    folders = data / "data" / "cifar10mini"
    return {
        "cifar10mini": ["dataset=image_folder", "dataset.name=cifar10mini", f"dataset.root={folders}"],
        "nih_cxr": [
            *("dataset=image_folder", "dataset.name=nih_cxr", f"dataset.root={data / 'data' / 'nih_cxr'}"),
            *(f"dataset.{part}_list={path}" for part, path in x_rays(data / "data" / "nih_cxr", lists).items()),
        ],
    }


def x_rays(folder: Path, lists: Path) -> dict[str, Path]:
    """Write a list of the images that are pruned and one of those that test, and return the lists."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for row in rows:
        patient = int(Path(row["file"]).name[:8])
        label = "without" if row["finding_labels"] == "No Finding" else "with"
        lines["test" if patient % 5 < 2 else "train"].append(f"{row['file']} {label}\n")
    paths = {part: lists / f"{part}.txt" for part in lines}
    for part, path in paths.items():
        path.write_text("".join(lines[part]))
    return paths
