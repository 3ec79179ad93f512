"""ZCore: how often an image is the nearest one to a random point of the feature space, minus its redundancy."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals

Array = np.ndarray
DENSE = 12_000  # Up to this number of images, comparing all of them is faster than searching sorted dimensions.
NUMBERS_AT_ONCE = 2**21  # A chunk of distances [m, N] of a small pool has at most this many numbers.
# The search first reads this many images next to a point in one dimension.
# The nearest of them gives an upper bound of the distance to the nearest image of the pool.
WINDOW = 512
# At most this many images of a large pool are used to estimate a radius that contains all neighbours of an image.
PROBED = 8192
# The sorted dimensions of a large pool that are in memory at once take at most this many bytes.
SORTED_BYTES = 3 * 2**28
BYTES = 12  # For each value, a sorted dimension stores the value twice and its position: three numbers of 4 bytes.


@dataclass(frozen=True)
class ZCore(Scorer):
    """Coverage minus redundancy in random planes of the feature space; no labels are read.

    Source: arXiv 2411.15349; voxel51/zcore@5fe8048 for what the paper leaves open. Scores start from U(0, 1). Then
    `repeats` times, two dimensions are drawn, and a point whose coordinates follow triangular(min, median, max) of
    them. The nearest image (by the sum of absolute differences) gains 1, and its `neighbours` nearest images lose
    1 / d**exponent, scaled to a sum of 1; if an image is in the same place, that image alone loses 1.
    Differs: one stream of random numbers (in the public code all processes use the same one); images as far away as
    the last neighbour are neighbours too; the final scaling to [0, 1], which changes no order, is left out.
    Direction: larger is harder.
    Cost: the features, then `repeats` searches for the nearest images in a plane. The search is exact at every
    size: a small pool is compared as a whole, a large one is searched in sorted dimensions (0.75 GiB at a time).
    """

    repeats: int = 1_000_000
    neighbours: int = 1000
    exponent: int = 4

    name: ClassVar[str] = "zcore"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for key in ("repeats", "neighbours", "exponent"):
            checks.whole_number(f"scorer.{key}", getattr(self, key))
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """Always true, because planes, points and initial scores are drawn at random."""
        return True

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        features = signals.features()
        start = torch.rand(len(features), dtype=torch.float64, generator=generator)
        planes, points = draw_points(features, self.repeats, generator)
        return start + coverage_less_redundancy(features, planes, points, self.neighbours, self.exponent)


def draw_points(features: Tensor, repeats: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw planes and a point in each.

    Args:
        features: [N, D] float32, D at least 2.
        repeats: R, the number of draws.
        generator: source of the draws.

    Returns:
        planes [R, 2] int64, two different dimensions, ascending; points [R, 2] float32, their coordinates.

    Raises:
        InputError: the features have one dimension.
    """
    width = features.shape[1]
    if width < 2:
        raise InputError("zcore draws planes of two dimensions, the features have one; use another backbone or scorer")
    one = torch.randint(width, (repeats,), generator=generator)
    planes = torch.stack([one, (one + torch.randint(1, width, (repeats,), generator=generator)) % width], dim=1)
    planes = planes.sort(dim=1).values
    uniform = torch.rand(repeats, 2, dtype=torch.float64, generator=generator)
    low, middle, high = (values[planes] for values in spread(features))
    return planes, triangular(uniform, low, middle, high).float()


def spread(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return smallest, median and largest value of each dimension of features [N, D], each [D] float64."""
    medians = [np.median(part.numpy(), axis=0) for part in features.split(16, dim=1)]
    low, high = features.aminmax(dim=0)
    return low.double(), torch.from_numpy(np.concatenate(medians)).double(), high.double()


def triangular(uniform: Tensor, low: Tensor, mode: Tensor, high: Tensor) -> Tensor:
    """Return draws from triangular distributions, as inverse distribution functions at `uniform`; all [...]."""
    width = high - low
    left = low + (uniform * width * (mode - low)).sqrt()
    right = high - ((1 - uniform) * width * (high - mode)).sqrt()
    return torch.where(uniform * width < mode - low, left, right)


def coverage_less_redundancy(
    features: Tensor, planes: Tensor, points: Tensor, neighbours: int, exponent: int, dense: int = DENSE
) -> Tensor:
    """Return how often each image is nearest to a point, minus what it loses as a neighbour of the nearest.

    Args:
        features: [N, D] float32.
        planes: [R, 2] int64, ascending in each row.
        points: [R, 2] float32, in their planes.
        neighbours: number of neighbours of the nearest image whose scores are lowered.
        exponent: exponent of the distance to a neighbour.
        dense: largest pool in which all images are compared; larger pools are searched in sorted dimensions.

    Returns:
        [N] float64.
    """
    total = np.zeros(len(features))
    if len(features) == 1:
        return torch.from_numpy(total + len(points))
    neighbours = min(neighbours, len(features) - 1)
    for plane, own_points in _by_plane(features, planes.numpy(), points.numpy(), is_sorted=len(features) > dense):
        winners, counts = np.unique(plane.nearest(own_points), return_counts=True)
        np.add.at(total, winners, counts)
        plane.lower(total, winners, counts, neighbours, exponent)
        del plane  # Otherwise its dimensions stay in memory while the next ones are sorted.
    return torch.from_numpy(total)


def losses(distances: Array, neighbours: int, exponent: int) -> Array:
    """Return what images lose as neighbours, [m, n] float64, rows with a sum of 1.

    Args:
        distances: [m, n] float32 to m images, in any order; infinite to the image itself.
        neighbours: number of neighbours that lose. Images as far away as the last neighbour lose too.
        exponent: exponent of the distance.
    """
    closest = distances.min(axis=1, keepdims=True)  # [m, 1]
    last = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (closest / distances).astype(np.float64)  # Ratios are at most 1, so their powers cannot overflow.
    ratios[distances > last] = 0
    weights = ratios.copy()
    for _ in range(exponent - 1):  # Repeated products are ten times faster than a power.
        weights *= ratios
    same_place = np.flatnonzero(closest == 0)
    weights[same_place] = 0
    weights[same_place, distances[same_place].argmin(axis=1)] = 1
    return weights / weights.sum(axis=1, keepdims=True)


class Plane:
    """All images of a small pool in two dimensions, x and y [N] float32."""

    def __init__(self, x: Array, y: Array) -> None:
        self._x, self._y = x, y

    def nearest(self, points: Array) -> Array:
        """Return the image nearest to each point [m, 2], [m] int64; ties to the smaller position."""
        return np.concatenate([self._distances(part).argmin(axis=1) for part in self._parts(points)])

    def lower(self, total: Array, winners: Array, counts: Array, neighbours: int, exponent: int) -> None:
        """Subtract from the totals [N] the losses of the neighbours of winners [m], each counts [m] times."""
        for part, times in zip(self._parts(winners), self._parts(counts), strict=True):
            distances = self._distances(np.stack([self._x[part], self._y[part]], axis=1))
            distances[np.arange(len(part)), part] = np.inf
            total -= times @ losses(distances, neighbours, exponent)

    def _distances(self, points: Array) -> Array:
        distances = np.abs(self._x - points[:, :1])
        distances += np.abs(self._y - points[:, 1:])
        return distances  # [m, N]

    def _parts(self, rows: Array) -> Iterator[Array]:
        size = max(1, NUMBERS_AT_ONCE // len(self._x))
        return (rows[start : start + size] for start in range(0, len(rows), size))


@dataclass(frozen=True)
class SortedDimension:
    """One dimension of a large pool.

    values: [N] float32 in pool order. ascending: [N] the same, sorted. positions: [N] int32 their pool positions.
    """

    values: Array
    ascending: Array
    positions: Array

    def around(self, middles: Array) -> Array:
        """Return the positions of images next to middles [m] in this dimension, [m, up to WINDOW] int32."""
        size = min(WINDOW, len(self.values))
        starts = self._rank(middles, "left") - size // 2
        return self.positions[starts.clip(0, len(self.values) - size)[:, np.newaxis] + np.arange(size)]

    def between(self, middles: Array, radii: Array) -> tuple[Array, Array]:
        """Return the ends of the range in `ascending` that holds all values within radii [m] of middles [m]."""
        slack = 1e-5 * radii + 1e-6 * np.abs(middles)  # The slack is needed because float32 distances are rounded.
        reach = radii + slack
        return self._rank(middles - reach, "left"), self._rank(middles + reach, "right")

    def _rank(self, values: Array, side: str) -> Array:
        return np.searchsorted(self.ascending, values.astype(np.float32), side)


class SortedPlane:
    """All images of a large pool in two sorted dimensions; a search reads only images near a place in one of them."""

    def __init__(self, x: SortedDimension, y: SortedDimension) -> None:
        self._dimensions = x, y
        step = -(-len(x.values) // PROBED)
        self._probed = np.stack([x.values[::step], y.values[::step]])  # [2, probed]
        self._step = step

    def nearest(self, points: Array) -> Array:
        """Return the image nearest to each point [m, 2], [m] int64; ties to the smaller position."""
        x, y = self._dimensions
        near = np.concatenate([x.around(points[:, 0]), y.around(points[:, 1])], axis=1)
        distances = np.abs(x.values[near] - points[:, :1]) + np.abs(y.values[near] - points[:, 1:])
        return np.array([_first_nearest(*found) for found in self._within(points, distances.min(axis=1))])

    def lower(self, total: Array, winners: Array, counts: Array, neighbours: int, exponent: int) -> None:
        """Subtract from the totals [N] the losses of the neighbours of winners [m], each counts [m] times."""
        places = np.stack([dimension.values[winners] for dimension in self._dimensions], axis=1)
        probed = self._to_probed(places)
        rank = min(probed.shape[1] - 1, 4 + neighbours * 5 // (4 * self._step))
        radii = np.partition(probed, rank, axis=1)[:, rank]
        for winner, place, radius, times in zip(winners, places, radii, counts, strict=True):
            positions, distances = self._neighbours_of(winner, place, radius, neighbours)
            total[positions] -= times * losses(distances[np.newaxis], neighbours, exponent)[0]

    def _neighbours_of(self, winner: int, place: Array, radius: float, neighbours: int) -> tuple[Array, Array]:
        """Return ascending positions and distances of all images within a radius that contains enough neighbours."""
        while True:
            ((positions, distances),) = self._within(place[np.newaxis], np.array([radius]))
            near = np.flatnonzero(distances <= radius)
            if len(near) > neighbours:  # The image itself is also among those within the radius.
                near = near[positions[near].argsort()]
                near = near[positions[near] != winner]
                return positions[near], distances[near]
            radius = max(1.5 * radius, self._to_probed(place[np.newaxis]).max() / PROBED)

    def _within(self, places: Array, radii: Array) -> Iterator[tuple[Array, Array]]:
        """Yield positions and distances of images for each place [m, 2], at least of those within its radius [m]."""
        x, y = self._dimensions
        (x_from, x_to), (y_from, y_to) = x.between(places[:, 0], radii), y.between(places[:, 1], radii)
        for i, (x_place, y_place) in enumerate(places):
            if x_to[i] - x_from[i] <= y_to[i] - y_from[i]:
                yield _distances_in_range(x, x_place, slice(x_from[i], x_to[i]), y, y_place)
            else:
                yield _distances_in_range(y, y_place, slice(y_from[i], y_to[i]), x, x_place)

    def _to_probed(self, points: Array) -> Array:
        x, y = self._probed
        return np.abs(x - points[:, :1]) + np.abs(y - points[:, 1:])  # [m, probed]


def _distances_in_range(
    along: SortedDimension, place: float, part: slice, across: SortedDimension, other_place: float
) -> tuple[Array, Array]:
    positions = along.positions[part]
    distances = across.values.take(positions)
    distances -= other_place
    np.abs(distances, out=distances)
    distances += np.abs(along.ascending[part] - place)
    return positions, distances


def _first_nearest(positions: Array, distances: Array) -> int:
    return positions[distances == distances.min()].min()


def _by_plane(
    features: Tensor, planes: Array, points: Array, is_sorted: bool
) -> Iterator[tuple[Plane | SortedPlane, Array]]:
    """Yield every plane that occurs in planes [R, 2] and its points [m, 2], one block of dimensions after another."""
    num_images, width = features.shape
    size = max(1, SORTED_BYTES // (2 * BYTES * num_images)) if is_sorted else width
    blocks = planes // size
    order = np.lexsort((planes[:, 1], planes[:, 0], blocks[:, 1], blocks[:, 0]))
    starts = np.flatnonzero(np.diff(planes[order], axis=0, prepend=-1).any(axis=1))
    held: dict[int, list[Array] | list[SortedDimension]] = {}
    for rows in np.split(order, starts[1:]):
        (first, second), (x, y) = blocks[rows[0]], planes[rows[0]]
        held = {block: held[block] for block in (first, second) if block in held}
        for block in (first, second):
            if block not in held:
                held[block] = _dimensions(features, slice(block * size, (block + 1) * size), is_sorted)
        kind = SortedPlane if is_sorted else Plane
        yield kind(held[first][x % size], held[second][y % size]), points[rows]


def _dimensions(features: Tensor, columns: slice, is_sorted: bool) -> list[Array] | list[SortedDimension]:
    values = features[:, columns].T.contiguous().numpy()  # [dimensions, N]
    if not is_sorted:
        return list(values)

    ascending, positions = np.empty_like(values), np.empty(values.shape, np.int32)

    def sort(row: int) -> None:
        positions[row] = values[row].argsort(kind="stable")
        ascending[row] = values[row][positions[row]]

    with ThreadPoolExecutor() as workers:  # Threads help here because sorting releases the GIL.
        list(workers.map(sort, range(len(values))))
    return [SortedDimension(*rows) for rows in zip(values, ascending, positions, strict=True)]
