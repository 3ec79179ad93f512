"""The longest responses."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class Longest(Scorer):
    """The number of response tokens.

    Source: arXiv 2402.04833.
    Cost: none, since the tokens are known.
    """

    name: ClassVar[str] = "longest"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        return signals.encoded.response_lengths.double()
