"""TypiClust: the most typical image of each of as many clusters as images are kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler, unit
from prunetune.samplers.clusters import first_of_clusters, k_means
from prunetune.selection.neighbours import nearest

# The released code makes at most 500 clusters of a class and skips clusters of at most 5 images.
MOST_CLUSTERS, SMALL = 500, 5


@dataclass(frozen=True, kw_only=True)
class TypiClust(Sampler):
    """The image of each of B k-means clusters that is nearest to its neighbours. Reads no score.

    Source: arXiv 2202.02794: typicality is 1 / (mean distance to the 20 nearest neighbours in the cluster).
    Differs: a class is clustered by itself, since labels are known; there are always B clusters (its code stops at
    500) and every one gives an image; features are the pretrained network's, of unit length.
    Reads: features. Cost: k-means of the class, n B D operations a round; if n B is above 8 million, it starts from
    drawn images and takes at most 10 rounds.

    neighbours: how many of them measure typicality; a smaller cluster has fewer.
    """

    name: ClassVar[str] = "typiclust"
    reads_scores: ClassVar[bool] = False
    needs: ClassVar[str] = "features"

    neighbours: int = 20

    def __post_init__(self) -> None:
        checks.whole_number("sampler.neighbours", self.neighbours)
        super().__post_init__()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        features = unit(needed)
        clusters = k_means(features, budget, generator)
        return first_of_clusters(clusters, atypicality(features, clusters, self.neighbours), budget)


@dataclass(frozen=True, kw_only=True)
class TypiClustReleased(TypiClust):
    """TypiClust as its code runs it: only large clusters give images, and more than one each if needed.

    Source: avihu111/TypiClust@4097a71. A class has at most 500 clusters, and those of up to 5 images are skipped. The
    others give their most typical image in turn, the largest first, in repeated rounds; typicality uses the squared
    distances to min(neighbours, n / 2) of the n images that are left in the cluster. Differs: each class is clustered
    by itself, features have unit length, and small clusters follow when the large ones are used up (the code fails).
    Reads: features. Cost: as TypiClust, and a neighbour search of a cluster for every pick.
    """

    name: ClassVar[str] = "typiclust_released"

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        features = unit(needed)
        return in_turn(features, k_means(features, min(budget, MOST_CLUSTERS), generator), self.neighbours, budget)


def in_turn(features: Tensor, clusters: Tensor, neighbours: int, count: int) -> Tensor:
    """Return the picks of the released code, [count] int64, first pick first; ties to the smaller index.

    Args:
        features: [n, D] float32.
        clusters: [n] int64.
        neighbours: number of nearest neighbours, at most half of the images that are left in a cluster.
        count: number of picks, at most n.
    """
    sizes = torch.bincount(clusters)
    left = dict(enumerate(clusters.argsort(stable=True).split(sizes.tolist())))
    order = (-sizes).argsort(stable=True).tolist()
    picks: list[int] = []
    for group in ([c for c in order if sizes[c] > SMALL], [c for c in order if sizes[c] <= SMALL]):
        while len(picks) < count and any(len(left[c]) for c in group):
            for cluster in [c for c in group if len(left[c])][: count - len(picks)]:
                members = left[cluster]
                place = _most_typical(features[members], neighbours)
                picks.append(int(members[place]))
                left[cluster] = torch.cat([members[:place], members[place + 1 :]])
    return torch.tensor(picks, dtype=torch.int64)


def _most_typical(features: Tensor, neighbours: int) -> int:
    """Return the place in [n, D] of the image that is nearest to min(neighbours, n / 2) others, by squared distance."""
    few = min(neighbours, len(features) // 2)
    return int(nearest(features, few).distances.double().square().mean(dim=1).argmin()) if few else 0


def atypicality(features: Tensor, clusters: Tensor, neighbours: int) -> Tensor:
    """Return each image's mean distance to its nearest neighbours in its cluster, [n] float64; 0 if it is alone.

    Args:
        features: [n, D] float32.
        clusters: [n] int64.
        neighbours: number of nearest neighbours.
    """
    means = torch.zeros(len(features), dtype=torch.float64)
    for members in clusters.argsort(stable=True).split(torch.bincount(clusters).tolist()):
        if len(members) > 1:
            means[members] = nearest(features[members], neighbours).distances.double().mean(dim=1)
    return means
