"""FlexRand: half of the kept images from the easy part of a class, half from the rest, uniformly in each."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.samplers.amount import check_ratio
from prunetune.samplers.base import AUTO, Sampler, check_shapes, draw, easiest_first
from prunetune.signals.contract import Signals


@dataclass(frozen=True, kw_only=True)
class FlexRand(Sampler):
    """Random sampling from an easy and a hard part of each class, split at the gamma-quantile of the score.

    Source: arXiv 2402.05356, section on sampling; exact counts: docs/method_notes.md, FlexRand.
    Differs from the released code: the second part gives what the first leaves of the budget.
    Cost: a sort of the scores.

    gamma: the easy fraction; .5 is stratified random, below it easy images are kept more often; in a run also auto,
    chosen on held-out pool images. on_infeasible: what happens when gamma is outside [ratio/2, 1 - ratio/2]:
    "clip_share" (the smaller part is kept whole, the rest of the budget comes from the other), "clip_gamma" (move gamma
    to the nearest end), "error".
    """

    name: ClassVar[str] = "flexrand"
    reads_hardness: ClassVar[bool] = True

    gamma: float = 0.25
    on_infeasible: str = "clip_share"

    def __post_init__(self) -> None:
        checks.number("sampler.gamma", self.gamma, "(0, 1)", what="the easy fraction", otherwise=AUTO)
        checks.choice("sampler.on_infeasible", self.on_infeasible, ("clip_share", "clip_gamma", "error"))
        super().__post_init__()

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        num_easy = round(size * self._feasible(ratio))
        return num_easy, size - num_easy

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        gamma = self._feasible(ratio)
        num_easy = round(len(scores) * gamma)
        from_easy, from_hard = shares(len(scores), budget, ratio, gamma)
        order = easiest_first(scores)
        # Each part is in the order of the sample_ids.
        easy, hard = order[:num_easy].sort().values, order[num_easy:].sort().values
        return torch.cat([draw(easy, from_easy, generator), draw(hard, from_hard, generator)])

    def _feasible(self, ratio: float) -> float:
        low, high = ratio / 2, 1 - ratio / 2
        if low <= self.gamma <= high or self.on_infeasible == "clip_share":
            return self.gamma
        if self.on_infeasible == "error":
            raise InputError(
                f"sampler.gamma must be in [{low:g}, {high:g}] at ratio {ratio:g}, got {self.gamma:g}; "
                "or pass sampler.on_infeasible=clip_share"
            )
        return min(max(self.gamma, low), high)


def shares(size: int, budget: int, ratio: float, gamma: float) -> tuple[int, int]:
    """Return how many images of a class come from its easy and from its hard part.

    Source: docs/method_notes.md, FlexRand. The smaller part's share is rounded. The other part gives the remainder
    of the budget, which is never rounded on its own; what it cannot give comes from the smaller part.

    Args:
        size: n, images in the class.
        budget: B, images it keeps.
        ratio: fraction of images that is kept.
        gamma: fraction of the class that counts as easy.
    """
    num_easy = round(size * gamma)
    num_hard = size - num_easy
    if gamma <= 0.5:
        from_easy = min(round(size * min(gamma, ratio / 2)), num_easy, budget)
        from_easy += max(budget - from_easy - num_hard, 0)
        return from_easy, budget - from_easy
    from_hard = min(round(size * min(1 - gamma, ratio / 2)), num_hard, budget)
    from_hard += max(budget - from_hard - num_easy, 0)
    return budget - from_hard, from_hard


@dataclass(frozen=True, kw_only=True)
class FlexRandReleased(Sampler):
    """FlexRand as the released code rounds it: each share by itself, so that a class can miss its budget by one.

    Source: ml-stat-Sustech/Efficient-Dataset-Pruning@6767d0e, read for behaviour (docs/method_notes.md, FlexRand). The
    class budget is not used, and a class can end up empty. The contract tests do not check its counts.
    Cost: a sort of the scores.

    twentieths: gamma in twentieths, 1..19 (5 is gamma .25). The code multiplies by 0.05, which for some class sizes
    rounds otherwise than a division by 20. min_per_class and rounding are not read, since the two shares are rounded by
    themselves; budgets can only be proportional.
    """

    name: ClassVar[str] = "flexrand_released"
    reads_hardness: ClassVar[bool] = True

    twentieths: int = 5
    min_per_class: int = 0

    def __post_init__(self) -> None:
        unused = {"budgets": "proportional", "min_per_class": 0, "rounding": "half_even"}
        for key, only in unused.items():
            if getattr(self, key) != only:
                raise InputError(
                    f"flexrand_released has no class budgets to set: sampler.{key} must be {only}, "
                    f"got {getattr(self, key)}; pass sampler=flexrand"
                )
        checks.whole_number("sampler.twentieths", self.twentieths, least=1, most=19, what="gamma * 20")
        super().__post_init__()

    @property
    def gamma(self) -> float:
        """The easy fraction, as the released code computes it."""
        return 0.05 * self.twentieths

    def select(
        self, scores: Tensor, labels: Tensor, ratio: float, generator: torch.Generator, signals: Signals | None = None
    ) -> Tensor:
        check_ratio(ratio)
        check_shapes(scores, labels)
        if ratio == 1:
            return torch.arange(len(labels))
        kept = []
        for label in labels.unique():
            members = torch.nonzero(labels == label).flatten()
            kept.append(members[self.select_in_class(scores[members].double(), -1, ratio, generator)])
        return torch.cat(kept).sort().values

    def check_budgets(self) -> None:
        raise InputError("flexrand_released takes a fraction, not a number of images; pass sampler=flexrand")

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        size, gamma = len(scores), self.gamma
        num_easy = round(size * gamma)
        from_easy, from_hard = released_shares(size, ratio, gamma)
        order = easiest_first(scores)
        easy, hard = order[:num_easy].sort().values, order[num_easy:].sort().values
        return torch.cat([draw(easy, from_easy, generator), draw(hard, from_hard, generator)])


def released_shares(size: int, ratio: float, gamma: float) -> tuple[int, int]:
    """Return the two shares of a class of `size` images, each rounded on its own, as the released code does.

    If a share exceeds its part, the released code stops with an error; here the part is kept whole.
    """
    num_easy = round(size * gamma)
    smaller = min(gamma, 1 - gamma, 0.5 * ratio)
    easy_share, hard_share = (smaller, ratio - smaller) if gamma <= 0.5 else (ratio - smaller, smaller)
    return min(round(size * easy_share), num_easy), min(round(size * hard_share), size - num_easy)
