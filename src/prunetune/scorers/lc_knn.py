"""Learning complexity of the paper's first version: nearest neighbours at several layers of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.selection.neighbours import Neighbours, nearest
from prunetune.signals.contract import Signals

if TYPE_CHECKING:  # A scorer that is given tensors needs no network.
    from prunetune.networks.backbone import Network

SMALLEST_DISTANCE = 1e-6
ROWS = 16384  # At most this many images are processed at once.


@dataclass(frozen=True)
class LCKnn(Scorer):
    """1 - the share of an image's label among its nearest images, by inverse distance, averaged over layers.

    Source: arXiv 2402.05356v1, whose score is the share itself, high = easy. It does not say which layers, how they
    are pooled, whether an image is its own neighbour, or how many neighbours (chosen on validation): here the last
    four stages of a convolutional network or blocks 1/4 to 4/4 of a transformer, map average or class token (where
    timm shows it for every block), without the image itself, 20 neighbours in the whole pool, distances of at least
    1e-6. v1 keeps the easiest images of every cluster, as the sampler `easy_diverse` does.
    Direction: larger is harder.
    Cost: one forward pass over the pool and the neighbour search in each layer, exact up to 100,000 images.

    neighbours: how many, at most all other images. Features that came as tensors count as one layer.
    """

    neighbours: int = 20

    name: ClassVar[str] = "lc_knn"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "easy_diverse"
    needs_labels: ClassVar[bool] = True
    reads_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole_number("scorer.neighbours", self.neighbours)
        super().__post_init__()

    def check_network(self, network: Network) -> None:
        network.check(network.forward_layers, "show the outputs of its layers", "use another backbone or scorer")

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        total, num_layers = torch.zeros(len(pool), dtype=torch.float64), 0
        for features in signals.layer_features():
            total += other_label_share(nearest(features, self.neighbours), pool.labels)
            num_layers += 1
        return total / num_layers


def other_label_share(found: Neighbours, labels: Tensor) -> Tensor:
    """Return the share of other labels among neighbours, each weighing 1 / distance, [N] float64 in [0, 1].

    Args:
        found: the neighbours of N images, at least one neighbour for each image.
        labels: [N] int64.
    """
    shares = torch.empty(len(labels), dtype=torch.float64)
    for rows in torch.arange(len(labels)).split(ROWS):
        weights = 1 / found.distances[rows].double().clamp_min(SMALLEST_DISTANCE)  # [n, k]
        others = labels[found.indices[rows]] != labels[rows].unsqueeze(1)
        shares[rows] = (weights * others).sum(dim=1) / weights.sum(dim=1)
    return shares
