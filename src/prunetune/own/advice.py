"""`prunetune advise`: how much of a user's data to keep, and whether the method matters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.own import learning_curve
from prunetune.own.choose import Plan, check_plan, duplicates_of, read_signals
from prunetune.own.data import OwnData
from prunetune.own.keep import Keep
from prunetune.own.learning_curve import Curve, PowerLaw
from prunetune.own.read import ReadOptions
from prunetune.runs.scores import compute_scores
from prunetune.signals.tensors import TensorSignals


@dataclass(frozen=True)
class Advice:
    """An estimate for one user's data.

    verdict: sentences, the recommendation first. curve: the accuracies behind them. law: what more data would bring.
    num_samples: the samples that the estimate used, without copies. method: the method in words.
    """

    verdict: tuple[str, ...]
    curve: Curve
    law: PowerLaw
    num_samples: int
    method: str

    def table(self) -> list[str]:
        """Return the curve as lines of text."""
        lines = [f"{'kept':>6} {'samples':>8} {'accuracy':>9} {'random':>8}   loss against all samples, in points"]
        for row, (fraction, count) in enumerate(zip(self.curve.fractions, self.curve.counts, strict=True)):
            chosen, drawn = 100 * self.curve.chosen[row].mean(), 100 * self.curve.drawn[row].mean()
            loss = self.curve.loss(row)
            interval = f"{100 * loss.mean:5.1f} [{100 * loss.low:.1f}, {100 * loss.high:.1f}]" if fraction < 1 else ""
            lines.append(f"{fraction:>6.0%} {count:>8} {chosen:>8.1f}% {drawn:>7.1f}%   {interval}".rstrip())
        return lines

    def __str__(self) -> str:
        return "\n".join([*self.verdict, "", *self.table(), "", self.more_data()])

    def more_data(self) -> str:
        """Return what twice as much data would bring, by the power law."""
        return f"Twice as many samples of this kind would gain about {self.law.doubled}, if the power law holds on."


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
        raise InputError("advice is an accuracy by label, and these data have no labels")
    check_plan(data, Keep(fraction=1.0), plan)
    learning_curve.check(data.pool.labels)
    data, signals = read_signals(data, plan, store, options)
    # Copies in both parts of a split would make the estimate too good.
    alone = duplicates_of(data, signals).alone(len(data.pool))
    features, labels = signals.features()[alone], data.pool.labels[alone]
    curve = learning_curve.learning_curve(features, labels, _selection(plan), plan.seed, device=signals.device)
    sentences = tuple(learning_curve.verdict(curve, plan.scorer.name))
    return Advice(sentences, curve, learning_curve.power_law(curve), len(alone), plan.method)


def _selection(plan: Plan) -> learning_curve.Select:
    """Return the plan's method as a function of features [n, D], labels [n], a fraction and a seed."""

    def select(features: Tensor, labels: Tensor, fraction: float, seed: int) -> Tensor:
        ids = tuple(f"{row:09d}" for row in range(len(labels)))
        classes = tuple(map(str, range(int(labels.max()) + 1)))
        signals = TensorSignals(features, pool=Pool("part", labels, ids, ("train",) * len(ids), classes))
        scores = compute_scores(plan.scorer, signals, seed)
        return plan.sampler.select(scores, labels, fraction, torch.Generator().manual_seed(seed), signals)

    return select
