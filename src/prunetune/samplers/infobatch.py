"""InfoBatch: passes over the pool that leave out half of the images with a small loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.dynamic import DynamicSampler
from prunetune.training.sample_order import ThinnedPasses


@dataclass(frozen=True, kw_only=True)
class InfoBatch(DynamicSampler):
    """Passes that leave out a random half of the images with a last loss below the mean and double the other half.

    Source: Qin et al. 2024, "InfoBatch" (arXiv 2303.04947). A loss is the one that an image had when it was last
    trained on; the mean is that of all images shown so far, and an image not shown yet is in every pass.
    Differs from it: the compute is given. M images are shown per epoch and M * E in all, for any length of a pass, and
    the learning rate follows the images shown. The last `whole_end` of them come from whole passes, the first of which
    interrupts the thinned pass before it. Images are left out only after the first N. So if M * E is at most N, no
    image is shown twice: the training is one pass over a random part of the pool.
    Cost: nothing beside the training.

    dropped: fraction of the easy images that a pass leaves out; the other easy ones weigh 1 / (1 - dropped). whole_end:
    fraction of the training, at its end, whose passes are whole.
    """

    name: ClassVar[str] = "infobatch"

    dropped: float = 0.5
    whole_end: float = 0.125

    def __post_init__(self) -> None:
        checks.number("sampler.dropped", self.dropped, "[0, 1)")
        checks.number("sampler.whole_end", self.whole_end, "[0, 1]")
        super().__post_init__()

    def sample_order(self, labels: Tensor, ratio: float, epochs: int) -> ThinnedPasses:
        size = self.images_per_epoch(labels, ratio)
        return ThinnedPasses(len(labels), size, self.dropped, round(size * epochs * (1 - self.whole_end)))
