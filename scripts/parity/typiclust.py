"""TypiClust and ProbCover against their authors' code."""

from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.samplers import ProbCover, Sampler, TypiClust, TypiClustReleased
from prunetune.samplers.base import unit
from prunetune.samplers.clusters import k_means
from prunetune.samplers.probcover import cover
from prunetune.scorers.picks import class_members
from scripts.parity.agreement import RATIOS, Material, Remarks, Row, compare, made_material
from scripts.parity.checkouts import load_file

CLUSTERS = "both got the same clusters and unit features, and neighbours came from an exact search in place of faiss"
ONE_OF_EACH = (
    "ours takes an image of each cluster; theirs skips clusters of up to 5 images and takes several from others "
    "(typiclust_released follows theirs)"
)
FAILS = "theirs ends with an error in a class whose clusters of more than 5 images are used up, and ours goes on"
BATCH = "its batch was set to the class, since it leaves out the images of a last, shorter batch"
COVERED = "where fewer balls than the budget cover all images, theirs repeats the first image, ours draws others"
DELTAS = (0.85, 0.95)


def rows(checkout: Path) -> Iterator[Row]:
    """Compare both methods class by class."""
    material, folder = made_material(), checkout / "deep-al" / "pycls" / "al"
    for name, sampler, cause in (
        ("typiclust_released", TypiClustReleased(min_per_class=0), ""),
        ("typiclust", TypiClust(min_per_class=0), ONE_OF_EACH),
    ):
        for ratio in (0.05, *RATIOS):
            yield _typiclust_row(folder, material, name, sampler, ratio, cause)
    for delta in DELTAS:
        for ratio in RATIOS:
            yield _probcover_row(folder, material, delta, ratio)


def _stand_ins(features: np.ndarray) -> dict[str, Any]:
    data = SimpleNamespace(load_features=lambda *_: features)
    return {
        "pycls": SimpleNamespace(datasets=SimpleNamespace(utils=data)),
        "pycls.datasets": SimpleNamespace(utils=data),
        "pycls.datasets.utils": data,
        "faiss": SimpleNamespace(IndexFlatL2=_Exact, index_cpu_to_all_gpus=lambda index: index),
    }


class _Exact:
    """The two functions of a faiss index that TypiClust calls: squared distances in float64."""

    def __init__(self, width: int) -> None:
        self._rows = np.empty((0, width))

    def add(self, rows: np.ndarray) -> None:
        self._rows = rows.astype(np.float64)

    def search(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        squares = ((rows.astype(np.float64)[:, None] - self._rows[None]) ** 2).sum(2)
        indices = squares.argsort(axis=1, kind="stable")[:, :count]
        return np.take_along_axis(squares, indices, axis=1), indices


SETTINGS = {"DATASET": {"NAME": "parity"}, "RNG_SEED": 0}
NOBODY = np.array([], dtype=int)


def _typiclust_row(folder: Path, material: Material, name: str, sampler: Sampler, ratio: float, cause: str) -> Row:
    found: dict[int, Tensor] = {}  # Maps the size of a class to its clusters. All sizes differ.

    def remembered(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return found.setdefault(len(features), k_means(features, count, generator))

    with mock.patch("prunetune.samplers.typiclust.k_means", remembered):
        no_score = torch.zeros(len(material.labels), dtype=torch.float64)
        ours = sampler.select(no_score, material.labels, ratio, stream("parity"), material.signals)
    picks, suffix = [], ""
    for members in class_members(material.labels):
        features = unit(material.features[members]).numpy()
        module = load_file("_parity_typiclust", folder / "typiclust.py", **_stand_ins(features))
        module.kmeans = lambda features, num_clusters: found[len(features)].numpy()
        count = int(torch.isin(ours, members).sum())
        try:
            picked, _ = module.TypiClust(SETTINGS, NOBODY, np.arange(len(members)), count).select_samples()
        except (ValueError, ZeroDivisionError):
            picked, cause, suffix = NOBODY, FAILS, " where large clusters are used up"
        picks.append(members[torch.from_numpy(picked)])
    return compare(f"{name}{suffix}", True, ratio, torch.cat(picks).sort().values, ours, Remarks(CLUSTERS, cause))


def _probcover_row(folder: Path, material: Material, delta: float, ratio: float) -> Row:
    sampler = ProbCover(delta=delta, min_per_class=0)
    no_score = torch.zeros(len(material.labels), dtype=torch.float64)
    ours = sampler.select(no_score, material.labels, ratio, stream("parity"), material.signals)
    picks, runs_out = [], False
    for members in class_members(material.labels):
        features, count = unit(material.features[members]), int(torch.isin(ours, members).sum())
        module = load_file("_parity_probcover", folder / "prob_cover.py", **_stand_ins(features.numpy()))
        _whole_class(module, len(members))
        picked, _ = module.ProbCover(SETTINGS, NOBODY, np.arange(len(members)), count, delta).select_samples()
        picks.append(members[torch.from_numpy(np.unique(picked))])
        runs_out |= len(cover(features, delta, count)) < count
    name = "probcover where less than the budget covers all" if runs_out else f"probcover delta {delta:g}"
    remarks = Remarks(BATCH, COVERED if runs_out else "")
    return compare(name, True, ratio, torch.cat(picks).sort().values, ours, remarks)


def _whole_class(module: ModuleType, size: int) -> None:
    module.ProbCover.construct_graph = partialmethod(module.ProbCover.construct_graph, batch_size=size)
