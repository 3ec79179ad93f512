"""How much to keep, and whether the method matters: a learning curve on held-out samples, with intervals.

One frozen pass gives the features. Then samples are held out again and again; the others are pruned to several
fractions, a linear probe is trained on each part, and the held-out samples judge it. They serve the estimate only: when
the data are pruned afterwards, all samples are candidates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed, stream
from prunetune.own.draw import LEAST_PER_CLASS, stratified
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SPLITS = 20
HELD_OUT = 0.1
MOST_SAMPLES = 20_000  # Of larger data this many are drawn, since the curve of more would take longer than a pass.
WITHIN = 0.01  # The recommended fraction loses at most this much accuracy, at the upper end of its interval.
CONFIDENCE = 0.95
BATCH = 128
# Below the smallest of these fractions a method is hardly told apart, and above the largest all methods agree.
COMPARED = (0.05, 0.5)

Select = Callable[[Tensor, Tensor, float, int], Tensor]  # Maps features, labels, fraction, seed to kept positions.


@dataclass(frozen=True)
class Estimate:
    """A mean over splits with its interval; all three are fractions of 1."""

    mean: float
    low: float
    high: float

    @property
    def short(self) -> str:
        """The mean and the interval in percent or in points, without words."""
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} points, {CONFIDENCE:.0%} interval [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Curve:
    """Accuracies on held-out samples.

    fractions: R fractions, the last one 1. counts: R numbers of samples that probes were trained on. chosen, drawn:
    [R, J] accuracy of the method and of random samples on each of J splits.
    """

    fractions: tuple[float, ...]
    counts: tuple[int, ...]
    chosen: np.ndarray
    drawn: np.ndarray

    def reached(self, row: int) -> Estimate:
        """Return the accuracy of the method at a fraction."""
        return interval(self.chosen[row])

    def reached_by_random(self, row: int) -> Estimate:
        """Return the accuracy of as many random samples."""
        return interval(self.drawn[row])

    def loss(self, row: int) -> Estimate:
        """Return how much accuracy the method loses at a fraction, against all samples."""
        return interval(self.chosen[-1] - self.chosen[row])

    @property
    def gain(self) -> Estimate:
        """How much more accurate the method is than random samples, on average over the smaller fractions."""
        rows = [row for row, fraction in enumerate(self.fractions) if COMPARED[0] <= fraction <= COMPARED[1]]
        return interval((self.chosen[rows] - self.drawn[rows]).mean(axis=0))

    @property
    def recommended(self) -> int:
        """The row of the smallest fraction that loses at most `WITHIN`, at the upper end of its interval."""
        rows = range(len(self.fractions) - 1)
        return next((row for row in rows if self.loss(row).high <= WITHIN), len(self.fractions) - 1)


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + scale * count ** -exponent, fitted to the accuracies of random samples.

    exponents: the 5th and the 95th percentile of the exponent over fits to the single splits. doubled: how much more
    accurate twice as many samples would be, by the fits to the single splits.
    """

    floor: float
    scale: float
    exponent: float
    exponents: tuple[float, float]
    doubled: Estimate

    def error(self, count: float) -> float:
        """Return the error, a fraction of 1, that random samples of this number have."""
        return float(self.floor + self.scale * count**-self.exponent)

    def __str__(self) -> str:
        low, high = self.exponents
        return (
            f"error = {self.floor:.3g} + {self.scale:.3g} / samples^{self.exponent:.2g}, for random samples; nine in "
            f"ten fits to single splits have an exponent from {low:.2g} to {high:.2g}"
        )


def learning_curve(
    features: Tensor,
    labels: Tensor,
    select: Select,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    device: str = "cpu",
) -> Curve:
    """Return the accuracy on held-out samples by fraction kept.

    Args:
        features: [N, D] float32.
        labels: [N] int64.
        select: the method.
        seed: of splits, draws and heads.
        fractions: the fractions, ascending; the last must be 1.
        device: the device on which probes are trained.

    Raises:
        InputError: there are fewer than two classes, or a class has fewer than five samples.
    """
    check(labels)
    rows = stratified(labels, MOST_SAMPLES, stream("advise sample", seed))
    features, labels = features[rows], labels[rows]
    num_classes, reached = int(labels.max()) + 1, np.zeros((2, len(fractions), SPLITS))
    splits = [held_out(labels, seed, number) for number in range(SPLITS)]
    counts = []
    for row, fraction in enumerate(fractions):
        probes = [
            _probe(features, labels, pool, judges, kept, number)
            for number, (pool, judges) in enumerate(splits)
            for kept in _both(features[pool], labels[pool], select, share(fraction, labels, pool), seed, number)
        ]
        counts.append(len(probes[0].rows))
        reached[:, row] = np.array(accuracies(features, probes, num_classes, device)).reshape(SPLITS, 2).T
    return Curve(tuple(fractions), tuple(counts), reached[0], reached[1])


def share(fraction: float, labels: Tensor, pool: Tensor) -> float:
    """Return the fraction of the samples of a split that is as many as a fraction of all samples.

    Without this, a curve would be that of a smaller set: of 15 samples of a class 10 % are one or two, and of the 13
    that are not held out always one.

    Args:
        fraction: of all samples.
        labels: [N] int64.
        pool: [n] the positions that are not held out.
    """
    return min(fraction * len(labels) / len(pool), 1.0)


def accuracies(features: Tensor, probes: Sequence[Probe], num_classes: int, device: str) -> list[float]:
    """Train probes on about equally many samples each, and return the accuracy of each on its test samples.

    Args:
        features: [N, D] float32, which the rows of the probes belong to.
        probes: the heads to train.
        num_classes: C.
        device: the device on which they are trained.
    """
    recipe = Recipe("linear_probe", views=0, evaluate_every=50, batch_size=_balanced(len(probes[0].rows)))
    results = train_probes(features.unsqueeze(0), probes, num_classes, recipe, device)
    return [float((r.predictions == p.test_labels).double().mean()) for r, p in zip(results, probes, strict=True)]


def check(labels: Tensor) -> None:
    """Refuse data that are too small for an estimate.

    Raises:
        InputError: there are fewer than two classes, or a class has fewer than five samples.
    """
    counts = labels.bincount()
    counts = counts[counts > 0]
    if len(counts) < 2:
        raise InputError("an estimate needs at least two classes, got one; advice is about labelled data")
    if int(counts.min()) < LEAST_PER_CLASS:
        raise InputError(
            f"an estimate needs at least {LEAST_PER_CLASS} samples of each class, since some are held out, and the "
            f"smallest class has {int(counts.min())}; leave that class out or add samples"
        )


def held_out(labels: Tensor, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """Return the positions that are pruned and those that judge, both ascending; a tenth of each class judges."""
    generator, judges = stream("advise split", seed, number), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=generator)
        judges[members[order[: max(round(HELD_OUT * len(members)), 1)]]] = True
    return torch.nonzero(~judges).flatten(), torch.nonzero(judges).flatten()


def interval(differences: np.ndarray) -> Estimate:
    """Return the mean of differences on J splits with its interval.

    The splits share samples, so that their differences are not independent: the variance of the mean is enlarged as by
    Nadeau and Bengio (Inference for the generalization error, Machine Learning 2003, section 4).
    """
    from scipy.stats import t

    count = len(differences)
    spread = differences.std(ddof=1) * math.sqrt(1 / count + HELD_OUT / (1 - HELD_OUT))
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * spread)
    mean = float(differences.mean())
    return Estimate(mean, mean - half, mean + half)


def power_law(curve: Curve) -> PowerLaw:
    """Return the power law of the errors of random samples."""
    counts = np.array(curve.counts, dtype=float)
    floor, scale, exponent = _fitted(counts, 1 - curve.drawn.mean(axis=1))
    gains, exponents = [], []
    for errors in (1 - curve.drawn).T:
        _, b, c = _fitted(counts, errors)
        gains.append(b * counts[-1] ** -c - b * (2 * counts[-1]) ** -c)
        exponents.append(c)
    low, high = np.quantile(exponents, (0.05, 0.95))
    return PowerLaw(floor, scale, exponent, (float(low), float(high)), interval(np.array(gains)))


def verdict(curve: Curve, method: str) -> list[str]:
    """Return the advice: how much to keep, what less would cost, and whether the method matters."""
    row, last = curve.recommended, len(curve.fractions) - 1
    if row == last:
        first = f"Keep all: no smaller fraction is surely within {100 * WITHIN:g} point of all samples."
    else:
        first = (
            f"Keep {curve.fractions[row]:.0%}: the loss against all samples is {curve.loss(row)}, which is within "
            f"{100 * WITHIN:g} point."
        )
    lines = [first]
    likely = next((r for r in range(row) if curve.loss(r).mean <= WITHIN), row)
    if likely < row:
        lines.append(f"At {curve.fractions[likely]:.0%} the loss is {curve.loss(likely)}: small, but too uncertain.")
    lower = [smaller for smaller in range(likely) if curve.fractions[smaller] <= curve.fractions[likely] / 2]
    if lower:
        lines.append(f"At {curve.fractions[lower[-1]]:.0%} expect a loss of {curve.loss(lower[-1])}.")
    gain = curve.gain
    if gain.low > 0:
        lines.append(f"Use {method}: it is above random samples by {gain}.")
    elif gain.high < 0:
        lines.append(f"Use random samples: {method} is below them by {Estimate(-gain.mean, -gain.high, -gain.low)}.")
    else:
        lines.append(f"The choice of the method does not matter here: {method} minus random samples is {gain}.")
    return lines


def _both(
    features: Tensor, labels: Tensor, select: Select, fraction: float, seed: int, number: int
) -> tuple[Tensor, Tensor]:
    """Return what the method keeps on a split, and as many random samples of each class."""
    seed = derive_seed("advise", seed, number)
    if fraction == 1:
        everything = torch.arange(len(labels))
        return everything, everything
    chosen = select(features, labels, fraction, seed)
    generator, drawn = stream("advise random", seed, fraction), []
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        budget = int((labels[chosen] == label).sum())
        drawn.append(members[torch.randperm(len(members), generator=generator)[:budget]])
    return chosen, torch.cat(drawn).sort().values


def _probe(features: Tensor, labels: Tensor, pool: Tensor, judges: Tensor, kept: Tensor, number: int) -> Probe:
    rows = pool[kept]
    return Probe(rows, labels[rows], features[judges], labels[judges], derive_seed("advise head", number))


def _balanced(count: int) -> int:
    """Return the batch size that divides `count` samples into batches of nearly one size: a short one distorts."""
    return math.ceil(count / math.ceil(count / BATCH))


def _fitted(counts: np.ndarray, errors: np.ndarray) -> tuple[float, float, float]:
    """Return floor, scale and exponent of the least-squares power law."""
    from scipy.optimize import least_squares

    def residuals(parameters: np.ndarray) -> np.ndarray:
        floor, log_scale, exponent = parameters.tolist()
        off: np.ndarray = floor + math.exp(log_scale) * counts**-exponent - errors
        return off

    start = [0.5 * errors.min(), math.log(max(errors.max(), 1e-3)) + 0.5 * math.log(counts[0]), 0.5]
    found = least_squares(residuals, start, bounds=([0, -20, 0.01], [1, 20, 3]))
    floor, log_scale, exponent = found.x
    return float(floor), float(np.exp(log_scale)), float(exponent)
