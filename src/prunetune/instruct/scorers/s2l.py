"""S2L: clusters of the loss trajectories of a small model."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.scorers.base import equal_draws, in_pick_order
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.samplers.clusters import k_means
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class S2L(Scorer):
    """A random order in which clusters of loss trajectories take turns; small clusters are used up first.

    Source: arXiv 2403.07384: k-means on each sample's losses at the checkpoints of a small model's fine-tuning, 100
    clusters.
    Differs from it: the small model is the scoring language model with an adapter; it can be any smaller model.
    Cost: a small fine-tuning and a forward pass per checkpoint.

    clusters: the number of clusters; at most the number of samples.
    """

    clusters: int = 100

    name: ClassVar[str] = "s2l"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("network", "trajectory")

    def __post_init__(self) -> None:
        checks.whole_number("text_scorer.clusters", self.clusters)
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """True: the seed determines first centres and draws. All seeds share the recorded fine-tuning."""
        return True

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.trajectories()  # [E, N]
        if losses.ndim != 2 or losses.shape[1] != len(pool) or not losses.isfinite().all():
            raise InputError(
                f"a trajectory must be [checkpoints, {len(pool)}] finite losses, got {list(losses.shape)} of which "
                f"{int((~losses.isfinite()).sum())} are not finite; lower sft.learning_rate"
            )
        signals.keep("trajectories", losses)
        groups = k_means(losses.T.float(), min(self.clusters, len(pool)), generator)
        return in_pick_order(equal_draws(groups, generator))
