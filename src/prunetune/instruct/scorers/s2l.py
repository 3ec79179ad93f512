"""Clusters of loss trajectories of a small proxy."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.instruct.scorers.base import TextScorer, equal_draws, in_pick_order
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.samplers.clusters import k_means


@dataclass(frozen=True, kw_only=True)
class S2L(TextScorer):
    """A drawn order in which clusters of loss trajectories take turns: equal draws from each, small clusters whole.

    Source: arXiv 2403.07384: k-means on each sample's losses at the checkpoints of a small model's fine-tuning, 100
    clusters.
    Differs from it: the small model is the scoring language model with an adapter; any smaller one can be it.
    Cost: a small fine-tuning and a forward pass per checkpoint.

    clusters: how many; a smaller corpus has as many as samples.
    """

    clusters: int = 100

    name: ClassVar[str] = "s2l"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.whole_number("text_scorer.clusters", self.clusters)

    @property
    def uses_seed(self) -> bool:
        """First centres and draws; the recorded fine-tuning is the same for all seeds."""
        return True

    def score(self, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.trajectories()  # [E, N]
        if losses.ndim != 2 or losses.shape[1] != len(signals) or not losses.isfinite().all():
            raise InputError(
                f"a trajectory must be [checkpoints, {len(signals)}] finite losses, got {list(losses.shape)} of which "
                f"{int((~losses.isfinite()).sum())} are not finite; lower sft.learning_rate"
            )
        signals.keep("trajectories", losses)
        groups = k_means(losses.T.float(), min(self.clusters, len(signals)), generator)
        return in_pick_order(equal_draws(groups, generator))

    def signals_key(self, signals: TextSignals) -> dict[str, Any]:
        """Corpus, model and how the small fine-tuning is done."""
        return {**signals.key(), "trajectory": None if signals.trajectory is None else signals.trajectory.key()}
