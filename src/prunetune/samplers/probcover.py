"""ProbCover: balls of one radius around the kept images, which cover as many images as possible."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler, draw, unit

NUMBERS_AT_ONCE = 2**24  # A block of cosines has at most this many numbers (64 MiB).
# The slack allows for the rounding of float32 cosines.
# Without the slack an image could lie outside its own ball or outside that of an identical image.
SLACK = 1e-6
WIDEST = 2.0  # Two features of unit length are at most this far apart.


@dataclass(frozen=True, kw_only=True)
class ProbCover(Sampler):
    """Greedy cover of each class: every pick has the most uncovered images in its ball. Reads no score.

    Source: arXiv 2205.11320: the radius delta is the largest at which a fraction of at least `purity` of all balls hold
    images of one class only. Differs: purity is measured by the labels, which are known here (the paper clusters);
    delta is the same for the whole pool, and balls cover their own class; features are the pretrained network's, of
    unit length; picks that cover nothing new are drawn uniformly (the paper does not define them).
    Reads: features. Cost: 2 n^2 D operations for a class of n images and no n x n numbers; for delta the distances of
    `num_judged` images, evenly spaced, to all others.

    delta: Euclidean radius; None chooses it by purity.
    """

    name: ClassVar[str] = "probcover"
    reads_scores: ClassVar[bool] = False
    needs: ClassVar[str] = "features"

    delta: float | None = None
    purity: float = 0.95
    num_judged: int = 4096

    def __post_init__(self) -> None:
        checks.number("sampler.delta", self.delta, "(0, inf)", or_none=True)
        checks.number("sampler.purity", self.purity, "[0, 1)")
        checks.whole_number("sampler.num_judged", self.num_judged)
        super().__post_init__()

    def settled(self, scores: Tensor, labels: Tensor, budgets: dict[int, int], needed: Tensor | None) -> "ProbCover":
        if self.delta is not None:
            return self
        judged = torch.arange(0, len(labels), -(-len(labels) // self.num_judged))
        return replace(self, delta=pure_radius(gaps_to_other_classes(needed, labels, judged), self.purity))

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        picks = cover(unit(needed), self.delta, budget)
        is_left = torch.ones(len(scores), dtype=torch.bool)
        is_left[picks] = False
        return torch.cat([picks, draw(torch.nonzero(is_left).flatten(), budget - len(picks), generator)])


def gaps_to_other_classes(features: Tensor, labels: Tensor, judged: Tensor) -> Tensor:
    """Return the distance from each judged image to the nearest image of another class, [n] float64.

    Distances are those of features of unit length; with one class only they are the widest, 2.

    Args:
        features: [N, D].
        labels: [N] int64.
        judged: [n] int64 positions.
    """
    queries, best = unit(features[judged]), torch.full((len(judged),), -1.0)
    size = max(1, NUMBERS_AT_ONCE // len(judged))
    for rows, row_labels in zip(features.split(size), labels.split(size), strict=True):
        cosines = queries @ unit(rows).T  # [n, rows]
        cosines[labels[judged].unsqueeze(1) == row_labels] = -1.0
        best = torch.maximum(best, cosines.max(dim=1).values)
    return (2 - 2 * best.double()).clamp_min(0).sqrt()


def pure_radius(gaps: Tensor, purity: float) -> float:
    """Return the largest radius at which enough balls are pure, that is, reach no image of another class.

    Args:
        gaps: [n] float64 distances to the nearest image of another class.
        purity: fraction of balls that must be pure.
    """
    num_impure = int(len(gaps) * (1 - purity) + 1e-9)
    return max(float(gaps.sort().values[min(num_impure, len(gaps) - 1)]), 1e-12)


def cover(features: Tensor, delta: float, count: int) -> Tensor:
    """Return the picks of a greedy cover, at most `count` int64: fewer if they cover all images.

    The uncovered images of each ball are counted once and then updated: when an image is first covered, the counts of
    all balls that contain it fall by one. So every pair is computed twice, and none is stored.

    Args:
        features: [n, D] float32 of unit length.
        delta: Euclidean radius of closed balls.
        count: number of picks.
    """
    # An image is in a ball if its cosine with the centre is at least this large.
    least = 1 - min(delta, WIDEST) ** 2 / 2 - SLACK
    everyone = torch.arange(len(features))
    counts, is_open = _holders(features, everyone, least), np.ones(len(features), dtype=bool)
    picks: list[int] = []
    while len(picks) < count and is_open.any():
        pick = int(counts.argmax())
        near = (features @ features[pick] >= least).numpy()
        near[pick] = True
        fresh = np.flatnonzero(near & is_open)
        is_open[fresh] = False
        counts -= _holders(features, torch.from_numpy(fresh), least)
        counts[pick] = -(2**62)
        picks.append(pick)
    return torch.tensor(picks, dtype=torch.int64)


def _holders(features: Tensor, covered: Tensor, least: float) -> np.ndarray:
    """Return how many of the given images [m] are in each of the n balls, [n] int64."""
    counts = torch.zeros(len(features), dtype=torch.int64)
    for part in covered.split(max(1, NUMBERS_AT_ONCE // len(features))):
        counts += (features[part] @ features.T >= least).sum(dim=0, dtype=torch.int32)
    return counts.numpy()
