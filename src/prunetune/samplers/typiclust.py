"""TypiClust: the most typical image of each of as many clusters as images are kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.neighbours import nearest
from prunetune.samplers.base import Sampler, check_count, unit
from prunetune.samplers.clusters import first_of_clusters, k_means


@dataclass(frozen=True, kw_only=True)
class TypiClust(Sampler):
    """k-means into B clusters; of each the image that is nearest to its neighbours. Reads no score.

    Source: arXiv 2202.02794: typicality is 1 / (mean distance to the 20 nearest neighbours in the cluster).
    Differs: a class is clustered by itself, since labels are known; there are always B clusters (the paper stops at
    500) and every one gives an image (avihu111/TypiClust@4097a71 passes over those of up to 5 images; at a ratio of .5
    nearly all are so small); a cluster of n images has min(20, n - 1) neighbours (there min(20, n / 2)); features are
    the pretrained network's, of unit length.
    Reads: features. Cost: k-means of the class, n B D operations a round; where n B is beyond 8 million it starts from
    drawn images and takes at most 10 rounds.

    neighbours: that typicality is measured by; a smaller cluster has fewer.
    """

    reads_scores: ClassVar[bool] = False
    needs: ClassVar[str] = "features"

    neighbours: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("neighbours", self.neighbours)

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        features = unit(needed)
        clusters = k_means(features, budget, generator)
        return first_of_clusters(clusters, atypicality(features, clusters, self.neighbours), budget)


def atypicality(features: Tensor, clusters: Tensor, neighbours: int) -> Tensor:
    """Return each image's mean distance to its nearest neighbours in its cluster, [n] float64; 0 for one alone.

    Args:
        features: [n, D] float32.
        clusters: [n] int64.
        neighbours: how many.
    """
    means = torch.zeros(len(features), dtype=torch.float64)
    for members in clusters.argsort(stable=True).split(torch.bincount(clusters).tolist()):
        if len(members) > 1:
            means[members] = nearest(features[members], neighbours).distances.double().mean(dim=1)
    return means
