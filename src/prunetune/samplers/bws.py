"""BWS: the window of the ranking on which a ridge regression is trained that is right on most of the pool."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler
from prunetune.samplers.window import window

ROWS = 16384  # Features and class values of at most this many images are held in memory at once.


@dataclass(frozen=True, kw_only=True)
class BWS(Sampler):
    """The same window of every class's ranking, its start chosen by ridge regression.

    For each start the class labels are regressed on the features of the images in the windows. The start whose
    regression classifies most of the pool correctly is taken; of equals the one nearest to the middle.

    Source: arXiv 2406.03057, best-window selection. Differs: windows are those of each class; features are the
    pretrained network's (the paper's come from a short training on the pool); the regression is linear and its ridge
    is relative to the features.
    Reads: features. Cost: `num_windows` regressions of D features: about num_windows (M D^2 + N D C) operations.

    start: in [0, 1], 0 the hardest, 1 the easiest; None: chosen. num_windows: starts that are tried, evenly spaced.
    ridge: the penalty, in units of the mean variance of a feature summed over the kept images.
    """

    name: ClassVar[str] = "bws"
    reads_hardness: ClassVar[bool] = True
    needs: ClassVar[str] = "features"
    needs_labels: ClassVar[bool] = True

    start: float | None = None
    num_windows: int = 21
    ridge: float = 1.0

    def __post_init__(self) -> None:
        checks.whole_number("sampler.num_windows", self.num_windows, least=2)
        checks.number("sampler.ridge", self.ridge, "(0, inf)")
        checks.number("sampler.start", self.start, "[0, 1]", or_none=True, otherwise=" to choose it")
        super().__post_init__()

    def settled(self, scores: Tensor, labels: Tensor, budgets: dict[int, int], needed: Tensor | None) -> "BWS":
        if self.start is not None or all(budget in (0, int((labels == c).sum())) for c, budget in budgets.items()):
            return self
        starts = [i / (self.num_windows - 1) for i in range(self.num_windows)]
        return replace(self, start=best_start(needed, scores, labels, budgets, starts, self.ridge))

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return window(scores, budget, self.start)


def best_start(
    features: Tensor,
    scores: Tensor,
    labels: Tensor,
    budgets: dict[int, int],
    starts: Sequence[float],
    ridge: float,
) -> float:
    """Return the start whose windows give the best ridge regression on the pool; of equals the nearest to .5.

    Args:
        features: [N, D] float32.
        scores: [N] float64.
        labels: [N] int64.
        budgets: number of kept images of each class that occurs.
        starts: starts that are tried, in [0, 1].
        ridge: see `ridge_accuracy`.
    """
    members = {label: torch.nonzero(labels == label).flatten() for label in budgets}
    best, most = 0.5, -1.0
    for start in sorted(starts, key=lambda start: (abs(start - 0.5), start)):
        kept = torch.cat([members[c][window(scores[members[c]], budget, start)] for c, budget in budgets.items()])
        accuracy = ridge_accuracy(features, labels, kept, ridge)
        if accuracy > most:
            best, most = start, accuracy
    return best


def ridge_accuracy(features: Tensor, labels: Tensor, kept: Tensor, ridge: float) -> float:
    """Return the fraction of the pool that a ridge regression on some of its images classifies correctly.

    Features and one-hot labels are centred at their means over the kept images; the class with the largest value
    is predicted; of equals the lower class.

    Args:
        features: [N, D] float32.
        labels: [N] int64.
        kept: [M] int64 positions of the images that it is trained on.
        ridge: penalty in units of the mean diagonal entry of the kept images' scatter matrix.
    """
    num_classes, width = int(labels.max()) + 1, features.shape[1]
    mean = sum(rows.double().sum(dim=0) for rows in features[kept].split(ROWS)) / len(kept)  # [D]
    counts = torch.bincount(labels[kept], minlength=num_classes).double()  # [C]
    scatter = torch.zeros(width, width, dtype=torch.float64)
    # These are the sums of the centred features of each class.
    sums = torch.zeros(num_classes, width, dtype=torch.float64)
    for part in kept.split(ROWS):
        rows = features[part].double() - mean
        scatter.addmm_(rows.T, rows)
        sums.index_add_(0, labels[part], rows)
    penalty = max(ridge * float(scatter.diagonal().mean()), 1e-12)
    scatter.diagonal().add_(penalty)
    # [D, C]. The mean of the labels has no effect because the rows are centred.
    weight = torch.linalg.solve(scatter, sums.T)
    bias = counts / len(kept) - mean @ weight  # [C]
    right = 0
    for rows, own in zip(features.split(ROWS // 4), labels.split(ROWS // 4), strict=True):
        right += int((torch.addmm(bias.float(), rows.float(), weight.float()).argmax(dim=1) == own).sum())
    return right / len(labels)
