"""DUAL: uncertainty times difficulty, early in training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.dyn_unc import windows_of
from prunetune.signals.contract import Signals
from prunetune.signals.label_odds import label_log_odds


@dataclass(frozen=True)
class DUAL(Scorer):
    """The mean over windows of J epochs of the deviation of the label's probability times its mean distance from 1.

    Source: arXiv 2502.06905, 30 of 200 epochs and J = 10. The paper draws with weights that depend on the ratio, as the
    sampler `beta` does; its results without that draw are those of `topk` (method=dual).
    Direction: larger is harder.
    Cost: one training of the proxy up to `epochs`.

    epochs: how many of the proxy's first epochs are read; of a shorter proxy all. It must have two. window: J >= 2;
    with fewer epochs there is one window.
    """

    epochs: int = 30
    window: int = 10

    name: ClassVar[str] = "dual"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "beta"
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole_number("scorer.epochs", self.epochs, least=2)
        checks.whole_number("scorer.window", self.window, least=2)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy(until=self.epochs, logits_only=True)
        epochs = range(1, min(self.epochs, proxy.num_epochs) + 1)
        return proxy.statistic(
            lambda logits, labels: uncertain_and_hard(label_log_odds(logits, labels), self.window), pool.labels, epochs
        )


def uncertain_and_hard(log_odds: Tensor, window: int) -> Tensor:
    """Return the mean over windows of std(p) (1 - mean(p)), [B] float64, of the label's log odds [E, B] float64.

    1 - p is computed from the odds, so that it does not round to 0.
    """
    # [windows, B, J]. This is 1 - p, whose standard deviation equals that of p.
    missing = windows_of(log_odds.neg().sigmoid(), window)
    return (missing.std(dim=2) * missing.mean(dim=2)).mean(dim=0)
