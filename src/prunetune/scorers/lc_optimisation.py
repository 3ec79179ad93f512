"""Learning complexity by optimisation: the mean loss of an image over the epochs of a fine-tune."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.label_odds import label_losses


@dataclass(frozen=True)
class LCOptimisation(Scorer):
    """The mean over epochs of the cross-entropy, which the masks of DLC approximate.

    Source: arXiv 2402.05356, learning path t = fine-tuning time; the methods `cle` and `clh` are its easiest and its
    hardest end. Differs from the released code: it reads the evaluation view, not crops.
    Direction: larger is harder.
    Cost: one training of the proxy.
    """

    name: ClassVar[str] = "lc_optimisation"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "flexrand"
    reads_proxy: ClassVar[bool] = True

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return signals.proxy().statistic(lambda logits, labels: label_losses(logits, labels).mean(dim=0), pool.labels)
