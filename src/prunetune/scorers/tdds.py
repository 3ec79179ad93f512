"""TDDS: how unevenly the predicted distribution changes within windows and over the training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.dyn_unc import windows_of
from prunetune.signals.contract import Signals

LEAST = 3  # Three epochs give two movements. A single movement always equals its mean, so its deviation would be 0.


@dataclass(frozen=True)
class TDDS(Scorer):
    """An exponential average over windows of the variation of an image's movements between epochs.

    A movement is sum_c |p' ln(p' / p)| from one epoch to the next. J epochs have J - 1 movements, and the value of a
    window is the norm of their differences from their mean.

    Source: arXiv 2311.13613 and its released script. Differs from the script: logarithms of probabilities are computed
    from logits, and nothing is added to them; weights add up to 1; each window weighs 0.9 times as much as the next
    one, while the script has 0.1, so that hardly more than the last window counts (`decay=0.1` restores it).
    Direction: larger is harder.
    Cost: one training of the proxy up to `epochs`.

    epochs: how many of the proxy's first epochs are read; null reads all (the paper chooses the number for every
    ratio). window: J >= 3. decay: weight of a window relative to the next one, in [0, 1]. With fewer epochs than J
    there is one window; at least three epochs are needed.
    """

    epochs: int | None = None
    window: int = 10
    decay: float = 0.9

    name: ClassVar[str] = "tdds"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole_number("scorer.epochs", self.epochs, least=LEAST, or_none=True)
        checks.whole_number("scorer.window", self.window, least=LEAST)
        checks.number("scorer.decay", self.decay, "[0, 1]")
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy(until=self.epochs, logits_only=True)
        epochs = range(1, min(self.epochs or proxy.num_epochs, proxy.num_epochs) + 1)
        if len(epochs) < LEAST:
            raise InputError(f"tdds needs {LEAST} epochs of the proxy, got {len(epochs)}; raise proxy.epochs")
        return proxy.statistic(
            lambda logits, _: weighted_unevenness(movements(logits), self.window, self.decay), pool.labels, epochs
        )


def movements(logits: Tensor) -> Tensor:
    """Return sum_c |p' ln(p' / p)| from each epoch to the next, [E - 1, B] float64, of logits [E, B, C].

    A class of probability 0 after the step adds 0.
    """
    before = logits[0].double().log_softmax(dim=1)  # [B, C]
    moved = []
    # Epochs are read one at a time, because a whole chunk in float64 would not fit into the cache.
    for now in logits[1:]:
        after = now.double().log_softmax(dim=1)
        probabilities = after.exp()
        terms = torch.where(probabilities > 0, probabilities * (after - before).abs(), 0)
        moved.append(terms.sum(dim=1))
        before = after
    return torch.stack(moved)


def weighted_unevenness(moved: Tensor, window: int, decay: float) -> Tensor:
    """Return the average over windows of the norm of (movement - window mean), [B] float64.

    Args:
        moved: [E - 1, B] movements between successive epochs.
        window: number of epochs of a window, which has one movement fewer.
        decay: weight of a window relative to the next one.
    """
    runs = windows_of(moved, window - 1)  # [windows, B, J - 1]
    unevenness = (runs - runs.mean(dim=2, keepdim=True)).norm(dim=2)  # [windows, B]
    weights = torch.tensor([decay**age for age in reversed(range(len(unevenness)))], dtype=torch.float64)
    return weights @ unevenness / weights.sum()
