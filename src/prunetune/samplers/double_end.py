"""Double-end pruning: neither the hardest nor the easiest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import AUTO, Sampler, hardest_first
from prunetune.samplers.ccs import num_cut


@dataclass(frozen=True, kw_only=True)
class DoubleEnd(Sampler):
    """The hardest images of each class except the very hardest; ties to the smaller id.

    Source: arXiv 2409.04273. Differs: ranks are those of each class, and the cut-off is capped as in CCS.
    Cost: a sort of the scores.

    beta: fraction of a class, its hardest, that is skipped; in a run also auto, chosen on held-out pool images.
    """

    name: ClassVar[str] = "double_end"
    reads_hardness: ClassVar[bool] = True

    beta: float = 0.2

    def __post_init__(self) -> None:
        checks.number("sampler.beta", self.beta, "[0, 1)", otherwise=AUTO)
        super().__post_init__()

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...]:
        return ()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        skipped = num_cut(len(scores), budget, self.beta)
        return hardest_first(scores)[skipped : skipped + budget]
