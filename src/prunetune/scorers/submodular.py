"""Submodular functions of last-layer gradients: facility location, graph cut and log-determinant."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.selection.gradient_geometry import GradientPoints
from prunetune.selection.greedy import check_sizes, facility_location, graph_cut, log_determinant
from prunetune.selection.last_layer_gradients import LastLayerGradients, proxy_gradients
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class Submodular(Scorer):
    """Order of a greedy run on a set function of s = (1 + cosine) / 2 of last-layer gradients, class by class.

    function "fl", facility location: sum_i max_{j kept} s_ij. "gc", graph cut: 2 sum_i sum_{j kept} s_ij -
    sum_{j, k kept} s_jk. "logdet": log det(s of the kept images + 1e-6 I).

    Source: DeepCore (arXiv 2204.08499), after Iyer et al. 2021 (arXiv 2006.15412); proxy's last epoch. A gradient of
    zero has the cosine 0.
    Direction: larger is picked earlier.
    Cost: the proxy; then for a class of n images and k picks: fl as `Craig`; gc n C D and n (C + D) k at most; logdet
    n k (C + D) + n k^2 / 2 and n k numbers (float32 beyond `max_dense` images: 1 GB for 5,000 of 50,000).

    variant "deepcore" (DeepCore at commit 74ec709, one run per class): gc counts the first sum once, not twice, and so
    is not monotone. logdet has the wrong sign: it picks the image that earlier picks explain MOST, and begins with the
    first image. DeepCore's own optimisers are lazy (`greedy: lazy`): they never evaluate gains again that have grown,
    and so pick the images in the order of the listing. `greedy: naive` evaluates every gain. fl is the same.

    function: "fl", "gc" or "logdet". variant: "fixed" or "deepcore". greedy: "naive" or "lazy", which differ for logdet
    of "deepcore" only. neighbours, max_dense: see `FacilityLocation`. depth: fraction of each class that is ordered.
    """

    function: str = "fl"
    variant: str = "fixed"
    greedy: str = "naive"
    neighbours: int = 64
    max_dense: int = 4096
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.

    name: ClassVar[str] = "submodular"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True
    in_runs: ClassVar[dict[str, Any]] = {"name": "submodular_fl"}

    def __post_init__(self) -> None:
        checks.choice("scorer.function", self.function, ("fl", "gc", "logdet"))
        checks.choice("scorer.variant", self.variant, ("fixed", "deepcore"))
        checks.choice("scorer.greedy", self.greedy, ("naive", "lazy"))
        check_sizes(self.neighbours, self.max_dense)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()

        def pick(members: Tensor, count: int) -> Tensor:
            gradients = proxy_gradients(proxy, pool.labels, positions=members)
            return self.order(gradients if len(members) > self.max_dense else gradients.double(), count)

        return pick_scores(pool.labels, self.depth, pick)

    def order(self, gradients: LastLayerGradients, count: int) -> Tensor:
        """Return the first `count` picks [count] int64 among the images of one class."""
        if self.function == "fl":
            points = GradientPoints(gradients, "cosine")
            return facility_location(points, half_cosine, count, self.neighbours, self.max_dense)
        if self.function == "gc":
            return graph_cut(gradients, 2.0 if self.variant == "fixed" else 1.0, count)
        if self.variant == "deepcore" and self.greedy == "lazy":
            return torch.arange(count)
        return log_determinant(gradients, count, takes_explained=self.variant == "deepcore")


def half_cosine(distances: Tensor, farthest: float) -> Tensor:
    """Return (1 + cosine) / 2 from distances 1 - cosine."""
    return 1 - distances / 2
