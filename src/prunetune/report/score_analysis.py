"""Analyses of scores and subsets: rank correlation within classes, loss curves, maximum mean discrepancy (MMD).

Shapes: N images of a pool, C classes, D feature width, T levels of a path or epochs, M images of a subset.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from prunetune.base.errors import InputError

ROWS = 1024  # At most 1024 rows of a kernel matrix are in memory at a time.


@dataclass(frozen=True)
class ClassCorrelation:
    """Spearman's rho of two scores within each class, [C'] float64, and the classes without one.

    A class has no rho if one of the scores is constant in it, or if it has a single image.
    """

    values: Tensor
    num_left_out: int

    @property
    def mean(self) -> float:
        """The mean over classes; NaN without a class."""
        return float(self.values.mean())

    @property
    def std(self) -> float:
        """The spread over classes (ddof 1); NaN below two classes."""
        return float(self.values.std()) if len(self.values) > 1 else float("nan")


def within_class_spearman(first: Tensor, second: Tensor, labels: Tensor) -> ClassCorrelation:
    """Correlate the ranks of two scores class by class, ties at their mean rank.

    Args:
        first: [N].
        second: [N].
        labels: [N] int64.
    """
    if not first.shape == second.shape == labels.shape or labels.ndim != 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (first, second, labels))
        raise InputError(f"two scores and labels must be [N] and have the same length, got {shapes}")
    values, num_left_out = [], 0
    for label in labels.unique():
        ours, theirs = first[labels == label].numpy(), second[labels == label].numpy()
        if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
            num_left_out += 1
        else:
            values.append(float(spearmanr(ours, theirs).statistic))
    return ClassCorrelation(torch.tensor(values, dtype=torch.float64), num_left_out)


def easiest_and_hardest(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the smallest and of the largest score of each class that has two images, [C'] each.

    Of equal scores, the easiest is the one with the smaller position and the hardest the one with the larger position,
    so that the two differ.

    Args:
        scores: [N], higher means harder.
        labels: [N] int64.
    """
    easiest, hardest = [], []
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        if len(members) > 1:
            ordered = members[scores[members].argsort(stable=True)]
            easiest.append(ordered[0])
            hardest.append(ordered[-1])
    if not easiest:
        raise InputError("no class has two images, which are needed for an easiest and a hardest image")
    return torch.stack(easiest), torch.stack(hardest)


def easy_and_hard_curves(losses: Tensor, easiest: Tensor, hardest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean curve of the easiest and of the hardest images, [T] float64 in [0, 1] each.

    Source: the motivation figure of arXiv 2402.05356: the two curves of a class are scaled together, its smallest loss
    to 0 and its largest to 1; then the classes are averaged. A class whose losses are all equal counts as 0.

    Args:
        losses: [T, N].
        easiest: [C'] int64, a position for each class.
        hardest: [C'] int64, in the same order of classes.
    """
    pair = torch.stack([losses[:, easiest], losses[:, hardest]]).double()  # [2, T, C']
    low, high = pair.amin(dim=(0, 1)), pair.amax(dim=(0, 1))  # [C']
    width = torch.where(high > low, high - low, 1.0)
    easy, hard = ((pair - low) / width).mean(dim=2)
    return easy, hard


@dataclass(frozen=True)
class PoolKernel:
    """The RBF kernel exp(-||x - y||^2 / D) of a pool's features, kept as its row means.

    features: [N, D] float64. row_means: [N] float64, the mean kernel of an image with all N images.
    """

    features: Tensor
    row_means: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Compute the row means of features [N, D], ROWS rows at a time."""
        features = features.double()
        sums = [kernel_rows(rows, features).sum(dim=1) for rows in features.split(ROWS)]
        return cls(features, torch.cat(sums) / len(features))

    def mmd(self, subset: Tensor) -> float:
        """Return the maximum mean discrepancy of a subset and its pool: the square root of the biased estimate.

        Source: arXiv 2402.05356, with scikit-learn's bandwidth gamma = 1 / D.

        Args:
            subset: [M] int64 positions, each at most once.
        """
        num_pool, num_kept = len(self.features), len(subset)
        if not num_kept:
            raise InputError("the subset has no images; MMD needs at least one")
        square = self._sum_within(subset) / num_kept**2
        square += float(self.row_means.mean()) - 2 * float(self.row_means[subset].mean())
        return max(square, 0.0) ** 0.5 if num_kept < num_pool else 0.0

    def _sum_within(self, subset: Tensor) -> float:
        """Return the sum of the kernel within the subset. For a large subset it is found from the other images."""
        num_pool = len(self.features)
        if 2 * len(subset) <= num_pool:
            return _kernel_sum(self.features[subset])
        is_left = torch.ones(num_pool, dtype=torch.bool)
        is_left[subset] = False
        row_sums = num_pool * self.row_means
        return float(row_sums.sum() - 2 * row_sums[is_left].sum()) + _kernel_sum(self.features[is_left])


def kernel_rows(rows: Tensor, features: Tensor) -> Tensor:
    """Return exp(-||x - y||^2 / D), [B, N], of rows [B, D] and features [N, D]."""
    return torch.exp(-(torch.cdist(rows, features) ** 2) / features.shape[1])


def _kernel_sum(features: Tensor) -> float:
    return sum(float(kernel_rows(rows, features).sum()) for rows in features.split(ROWS))
