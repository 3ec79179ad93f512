"""CRAIG: images whose weighted gradients represent those of their class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, class_members, pick_scores
from prunetune.scorers.published.batches import divided_by_batches
from prunetune.selection.gradient_geometry import GradientPoints
from prunetune.selection.greedy import check_sizes, facility_location
from prunetune.selection.last_layer_gradients import proxy_gradients
from prunetune.selection.neighbours import Geometry
from prunetune.signals.contract import Signals
from prunetune.signals.proxy import Proxy

NUMBERS_AT_ONCE = 2**23  # A chunk has at most this many distances in float64 (64 MiB).
OFFSET = 1e-3  # DeepCore adds this number to every similarity.


@dataclass(frozen=True)
class Craig(Scorer):
    """Order of a greedy run of facility location on max d - d, d the distance of last-layer gradients, class by class.

    The weight of a kept image is the number of images whose nearest kept image it is: the weights of a class sum to n.

    Source: Mirzasoleiman et al. 2020 (arXiv 1906.01827), gradients of the last layer, proxy's last epoch.
    Direction: larger is picked earlier.
    Cost: the proxy; then for a class of n images n^2 (C + D) operations and, up to `max_dense` images, n^2 numbers in
    memory, beyond n (neighbours + 1); weights n k (C + D) for k kept.

    variant "deepcore" (DeepCore at commit 74ec709, one run per class): similarities max d - d + 0.001; weights 1 + the
    number of images in the cell, so that they sum to n + k; gradients are divided by the length of their batch
    (`batch_size`, within the class), which makes those of a short last batch larger.

    variant: "fixed" or "deepcore". neighbours, max_dense: see `FacilityLocation`. depth: fraction of each class that is
    ordered. batch_size: read by "deepcore" only.
    """

    variant: str = "fixed"
    neighbours: int = 64
    max_dense: int = 4096
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.
    batch_size: int = 256

    name: ClassVar[str] = "craig"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, ("fixed", "deepcore"))
        checks.whole_number("scorer.batch_size", self.batch_size)
        check_sizes(self.neighbours, self.max_dense)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy, offset = signals.proxy(), OFFSET if self.variant == "deepcore" else 0.0

        def similarity(distances: Tensor, farthest: float) -> Tensor:
            return farthest - distances + offset

        def pick(members: Tensor, count: int) -> Tensor:
            points = self._points(proxy, pool.labels, members)
            return facility_location(points, similarity, count, self.neighbours, self.max_dense)

        return pick_scores(pool.labels, self.depth, pick)

    def weights(self, pool: Pool, signals: Signals, subset: Tensor) -> Tensor:
        proxy, is_kept = signals.proxy(), torch.zeros(len(pool), dtype=torch.bool)
        is_kept[subset] = True
        weights = torch.zeros(len(pool), dtype=torch.float64)
        for members in class_members(pool.labels):
            kept = torch.nonzero(is_kept[members]).flatten()
            if len(kept):
                sizes = cell_sizes(self._points(proxy, pool.labels, members), kept, self.variant == "fixed")
                weights[members[kept]] = sizes + (0.0 if self.variant == "fixed" else 1.0)
        return weights[subset]

    def _points(self, proxy: Proxy, labels: Tensor, members: Tensor) -> GradientPoints:
        gradients = proxy_gradients(proxy, labels, positions=members)
        if self.variant == "deepcore":
            gradients = divided_by_batches(gradients, self.batch_size)
        return GradientPoints(gradients, "euclidean")


def cell_sizes(geometry: Geometry, kept: Tensor, keeps_own: bool = True) -> Tensor:
    """Return how many of n images are nearest to each kept one, [m] float64; their sum is n.

    Args:
        geometry: distances of the n images.
        kept: [m] int64 indices, ascending; of equally near ones the first gets the image.
        keeps_own: whether a kept image always belongs to its own cell, even if another has the same gradient.
    """
    owners = torch.cat(
        [
            geometry.block(rows, kept).argmin(1)
            for rows in torch.arange(geometry.size).split(max(1, NUMBERS_AT_ONCE // len(kept)))
        ]
    )
    if keeps_own:
        owners[kept] = torch.arange(len(kept))
    return torch.bincount(owners, minlength=len(kept)).double()
