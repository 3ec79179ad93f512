"""Area under the margin."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.label_odds import label_and_others


@dataclass(frozen=True)
class AUM(Scorer):
    """Minus the mean over epochs of the margin: the label's logit less the largest other logit.

    Source: arXiv 2001.10528; the paper's area is the margin itself, low for wrong labels.
    Direction: larger is harder.
    Cost: one training of the proxy.

    of: margins of "logits" or of "probabilities"; the code of CCS (arXiv 2210.15809, at b37f166) uses the latter.
    """

    of: str = "logits"

    name: ClassVar[str] = "aum"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.of", self.of, ("logits", "probabilities"))
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        margin = mean_margin if self.of == "logits" else mean_probability_margin
        return -signals.proxy().statistic(margin, pool.labels)


def mean_probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over epochs of p_label - max of the others, like `mean_margin` for probabilities."""
    return mean_margin(logits.double().softmax(dim=2), labels)


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
