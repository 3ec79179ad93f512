"""k-medoids of pretrained features: images with the smallest sum of distances to all images of their class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.selection.greedy import check_sizes, facility_location
from prunetune.selection.medoids import swapped
from prunetune.selection.neighbours import Points
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class KMedoids(Scorer):
    """Medoids of each class: kept images such that the images of the class are near to one of them (Euclidean).

    Without a fraction, the order of BUILD, the greedy start of PAM: each pick lowers the sum of distances to the
    nearest pick most. The order serves every ratio. With a fraction, BUILD picks that many images of each class, and
    SWAP exchanges one at a time for another image until no exchange lowers the sum. That serves this ratio only.

    Source: PAM (Kaufman and Rousseeuw 1990, "Partitioning around medoids"), with the swaps of FasterPAM (Schubert and
    Rousseeuw 2021, arXiv 2008.05171). BUILD is facility location with the similarity max d - d.
    Choice: in a class of more than `max_dense` images, BUILD uses nearest neighbours only, as `FacilityLocation`. SWAP
    always uses all distances.
    Direction: larger is picked earlier.
    Cost: one forward pass over the pool; then as `FacilityLocation`. SWAP adds a few passes of n^2 operations for a
    class of n images, beyond `max_dense` of n^2 D.

    fraction: null, or the fraction of each class for which SWAP improves the picks; it must be the ratio. neighbours,
    max_dense: see `FacilityLocation`. depth: fraction of each class that BUILD orders where there is no fraction.
    """

    fraction: float | None = None
    neighbours: int = 64
    max_dense: int = 4096
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.

    name: ClassVar[str] = "k_medoids"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.number("scorer.fraction", self.fraction, "(0, 1]", or_none=True, what="the ratio that SWAP improves")
        check_sizes(self.neighbours, self.max_dense)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        features = signals.features()

        def pick(members: Tensor, count: int) -> Tensor:
            points = Points(features[members])
            order = facility_location(points, closeness, count, self.neighbours, self.max_dense)
            if self.fraction is None:
                return order
            medoids = swapped(points, order[: max(round(len(members) * self.fraction), 1)], self.max_dense)
            # A budget that is rounded up may have room for one image more, the next one of BUILD.
            return torch.cat([medoids, order[~torch.isin(order, medoids)]])[:count]

        return pick_scores(pool.labels, self.depth if self.fraction is None else self.fraction, pick)


def closeness(distances: Tensor, farthest: float) -> Tensor:
    """Return how much nearer than the farthest distance images are; its sum grows as the sum of distances falls."""
    return farthest - distances
