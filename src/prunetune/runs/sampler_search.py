"""Choosing between samplers on held-out pool images: sampler.gamma=auto, sampler.beta=auto, sampler=topk_flexible.

The test set takes no part.
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
from prunetune.samplers.base import Sampler
from prunetune.samplers.candidates import OPEN, Search
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.part import PartSignals
from prunetune.signals.view_bank import view_bank
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe

log = logging.getLogger(__name__)
RECIPE = Recipe("linear_probe", evaluate_every=50)  # of the judges, whatever the run's own recipe is


@dataclass(frozen=True)
class Choice:
    """The sampler that did best, and how all of them did on held-out data (fractions); `labels` name them.

    recipe: how the models were trained that judged.
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
        """How the sampler's open number was set; None where it has none."""
        if self.labels:
            return "validation"
        return "fixed" if any(hasattr(self.sampler, key) for key in OPEN) else None

    def record(self) -> dict[str, Any] | None:
        """Return what result.json says of the search, None where there was nothing to choose between."""
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
    """Which of several samplers suits a scorer best.

    candidates: samplers by label, in order of preference for ties. scorer: gives the scores. ratio: fraction kept.
    seed: of splits, draws and heads. search: how candidates are judged.
    """

    candidates: Mapping[str, Sampler]
    scorer: Scorer
    ratio: float
    seed: int
    search: Search


def choose(question: Question, signals: Signals, feature_signals: Signals) -> Choice:
    """Return the candidate whose subsets train the best probes, by accuracy on pool images that no step has seen.

    In each repeat a part of each class is held out; scores and prototypes are made anew from the rest, every candidate
    selects from it at the same ratio, and a linear probe on its choice is judged on the held-out part. One thing has
    seen that part: a fully fine-tuned proxy, which is that of the whole pool.

    Args:
        question: the candidates and what they are judged for.
        signals: of the scoring backbone, over the whole pool.
        feature_signals: of the fine-tuned backbone, over the whole pool, for the probes.
    """
    candidates, search = question.candidates, question.search
    if len(candidates) == 1 or question.ratio == 1:
        return Choice(next(iter(candidates.values())))
    start, spent_before = time.perf_counter(), sum(signals.spent.values())
    pool, features = signals.pool, feature_signals.features()
    subsets: list[Tensor] = []
    judges: list[tuple[Tensor, int]] = []
    for repeat in range(search.repeats):
        kept, held_out = split_pool(pool, search, question.seed, repeat)
        inner = PartSignals(signals, kept)
        scores = compute_scores(question.scorer, inner, question.seed)
        for sampler in candidates.values():
            generator = stream("search", question.seed, question.ratio, repeat)  # the same draw for every candidate
            subsets.append(kept[sampler.select(scores, inner.pool.labels, question.ratio, generator, inner)])
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
    # what the scorer's signals cost has been charged to the score, also where they are computed here
    seconds = time.perf_counter() - start - (sum(signals.spent.values()) - spent_before)
    return _best(candidates, accuracy.view(search.repeats, len(candidates)), seconds)


def split_pool(pool: Pool, search: Search, seed: int, repeat: int) -> tuple[Tensor, Tensor]:
    """Return the positions that are pruned and those that judge, both ascending; no class is held out whole.

    Raises:
        InputError: no class is large enough to hold out an image.
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
    """Pick the candidate with the highest mean of accuracy [repeats, candidates]; the first of equals."""
    means = accuracy.mean(dim=0)
    errors = accuracy.std(dim=0) / len(accuracy) ** 0.5 if len(accuracy) > 1 else [None] * len(candidates)
    best = list(candidates)[int(means.round(decimals=9).argmax())]  # equal sums in another order are equal
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
