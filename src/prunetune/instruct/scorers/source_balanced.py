"""Random selection with equally many samples from each source of a corpus."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.instruct.scorers.base import equal_draws, in_pick_order
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class SourceBalancedRandom(Scorer):
    """A random order in which the sources take turns; small sources are used up first.

    Source: arXiv 2410.09335.
    Cost: nothing.
    """

    name: ClassVar[str] = "source_balanced_random"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("sources",)

    @property
    def uses_seed(self) -> bool:
        """True, since the order is random."""
        return True

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        sources = signals.encoded.sources
        index = {source: number for number, source in enumerate(sorted(set(sources)))}
        groups = torch.tensor([index[source] for source in sources])
        return in_pick_order(equal_draws(groups, generator))
