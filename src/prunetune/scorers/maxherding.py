"""MaxHerding: greedy coverage of a class under a Gaussian kernel."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.selection.greedy import Similarity, check_sizes, facility_location
from prunetune.selection.neighbours import Points
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class MaxHerding(Scorer):
    """Order of a greedy run on sum_i max_{j kept} k(i, j), k = exp(-(||x_i - x_j|| / bandwidth)^2), class by class.

    x are pretrained features scaled to unit length, so that ||x_i - x_j||^2 = 2 (1 - cosine).

    Source: Bae, Noh and Sutherland 2024 (arXiv 2407.12212), which covers the whole pool without labels; here each
    class is covered by its own images. Unit features, this form of the kernel and bandwidth 1 are the authors' choice:
    their code has them (its candidates are a random part of a large pool, ours are all).
    Direction: larger is picked earlier.
    Cost: as `FacilityLocation`.

    bandwidth: in units of feature length. neighbours, max_dense: see `FacilityLocation`. depth: fraction of each class
    that is ordered.
    """

    bandwidth: float = 1.0
    neighbours: int = 64
    max_dense: int = 4096
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.

    name: ClassVar[str] = "maxherding"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.number("scorer.bandwidth", self.bandwidth, "(0, inf)")
        check_sizes(self.neighbours, self.max_dense)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        features, kernel = signals.features(), gaussian(self.bandwidth)

        def pick(members: Tensor, count: int) -> Tensor:
            points = Points(features[members], "cosine")
            return facility_location(points, kernel, count, self.neighbours, self.max_dense)

        return pick_scores(pool.labels, self.depth, pick)


def gaussian(bandwidth: float) -> Similarity:
    """Return the kernel exp(-(d / bandwidth)^2) of unit vectors as a function of 1 - cosine = d^2 / 2."""
    return lambda distances, farthest: torch.exp(-2 * distances / bandwidth**2)
