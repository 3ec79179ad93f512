"""How much to keep, and whether the method matters: a learning curve on held-out samples, with intervals.

One frozen pass gives the features. Then samples are held out again and again; the others are pruned to several
fractions, a linear probe is trained on each part, and the held-out samples judge it. They serve the estimate only: when
the data are pruned afterwards, all samples are candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed, stream
from prunetune.own.draw import LEAST_PER_CLASS, stratified
from prunetune.own.estimate import HELD_OUT, Estimate, interval
from prunetune.own.power_law import PowerLaw, fit_power_law
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SPLITS = 20
MOST_SAMPLES = 20_000  # Of larger data this many are drawn, since the curve of more would take longer than a pass.
WITHIN = 0.01  # The recommended fraction loses at most this much accuracy, at the upper end of its interval.
RECIPE = Recipe("linear_probe", views=0, evaluate_every=50)
# Below the smallest of these fractions a method is hardly told apart, and above the largest all methods agree.
COMPARED = (0.05, 0.5)

Select = Callable[[Tensor, Tensor, float, int], Tensor]  # Maps features, labels, fraction, seed to kept positions.


@dataclass(frozen=True)
class Curve:
    """Accuracies on held-out samples.

    fractions: R fractions, the last one 1. counts: R numbers of samples that probes were trained on; the last one is
    smaller than num_samples, since some samples are held out. chosen, drawn: [R, J] accuracy of the method and of
    random samples on each of J splits. judging: [R, J] the variance of the loss on each split that comes from the draw
    of its judges.
    """

    fractions: tuple[float, ...]
    counts: tuple[int, ...]
    num_samples: int
    chosen: np.ndarray
    drawn: np.ndarray
    judging: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """Return the curve as plain JSON values."""
        return {field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Curve":
        """Return the curve that `as_json` has written."""
        arrays = {name: np.array(content[name]) for name in ("chosen", "drawn", "judging")}
        return cls(tuple(content["fractions"]), tuple(content["counts"]), content["num_samples"], **arrays)

    def reached(self, row: int) -> Estimate:
        """Return the accuracy of the method at a fraction."""
        return interval(self.chosen[row])

    def reached_by_random(self, row: int) -> Estimate:
        """Return the accuracy of as many random samples."""
        return interval(self.drawn[row])

    def loss(self, row: int) -> Estimate:
        """Return how much accuracy a training on what the method keeps loses, against one on all samples.

        The interval is about one such training, not about the mean of many.
        """
        losses = self.chosen[-1] + self.beyond - self.chosen[row]
        return interval(losses, max(float(losses.var(ddof=1) - self.judging[row].mean()), 0.0))

    @cached_property
    def law(self) -> PowerLaw:
        """The power law of the errors of random samples."""
        return fit_power_law(self.counts, 1 - self.drawn, self.num_samples)

    @cached_property
    def beyond(self) -> float:
        """How much more accurate all samples are than those that are not held out, by the power law."""
        return self.law.error(self.counts[-1]) - self.law.error(self.num_samples)

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
    num_classes, splits = int(labels.max()) + 1, [held_out(labels, seed, number) for number in range(SPLITS)]
    counts, right = [], []  # right: for each fraction and split two arrays, whether each judge is right.
    for fraction in fractions:
        probes = [
            _probe(features, labels, pool, judges, kept, number)
            for number, (pool, judges) in enumerate(splits)
            for kept in _both(features[pool], labels[pool], select, share(fraction, labels, pool), seed, number)
        ]
        counts.append(len(probes[0].rows))
        found = judged(features, probes, num_classes, device)
        right.append(list(zip(found[::2], found[1::2], strict=True)))
    reached = np.array([[[each.mean() for each in pair] for pair in row] for row in right])  # [R, J, 2]
    judging = [
        [
            judging_variance(whole.astype(float) - part, labels[judges].numpy())
            for (part, _), (whole, _), (_, judges) in zip(row, right[-1], splits, strict=True)
        ]
        for row in right
    ]
    return Curve(tuple(fractions), tuple(counts), len(labels), reached[..., 0], reached[..., 1], np.array(judging))


def judged(features: Tensor, probes: Sequence[Probe], num_classes: int, device: str) -> list[np.ndarray]:
    """Train probes on about equally many samples each, and return whether each of their test samples is right.

    Args:
        features: [N, D] float32, which the rows of the probes belong to.
        probes: the heads to train.
        num_classes: C.
        device: the device on which they are trained.
    """
    results = train_probes(features.unsqueeze(0), probes, num_classes, RECIPE, device)
    return [(r.predictions == p.test_labels).numpy() for r, p in zip(results, probes, strict=True)]


def judging_variance(losses: np.ndarray, labels: np.ndarray) -> float:
    """Return the variance of a mean loss that comes from the draw of the samples that judge.

    Each class judges with a fixed number of samples, so that only the variance within classes counts.

    Args:
        losses: [m] the loss on each judge: 1, 0 or -1.
        labels: [m] int64.
    """
    counts = np.bincount(labels)
    means = np.bincount(labels, losses) / np.maximum(counts, 1)
    degrees = int(np.maximum(counts - 1, 0).sum())
    if degrees == 0:  # Each class has one judge.
        return float(losses.var()) / len(losses)
    return float(((losses - means[labels]) ** 2).sum()) / degrees / len(losses)


def share(fraction: float, labels: Tensor, pool: Tensor) -> float:
    """Return the fraction of the samples of a split that is as many as a fraction of all samples.

    Without this a curve would be that of a smaller set: 10 % of 1000 samples are 100, and of the 900 that are not held
    out only 90. Where the curve is steep, that costs accuracy.

    Args:
        fraction: of all samples.
        labels: [N] int64.
        pool: [n] the positions that are not held out.
    """
    return min(fraction * len(labels) / len(pool), 1.0)


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
