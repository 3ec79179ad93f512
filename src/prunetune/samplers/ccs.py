"""CCS: the hardest images are dropped, and the kept ones are drawn from strata of the score as evenly as possible."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import AUTO, Sampler, draw, easiest_first


@dataclass(frozen=True, kw_only=True)
class CCS(Sampler):
    """Coverage-centric selection: equal-width strata of each class's score, without its hardest images.

    Source: arXiv 2210.15809. The paper reads AUM, and its code (at b37f166) computes AUM from probabilities: scorer
    aum_probability, method ccs_probability. Differs: the cut-off and the strata are those of each class, and the
    cut-off is capped so that the class budget is met. Published cut-offs depend on data and ratio: .3 on CIFAR-10 and
    ImageNet at ratio .1, .2 on ImageNet at .2.
    Cost: a sort of the scores.

    beta: fraction of a class, its hardest, that is dropped; in a run also auto, chosen on held-out pool images.
    num_strata: intervals of equal width between the smallest and the largest remaining score.
    """

    name: ClassVar[str] = "ccs"
    reads_hardness: ClassVar[bool] = True

    beta: float = 0.2
    num_strata: int = 50

    def __post_init__(self) -> None:
        checks.number("sampler.beta", self.beta, "[0, 1)", otherwise=AUTO)
        checks.whole_number("sampler.num_strata", self.num_strata)
        super().__post_init__()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        left = without_hardest(scores, budget, self.beta)
        strata = strata_of(scores[left], self.num_strata)
        budgets = strata_budgets(torch.bincount(strata, minlength=self.num_strata), budget)
        parts = [left[strata == s] for s in range(self.num_strata)]
        return torch.cat([draw(part, count, generator) for part, count in zip(parts, budgets, strict=True) if count])


def without_hardest(scores: Tensor, budget: int, beta: float) -> Tensor:
    """Return the indices of a class's scores [n] without its hardest images, in ascending order; see `num_cut`."""
    return easiest_first(scores)[: len(scores) - num_cut(len(scores), budget, beta)].sort().values


def num_cut(size: int, budget: int, beta: float) -> int:
    """Return how many of the hardest images of a class are dropped: a share beta, or less if the budget requires it."""
    return min(round(size * beta), size - budget)


def strata_of(scores: Tensor, num_strata: int) -> Tensor:
    """Return the stratum of each score [n] float64, [n] int64, 0 for the lowest; the largest score is in the last.

    Equal scores are all in stratum 0.
    """
    low, high = scores.min(), scores.max()
    if low == high:
        return torch.zeros(len(scores), dtype=torch.int64)
    places = (scores - low) / (high - low) * num_strata  # All places lie in [0, num_strata].
    return places.long().clamp_max(num_strata - 1)


def strata_budgets(sizes: Tensor, budget: int) -> list[int]:
    """Return how many images each stratum gives: the smallest first, each an equal share of the rest, or all it has.

    The last and largest stratum takes the remainder.

    Args:
        sizes: [S] int64 images in each stratum; of equal sizes the lower stratum comes first.
        budget: number of images to keep, at most the sum of the sizes.
    """
    budgets, rest = [0] * len(sizes), budget
    for rank, stratum in enumerate(sizes.argsort(stable=True).tolist()):
        budgets[stratum] = min(int(sizes[stratum]), rest // (len(sizes) - rank))
        rest -= budgets[stratum]
    return budgets
