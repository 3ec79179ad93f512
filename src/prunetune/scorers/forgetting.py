"""Forgetting events: how often an image goes from right to wrong during training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import VARIANTS, Scorer
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class Forgetting(Scorer):
    """How often an image is right after one epoch and wrong after the next; one that is never right scores E.

    Source: arXiv 1812.05159. The proxy decides which predictions are recorded: by default those at the end of an epoch,
    with `proxy.record=online` those of training batches just before their updates, as in the paper.
    Direction: larger is harder.
    Cost: one training of the proxy.

    variants "deepcore" and "released" give 0 to an image that is never right, so that it looks easiest. DeepCore
    records online in training mode: run it with proxy=deepcore. Both break ties by a reversed unstable sort, which
    cannot be reproduced: here ties go to the smaller sample_id.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.

    name: ClassVar[str] = "forgetting"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, VARIANTS)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()
        never_learned = proxy.num_epochs if self.variant == "fixed" else 0
        return proxy.statistic(
            lambda logits, labels: forgetting_events(logits.argmax(dim=2) == labels, never_learned), pool.labels
        )


def forgetting_events(is_right: Tensor, never_learned: int) -> Tensor:
    """Return the number of changes from right to wrong, [B] int64.

    Args:
        is_right: [E, B] bool.
        never_learned: the value returned for an image that is wrong at every epoch.
    """
    events = (is_right[:-1] & ~is_right[1:]).sum(dim=0)
    return events.where(is_right.any(dim=0), torch.tensor(never_learned))
