"""Area under the margin."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.datasets.base import Pool
from prunetune.errors import InputError
from prunetune.scorers.base import Scorer
from prunetune.scorers.odds import label_and_others
from prunetune.signals import Signals


@dataclass(frozen=True)
class AUM(Scorer):
    """Minus the mean over epochs of the margin: the label's logit less the largest other logit.

    Source: arXiv 2001.10528. Logits, not probabilities; the paper's area is the margin itself, low for wrong labels.
    Direction: larger is harder.
    Cost: one training of the proxy.
    """

    name: ClassVar[str] = "aum"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    uses_proxy: ClassVar[bool] = True

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return -signals.proxy().statistic(mean_margin, pool.labels)


def mean_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over epochs of z_label - max of the others, [B] float64.

    Args:
        logits: [E, B, C].
        labels: [B] int64.

    Raises:
        InputError: there is only one class.
    """
    if logits.shape[2] < 2:
        raise InputError("aum compares two classes and the pool has one; use another scorer")
    own, others = label_and_others(logits, labels)
    return (own.double() - others.amax(dim=2).double()).mean(dim=0)
