"""Facility location on pretrained features: a rival of DLC that also needs no training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.selection.greedy import check_sizes, facility_location
from prunetune.selection.neighbours import Points
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class FacilityLocation(Scorer):
    """Order of a greedy run on sum_i max_{j kept} max(0, cosine(i, j)) of pretrained features, class by class.

    A good set holds, for every image, a similar kept image. The greedy set reaches at least 1 - 1/e of the best value.

    Source: facility location (Nemhauser et al. 1978) on a graph of nearest neighbours (Wei et al. 2015, "Submodularity
    in data subset selection and active learning", ICML).
    Direction: larger is picked earlier.
    Cost: one forward pass over the pool; then for a class of n images n^2 D operations and, up to `max_dense` images,
    n^2 numbers in memory, beyond n (neighbours + 1).

    neighbours: how many of them can cover an image, in classes of more than max_dense images; see
    `greedy.facility_location`. depth: fraction of each class that is ordered.
    """

    neighbours: int = 64
    max_dense: int = 4096
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.

    name: ClassVar[str] = "facility_location"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_sizes(self.neighbours, self.max_dense)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        features = signals.features()

        def pick(members: Tensor, count: int) -> Tensor:
            points = Points(features[members], "cosine")
            return facility_location(points, cosine_similarity, count, self.neighbours, self.max_dense)

        return pick_scores(pool.labels, self.depth, pick)


def cosine_similarity(distances: Tensor, farthest: float) -> Tensor:
    """Return cosines from distances 1 - cosine; the negative ones count as 0 in facility location."""
    return 1 - distances
