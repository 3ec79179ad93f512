"""D2 pruning: scores spread on a graph of nearest neighbours, so that picks are hard and far from each other."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler, unit
from prunetune.samplers.ccs import without_hardest
from prunetune.selection.neighbours import Neighbours, nearest

GRAPHS = ("undirected", "directed")


@dataclass(frozen=True, kw_only=True)
class D2(Sampler):
    """Greedy picks by a score that neighbours raise in advance and that every pick lowers around it.

    Source: arXiv 2310.07931. In an undirected graph, two images are neighbours if one is among the k nearest of the
    other. Each image gains exp(-d) times the scores of its neighbours; then the largest is picked, again and again, and
    its neighbours lose exp(-gamma_r d) times its score. Differs: the graph is that of a class; d is Euclidean between
    features of unit length, so that it means the same for every network; scores that begin below 0 are shifted to begin
    at 0. Its code (adymaharana/d2pruning@bf1ea46) first drops the hardest by AUM and takes other settings for every
    ratio (at .1 of CIFAR-10 a share of .4, gamma_r .1): `beta` drops them by the score itself, and is 0 by default, as
    the paper's formulas are.
    Reads: features. Cost: for a class of n images n^2 D operations and 4 n k numbers.

    beta: fraction of a class, its hardest, that is dropped before, as far as the class budget is left. neighbours: k.
    gamma_r: with 0 a pick subtracts its whole score from its neighbours, with larger values less. graph: "undirected",
    or "directed": the neighbours of an image are its own k nearest only.
    """

    name: ClassVar[str] = "d2"
    reads_hardness: ClassVar[bool] = True
    needs: ClassVar[str] = "features"

    beta: float = 0.0
    neighbours: int = 5
    gamma_r: float = 1.0
    graph: str = "undirected"

    def __post_init__(self) -> None:
        checks.number("sampler.beta", self.beta, "[0, 1)")
        checks.whole_number("sampler.neighbours", self.neighbours)
        checks.number("sampler.gamma_r", self.gamma_r, "[0, inf)")
        super().__post_init__()
        checks.choice("sampler.graph", self.graph, GRAPHS)

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        left = without_hardest(scores, budget, self.beta)
        found, scores = nearest(unit(needed[left]), self.neighbours), scores[left]
        graph = undirected(found) if self.graph == "undirected" else directed(found)
        return left[pick_by_messages(scores - scores.min().clamp_max(0), graph, budget, self.gamma_r)]


@dataclass(frozen=True)
class Graph:
    """The neighbours of n images, one image after another.

    starts: [n + 1] int64; image i has the entries starts[i] to starts[i + 1] - 1. indices: [E] int64 neighbours, none
    twice for one image. distances: [E] float64 to them.
    """

    starts: Tensor
    indices: Tensor
    distances: Tensor


def directed(found: Neighbours) -> Graph:
    """Return the graph in which the neighbours of an image are its own k nearest images."""
    size, k = found.indices.shape
    return Graph(torch.arange(size + 1) * k, found.indices.flatten(), found.distances.double().flatten())


def undirected(found: Neighbours) -> Graph:
    """Return the graph in which two images are neighbours if one is among the k nearest images of the other."""
    size, k = found.indices.shape
    rows, columns = torch.arange(size).repeat_interleave(k), found.indices.flatten()
    pairs = torch.minimum(rows, columns) * size + torch.maximum(rows, columns)
    order = pairs.argsort(stable=True)
    is_first = torch.ones(len(order), dtype=torch.bool)
    is_first[1:] = pairs[order][1:] != pairs[order][:-1]
    edges = order[is_first]  # Each pair of neighbours once.
    distances = found.distances.double().flatten()[edges].repeat(2)
    ends = torch.cat([rows[edges], columns[edges]]), torch.cat([columns[edges], rows[edges]])
    order = (ends[0] * size + ends[1]).argsort()
    counts = torch.bincount(ends[0], minlength=size)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Graph(starts, ends[1][order], distances[order])


def pick_by_messages(scores: Tensor, graph: Graph, count: int, gamma_r: float) -> Tensor:
    """Return the picks of D2, [count] int64, first pick first; ties to the smaller index.

    Args:
        scores: [n] float64, at least 0.
        graph: the neighbours of the n images.
        count: number of picks, at most n.
        gamma_r: how fast the amount that a pick subtracts falls with distance.
    """
    rows = torch.arange(len(scores)).repeat_interleave(graph.starts.diff())
    messages = (-graph.distances).exp() * scores[graph.indices]
    values = scores.index_add(0, rows, messages).numpy()
    taken, near, starts = (-gamma_r * graph.distances).exp().numpy(), graph.indices.numpy(), graph.starts.tolist()
    picks = np.empty(count, dtype=np.int64)
    for step in range(count):
        pick = picks[step] = values.argmax()
        own = slice(starts[pick], starts[pick + 1])
        # A neighbour that was picked before keeps the value -infinity.
        values[near[own]] -= taken[own] * values[pick]
        values[pick] = -np.inf
    return torch.from_numpy(picks)
