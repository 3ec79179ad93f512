"""Dyn-Unc: the variation of the label's probability within short windows of the training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.label_odds import label_probabilities


@dataclass(frozen=True)
class DynUnc(Scorer):
    """The mean over windows of J successive epochs of the standard deviation of the label's probability.

    Source: arXiv 2306.05175. Every window of J epochs counts, and its variance is divided by J - 1; the proxy's E
    epochs take the place of the whole training.
    Direction: larger is harder.
    Cost: one training of the proxy.

    window: J >= 2; a proxy with fewer epochs is one window. It must have two.
    """

    window: int = 10

    name: ClassVar[str] = "dyn_unc"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole_number("scorer.window", self.window, least=2)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return signals.proxy().statistic(
            lambda logits, labels: mean_deviation(label_probabilities(logits, labels), self.window), pool.labels
        )


def mean_deviation(probabilities: Tensor, window: int) -> Tensor:
    """Return the mean over windows of the sample standard deviation, [B] float64, of probabilities [E, B]."""
    return windows_of(probabilities, window).std(dim=2).mean(dim=0)


def windows_of(values: Tensor, window: int, least: int = 2) -> Tensor:
    """Return every run of `window` successive epochs of values [E, ...], [E - window + 1, ..., window].

    No values are copied. If there are fewer epochs, they form one window.

    Raises:
        InputError: there are fewer than `least` epochs.
    """
    num_epochs = len(values)
    if num_epochs < least:
        raise InputError(
            f"the score reads how predictions move and needs {least} epochs of the proxy, got {num_epochs}; "
            "raise proxy.epochs"
        )
    return values.unfold(0, min(window, num_epochs), 1)
