"""k-medoids of the n images of one class: the swaps of PAM.

Letters: n images, k medoids, D feature width.
"""

import logging

import numpy as np
import torch
from torch import Tensor

from prunetune.selection.greedy import ROWS, UNITS
from prunetune.selection.neighbours import Geometry

log = logging.getLogger(__name__)
FAR = 2 * int(UNITS)  # Larger than every distance, which is at most UNITS.
NUMBERS_AT_ONCE = 2**23  # A block has at most this many distances (64 MiB).
PASSES = 100  # A few are needed. Beyond max_dense, rounding could let two equal sets replace each other for ever.


def swapped(geometry: Geometry, medoids: Tensor, max_dense: int = 4096) -> Tensor:
    """Exchange medoids for other images until no exchange of one lowers the sum of distances.

    The sum is that of all images to their nearest medoid. The images are tried in their order, again and again. An
    image that lowers the sum takes at once the place of the medoid with which the sum becomes smallest, of equals of
    the first one in `medoids`.

    Source: SWAP of PAM (Kaufman and Rousseeuw 1990), as FasterPAM does it (Schubert and Rousseeuw 2021, arXiv
    2008.05171): the change for all k medoids takes one pass over the n distances of an image.

    Distances are whole numbers, so that sums and ties are exact. A pass over the images takes n^2 operations, and
    beyond `max_dense` images n^2 D, since their distances are computed in blocks in every pass and not kept.

    Args:
        geometry: distances of the n images.
        medoids: [k] int64, the images to start from, 1 <= k <= n.
        max_dense: the largest n for which all pairs are kept, n^2 numbers.

    Returns:
        [k] int64, each image in the place of the medoid that it replaced.
    """
    distances = _Distances(geometry, max_dense)
    clusters = _Clusters(distances, medoids.numpy().copy())
    for _ in range(PASSES):
        if not _improve(distances, clusters):
            break
    else:
        log.warning("the medoids of %d images were still changing after %d passes", geometry.size, PASSES)
    return torch.from_numpy(clusters.medoids)


def _improve(distances: "_Distances", clusters: "_Clusters") -> bool:
    """Try every image once; return whether any took the place of a medoid."""
    is_better, everyone = False, np.arange(distances.size)
    for start in range(0, distances.size, width := max(1, NUMBERS_AT_ONCE // distances.size)):
        candidates = everyone[start : start + width]
        for candidate, own in zip(candidates, distances.between(candidates, everyone), strict=True):
            if clusters.is_medoid[candidate]:
                continue
            changes = clusters.changes(own)
            place = int(changes.argmin())
            if changes[place] < 0:
                clusters.exchange(place, int(candidate), own)
                is_better = True
    return is_better


class _Distances:
    """Distances as whole numbers from 0 to UNITS."""

    def __init__(self, geometry: Geometry, max_dense: int) -> None:
        self.size, self._geometry, everyone = geometry.size, geometry, np.arange(geometry.size)
        # By the triangle inequality, no two images are farther apart than twice the largest distance to one image.
        farthest = 2 * float(geometry.block(torch.tensor([0]), torch.from_numpy(everyone)).max())
        self._scale = UNITS / farthest if farthest > 0 else 0.0
        self._pairs: np.ndarray | None = None
        if self.size <= max_dense:
            pairs = np.empty((self.size, self.size), dtype=np.int64)
            for start in range(0, self.size, ROWS):
                pairs[start : start + ROWS] = self.between(everyone[start : start + ROWS], everyone)
            self._pairs = np.minimum(pairs, pairs.T)  # The two distances of a pair may be rounded differently.

    def between(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the distances of rows [n] int64 to columns [m] int64, [n, m] int64."""
        if self._pairs is not None:
            return self._pairs[np.ix_(rows, columns)]
        block = self._geometry.block(torch.from_numpy(rows), torch.from_numpy(columns))
        return block.mul_(self._scale).round_().long().numpy()


class _Clusters:
    """The images by their nearest and second nearest medoid.

    medoids: [k] int64. is_medoid: [n] bool.
    """

    def __init__(self, distances: _Distances, medoids: np.ndarray) -> None:
        size, self._distances, self.medoids = distances.size, distances, medoids
        self.is_medoid = np.zeros(size, dtype=bool)
        self.is_medoid[medoids] = True
        # [n] each: the places of the two medoids in `medoids`, and the distances to them.
        self._place, self._next_place, self._distance, self._next_distance = np.zeros((4, size), dtype=np.int64)
        self._assign(np.arange(size))
        self._without = self._sums_without()

    def changes(self, own: np.ndarray) -> np.ndarray:
        """Return by how much the sum of distances changes if an image takes the place of each medoid, [k] int64.

        own: [n] int64, the distances of the image.
        """
        near = np.flatnonzero(own < self._next_distance)
        own, distance, next_distance = own[near], self._distance[near], self._next_distance[near]
        changes = self._without.copy()
        # Without its medoid, an image goes to the new one if that is nearer than the second nearest.
        np.add.at(changes, self._place[near], np.maximum(own, distance) - next_distance)
        return changes + np.minimum(own - distance, 0).sum()

    def exchange(self, place: int, image: int, own: np.ndarray) -> None:
        """Put an image in the place of a medoid. own: [n] int64, the distances of the image."""
        self.is_medoid[self.medoids[place]], self.is_medoid[image] = False, True
        self.medoids[place] = image
        lost = (self._place == place) | (self._next_place == place)
        first = ~lost & (own < self._distance)
        second = ~lost & ~first & (own < self._next_distance)
        self._next_place[first], self._next_distance[first] = self._place[first], self._distance[first]
        self._place[first], self._distance[first] = place, own[first]
        self._next_place[second], self._next_distance[second] = place, own[second]
        self._assign(np.flatnonzero(lost))
        self._without = self._sums_without()

    def _assign(self, images: np.ndarray) -> None:
        """Find the two nearest medoids of some images among all medoids."""
        width = max(1, NUMBERS_AT_ONCE // len(self.medoids))
        for start in range(0, len(images), width):
            some = images[start : start + width]
            distances = self._distances.between(some, self.medoids)  # [n, k]
            for places, nearest in ((self._place, self._distance), (self._next_place, self._next_distance)):
                places[some] = distances.argmin(1)
                rows = np.arange(len(some)), places[some]
                nearest[some] = distances[rows]
                distances[rows] = FAR

    def _sums_without(self) -> np.ndarray:
        """Return by how much the sum grows without each medoid, [k] int64."""
        sums = np.zeros(len(self.medoids), dtype=np.int64)
        np.add.at(sums, self._place, self._next_distance - self._distance)
        return sums
