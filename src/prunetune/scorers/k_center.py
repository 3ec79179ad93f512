"""k-Center Greedy: farthest-first picks, so that no image of a class is far from a picked one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.seeding import stream
from prunetune.data.pool import Pool
from prunetune.scorers.base import VARIANTS, Scorer
from prunetune.scorers.feature_source import SOURCES, read_features
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.scorers.published.features import collapsed_features
from prunetune.signals.contract import Signals

if TYPE_CHECKING:  # A scorer that is given tensors needs no network.
    from prunetune.networks.backbone import Network

BLOCK = 128  # Picks are made among this many candidates before all distances are updated.
ROWS = 16384  # Distances of at most this many images to a block are held in memory at once.
# A metric maps rows and centres [b] to their distances [rows, b], which must all be finite.
Metric = Callable[[Tensor | slice, Tensor], Tensor]


@dataclass(frozen=True)
class KCenter(Scorer):
    """Greedy order of each class in which every pick is the image farthest (Euclidean) from all earlier picks.

    Source: arXiv 1708.00489 (farthest-first, within twice the smallest possible radius). The first image of each
    class is drawn, keyed by seed and class name.
    Differs: `deepcore` is the same rule on pretrained features (its command line trains them first: pass
    features=finetuned with proxy=deepcore). `released` reads the proxy's last epoch and, for a token network, one
    number per image. DeepCore and the released code draw the first image from other streams.
    Direction: larger is picked earlier.
    Cost: the features, then O(n * picks * D) time in blocks of picks, twice the class's features in memory.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.
    # The value is "pretrained" or "finetuned". "finetuned" takes the features of the proxy at its last epoch.
    features: str = "pretrained"
    depth: float = 1.0  # This fraction of each class is ordered. It must be at least the largest ratio of any run.

    name: ClassVar[str] = "k_center"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, VARIANTS)
        checks.choice("scorer.features", self.features, SOURCES)
        check_depth(self.depth)
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """The first image of each class is drawn."""
        return True

    def check_network(self, network: Network) -> None:
        if self.variant == "released":
            network.check(network.forward_collapsed, "give one number for each image", "pass another scorer")

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        read = collapsed_features if self.variant == "released" else read_features
        features = read(signals, self.features)

        def pick(members: Tensor, count: int) -> Tensor:
            first = first_centre(pool, members, generator.initial_seed())
            return farthest_first(squared_distances(features[members]), len(members), first, count)

        return pick_scores(pool.labels, self.depth, pick)


def first_centre(pool: Pool, members: Tensor, seed: int) -> int:
    """Draw one of the members [n] of a class; the draw depends on the name and size of this class only."""
    name = pool.classes[int(pool.labels[members[0]])]
    return int(torch.randint(len(members), (1,), generator=stream("first centre", seed, name)))


def squared_distances(features: Tensor) -> Metric:
    """Return a metric that gives squared Euclidean distances between features [n, D] float32."""
    # Moving the origin to one of the points reduces cancellation. Integer features stay exact.
    shifted = features - features[0]
    squares = shifted.square().sum(dim=1)

    def metric(rows: Tensor | slice, centres: Tensor) -> Tensor:
        products = shifted[rows] @ shifted[centres].T  # [rows, b]
        return products.mul_(-2).add_(squares[rows].unsqueeze(1)).add_(squares[centres]).clamp_min_(0)

    return metric


def farthest_first(metric: Metric, size: int, first: int, count: int, block: int = BLOCK) -> Tensor:
    """Return farthest-first picks, [count] int64: each is the image whose distance to all earlier ones is largest.

    Distances to the nearest pick never grow. So picks are made among the `block` images that are farthest now, as long
    as they are farther than all other images were; then all distances are updated in one product. The order is that of
    single picks, with ties to the smaller position.

    Args:
        metric: distances between images.
        size: n, the number of images.
        first: the first pick.
        count: number of picks, at most n.
        block: images among which picks are made at once.
    """
    # [n]. Each entry is the distance to the nearest pick. It is -1 for a pick itself.
    nearest = torch.full((size,), torch.inf, dtype=torch.float64)
    order, updated = [first], 0
    while len(order) < count:
        _update(nearest, metric, torch.tensor(order[updated:]))
        updated = len(order)
        order.append(int(nearest.argmax()))
        order += _picks_in_block(nearest, metric, order[-1], count - len(order), block)
    return torch.tensor(order)


def _update(nearest: Tensor, metric: Metric, centres: Tensor) -> None:
    """Update the distances [n] to the nearest pick after new picks [b]."""
    for start in range(0, len(nearest), ROWS):
        rows = slice(start, start + ROWS)
        nearest[rows] = torch.minimum(nearest[rows], metric(rows, centres).min(dim=1).values)
    nearest[centres] = -1


def _picks_in_block(nearest: Tensor, metric: Metric, newest: int, count: int, block: int) -> list[int]:
    """Return up to `count` further picks that are certain before distances [n] are updated by the newest pick."""
    nearest = nearest.index_fill(0, torch.tensor([newest]), -1)
    values, candidates = nearest.topk(min(block + 1, len(nearest)))
    # No image outside the candidates is farther than this.
    ceiling = float(values[-1]) if len(nearest) > block else -1.0
    candidates = candidates[:block].sort().values
    between = metric(candidates, candidates).double()
    values = torch.minimum(nearest[candidates], metric(candidates, torch.tensor([newest])).squeeze(1))
    picks: list[int] = []
    while len(picks) < count:
        best = int(values.argmax())
        if values[best] <= ceiling:
            break
        picks.append(int(candidates[best]))
        values = torch.minimum(values, between[:, best])
        values[best] = -1
    return picks
