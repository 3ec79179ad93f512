"""NUCS: a harder class keeps more, and keeps the window of its ranking on which a ridge regression is best."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.samplers.budgets import class_budgets, difficulty_shares, whole_shares
from prunetune.samplers.bws import BWS
from prunetune.signals.contract import Signals


@dataclass(frozen=True, kw_only=True)
class NUCS(BWS):
    """Class budgets in proportion to the size of a class times its mean score; the kept images are windows as in BWS.

    The mean is winsorised: before it is taken, scores in the two tails of the class are moved to the quantiles at the
    tails' ends. A class whose budget would exceed its size is kept whole, and the others get the rest.

    Source: arXiv 2504.13234, after its abstract and a short summary of it: b_j = (1 - alpha) S_j N_j / T with
    T = sum_i S_i N_i / N, S_j the winsorised mean, alpha the fraction that is dropped; a window whose endpoint linear
    ridge regression chooses. Differs: what these do not say is ours, namely the score (EL2N in the method), the share
    of a tail, what happens to a class that is too small for its budget, and that the window is chosen as in BWS.
    Reads: features. Cost: that of BWS.

    winsor: share of a class in each tail. start, num_windows, ridge: see BWS.
    """

    name: ClassVar[str] = "nucs"

    winsor: float = 0.05

    def __post_init__(self) -> None:
        checks.number("sampler.winsor", self.winsor, "[0, 0.5)")
        super().__post_init__()
        if self.budgets != "proportional":
            raise InputError(f"sampler=nucs has class budgets of its own, got sampler.budgets={self.budgets}; leave it")

    def check_budgets(self) -> None:
        raise InputError(
            "nucs has class budgets of its own, which distribute a fraction of the pool, not a number of images of "
            "each class; pass a fraction, or sampler=bws"
        )

    def budgets_of(self, scores: Tensor, labels: Tensor, ratio: float) -> dict[int, int]:
        """Return how many images each class keeps, for the classes that occur.

        Args:
            scores: [N] float64 of at least 0.
            labels: [N] int64.
            ratio: fraction of the pool that is kept.

        Raises:
            InputError: a score is negative.
        """
        if bool((scores < 0).any()):
            raise InputError(
                f"sampler=nucs divides by scores of at least 0, got {float(scores.min()):g}; pass scorer=el2n"
            )
        proportional = class_budgets(labels, ratio, self.min_per_class, self.rounding)
        total, sizes = sum(proportional.values()), {c: int((labels == c).sum()) for c in proportional}
        difficulty = torch.zeros(max(sizes) + 1, dtype=torch.float64)
        for label in sizes:
            difficulty[label] = winsorised_mean(scores[labels == label].double(), self.winsor)
        return whole_shares(sizes, difficulty_shares(sizes, total, difficulty), total, self.min_per_class)

    def _class_budgets(self, scores: Tensor, labels: Tensor, ratio: float, signals: Signals | None) -> dict[int, int]:
        return self.budgets_of(scores, labels, ratio)


def winsorised_mean(scores: Tensor, share: float) -> Tensor:
    """Return the mean of scores [n] float64, the `share` smallest and largest moved to the quantiles beside them."""
    low, high = torch.quantile(scores, torch.tensor([share, 1 - share], dtype=torch.float64))
    return scores.clamp(low, high).mean()
