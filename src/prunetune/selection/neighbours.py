"""The k nearest neighbours of many images: exact search up to a size, an inverted file beyond it.

Letters: N images, D feature width, n rows of a chunk, m candidates, k neighbours.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.seeding import stream

METRICS = ("euclidean", "cosine")
# Up to this many images the search is exact. For 1e10 pairs of 384 numbers it takes a few minutes on one core.
EXACT_UP_TO = 100_000
NUMBERS_AT_ONCE = 2**25  # A chunk [n, N] float32 has at most this many numbers, which take 128 MiB.
SPARE = 16  # This many candidates beyond k are measured exactly, since the first search is rounded.
CELL = 1000  # A cell of the inverted file has this many images on average.
PROBES = 32  # For the images of one cell, this many cells are searched.
MOST_CANDIDATES = 2 * PROBES * CELL
SAMPLE_PER_CELL = 64  # The centres are fitted to this many images per cell.
ROUNDS = 8  # The k-means algorithm runs for this many rounds.


@dataclass(frozen=True)
class Neighbours:
    """The nearest other images of N images.

    distances: [N, k] float32, ascending in each row. indices: [N, k] int64; equal distances by index.
    """

    distances: Tensor
    indices: Tensor


class Geometry(ABC):
    """Distances between N images, without ever holding N x N numbers."""

    size: int  # N

    @abstractmethod
    def closeness(self, rows: Tensor) -> Tensor:
        """Return [n, N] float32 for rows [n] int64; within a row larger means nearer, up to an error of `noise`."""

    @abstractmethod
    def noise(self, rows: Tensor, closeness: Tensor) -> Tensor:
        """Return bounds [n] of the float32 rounding error of values of `closeness` [n] in rows [n]."""

    @abstractmethod
    def distances(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the distances of rows [n] to columns [n, m], [n, m] float32; the chunk does not change them."""

    @abstractmethod
    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the distances of rows [n] to columns [m], [n, m] float64."""


class Points(Geometry):
    """Images placed at their features.

    features: [N, D]. metric: "euclidean", or "cosine": 1 - cosine, where a row of zeros has the cosine 0 to all.
    """

    def __init__(self, features: Tensor, metric: str = "euclidean") -> None:
        check_metric(metric)
        self.size, self._is_cosine = len(features), metric == "cosine"
        self._points = _placed(features, metric)  # [N, D] float32
        self._squares = self._points.square().sum(1)  # [N]
        # [N]. This is (1 - cosine) minus half the squared distance, which differs from 0 only for rows of zeros.
        self._lacks = (self._squares == 0).float() / 2

    def closeness(self, rows: Tensor) -> Tensor:
        if self._is_cosine:
            return self._points[rows] @ self._points.T
        return torch.addmm(self._squares, self._points[rows], self._points.T, beta=-0.5)

    def noise(self, rows: Tensor, closeness: Tensor) -> Tensor:
        return 1e-6 * (torch.ones(len(rows)) if self._is_cosine else longest_near(self._squares[rows], closeness))

    def distances(self, rows: Tensor, columns: Tensor) -> Tensor:
        parts = []
        size = max(1, NUMBERS_AT_ONCE // (2 * columns.shape[1] * self._points.shape[1]))
        for some, others in zip(rows.split(size), columns.split(size), strict=True):
            gaps = self._points[others].sub_(self._points[some].unsqueeze(1))  # [n, m, D]
            parts.append(torch.linalg.vector_norm(gaps, dim=2))
        gaps = torch.cat(parts)  # [n, m]
        if not self._is_cosine:
            return gaps
        return gaps.square_().div_(2).add_(self._lacks[columns]).add_(self._lacks[rows].unsqueeze(1))

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        some, others = self._points[rows].double(), self._points[columns].double()
        if self._is_cosine:  # In float32, the rows have unit length only approximately.
            return 1 - torch.nn.functional.normalize(some, dim=1) @ torch.nn.functional.normalize(others, dim=1).T
        return without_own(torch.cdist(some, others), rows, columns)


def longest_near(squares: Tensor, closeness: Tensor) -> Tensor:
    """Return an upper bound of |y|^2, [n], for points y at closeness c = <x, y> - |y|^2 / 2 to x.

    Their squared distance is |x|^2 - 2 c. If lengths differ much, the bound is far below the largest |y|^2 of all.

    Args:
        squares: [n] |x|^2.
        closeness: [n] c.
    """
    return (squares.sqrt() + (squares - 2 * closeness).clamp_min(0).sqrt()).square()


def without_own(distances: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Set the distance of an image to itself to exactly 0 in a block [n, m], and return the block."""
    return distances.masked_fill_(rows.unsqueeze(1) == columns, 0)


def nearest(features: Tensor, k: int, metric: str = "euclidean", exact: bool | None = None) -> Neighbours:
    """Return the k nearest other images of every image.

    Up to 100,000 images all pairs are compared: N^2 D operations, 128 MiB of distances at once. Larger sets are
    divided into cells by k-means (1,000 images in a cell on average), and the images of one cell are compared with
    those of the 32 cells that its images are nearest to. This misses some neighbours, and more of them if the features
    form no clusters.

    Args:
        features: [N, D] float, finite.
        k: at least 1; with N images there are min(k, N - 1).
        metric: "euclidean" or "cosine" (1 - cosine).
        exact: whether to compare all pairs; by default up to 100,000 images.

    Raises:
        InputError: k or metric is not allowed.
    """
    check_metric(metric)
    checks.whole_number("the number of neighbours", k)
    if exact or (exact is None and len(features) <= EXACT_UP_TO):
        return nearest_in(Points(features, metric), k)
    return _inverted_file(features, k, metric)


def nearest_in(geometry: Geometry, k: int) -> Neighbours:
    """Return the k nearest other images of every image of any geometry; all pairs are compared."""
    return _search(geometry, torch.arange(geometry.size), k)


def check_metric(metric: str) -> None:
    """Refuse an unknown metric."""
    checks.choice("metric", metric, METRICS)


def _placed(features: Tensor, metric: str) -> Tensor:
    """Return [N, D] float32: unit rows for cosine, centred rows for euclidean, which round less in float32."""
    if metric == "cosine":
        lengths = torch.cat([rows.double().norm(dim=1) for rows in features.split(4096)] or [torch.zeros(0)])
        return (features / lengths.clamp_min(1e-30).unsqueeze(1).to(features.dtype)).float()
    if len(features) == 0:
        return features.float()
    return (features - _mean(features)).float()


def _mean(features: Tensor) -> Tensor:
    """Return the mean row [D], summed in float64 by chunks, since one sum would copy all of `features`."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for rows in features.split(16384):
        total += rows.sum(0, dtype=torch.float64)
    return (total / len(features)).to(features.dtype)


def _search(geometry: Geometry, queries: Tensor, k: int) -> Neighbours:
    """Return the k nearest other images of some images [n] int64, ascending."""
    k = min(k, geometry.size - 1)
    if k < 1:
        return Neighbours(torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64))
    found = Neighbours(torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64))
    size = max(1, NUMBERS_AT_ONCE // geometry.size)
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        found.distances[part], found.indices[part] = _search_chunk(geometry, queries[part], k)
    return found


def _search_chunk(geometry: Geometry, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    closeness = geometry.closeness(rows)  # [n, N]
    closeness[torch.arange(len(rows)), rows] = -torch.inf
    count = min(k + SPARE, geometry.size - 1)
    values, candidates = closeness.topk(count)  # [n, count], descending
    # Since the candidates ascend, a stable sort leaves ties to the smaller index.
    candidates = candidates.sort(dim=1).values
    distances, indices = _ranked(geometry, rows, candidates, k)
    if count < geometry.size - 1:
        border = values[:, k - 1] - 2 * geometry.noise(rows, values[:, k - 1])
        for row in torch.nonzero(values[:, -1] >= border).flatten().tolist():
            # More than SPARE candidates may be equally near. All of these are then measured exactly.
            wide = torch.nonzero(closeness[row] >= border[row]).T  # [1, m], ascending
            distances[row], indices[row] = (part[0] for part in _ranked(geometry, rows[row : row + 1], wide, k))
    return distances, indices


def _ranked(geometry: Geometry, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices of the k nearest among candidates [n, m], which ascend in each row."""
    distances, order = geometry.distances(rows, candidates).sort(dim=1, stable=True)
    return distances[:, :k].clone(), candidates.gather(1, order[:, :k])


def _inverted_file(features: Tensor, k: int, metric: str) -> Neighbours:
    """Return approximate neighbours from a search in only a few cells."""
    shift = _mean(features) if metric == "euclidean" else 0
    place = torch.nn.functional.normalize if metric == "cosine" else lambda rows: rows - shift
    centres = _centres(features, place)
    cells, votes = _cells(features, centres, place)
    members = list(cells.argsort(stable=True).split(torch.bincount(cells, minlength=len(centres)).tolist()))
    width = min(k, len(features) - 1)
    found = Neighbours(torch.empty(len(features), width), torch.empty(len(features), width, dtype=torch.int64))
    for cell, queries in enumerate(members):
        if len(queries):
            order = _by_votes(votes[cell], centres, cell)
            candidates = _candidates(members, order, cell, 4 * width)
            here = _search(Points(features[candidates], metric), torch.searchsorted(candidates, queries), width)
            found.distances[queries], found.indices[queries] = here.distances, candidates[here.indices]
    return found


def _centres(features: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Return about N / 1000 centres [cells, D] float32 of k-means on a sample."""
    num_cells = max(1, round(len(features) / CELL))
    generator = stream("inverted file", len(features))
    order = torch.randperm(len(features), generator=generator)
    sample = place(features[order[: num_cells * SAMPLE_PER_CELL]].float())
    centres = sample[:num_cells].clone()
    for _ in range(ROUNDS):
        owners = torch.cat([_nearest_centres(rows, centres, 1) for rows in sample.split(16384)]).flatten()
        sums = torch.zeros_like(centres).index_add_(0, owners, sample)
        counts = torch.bincount(owners, minlength=num_cells)
        centres[counts > 0] = sums[counts > 0] / counts[counts > 0].unsqueeze(1)
    return centres


def _nearest_centres(rows: Tensor, centres: Tensor, count: int) -> Tensor:
    """Return the indices of the nearest centres of rows [n, D], [n, count], nearest first."""
    return torch.addmm(centres.square().sum(1) / 2, rows, centres.T, beta=-1).topk(count).indices


def _cells(features: Tensor, centres: Tensor, place: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return each image's cell [N] and, for pairs of cells, how many images of one are also near the other."""
    num_cells = len(centres)
    cells, votes = [], torch.zeros(num_cells * num_cells, dtype=torch.int64)
    for rows in features.split(16384):
        near = _nearest_centres(place(rows.float()), centres, min(PROBES, num_cells))  # [n, probes]
        cells.append(near[:, 0].clone())
        votes += torch.bincount((near[:, :1] * num_cells + near).flatten(), minlength=num_cells * num_cells)
    return torch.cat(cells), votes.view(num_cells, num_cells)


def _by_votes(votes: Tensor, centres: Tensor, cell: int) -> list[int]:
    """Return the cells in the order in which they are searched for a cell: most votes first, then by distance."""
    order = (centres - centres[cell]).norm(dim=1).argsort(stable=True)
    return order[votes[order].argsort(descending=True, stable=True)].tolist()


def _candidates(members: list[Tensor], order: list[int], cell: int, least: int) -> Tensor:
    """Return the images that are compared with those of a cell, ascending: those of the first cells of an order.

    These are PROBES cells; fewer if they are large, more if they hold fewer than `least` images.
    """
    chosen, count = [members[cell]], len(members[cell])
    for rank, other in enumerate(order):
        if count > least and (rank >= PROBES or count >= MOST_CANDIDATES):
            break
        if other != cell:
            chosen.append(members[other])
            count += len(members[other])
    return torch.cat(chosen).sort().values
