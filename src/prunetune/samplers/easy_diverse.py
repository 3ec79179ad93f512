"""Easy and diverse: the easiest images of every cluster."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler, easiest_first
from prunetune.samplers.budgets import whole_shares
from prunetune.samplers.clusters import k_means


@dataclass(frozen=True, kw_only=True)
class EasyDiverse(Sampler):
    """The easiest images of every k-means cluster of each class.

    Source: arXiv 2402.05356v1, which takes k in {8, 12, 16, 20, 24} by validation, on the features of the layer with
    the best nearest-neighbour accuracy, and does not say how much a cluster keeps. Here each class is clustered on
    the network's last features, into at most as many clusters as it keeps images; a cluster keeps in proportion to its
    size, by largest remainder, and at least one image.
    Reads: features. Cost: k-means of the class.

    num_clusters: k.
    """

    name: ClassVar[str] = "easy_diverse"
    reads_hardness: ClassVar[bool] = True
    needs: ClassVar[str] = "features"

    num_clusters: int = 8

    def __post_init__(self) -> None:
        checks.whole_number("sampler.num_clusters", self.num_clusters)
        super().__post_init__()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return easiest_of_clusters(scores, k_means(needed.float(), min(self.num_clusters, budget), generator), budget)


def easiest_of_clusters(scores: Tensor, clusters: Tensor, budget: int) -> Tensor:
    """Return the easiest images of every cluster, [budget] int64; ties to the smaller index.

    Args:
        scores: [n] float64.
        clusters: [n] int64 cluster of each image; there are at most `budget` clusters.
        budget: number of images to keep, divided in proportion to cluster size, with at least one per cluster.
    """
    sizes = {c: size for c, size in enumerate(torch.bincount(clusters).tolist()) if size}
    shares = {c: size * budget / len(scores) for c, size in sizes.items()}
    kept = []
    for cluster, count in whole_shares(sizes, shares, budget, 1).items():
        members = torch.nonzero(clusters == cluster).flatten()
        kept.append(members[easiest_first(scores[members])[:count]])
    return torch.cat(kept)
