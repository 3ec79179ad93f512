"""Scorers that score nothing."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer


@dataclass(frozen=True)
class Random(Scorer):
    """The same score for every sample, image or text; its own sampler draws at random.

    Source: the baseline of every pruning paper.
    Cost: nothing.
    """

    name: ClassVar[str] = "random"
    higher_means: ClassVar[str] = "nothing"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "random"
    reads: ClassVar[tuple[str, ...]] = ()

    def score(self, pool: Pool, signals: Any, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(pool), dtype=torch.float64)


@dataclass(frozen=True)
class NoScore(Scorer):
    """The same score for every image, for samplers that read features or losses and no score.

    Source: none; it stands beside samplers such as TypiClust, ProbCover and ActiveFT.
    Cost: nothing.
    """

    name: ClassVar[str] = "none"
    higher_means: ClassVar[str] = "nothing"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "random"
    reads: ClassVar[tuple[str, ...]] = ()

    def score(self, pool: Pool, signals: Any, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(pool), dtype=torch.float64)
