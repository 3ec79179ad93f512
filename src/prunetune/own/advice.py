"""`prunetune advise`: how much of a user's data to keep, and whether the method matters."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.own import learning_curve
from prunetune.own.choose import Plan, check_plan, duplicates_of, read_signals
from prunetune.own.data import OwnData
from prunetune.own.keep import Keep
from prunetune.own.learning_curve import Curve
from prunetune.own.power_law import PowerLaw
from prunetune.own.read import ReadOptions
from prunetune.runs.scores import compute_scores
from prunetune.signals.tensors import TensorSignals

SAME = 0.005  # Fractions that differ by at most this are one fraction of the curve.


@dataclass(frozen=True, eq=False)
class Advice:
    """An estimate for one user's data.

    curve: accuracies by fraction kept. num_samples: the samples that the estimate used, without copies. scorer: the
    name of the scorer. method: the method in words.
    """

    curve: Curve
    num_samples: int
    scorer: str
    method: str

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """Sentences, the recommendation first."""
        return tuple(learning_curve.verdict(self.curve, self.scorer))

    @property
    def law(self) -> PowerLaw:
        """What more data would bring."""
        return self.curve.law

    def table(self) -> list[str]:
        """Return the curve as lines of text; each number has its interval."""
        lines = [f"{'kept':>5} {'samples':>8} {'accuracy, %':>19} {'random, %':>19} {'loss in points':>18}"]
        for row, (fraction, count) in enumerate(zip(self.curve.fractions, self.curve.counts, strict=True)):
            chosen, drawn = self.curve.reached(row), self.curve.reached_by_random(row)
            loss = f" {self.curve.loss(row).short:>18}" if fraction < 1 else ""
            lines.append(f"{fraction:>5.0%} {count:>8} {chosen.short:>19} {drawn.short:>19}{loss}")
        return lines

    def __str__(self) -> str:
        return "\n".join([*self.verdict, "", *self.table(), "", *self.more_data()])

    def more_data(self) -> list[str]:
        """Return what the losses are measured against, what twice as much data would bring, and the power law."""
        used = self.curve.num_samples
        drawn = f" The estimate is about {used} of {self.num_samples} samples." if used < self.num_samples else ""
        return [
            f"The losses are against all {used} samples, whose accuracy follows from the power law.{drawn}",
            f"Twice as many samples of this kind would gain about {self.law.doubled}, if the power law holds on.",
            f"Power law: {self.law}.",
        ]

    def at(self, fraction: float) -> str:
        """Return what it costs to keep a fraction of the samples, in a sentence; empty if all are kept."""
        costs = {each: self.curve.loss(row) for row, each in enumerate(self.curve.fractions[:-1])}
        for each, loss in costs.items():
            if abs(each - fraction) <= SAME:
                return f"This pruning keeps {each:.0%}: expect a loss of {loss}."
        if fraction > 1 - SAME:
            return ""
        smaller = [f"that at {each:.0%}, {loss}" for each, loss in costs.items() if each < fraction]
        larger = [f"that at {each:.0%}, {loss}" for each, loss in costs.items() if each > fraction]
        if smaller and larger:
            bounds = f"between {larger[0]}, and {smaller[-1]}"
        else:
            bounds = f"above {larger[0]}" if larger else f"below {smaller[-1]}"
        return f"This pruning keeps {100 * fraction:.3g}%: expect a loss {bounds}."


def advise_data(data: OwnData, plan: Plan, store: Store, options: ReadOptions) -> Advice:
    """Estimate the accuracy by fraction kept, with the plan's network and method.

    Args:
        data: the N candidates.
        plan: the network, the method and the seed.
        store: holds decoded images and features.
        options: says whether images that cannot be read stop the work or are left out.

    Raises:
        InputError: the data have no labels, fewer than two classes, or a class has fewer than five samples; or the
            method needs more than features.
    """
    if not data.is_labelled:
        raise InputError("advice is an accuracy by label, and these data have no labels; give labels too")
    check_plan(data, Keep(fraction=1.0), plan)
    learning_curve.check(data.pool.labels)
    data, signals = read_signals(data, plan, store, options)
    # Copies in both parts of a split would make the estimate too good.
    alone = duplicates_of(data, signals).alone(len(data.pool))
    features, labels = signals.features()[alone], data.pool.labels[alone]
    curve = learning_curve.learning_curve(features, labels, selection_of(plan), plan.seed, device=signals.device)
    return Advice(curve, len(alone), plan.scorer.name, plan.method)


def selection_of(plan: Plan) -> learning_curve.Select:
    """Return the plan's method as a function of features [n, D], labels [n], a fraction and a seed."""

    def select(features: Tensor, labels: Tensor, fraction: float, seed: int) -> Tensor:
        ids = tuple(f"{row:09d}" for row in range(len(labels)))
        classes = tuple(map(str, range(int(labels.max()) + 1)))
        signals = TensorSignals(features, pool=Pool("part", labels, ids, ("train",) * len(ids), classes))
        scores = compute_scores(plan.scorer, signals, seed)
        kept: Tensor = plan.sampler.select(scores, labels, fraction, torch.Generator().manual_seed(seed), signals)
        return kept

    return select
