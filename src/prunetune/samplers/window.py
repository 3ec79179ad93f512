"""The central window of the ranking."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.samplers.base import Sampler, hardest_first


@dataclass(frozen=True, kw_only=True)
class Window(Sampler):
    """The images in the middle of each class's ranking; if no window is central, the harder one is taken.

    Source: Xia et al. 2023, "Moderate Coreset" (ICLR), which ranks the distance to the class median.
    Differs: the original ranks the pool at once, here each class is ranked.
    Cost: a sort of the scores.
    """

    name: ClassVar[str] = "window"
    reads_hardness: ClassVar[bool] = True

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        return ()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return window(scores, budget, 0.5)


def window(scores: Tensor, budget: int, start: float) -> Tensor:
    """Return the indices of `budget` successive images in the ranking of scores [n] from the hardest, [budget] int64.

    Args:
        scores: [n] float64.
        budget: B, the number of images to keep.
        start: position of the window in [0, 1]: 0 takes the hardest images, 1 the easiest, .5 the central ones.
    """
    # A start halfway between two places is rounded to the harder side.
    first = round((len(scores) - budget) * start - 1e-9)
    return hardest_first(scores)[first : first + budget]
