"""Herding: the images of a class whose running mean stays closest to the mean of the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import VARIANTS, Scorer
from prunetune.scorers.feature_source import SOURCES, read_features
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.scorers.published.features import collapsed_features
from prunetune.signals.contract import Signals

if TYPE_CHECKING:  # A scorer that is given tensors needs no network.
    from prunetune.networks.backbone import Network


@dataclass(frozen=True)
class Herding(Scorer):
    """Greedy order of each class that keeps the sum of the picked features at (number picked) * (mean of the class).

    Source: Welling 2009; super-samples from kernel herding, arXiv 1203.3472. Pick i+1 is the image closest to
    t = (i + 1) * mean - sum of the picked ones.
    Differs: `deepcore` and `released` take the image farthest from t, which is the opposite of herding.
    Features: `pretrained`, or `finetuned`: the proxy's at its last epoch. DeepCore trains a ResNet-18 of its own
    (run with proxy=deepcore). The released selector reads the last epoch's features and, for a token network, one
    number per image (the mean of its tokens and channels), which `released` does too. For convolutional networks
    `deepcore` and `released` agree.
    Direction: larger is picked earlier.
    Cost: the features, then one product of the class's features with a vector per pick: O(n * picks * D) time,
    three times the class's features in memory. For large classes, lower `depth` to the largest ratio that is needed.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.
    # The value is "pretrained" or "finetuned". "finetuned" takes the features of the proxy at its last epoch.
    features: str = "pretrained"
    depth: float = 1.0  # This fraction of each class is ordered. It must be at least the largest ratio of any run.

    name: ClassVar[str] = "herding"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, VARIANTS)
        checks.choice("scorer.features", self.features, SOURCES)
        check_depth(self.depth)
        super().__post_init__()

    def check_network(self, network: Network) -> None:
        if self.variant == "released":
            network.check(network.forward_collapsed, "give one number for each image", "pass another scorer")

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        read = collapsed_features if self.variant == "released" else read_features
        features = read(signals, self.features)
        is_farthest = self.variant != "fixed"
        return pick_scores(pool.labels, self.depth, lambda members, count: herd(features[members], count, is_farthest))


def herd(features: Tensor, count: int, is_farthest: bool = False, mean: Tensor | None = None) -> Tensor:
    """Return the order in which herding picks images of one class, [count] int64.

    Args:
        features: [n, D] float32.
        count: number of picks, at most n.
        is_farthest: whether to pick the image farthest from the target instead of the closest.
        mean: [D] float64, the mean that the picks approach; by default that of the features.
    """
    mean = features.mean(dim=0, dtype=torch.float64) if mean is None else mean
    centred = (features - mean.float()).T.contiguous()  # [D, n]. The product with a vector is fastest in this layout.
    sign = -1 if is_farthest else 1
    costs = sign * centred.square().sum(dim=0, dtype=torch.float64)  # [n]. The cost of a picked image is infinite.
    lag = torch.zeros_like(mean)  # [D]. This is target - mean, which stays small for any number of picks.
    order = torch.empty(count, dtype=torch.int64)
    for i in range(count):
        products = torch.mv(centred.T, lag.float())  # [n]
        order[i] = pick = int(torch.add(costs, products, alpha=-2 * sign).argmin())
        costs[pick] = torch.inf
        lag += mean - features[pick]
    return order
