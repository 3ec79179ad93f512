"""S2L: clusters of the loss trajectories of a small model."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.scorers.base import in_pick_order
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.samplers.clusters import k_means
from prunetune.scorers.base import Scorer

SMALL = 2  # Clusters of at most so many samples are used last.


@dataclass(frozen=True, kw_only=True)
class S2L(Scorer):
    """A random order in which clusters of loss trajectories take turns; small clusters are used up first.

    Source: arXiv 2403.07384 and its code: k-means on each sample's losses at the checkpoints of a small model's
    fine-tuning, 100 clusters. As in the code, the clusters share every budget equally, a remainder goes to the larger
    ones, and the samples of clusters of one or two come last.
    Differs from the code: the small model is the scoring language model with an adapter; it can be any smaller model.
    The code first shares a budget among the sources of the corpus and clusters each source by itself, and k-means is
    that of faiss. strata=source shares a budget among the sources in proportion to their sizes.
    Cost: a small fine-tuning and a forward pass per checkpoint.

    clusters: the number of clusters; at most the number of samples.
    """

    clusters: int = 100

    name: ClassVar[str] = "s2l"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 2
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
        return in_pick_order(shared_by_clusters(groups, generator))


def shared_by_clusters(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random order of [N] samples such that every prefix is shared by the clusters as in S2L's code.

    Each cluster is shuffled. Then the clusters take turns, the largest first in every round. So a prefix of M samples
    has M / K of each cluster, whole clusters if they are smaller, and a remainder falls to the larger clusters; of two
    equally large ones, to the one with the larger number. Clusters of at most `SMALL` samples come last.

    Args:
        groups: [N] int64, the cluster of each sample.
        generator: the source of the random draws.
    """
    shuffled = torch.randperm(len(groups), generator=generator)
    own, sizes = groups[shuffled], torch.bincount(groups)
    by_group = own.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    rounds = torch.empty_like(by_group)
    rounds[by_group] = torch.arange(len(groups)) - starts[own[by_group]]  # The round in which a sample has its turn.
    rank = torch.empty_like(sizes)  # The largest cluster has rank 0.
    rank[sizes.argsort(stable=True).flip(0)] = torch.arange(len(sizes))
    is_last = sizes[own] <= SMALL
    turn = torch.where(is_last, torch.iinfo(torch.int64).max, rounds * len(sizes) + rank[own])
    return shuffled[turn.argsort(stable=True)]
