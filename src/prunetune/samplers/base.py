"""The contract of a sampler, and the class budgets that all of them keep."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.errors import InputError
from prunetune.signals import Signals


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Chooses which images are kept, given their scores. Unrelated to torch's Sampler.

    min_per_class: the least that a class keeps (0 restores the sources, where a small class can vanish). rounding:
    "half_even" rounds each class by itself, "largest_remainder" meets the total round(N * ratio).
    """

    reads_hardness: ClassVar[bool] = False  # False: any order will do

    min_per_class: int = 1
    rounding: str = "half_even"

    def __post_init__(self) -> None:
        if self.rounding not in ("half_even", "largest_remainder"):
            raise InputError(f"sampler.rounding must be half_even or largest_remainder, got {self.rounding!r}")
        if isinstance(self.min_per_class, bool) or not isinstance(self.min_per_class, int) or self.min_per_class < 0:
            raise InputError(f"sampler.min_per_class must be a whole number of at least 0, got {self.min_per_class!r}")

    def select(
        self, scores: Tensor, labels: Tensor, ratio: float, generator: torch.Generator, signals: Signals | None = None
    ) -> Tensor:
        """Return the positions that are kept, [M] int64, ascending and unique.

        Args:
            scores: [N] float64, larger = harder (or picked earlier), in sample_id order; ties to the smaller.
            labels: [N] int64 class indices.
            ratio: fraction of each class that is kept, in (0, 1]. 1 keeps all and draws nothing.
            generator: for random draws.
            signals: what the sampler reads beside the scores, if it does.

        Raises:
            InputError: the ratio is outside (0, 1], or scores and labels do not fit.
        """
        check_ratio(ratio)
        check_shapes(scores, labels)
        if ratio == 1:
            return torch.arange(len(labels))
        budgets = class_budgets(labels, ratio, self.min_per_class, self.rounding)
        kept = []
        for label, budget in budgets.items():
            members = torch.nonzero(labels == label).flatten()  # [n], ascending
            if 0 < budget < len(members):
                members = members[self.select_in_class(scores[members].double(), budget, ratio, generator)]
            kept.append(members[: budget if budget == 0 else len(members)])
        return torch.cat(kept).sort().values

    @abstractmethod
    def select_in_class(self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator) -> Tensor:
        """Return indices into one class's scores [n] float64: `budget` of them, 0 < budget < n, in any order."""


def check_ratio(ratio: float) -> None:
    """Refuse a ratio outside (0, 1]."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise InputError(f"ratio is the fraction kept and must be in (0, 1], got {ratio}")


def check_shapes(scores: Tensor, labels: Tensor) -> None:
    """Refuse scores that are not one number for each label."""
    if scores.shape != labels.shape or scores.ndim != 1:
        raise InputError(
            f"scores and labels must be [N] and as long, got {list(scores.shape)} and {list(labels.shape)}"
        )


def class_budgets(labels: Tensor, ratio: float, min_per_class: int = 1, rounding: str = "half_even") -> dict[int, int]:
    """Return how many images each class keeps, for the classes that occur in labels [N].

    Source: method.md section 1. The product n * ratio is a Python float (a float32 product rounds otherwise, e.g. for
    n = 45, ratio = 0.7), rounded half to even, then at least min_per_class and at most n.
    """
    sizes = {int(label): int(count) for label, count in enumerate(torch.bincount(labels)) if count}
    if rounding == "largest_remainder":
        return _largest_remainder(sizes, ratio, min_per_class)
    return {label: min(size, max(round(size * ratio), min_per_class)) for label, size in sizes.items()}


def _largest_remainder(sizes: dict[int, int], ratio: float, min_per_class: int) -> dict[int, int]:
    """Meet the total round(N * ratio): floors, then the largest remainders; the largest budgets pay the minimum."""
    shares = {label: size * ratio for label, size in sizes.items()}
    budgets = {label: int(share) for label, share in shares.items()}
    total = round(sum(sizes.values()) * ratio)
    by_remainder = sorted(sizes, key=lambda label: (budgets[label] - shares[label], label))
    for label in by_remainder[: total - sum(budgets.values())]:
        budgets[label] += 1
    least = {label: min(size, min_per_class) for label, size in sizes.items()}
    budgets = {label: max(budget, least[label]) for label, budget in budgets.items()}
    while sum(budgets.values()) > total:
        payers = [label for label in budgets if budgets[label] > least[label]]
        if not payers:
            break
        budgets[max(payers, key=lambda label: (budgets[label], -label))] -= 1
    return budgets


def easiest_first(scores: Tensor) -> Tensor:
    """Return the order of [n] scores from the smallest; ties keep their order, that of the sample_ids."""
    return scores.argsort(stable=True)


def draw(part: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of the entries of part [n], uniformly and without replacement."""
    return part[torch.randperm(len(part), generator=generator)[:count]]
