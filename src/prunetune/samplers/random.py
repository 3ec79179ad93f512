"""The baseline: a uniform draw from each class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.samplers.base import Sampler, draw


@dataclass(frozen=True, kw_only=True)
class RandomSampler(Sampler):
    """Uniform without replacement in each class; reads no score.

    Source: the baseline of every pruning paper; class budgets as in all other samplers (DeepCore's default is global).
    Cost: nothing.
    """

    name: ClassVar[str] = "random"
    reads_scores: ClassVar[bool] = False

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        return (size,)

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return draw(torch.arange(len(scores)), budget, generator)
