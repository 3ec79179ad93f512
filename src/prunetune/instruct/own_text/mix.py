"""Mix several scores by their ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer


@dataclass(frozen=True)
class Mixed(Scorer):
    """A weighted mean of ranks, as `mixed` computes it from scores that are known. It cannot be computed alone."""

    name: ClassVar[str] = "mix"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        raise NotImplementedError("a mix is made of other scores; see mixed()")


def mixed(scores: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted mean of the ranks of several scores, [N] float64 in [0, 1].

    The rank of the largest score is 1 and that of the smallest 0, whatever the scores' scale. Equal scores share their
    mean rank. Every score counts in its own direction: the samples that top-k would keep have the largest ranks.

    Args:
        scores: [N] float64 each, by name.
        weights: positive, by name; they need not sum to 1.
    """
    total = sum(weights.values())
    ranks = {name: (rankdata(scores[name].numpy()) - 1) / max(1, len(scores[name]) - 1) for name in weights}
    return torch.from_numpy(np.sum([weight / total * ranks[name] for name, weight in weights.items()], axis=0))
