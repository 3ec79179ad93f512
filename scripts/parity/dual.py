"""DUAL, its Beta sampling and Dyn-Unc against the code of DUAL's authors."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.samplers import Beta
from prunetune.scorers.dual import DUAL
from prunetune.scorers.dyn_unc import DynUnc
from prunetune.signals.label_odds import label_probabilities
from scripts.parity.agreement import (
    EPOCHS,
    RATIOS,
    Material,
    Ranking,
    Remarks,
    Row,
    compare,
    kept,
    made_material,
    our_scores,
)
from scripts.parity.checkouts import arguments, load_file

WINDOW = 5
BUDGET = "theirs keeps int(ratio N) images, ours round(ratio N)"
NO_DRAW = "both draws were replaced by the largest weights, so this compares weights and budgets"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare the scores per class and over the pool, and Beta sampling over the pool, as theirs ranks it."""
    folder, material = checkout / "exp_cifar", made_material()
    with arguments("--dynamics_path", "", "--save_path", ""):
        scoring = load_file("_parity_dual", folder / "importance_evaluation.py")
    proxy = material.proxies[0]
    logits = torch.stack([proxy.logits(epoch) for epoch in range(1, EPOCHS + 1)])
    probabilities = label_probabilities(logits, material.labels).double()
    for name, scorer, score in (
        ("dual", DUAL(window=WINDOW), scoring.dual),
        ("dyn_unc", DynUnc(window=WINDOW), scoring.dynunc),
    ):
        theirs, ours = score(probabilities, WINDOW)[0], our_scores(scorer, material)
        for balance in (True, False):
            for ratio in RATIOS:
                kept_by = [kept(scores, material, ratio, balance) for scores in (theirs, ours)]
                labels = material.labels if balance else torch.zeros_like(material.labels)
                yield compare(name, balance, ratio, *kept_by, Remarks(), Ranking(ours, labels))
    sampling = load_file("_parity_dual_subset", folder / "data_subset.py")
    yield from _beta_rows(sampling, material, probabilities)


def _beta_rows(sampling: ModuleType, material: Material, probabilities: Tensor) -> Iterator[Row]:
    scores = our_scores(DUAL(window=WINDOW), material)
    for ratio in RATIOS:
        with mock.patch("numpy.random.choice", _largest):
            order = scores.argsort(stable=True).numpy()
            picked = sampling.beta_sampling(1 - ratio, 4, probabilities.numpy(), order, scores.numpy())
        with mock.patch("prunetune.samplers.beta.draw_weighted", _first):
            one = material.as_one_class()
            ours = Beta(min_per_class=0).select(scores, one.labels, ratio, stream("parity"), _Labelled(material))
        theirs = torch.from_numpy(picked).long().sort().values
        cause = BUDGET if len(theirs) != len(ours) else ""
        yield compare("beta", False, ratio, theirs, ours, Remarks(NO_DRAW, cause))


def _largest(length: int, size: int, replace: bool, p: Any) -> np.ndarray:
    return np.argsort(-np.asarray(p), kind="stable")[:size]


def _first(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return (-log_weights).argsort(stable=True)[:count]


class _Labelled:
    """Signals whose probabilities are those of the true labels, although the sampler sees a single class."""

    def __init__(self, material: Material) -> None:
        self._material = material

    def proxy(self, until: int | None = None, logits_only: bool = False) -> "_Labelled":
        return self

    @property
    def num_epochs(self) -> int:
        return self._material.proxies[0].num_epochs

    def statistic(self, function: Any, labels: Tensor, epochs: range) -> Tensor:
        return self._material.proxies[0].statistic(function, self._material.labels, epochs)
