"""RS2: another random part of the pool in every epoch."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunetune.samplers.dynamic import DynamicSampler
from prunetune.training.sample_order import Slices


@dataclass(frozen=True, kw_only=True)
class RS2(DynamicSampler):
    """In each epoch the next slice of a permutation of the whole pool, shuffled anew when it is exhausted.

    Source: Okanovic et al. 2024, "Repeated Random Sampling" (arXiv 2305.18424), without replacement: over the pool, not
    class by class. At ratio 1 it is ordinary training.
    Choice: an epoch that lies across two permutations shows no image twice.
    Cost: nothing beside the training.
    """

    name: ClassVar[str] = "rs2"

    def sample_order(self, labels: Tensor, ratio: float, epochs: int) -> Slices:
        return Slices(len(labels), self.images_per_epoch(labels, ratio))
