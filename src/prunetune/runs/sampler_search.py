"""Choose between samplers on held-out pool images, for sampler.gamma=auto, sampler.beta=auto, sampler=topk_flexible.

The test set is not used.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed, seeded, stream
from prunetune.data.pool import Pool
from prunetune.runs.scores import compute_scores
from prunetune.samplers.amount import Amount
from prunetune.samplers.base import Sampler
from prunetune.samplers.candidates import OPEN, Search
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.part import PartSignals
from prunetune.signals.view_bank import view_bank
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe

log = logging.getLogger(__name__)
# The candidates are compared by linear probes trained with this recipe, independent of the recipe of the run.
RECIPE = Recipe("linear_probe", evaluate_every=50, last_batch="balanced")


@dataclass(frozen=True)
class Choice:
    """The outcome of a search between samplers.

    sampler: the best one. labels: names of all candidates; empty if there was only one. accuracies, standard_errors:
    of each candidate on held-out data, as fractions. chosen: the label of the best one. recipe: the name of the recipe
    with which the candidates' subsets were trained on.
    """

    sampler: Sampler
    labels: tuple[str, ...] = ()
    accuracies: tuple[float, ...] = ()
    standard_errors: tuple[float | None, ...] = ()
    seconds: float = 0.0
    chosen: str = ""
    recipe: str = RECIPE.name

    @property
    def rule(self) -> str | None:
        """How gamma, beta or end of the sampler was set: "validation", "fixed", or None if it has none of them."""
        if self.labels:
            return "validation"
        return "fixed" if any(hasattr(self.sampler, key) for key in OPEN) else None

    def record(self) -> dict[str, Any] | None:
        """Return the search as result.json records it, or None if there was only one candidate."""
        if not self.labels:
            return None
        rows = zip(self.labels, self.accuracies, self.standard_errors, strict=True)
        return {
            "recipe": self.recipe,
            "chosen": self.chosen,
            "candidates": [{"label": a, "accuracy": b, "standard_error": c} for a, b, c in rows],
        }


@dataclass(frozen=True)
class Question:
    """The question which of several samplers is best for a scorer.

    candidates: samplers by label; of equally good ones the first wins. amount: how much of each class is kept.
    seed: of splits, draws and linear heads. search: the settings of the comparison.
    """

    candidates: Mapping[str, Sampler]
    scorer: Scorer
    amount: Amount
    seed: int
    search: Search


def choose(question: Question, signals: Signals, feature_signals: Signals) -> Choice:
    """Return the candidate whose subsets train the linear probes with the best accuracy on held-out pool images.

    In each repeat a part of each class is held out. Scores and prototypes are computed anew from the other images,
    every candidate selects about as many of these as the run will keep, and a linear probe trained on its subset is
    tested on the held-out part. There is one leak: a fully fine-tuned proxy is trained on the whole pool, with the
    held-out part.

    Args:
        question: the candidates, and the scorer and amount to compare them for.
        signals: those of the scoring backbone for the whole pool.
        feature_signals: those of the fine-tuned backbone for the whole pool. The probes are trained on its features.
    """
    candidates, search = question.candidates, question.search
    pool = signals.pool
    if len(candidates) == 1 or question.amount.share(pool.labels) == 1:
        return Choice(next(iter(candidates.values())))
    start, spent_before = time.perf_counter(), sum(signals.spent.values())
    features = feature_signals.features()
    subsets: list[Tensor] = []
    judges: list[tuple[Tensor, int]] = []
    for repeat in range(search.repeats):
        kept, held_out = split_pool(pool, search, question.seed, repeat)
        inner = PartSignals(signals, kept)
        scores = compute_scores(question.scorer, inner, question.seed)
        amount = inner_amount(question, len(kept) / len(pool))
        for sampler in candidates.values():
            # All candidates get the same draws.
            generator = stream("search", question.seed, question.amount.value, repeat)
            subsets.append(kept[amount.select(sampler, scores, inner.pool.labels, generator, inner)])
            judges.append((held_out, repeat))
    bank = view_bank(feature_signals, torch.cat(subsets).unique(), search.views)
    probes = [
        Probe(
            bank.rows(subset),
            pool.labels[subset],
            features[held_out],
            pool.labels[held_out],
            seed=derive_seed("search head", question.seed, repeat),
        )
        for subset, (held_out, repeat) in zip(subsets, judges, strict=True)
    ]
    outcomes = train_probes(bank.values, probes, len(pool.classes), RECIPE, signals.device)
    accuracy = torch.tensor([outcome.history[-1].test_accuracy for outcome in outcomes], dtype=torch.float64)
    # The cost of the scorer's signals is charged to the score, even if they are first computed here.
    seconds = time.perf_counter() - start - (sum(signals.spent.values()) - spent_before)
    return _best(candidates, accuracy.view(search.repeats, len(candidates)), seconds)


def inner_amount(question: Question, share: float) -> Amount:
    """Return what candidates select from a share of the pool: about as many images as the run keeps of the whole pool.

    The same fraction would keep fewer images, for which another candidate can be best. Where a class keeps one or two
    images, rounding even decides from which side FlexRand takes them, and that side would change with the number.

    Where the number would be more than half of the share, or outside the range of a candidate's gamma, the fraction
    stays as it is: so many images differ little, and a candidate must not be judged by another rule than its own.

    Args:
        question: the candidates, and what the run keeps.
        share: the part of the pool that is not held out, in (0, 1).
    """
    amount = question.amount
    if amount.fraction is None or question.search.keeps == "fraction":
        return amount
    fraction = amount.fraction / share
    gammas = [getattr(sampler, "gamma", 0.5) for sampler in question.candidates.values()]
    fits = fraction <= 0.5 and all(fraction / 2 <= min(gamma, 1 - gamma) for gamma in gammas)
    return Amount(fraction=fraction) if fits else amount


def split_pool(pool: Pool, search: Search, seed: int, repeat: int) -> tuple[Tensor, Tensor]:
    """Return the positions to prune and the held-out positions, both ascending. No class is held out as a whole.

    Raises:
        InputError: every class has a single image, so that none can be held out.
    """
    held_out = []
    with seeded("search split", seed, repeat) as generator:
        for label in pool.labels.unique():
            members = torch.nonzero(pool.labels == label).flatten()
            count = min(max(round(len(members) * search.held_out), 1), len(members) - 1)
            held_out.append(members[torch.randperm(len(members), generator=generator)[:count]])
    judged = torch.cat(held_out).sort().values
    if not len(judged):
        raise InputError(
            f"every class of {pool.name} has one image: none can be held out to choose a sampler; "
            "pass sampler.gamma=<number>"
        )
    mask = torch.ones(len(pool), dtype=torch.bool)
    mask[judged] = False
    return torch.nonzero(mask).flatten(), judged


def _best(candidates: Mapping[str, Sampler], accuracy: Tensor, seconds: float) -> Choice:
    """Return the candidate with the highest mean accuracy, the first one of equals. accuracy: [repeats, candidates]."""
    means = accuracy.mean(dim=0)
    errors = accuracy.std(dim=0) / len(accuracy) ** 0.5 if len(accuracy) > 1 else [None] * len(candidates)
    # Equal means can differ by rounding, since the order of summation differs. They must count as equal.
    best = list(candidates)[int(means.round(decimals=9).argmax())]
    shown = ", ".join(f"{label} {mean:.1%}" for label, mean in zip(candidates, means.tolist(), strict=True))
    log.info("chose %s on held-out pool images (%s) in %.1f s", best, shown, seconds)
    return Choice(
        candidates[best],
        tuple(candidates),
        tuple(means.tolist()),
        tuple(None if error is None else float(error) for error in errors),
        seconds,
        best,
    )
