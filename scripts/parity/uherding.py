"""MaxHerding against its authors' code."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.scorers.maxherding import MaxHerding
from prunetune.scorers.picks import class_members
from scripts.parity.agreement import RATIOS, Material, Remarks, Row, compare, kept, made_material, our_scores
from scripts.parity.checkouts import load_file

EVERYONE = "its candidates were all images, and its kernel was computed on the CPU"
MUTUAL = (
    "exact ties: of two images that are left and stand for each other only, either adds the same; both sets have the "
    "same value, rounding decides in theirs and position in ours"
)
SAME_VALUE = 1e-12  # Relative tolerance for sums of the same numbers in another order.


class Settings(dict):
    """A configuration whose keys are attributes too."""

    __getattr__ = dict.__getitem__


def rows(checkout: Path) -> Iterator[Row]:
    """Compare the picks of each class and of the whole pool."""
    material = made_material()
    for balance in (True, False):
        ours_of = material if balance else material.as_one_class()
        scores = our_scores(MaxHerding(), ours_of)
        for ratio in RATIOS:
            ours = kept(scores, material, ratio, balance)
            theirs = torch.cat(
                [
                    _theirs(checkout, material, members, int(torch.isin(ours, members).sum()))
                    for members in class_members(ours_of.labels)
                ]
            )
            values = [_covered(ours_of, picks) for picks in (theirs, ours)]
            cause = MUTUAL if abs(values[0] - values[1]) <= SAME_VALUE * values[1] else ""
            yield compare("maxherding", balance, ratio, theirs.sort().values, ours, Remarks(EVERYONE, cause))


def _covered(material: Material, kept_images: Tensor) -> float:
    """Return the sum of the largest kernel value of every image with a kept image of its class, in float64."""
    total = 0.0
    for members in class_members(material.labels):
        features = torch.nn.functional.normalize(material.features[members].double(), dim=1)
        squares = torch.cdist(features, features).square().fill_diagonal_(0)
        total += float((-squares).exp()[:, torch.isin(members, kept_images)].max(dim=1).values.sum())
    return total


def _theirs(checkout: Path, material: Material, members: Tensor, count: int) -> Tensor:
    features = material.features[members].numpy()
    module = _load(checkout, features)
    learning = Settings(UNC_FEATURE="self", FEATURE="self")
    settings = Settings(DATASET={"NAME": "parity"}, RNG_SEED=0, ACTIVE_LEARNING=learning)
    everyone = np.arange(len(members))
    picker = module.Herding(
        settings, np.array([], dtype=int), everyone, count, 1.0, None, dataset=(), device="cpu", permute=False
    )
    picked = picker.select_samples()[0]
    return members[torch.from_numpy(np.asarray(picked))]


def _load(checkout: Path, features: np.ndarray) -> Any:
    """Import their file with stand-ins for the modules of its framework; its kernels then run on the CPU."""
    data = SimpleNamespace(load_features=lambda *_, **__: features)
    stand_ins = {
        "pycls": SimpleNamespace(datasets=SimpleNamespace(utils=data)),
        "pycls.datasets": SimpleNamespace(utils=data),
        "pycls.datasets.utils": data,
        "pycls.utils": SimpleNamespace(),
        "pycls.utils.metrics": SimpleNamespace(compute_coverage=lambda *_: 0.0),
        "pycls.utils.io": SimpleNamespace(compute_cand_size=lambda labelled, budget: len(features)),
    }
    module = load_file("_parity_herding", checkout / "deep-al" / "pycls" / "al" / "herding.py", **stand_ins)
    kernel = module.RBFKernel
    module.RBFKernel = lambda device: kernel("cpu")
    return module
