"""Scorers that read no model and no text."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.instruct.scorers.base import TextScorer, equal_draws, in_pick_order
from prunetune.instruct.scorers.signals import TextSignals


@dataclass(frozen=True, kw_only=True)
class Random(TextScorer):
    """The same score for every sample; its own sampler draws at random.

    Source: the baseline of every pruning paper.
    Cost: nothing.
    """

    name: ClassVar[str] = "random"
    higher_means: ClassVar[str] = "nothing"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "random"

    def score(self, signals: TextSignals, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(signals), dtype=torch.float64)

    def signals_key(self, signals: TextSignals) -> dict[str, Any]:
        """The samples alone."""
        return {"corpus": signals.encoded.fingerprint}


@dataclass(frozen=True, kw_only=True)
class SourceBalancedRandom(TextScorer):
    """A drawn order in which the sources take turns: any budget has equal draws of each, small sources whole.

    Source: arXiv 2410.09335.
    Cost: nothing.
    """

    name: ClassVar[str] = "source_balanced_random"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    @property
    def uses_seed(self) -> bool:
        """The order is drawn."""
        return True

    def score(self, signals: TextSignals, generator: torch.Generator) -> Tensor:
        sources = signals.encoded.sources
        index = {source: number for number, source in enumerate(sorted(set(sources)))}
        groups = torch.tensor([index[source] for source in sources])
        return in_pick_order(equal_draws(groups, generator))

    def signals_key(self, signals: TextSignals) -> dict[str, Any]:
        """The samples and their sources."""
        return {"corpus": signals.encoded.fingerprint, "sources": list(signals.encoded.sources)}
