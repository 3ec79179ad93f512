"""The contract of a text scorer: one number per sample, independent of ratio and sampler."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.instruct.scorers.signals import TextSignals


@dataclass(frozen=True, kw_only=True)
class TextScorer(ABC):
    """Computes [N] scores. Subclasses are frozen dataclasses of hyperparameters that learn nothing.

    name: the default label. higher_means: "harder", "picked earlier" or "nothing". own_sampler: what `sampler=auto`
    takes. version: raised when scores change. uses_seed: whether they depend on the seed.
    """

    name: ClassVar[str]
    higher_means: ClassVar[str]
    version: ClassVar[int]
    own_sampler: ClassVar[str] = "topk"

    @property
    def uses_seed(self) -> bool:
        """Whether another seed gives other scores."""
        return False

    @abstractmethod
    def score(self, signals: TextSignals, generator: torch.Generator) -> Tensor:
        """Return [N] float64 CPU, finite, in pool order."""

    def key(self) -> dict[str, Any]:
        """Return what stored scores depend on beside the corpus, the model and the seed."""
        return {"scorer": type(self).__name__, "version": self.version, **dataclasses.asdict(self)}

    def signals_key(self, signals: TextSignals) -> dict[str, Any]:
        """Return what they depend on in the signals: corpus and model, unless a scorer reads less or more."""
        return signals.key()


def in_pick_order(order: Tensor) -> Tensor:
    """Return the scores of samples that are picked in this order, [N] float64: N for the first, 1 for the last."""
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[order] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return scores


def equal_draws(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Return an order of [N] samples whose every prefix has as many of each group as of any other, or the group whole.

    Each group is shuffled, and the groups take turns: their first samples, then their second, and so on, in a drawn
    order each time. So it is for any budget what equal draws are: small groups whole, the rest shared equally.

    Args:
        groups: [N] int64, the group of each sample.
        generator: of the draws.
    """
    shuffled = torch.randperm(len(groups), generator=generator)
    by_group = shuffled[groups[shuffled].argsort(stable=True)]
    sizes = torch.bincount(groups)
    starts = sizes.cumsum(0) - sizes
    rounds = torch.empty_like(by_group)
    rounds[by_group] = torch.arange(len(groups)) - starts[groups[by_group]]  # the turn at which each sample comes
    again = torch.randperm(len(groups), generator=generator)
    return again[rounds[again].argsort(stable=True)]
