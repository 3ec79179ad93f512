"""D2 pruning: scores spread on a graph of nearest neighbours, so that picks are hard and far from each other."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler, unit
from prunetune.samplers.ccs import without_hardest
from prunetune.selection.neighbours import nearest


@dataclass(frozen=True, kw_only=True)
class D2(Sampler):
    """Greedy picks by a score that neighbours raise in advance and that every pick lowers around it.

    Source: arXiv 2310.07931. Each image gains exp(-d) times the scores of its k nearest neighbours; then the largest is
    picked, again and again, and its neighbours lose exp(-gamma_r d) times its score. Differs: the graph is that of a
    class; d is Euclidean between features of unit length, so that it means the same for every network; scores that
    begin below 0 are shifted to begin at 0. Its code (adymaharana/d2pruning@bf1ea46) first drops the hardest by AUM and
    takes other settings for every ratio (at .1 of CIFAR-10 a share of .4, gamma_r .1): `beta` drops them by the score
    itself, and is 0 by default, as the paper's formulas are.
    Reads: features. Cost: for a class of n images n^2 D operations and n k numbers.

    beta: fraction of a class, its hardest, that is dropped before, as far as the class budget is left. neighbours: k.
    gamma_r: with 0 a pick subtracts its whole score from its neighbours, with larger values less.
    """

    name: ClassVar[str] = "d2"
    reads_hardness: ClassVar[bool] = True
    needs: ClassVar[str] = "features"

    beta: float = 0.0
    neighbours: int = 5
    gamma_r: float = 1.0

    def __post_init__(self) -> None:
        checks.number("sampler.beta", self.beta, "[0, 1)")
        checks.whole_number("sampler.neighbours", self.neighbours)
        checks.number("sampler.gamma_r", self.gamma_r, "[0, inf)")
        super().__post_init__()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        left = without_hardest(scores, budget, self.beta)
        found, scores = nearest(unit(needed[left]), self.neighbours), scores[left]
        scores = scores - scores.min().clamp_max(0)
        return left[pick_by_messages(scores, found.distances.double(), found.indices, budget, self.gamma_r)]


def pick_by_messages(scores: Tensor, distances: Tensor, indices: Tensor, count: int, gamma_r: float) -> Tensor:
    """Return the picks of D2, [count] int64, first pick first; ties to the smaller index.

    Args:
        scores: [n] float64, at least 0.
        distances: [n, k] float64 to the neighbours.
        indices: [n, k] int64 of the neighbours.
        count: number of picks, at most n.
        gamma_r: how fast the amount that a pick subtracts falls with distance.
    """
    values = (scores + ((-distances).exp() * scores[indices]).sum(dim=1)).numpy()
    taken, near = (-gamma_r * distances).exp().numpy(), indices.numpy()
    picks = np.empty(count, dtype=np.int64)
    for step in range(count):
        pick = picks[step] = values.argmax()
        # A neighbour that was picked before keeps the value -infinity.
        values[near[pick]] -= taken[pick] * values[pick]
        values[pick] = -np.inf
    return torch.from_numpy(picks)
