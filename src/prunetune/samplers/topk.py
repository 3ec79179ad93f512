"""The ends of the score: the highest or the lowest of each class."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import AUTO, Sampler, easiest_first, hardest_first


@dataclass(frozen=True, kw_only=True)
class TopK(Sampler):
    """The highest scores of each class: the hardest images, or the first picks of a pick order; ties to the smaller id.

    Source: arXiv 2402.05356, "T-H"; the rule of most pruning papers.
    Cost: a sort of the scores.
    """

    name: ClassVar[str] = "topk"

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        return ()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return hardest_first(scores)[:budget]


@dataclass(frozen=True, kw_only=True)
class TopKEasiest(Sampler):
    """The lowest scores of each class; ties to the smaller id.

    Source: arXiv 2402.05356, "T-E".
    Cost: a sort of the scores.
    """

    name: ClassVar[str] = "topk_easiest"

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        return ()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return easiest_first(scores)[:budget]


@dataclass(frozen=True, kw_only=True)
class TopKFlexible(Sampler):
    """The better of the two ends.

    Source: arXiv 2402.05356, "T-F", which takes the better one on test per data set and ratio.
    Differs from it: `end` "auto" is chosen on held-out pool images (`gamma_search`) before this class is made.
    Cost: a sort of the scores; in a run also the trainings of the search.
    """

    name: ClassVar[str] = "topk_flexible"
    in_runs: ClassVar[dict[str, Any]] = {"end": "auto"}

    end: str = "hardest"  # The value is "hardest" or "easiest". A run also allows "auto".

    def __post_init__(self) -> None:
        checks.choice("sampler.end", self.end, ("hardest", "easiest"), otherwise=AUTO)
        super().__post_init__()

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        return ()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return (hardest_first if self.end == "hardest" else easiest_first)(scores)[:budget]
