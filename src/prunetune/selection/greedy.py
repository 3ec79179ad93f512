"""Greedy maximisation of set functions over the n images of one class: facility location, graph cut, log-determinant.

Each returns the order of its picks, so that a smaller budget is a prefix. Letters: n images, k neighbours, C classes,
D feature width.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.selection.last_layer_gradients import LastLayerGradients, best_first
from prunetune.selection.neighbours import Geometry, nearest_in

# The function maps distances (float64) and the largest of them to similarities of at least 0.
Similarity = Callable[[Tensor, float], Tensor]
# The largest similarity equals this many units. Sums of whole numbers are exact, so that ties are exact too.
UNITS = 2.0**40
TAKEN = -(2**62)
SAMPLE = 1024  # In a large class, mean similarities are estimated from this many images.
PERIOD = 64  # The gains of the whole class are updated after this many picks.
CANDIDATES = 512  # Between two updates, the log-determinant picks among this many images.
ROWS = 512


def facility_location(
    geometry: Geometry, similarity: Similarity, count: int, neighbours: int = 64, max_dense: int = 4096
) -> Tensor:
    """Pick images one by one that add most to sum_i max_{j picked} s_ij.

    Up to `max_dense` images all pairs are used: n^2 numbers, and exact greedy gains. In larger classes only image i
    itself and its k nearest neighbours can cover it; all others have the similarity of an average image to it. That
    takes n k numbers. (With 0, the usual choice, a close neighbour would hardly count more than the last of the k.)

    Gains are whole numbers, so that no pick depends on the order in which they were added.

    Args:
        geometry: distances of the n images.
        similarity: a function that falls with distance.
        count: number of picks, at most n.
        neighbours: k, the number of neighbours in larger classes.
        max_dense: the largest n for which all pairs are used.

    Returns:
        [count] int64 indices of images, first pick first; ties go to the smaller index.
    """
    if geometry.size <= max_dense:
        return _cover(_AllPairs(geometry, similarity), count)
    return _cover(_Graph(geometry, similarity, neighbours), count)


class _AllPairs:
    """Similarities of all pairs, [n, n] int64."""

    def __init__(self, geometry: Geometry, similarity: Similarity) -> None:
        everyone = torch.arange(geometry.size)
        distances = torch.cat([geometry.block(rows, everyone) for rows in everyone.split(ROWS)])  # [n, n]
        similarities = similarity(distances, float(distances.max())).clamp_min_(0)
        units = _units(similarities, float(similarities.max()))
        self._units = np.minimum(units, units.T)  # The values s_ij and s_ji may be rounded differently.
        self.floor = np.zeros(geometry.size, dtype=np.int64)

    def gains(self) -> np.ndarray:
        return self._units.sum(0)

    def covered(self, pick: int) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(self._units)), self._units[:, pick]

    def spend(self, gains: np.ndarray, rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> None:
        for start in range(0, len(rows), ROWS):
            some, low, high = (part[start : start + ROWS] for part in (rows, old, new))
            gains -= np.clip(self._units[some], low[:, None], high[:, None]).sum(0) - low.sum()


class _Graph:
    """Similarities of every image to itself and its k nearest neighbours, [n, k + 1] int64."""

    def __init__(self, geometry: Geometry, similarity: Similarity, neighbours: int) -> None:
        size, everyone = geometry.size, torch.arange(geometry.size)
        near = nearest_in(geometry, neighbours)
        own = geometry.distances(everyone, everyone.unsqueeze(1))
        distances = torch.cat([own, near.distances], dim=1).double()  # [n, k + 1]
        usual, farthest = _usual_similarity(geometry, similarity)
        similarities = similarity(distances, farthest).clamp_min_(0)
        most = float(similarities.max())
        self._columns = torch.cat([everyone.unsqueeze(1), near.indices], dim=1).numpy()
        self._units = _units(similarities, most)
        is_whole = self._columns.shape[1] == size  # If this is true, the neighbours are the whole class.
        self.floor = np.zeros(size, dtype=np.int64) if is_whole else _units(usual, most)
        order = self._columns.ravel().argsort(kind="stable")
        self._coverers, self._their_units = order // self._columns.shape[1], self._units.ravel()[order]
        self._ends = np.bincount(self._columns.ravel(), minlength=size).cumsum()

    def gains(self) -> np.ndarray:
        gains = np.zeros(len(self._units), dtype=np.int64)
        np.add.at(gains, self._columns.ravel(), np.maximum(self._units - self.floor[:, None], 0).ravel())
        return gains

    def covered(self, pick: int) -> tuple[np.ndarray, np.ndarray]:
        links = slice(self._ends[pick - 1] if pick else 0, self._ends[pick])
        return self._coverers[links], self._their_units[links]

    def spend(self, gains: np.ndarray, rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> None:
        lost = np.clip(self._units[rows], old[:, None], new[:, None]) - old[:, None]
        np.subtract.at(gains, self._columns[rows].ravel(), lost.ravel())


def _cover(table: _AllPairs | _Graph, count: int) -> Tensor:
    """Pick the image with the largest gain, again and again.

    When the best similarity of image i rises from `old` to `new`, every image that could cover i loses that gain.
    """
    best, gains = table.floor.copy(), table.gains()
    picks = np.empty(count, dtype=np.int64)
    for step in range(count):
        pick = picks[step] = gains.argmax()
        gains[pick] = TAKEN
        rows, values = table.covered(pick)
        is_better = values > best[rows]
        rows, values = rows[is_better], values[is_better]
        table.spend(gains, rows, best[rows], values)
        best[rows] = values
    return torch.from_numpy(picks)


def _units(similarities: Tensor, most: float) -> np.ndarray:
    """Return similarities as whole numbers; `most` becomes UNITS."""
    return (similarities * (UNITS / most if most > 0 else 0.0)).round_().long().numpy()


def _usual_similarity(geometry: Geometry, similarity: Similarity) -> tuple[Tensor, float]:
    """Return each image's mean similarity to a sample of its class, [n] float64, and the farthest distance seen."""
    sample = torch.arange(0, geometry.size, max(1, geometry.size // SAMPLE))
    chunks = torch.arange(geometry.size).split(ROWS)
    farthest = max(float(geometry.block(rows, sample).max()) for rows in chunks)
    means = [similarity(geometry.block(rows, sample), farthest).clamp_min_(0).mean(1) for rows in chunks]
    return torch.cat(means), farthest


def graph_cut(gradients: LastLayerGradients, weight: float, count: int) -> Tensor:
    """Pick images one by one that add most to weight * sum_i sum_{j picked} s_ij - sum_{j, k picked} s_jk.

    s = (1 + cosine) / 2 of last-layer gradients, of which only sums are needed: O(n C D), then O(n (C + D)) a pick.
    A pick lowers no gain by more than 2, so that for some picks it is enough to examine the images with large gains.

    Returns:
        [count] int64, first pick first; ties go to the smaller index.
    """
    unit = gradients.scaled(1 / gradients.norms().clamp_min(1e-30))
    gains = weight * (len(unit) + unit.dot(unit.weighted_sum()).double()) / 2  # [n]
    picks = []
    for start in range(0, count, PERIOD):
        period = min(PERIOD, count - start)
        top = torch.nonzero(gains >= gains.topk(period).values[-1] - 2 * period).flatten()  # The indices ascend.
        chosen = top[_cut(unit.take(top), gains[top], period)]
        kept = unit.take(chosen)
        gains -= torch.cat([len(kept) + part.inner(kept).sum(1, dtype=torch.float64) for part in unit.chunks()])
        gains[chosen] = -torch.inf
        picks.append(chosen)
    return torch.cat(picks)


def _cut(unit: LastLayerGradients, gains: Tensor, count: int) -> Tensor:
    picks = torch.empty(count, dtype=torch.int64)
    gains = gains.clone()
    for step in range(count):
        pick = picks[step] = gains.argmax()
        gains -= 1 + unit.inner(unit.take(pick.view(1))).squeeze(1)
        gains[pick] = -torch.inf
    return picks


def log_determinant(
    gradients: LastLayerGradients, count: int, jitter: float = 1e-6, takes_explained: bool = False
) -> Tensor:
    """Pick images one by one that add most to log det(K_S + jitter I), K = (1 + cosine) / 2 of last-layer gradients.

    The gain is the log of the Schur complement, the part of an image that the picks leave unexplained. It never grows,
    so that for some picks it is enough to examine the images with large gains; then all gains are updated at once. Rows
    of the Cholesky factor are kept: n x count numbers in the dtype of the gradients, O(n count^2) time.

    Args:
        gradients: the last-layer gradients of n images.
        count: number of picks.
        jitter: a number that is added to the diagonal of K.
        takes_explained: pick the image that earlier picks explain MOST (a published sign error), without jitter.

    Returns:
        [count] int64, first pick first; ties go to the smaller index.
    """
    unit = gradients.scaled(1 / gradients.norms().clamp_min(1e-30))
    own = (1 + (unit.squared_norms() > 0.5).double()) / 2  # [n]. The value is 1/2 for a gradient of zero.
    least = 0.0 if takes_explained else jitter
    left = own + least  # This is the unexplained part of each image.
    factor = unit.deltas.new_empty(len(unit), count)
    picks = torch.empty(0, dtype=torch.int64)
    while (done := len(picks)) < count:
        worth = own - left if takes_explained else left.clone()
        worth[picks] = -torch.inf
        # The explained part grows with every pick, so all images are examined again after each pick.
        num_top = 1 if takes_explained else min(CANDIDATES, len(unit) - done)
        ranked = best_first(worth, num_top + 1)
        top = ranked[:num_top].sort().values
        bound = float(worth[ranked[num_top]]) if len(ranked) > num_top else -torch.inf
        at_top, explained = unit.take(top), factor[top, :done]
        schur = _unexplained(at_top, at_top, explained, explained)
        slots, corner = _pivots(schur, left[top], least, bound, min(PERIOD, count - done, num_top))
        chosen = top[slots]
        others, their, start = unit.take(chosen), factor[chosen, :done], 0
        for part in unit.chunks():  # The rows are computed in parts, since one array [n, b] would fragment the heap.
            rows = slice(start, start := start + len(part))
            block = _unexplained(part, others, factor[rows, :done], their)
            block = torch.linalg.solve_triangular(corner.T, block, upper=True, left=False)
            factor[rows, done : done + len(chosen)] = block
            left[rows] -= block.double().square().sum(1)
        left.clamp_min_(least)
        picks = torch.cat([picks, chosen])
    return picks


def _unexplained(some: LastLayerGradients, others: LastLayerGradients, factor: Tensor, their: Tensor) -> Tensor:
    """Return K [n, m] of unit gradients minus the part that earlier picks explain, from rows [n, k] and [m, k]."""
    return ((1 + some.inner(others)) / 2).sub_(factor @ their.T)


def _pivots(schur: Tensor, left: Tensor, least: float, bound: float, count: int) -> tuple[Tensor, Tensor]:
    """Pick up to `count` of m images while the best of them is above a bound, and at least one.

    Args:
        schur: [m, m] the unexplained part of K.
        left: [m] the diagonal of that part, with jitter.
        least: the lower bound of the diagonal.
        bound: the largest unexplained part among the other images of the class.
        count: the largest number of picks, at most m.

    Returns:
        slots [b] int64 of the picks; their lower Cholesky factor [b, b], infinite where nothing was left to explain.
    """
    rows, roots, slots = schur.new_zeros(count, len(schur)), [], []
    is_open = torch.ones(len(schur), dtype=torch.bool)
    while len(slots) < count:
        slot = int(left.where(is_open, -torch.inf).argmax())
        spread, step = float(left[slot]), len(slots)
        if step and spread <= bound:
            break
        roots.append(spread**0.5 if spread > 1e-12 else float("inf"))
        torch.div(schur[slot] - rows[:step].T @ rows[:step, slot], roots[-1], out=rows[step])
        left = (left - rows[step].double().square()).clamp_min_(least)
        is_open[slot] = False
        slots.append(slot)
    chosen = torch.tensor(slots)
    return chosen, rows[: len(slots), chosen].T.tril(-1) + torch.diag(rows.new_tensor(roots))


def check_sizes(neighbours: int, max_dense: int) -> None:
    """Refuse a number of neighbours or a class size that is not a whole number of at least 1."""
    for key, value in {"neighbours": neighbours, "max_dense": max_dense}.items():
        checks.whole_number(f"scorer.{key}", value)
