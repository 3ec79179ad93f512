"""Selection in two levels, for a class that is too large for one worker.

The class is cut into random parts. In the first level each part picks some of its rows. In the second level the final
picks are chosen among all of these. The part of a row is drawn from its position, so it does not depend on how many
workers there are.

Facility location. A published bound says: if each random part picks as many rows as are kept, the best of the parts'
own selections and of the second level has on average at least (1 - 1/e) / 2 of the highest possible value (Barbosa et
al. 2015, "The power of randomization: distributed submodular maximization on massive datasets", ICML; the method is
GreeDi, Mirzasoleiman et al. 2013, NeurIPS). Three things differ here: only the second level is used, its values are
computed on the picks of the parts, and a part may pick fewer rows. So the bound is a guide and no guarantee.

k-center. The radius is at most 4 times the smallest possible one, if each part picks as many rows as are kept (Malkomes
et al. 2015, "Fast distributed k-center clustering with outliers on massive data", NeurIPS).

Herding has no such bound. Its second level uses the mean of the whole class, as one level does.

How much two levels lose is measured on one part of the class, which is a random sample of it. This part is selected
once in one level and once in two levels, and both selections are compared.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunetune.base.errors import InputError
from prunetune.scorers import FacilityLocation, Herding, KCenter
from prunetune.scorers.base import Scorer
from prunetune.scorers.facility_location import cosine_similarity
from prunetune.scorers.herding import herd
from prunetune.scorers.k_center import farthest_first, squared_distances
from prunetune.selection.greedy import facility_location
from prunetune.selection.neighbours import Points

TWO_LEVEL = (Herding, KCenter, FacilityLocation)
ROWS = 4096  # Distances of this many rows to the picks are in memory at once.


def part_of(positions: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Return the part of each row, [n] int64 in 0..parts - 1, drawn from its position and the seed (SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = positions.astype(np.uint64) + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        mixed += np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(parts)).astype(np.int64)


def parts_of(size: int, held: int) -> int:
    """Return the number of parts of a class of `size` rows, where a worker holds `held`."""
    return math.ceil(size / max(1, held))


def picks_of_part(budget: int, parts: int, held: int) -> int:
    """Return how many images each part picks: as many as are kept, or as many as the second level can hold.

    Args:
        budget: how many images of the class are kept.
        parts: the number of parts.
        held: how many rows a worker holds.

    Raises:
        InputError: the second level cannot hold as many images as are kept.
    """
    picks = min(budget, held // parts)
    if picks * parts < budget:
        raise InputError(
            f"{budget} images of one class are to be kept, and a worker holds {held}; keep fewer, or give the workers "
            "more memory (worker_gb)"
        )
    return picks


def order_of(scorer: Scorer, features: Tensor, count: int, mean: Tensor | None = None, first: int = 0) -> Tensor:
    """Return the first picks [count] int64 of a greedy scorer among rows [n, D] float32.

    Args:
        scorer: a Herding, KCenter or FacilityLocation.
        features: [n, D] float32.
        count: number of picks, at most n.
        mean: [D] float64, what herding approaches; by default the mean of the rows.
        first: the first pick of k-center.
    """
    if isinstance(scorer, Herding):
        return herd(features, count, scorer.variant != "fixed", mean)
    if isinstance(scorer, KCenter):
        return farthest_first(squared_distances(features), len(features), first, count)
    points = Points(features, "cosine")
    return facility_location(points, cosine_similarity, count, scorer.neighbours, scorer.max_dense)


@dataclass(frozen=True)
class Loss:
    """What two levels lose against one level in n rows of a class.

    name: of the class. parts: how many parts it has. rows: n. kept: picks among them. measure: what was measured; lower
    is better. one_level, two_levels: its value.
    """

    name: str
    parts: int
    rows: int
    kept: int
    measure: str
    one_level: float
    two_levels: float

    @property
    def line(self) -> str:
        """One line for the log and the report."""
        return (
            f"class {self.name} is selected in two levels of {self.parts} parts; on {self.rows} of its rows, of which "
            f"{self.kept} are kept, the {self.measure} is {self.two_levels:.4g} instead of {self.one_level:.4g}"
        )


def measure_loss(scorer: Scorer, features: Tensor, kept: int, parts: int, name: str) -> Loss:
    """Return what two levels lose against one level.

    Args:
        scorer: a Herding, KCenter or FacilityLocation.
        features: [n, D] float32.
        kept: number of picks, at most n.
        parts: how many parts the first level has.
        name: the name of the class.
    """
    place, picks = (
        torch.from_numpy(part_of(np.arange(len(features)), parts, 0)),
        max(1, min(kept, len(features) // parts)),
    )
    members = [torch.nonzero(place == part).flatten() for part in range(parts)]
    first = [some[order_of(scorer, features[some], min(picks, len(some)))] for some in members if len(some)]
    union = torch.cat(first).sort().values
    kept = min(kept, len(union))
    two = union[order_of(scorer, features[union], kept, features.mean(dim=0, dtype=torch.float64))]
    one = order_of(scorer, features, kept)
    measure, value = MEASURES[type(scorer)]
    return Loss(name, parts, len(features), kept, measure, value(features, one), value(features, two))


def _distance_of_means(features: Tensor, picks: Tensor) -> float:
    means = [rows.mean(dim=0, dtype=torch.float64) for rows in (features[picks], features)]
    return float((means[0] - means[1]).norm())


def _radius(features: Tensor, picks: Tensor) -> float:
    return max(float(torch.cdist(rows, features[picks]).min(dim=1).values.max()) for rows in features.split(ROWS))


def _mean_cosine_distance(features: Tensor, picks: Tensor) -> float:
    centres = normalize(features[picks]).T
    nearest = [(normalize(rows) @ centres).max(dim=1).values for rows in features.split(ROWS)]
    return float(1 - torch.cat(nearest).mean(dtype=torch.float64))


MEASURES = {
    Herding: ("distance of the means of what is kept and of all", _distance_of_means),
    KCenter: ("largest distance of a row to a kept one", _radius),
    FacilityLocation: ("mean cosine distance of a row to a kept one", _mean_cosine_distance),
}
