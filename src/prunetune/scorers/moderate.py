"""Moderate: the distance of an image from the median of its class."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import class_members
from prunetune.signals.contract import Signals

COLUMNS = 32  # Medians of at most this many feature dimensions are computed at once.
ROWS = 16384  # Distances of at most this many images are computed at once, in float64.


@dataclass(frozen=True)
class Moderate(Scorer):
    """Euclidean distance from an image's feature to the median feature of its class.

    Source: Xia et al. 2023, "Moderate Coreset" (ICLR). It keeps images in the middle of this ranking, as the sampler
    `window` does; `topk` would keep the farthest images.
    Differs: the original ranks the whole pool at once; samplers here rank each class.
    Direction: larger is harder, that is farther from the median.
    Cost: the features. No training.
    """

    name: ClassVar[str] = "moderate"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "window"

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return distances_to_class_median(signals.features(), pool.labels)


def distances_to_class_median(features: Tensor, labels: Tensor) -> Tensor:
    """Return [N] float64 distances from features [N, D] to the coordinate-wise median of their class, labels [N]."""
    distances = torch.empty(len(features), dtype=torch.float64)
    for members in class_members(labels):
        rows = features[members]  # [n, D]
        median = median_feature(rows)
        parts = [(part.double() - median).norm(dim=1) for part in rows.split(ROWS)]
        distances[members] = torch.cat(parts)
    return distances


def median_feature(features: Tensor) -> Tensor:
    """Return the median of each dimension of features [n, D], [D] float64; the mean of two for an even n."""
    parts = [np.median(part.double().numpy(), axis=0) for part in features.split(COLUMNS, dim=1)]
    return torch.from_numpy(np.concatenate(parts))
