"""Prototype distances: the cosine distance of an image to the nearest cluster centre, or to its class mean."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals

ROWS = 8192  # Cosines of at most this many images are held in memory at once.


@dataclass(frozen=True)
class SSP(Scorer):
    """Cosine distance from an image's feature to the nearest of k k-means centres, or to the mean of its class.

    Source: arXiv 2206.14486: self-supervised prototypes, and supervised ones with `supervised`. Far images are kept
    when data are plentiful, near ones when they are scarce: pass sampler=topk_easiest for the latter.
    Differs: k-means runs on features of unit length, as the distance is a cosine; the paper does not say. Its
    features come from self-supervised pretraining, ours from the backbone.
    Direction: larger is harder.
    Cost: the features; k-means with k = number of classes on at most `num_fitted` images (a random sample of larger
    pools), whose centres are used for all images. No training.
    """

    supervised: bool = False  # The value true takes the distance to the mean of the image's class.
    num_centres: int | None = None  # The value null takes as many centres as there are classes.
    num_fitted: int = 100_000

    name: ClassVar[str] = "ssp"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.whole_number("scorer.num_centres", self.num_centres, or_none=True)
        checks.whole_number("scorer.num_fitted", self.num_fitted, least=2)
        if self.supervised and self.num_centres is not None:
            raise InputError("scorer.supervised takes one prototype per class; drop scorer.num_centres")
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """Whether clustering is used: it starts from randomly drawn images, while class means need no random draw."""
        return not self.supervised

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        features = signals.features()
        if self.supervised:
            return distances_to_class_direction(features, pool.labels)
        num_centres = self.num_centres or len(pool.classes)
        return distances_to_nearest(features, cluster_centres(features, num_centres, self.num_fitted, generator))


def unit(features: Tensor) -> Tensor:
    """Return features [n, D] scaled to length 1, float64; a zero feature stays zero."""
    return torch.nn.functional.normalize(features.double(), dim=1)


def distances_to_class_direction(features: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - cosine of features [N, D] with the mean unit feature of their class, labels [N]; [N] float64."""
    sums = torch.zeros(int(labels.max()) + 1, features.shape[1], dtype=torch.float64)
    for rows, row_labels in zip(features.split(ROWS), labels.split(ROWS), strict=True):
        sums.index_add_(0, row_labels, unit(rows))
    directions = unit(sums)  # [C, D]
    parts = zip(features.split(ROWS), labels.split(ROWS), strict=True)
    return torch.cat([1 - (unit(rows) * directions[row_labels]).sum(dim=1) for rows, row_labels in parts])


def distances_to_nearest(features: Tensor, centres: Tensor) -> Tensor:
    """Return 1 - the largest cosine of features [N, D] with one of the centres [k, D]; [N] float64."""
    directions = unit(centres).T  # [D, k]
    return torch.cat([1 - (unit(rows) @ directions).max(dim=1).values for rows in features.split(ROWS)])


def cluster_centres(features: Tensor, num_centres: int, num_fitted: int, generator: torch.Generator) -> Tensor:
    """Return the centres of k-means on unit features, [num_centres, D] float64.

    Args:
        features: [N, D] float32.
        num_centres: number of clusters, at most the number of images.
        num_fitted: largest number of images that k-means reads; a random sample of a larger pool is taken.
        generator: draws the sample and the first centres.

    Raises:
        InputError: there are more centres than images that k-means reads.
    """
    from sklearn.cluster import KMeans  # This import is slow and rarely needed, as in samplers/clusters.py.

    if len(features) > num_fitted:
        features = features[torch.randperm(len(features), generator=generator)[:num_fitted].sort().values]
    if num_centres > len(features):
        raise InputError(
            f"k-means on {len(features)} images cannot find {num_centres} centres; "
            "lower scorer.num_centres or raise scorer.num_fitted"
        )
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    directions = torch.nn.functional.normalize(features, dim=1).numpy()
    fitted = KMeans(num_centres, init="k-means++", n_init=1, random_state=seed, copy_x=False).fit(directions)
    return torch.from_numpy(fitted.cluster_centers_).double()
