"""EL2N: the distance of the predicted probabilities from the label, early in training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.snapshot import snapshot_statistic
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class EL2N(Scorer):
    """The mean over repeated trainings of ||p - onehot(label)|| after an early epoch.

    Source: arXiv 2107.07075, which averages at least 10 networks at about a tenth of their training; here
    epoch 5 of 50 and 3 networks (docs/method_notes.md, Baselines).
    Direction: larger is harder.
    Cost: `repeats` trainings of the proxy up to `epoch`.

    epoch: null is the proxy's last, and a shorter proxy is also read at its last. repeats: trainings that are
    averaged. The variants differ in numbers only: "released" is one network after epoch 50. DeepCore has no EL2N;
    "deepcore" is its GraNd without the factor sqrt(1 + ||h||^2) / batch length of the last layer: ten networks at the
    end of training.
    """

    epoch: int | None = 5
    repeats: int = 3

    name: ClassVar[str] = "el2n"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole_number("scorer.epoch", self.epoch, or_none=True)
        checks.whole_number("scorer.repeats", self.repeats)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        total = torch.zeros(len(pool), dtype=torch.float64)
        for repeat in range(self.repeats):
            proxy = signals.proxy(repeat, until=self.epoch)
            epoch = min(self.epoch or proxy.num_epochs, proxy.num_epochs)
            total += snapshot_statistic(proxy, error_norms, pool.labels, epoch)
        return total / self.repeats


def error_norms(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ||softmax(logits) - onehot(label)||, [B] float64 in [0, sqrt 2], of logits [B, C] and labels [B] int64."""
    probabilities = logits.double().softmax(dim=1)
    # The error at the label is 1 - p, which equals the sum of the other probabilities.
    others = probabilities.scatter(1, labels.unsqueeze(1), 0)
    return torch.cat([others, others.sum(dim=1, keepdim=True)], dim=1).norm(dim=1)
