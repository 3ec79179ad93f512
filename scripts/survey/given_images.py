"""What users have instead of a clean set: wrong labels, rare classes, copies, test images of another style.

`Images` are the features of one set. `Given` is a sub-pool of it as a user could have it, and what can be kept of it.
A scorer or sampler sees the given labels only. Test images keep their right labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunetune.base.seeding import derive_seed, seeded, stream
from prunetune.config.parse import ImageRun
from prunetune.data.pool import Pool
from prunetune.data.subpool import drawn
from prunetune.networks.masking import MaskPath
from prunetune.own.duplicates import identical_rows
from prunetune.own.suspects import suspect_labels
from prunetune.runs.sampler_search import Question, choose
from prunetune.runs.scores import compute_scores
from prunetune.samplers.amount import ENDING, Amount
from prunetune.samplers.budgets import class_budgets, same_budgets
from prunetune.scorers import KMedoids
from prunetune.scorers.base import Scorer
from prunetune.signals.tensors import TensorSignals
from prunetune.training.linear_probe import Probe, train_probes
from scripts.reproduce.study_cells import SHARE, Opened
from scripts.survey.suspect_labels import flipped

DUPLICATED = 1 / 3  # This share of the images of each class is there twice.


@dataclass(frozen=True, eq=False)
class Images:
    """The features of a set: N images of its pool and N' of a test set.

    run: returns the run of a method of the study at a ratio. features: [N, D] float32. levels: the same of each masked
    network, for DLC. labels: [N] int64. sample_ids: N names. num_classes: C. test: features [N', D] and labels [N'].
    other_test: the same of test images of another style.
    """

    run: Callable[[str, float], ImageRun]
    features: Tensor
    levels: Sequence[Tensor]
    labels: Tensor
    sample_ids: Sequence[str]
    num_classes: int
    test: tuple[Tensor, Tensor]
    other_test: tuple[Tensor, Tensor] | None = None


def images_of(opened: Opened) -> Images:
    """Return the features of a pair of the study."""
    scorer = opened.run("dlc_easiest", 0.5).scorer
    path = MaskPath(scorer.schedule, scorer.levels, scorer.step, True, "l1", opened.signals.mask_modules)
    pool = opened.pool
    return Images(
        opened.run,
        opened.features,
        list(opened.signals.masked_features(path)),
        pool.labels,
        pool.sample_ids,
        len(pool.classes),
        (opened.test_features, opened.test.labels),
    )


def in_common_classes(opened: Opened, classes: Sequence[Sequence[str]]) -> Images:
    """Return the images of some classes of a pair: class c of the result is those of the pair that classes[c] names."""
    names, images = opened.pool.classes, images_of(opened)
    new = torch.full((len(names),), -1)
    for number, members in enumerate(classes):
        new[[names.index(name) for name in members if name in names]] = number
    rows, tested = (torch.nonzero(new[labels] >= 0).flatten() for labels in (images.labels, images.test[1]))
    return replace(
        images,
        features=images.features[rows],
        levels=[level[rows] for level in images.levels],
        labels=new[images.labels[rows]],
        sample_ids=[images.sample_ids[row] for row in rows.tolist()],
        num_classes=len(classes),
        test=(images.test[0][tested], new[images.test[1][tested]]),
    )


@dataclass(frozen=True, eq=False)
class Given:
    """The n images that a user has.

    number: of the sub-pool, which seeds all draws. rows: [n] int64 rows of the images, some perhaps twice. labels: [n]
    int64 as the user has them. can_stay: [n] bool, the images that a method sees and may keep; how many it keeps is
    counted with the others. budgets: how they are distributed over the classes, "proportional" or "equal".
    """

    images: Images
    number: int
    rows: Tensor
    labels: Tensor
    can_stay: Tensor
    budgets: str = "proportional"

    @cached_property
    def allowed(self) -> Tensor:
        """The positions that may be kept, [m] int64, ascending."""
        return torch.nonzero(self.can_stay).flatten()

    @cached_property
    def signals(self) -> TensorSignals:
        """The signals of the m images that may be kept."""
        rows, labels = self.rows[self.allowed], self.labels[self.allowed]
        ids = tuple(f"{position:07d}" for position in self.allowed.tolist())
        classes = tuple(str(label) for label in range(self.images.num_classes))
        pool = Pool("given", labels, ids, ("train",) * len(ids), classes)
        return TensorSignals(self.images.features[rows], [level[rows] for level in self.images.levels], pool)

    def kept(self, method: str, budgets: Sequence[str]) -> Iterator[Tensor]:
        """Yield the positions [k] int64 that a method keeps at each budget.

        k-medoids keeps its first picks (BUILD), which serve every budget. Its exchanges (SWAP) would serve only one
        fraction of each class. Here the budgets of the classes differ, and some images may not be kept.
        """
        scores = compute_scores(self._scorer(method), self.signals, self.number)
        for budget in budgets:
            yield self.allowed[self._select(method, scores, budget)]

    def _scorer(self, method: str) -> Scorer:
        scorer = self.images.run(method, 0.5).scorer
        return replace(scorer, fraction=None) if isinstance(scorer, KMedoids) else scorer

    def _select(self, method: str, scores: Tensor, budget: str) -> Tensor:
        counts = self.counts(budget)
        ratio = sum(counts.values()) / len(self.labels) if budget.endswith(ENDING) else float(budget)
        run, own = self.images.run(method, ratio), self.labels[self.allowed]
        candidates = {name: replace(sampler, budgets=self.budgets) for name, sampler in run.candidates.items()}
        question = Question(candidates, self._scorer(method), Amount.parse(budget), self.number, run.search)
        sampler = choose(question, self.signals, self.signals).sampler
        with seeded("sample", self.number, ratio) as generator:
            if len(own) == len(self.labels) and not budget.endswith(ENDING):
                return sampler.select(scores, own, ratio, generator, self.signals)
            return sampler.select_budgets(scores, own, _at_most(counts, own), generator, self.signals)

    def counts(self, budget: str) -> dict[int, int]:
        """Return how many images each class keeps, counted with those that may not stay."""
        if budget.endswith(ENDING):
            return same_budgets(self.labels, Amount.parse(budget).per_class)
        return class_budgets(self.labels, float(budget), budgets=self.budgets)

    def judged(self, kept: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return what a linear probe on each of the kept parts reaches on the test images.

        Args:
            kept: positions [k] int64. All probes of a sub-pool begin with the same head, that of the study.

        Returns:
            For each: "accuracy"; "balanced", the mean over classes; "rare", that over the third of the classes with
            the fewest given images; "by_size", the mean over classes weighted by given images, all fractions;
            "images", k; "different", how many of them are no copies of others; "wrong", how many have wrong labels.
        """
        images = self.images
        features, labels = images.test
        seed, recipe = derive_seed("study", self.number), images.run("random", 0.5).recipe
        probes = [Probe(self.rows[some], self.labels[some], features, labels, seed) for some in kept]
        results = train_probes(images.features.unsqueeze(0), probes, images.num_classes, recipe, "cpu")
        return [
            {**self._accuracies(result.predictions == labels), **self._made_of(some)}
            for result, some in zip(results, kept, strict=True)
        ]

    def _accuracies(self, is_right: Tensor) -> dict[str, float]:
        labels, num_classes = self.images.test[1], self.images.num_classes
        by_class = torch.bincount(labels, is_right.double(), num_classes) / labels.bincount(minlength=num_classes)
        sizes = self.labels.bincount(minlength=num_classes)
        rarest = sizes.argsort(stable=True)[: max(num_classes // 3, 1)]
        return {
            "accuracy": float(is_right.double().mean()),
            "balanced": float(by_class.mean()),
            "rare": float(by_class[rarest].mean()),
            "by_size": float((by_class * sizes).sum() / sizes.sum()),
        }

    def _made_of(self, kept: Tensor) -> dict[str, int]:
        rows = self.rows[kept]
        wrong = int((self.labels[kept] != self.images.labels[rows]).sum())
        return {"images": len(rows), "different": len(rows.unique()), "wrong": wrong}


def _at_most(counts: dict[int, int], labels: Tensor) -> dict[int, int]:
    sizes = labels.bincount(minlength=max(counts) + 1).tolist()
    return {label: min(count, sizes[label]) for label, count in counts.items()}


def sub_pool(images: Images, number: int) -> Given:
    """Return a sub-pool of the study, with right labels."""
    return _of(images, number, drawn(images.labels, images.sample_ids, SHARE, number))


def _of(images: Images, number: int, rows: Tensor) -> Given:
    return Given(images, number, rows, images.labels[rows], torch.ones(len(rows), dtype=torch.bool))


def with_wrong_labels(given: Given, rate: float) -> Given:
    """Return the same images, a fraction of the labels changed to another class at random."""
    return replace(given, labels=flipped(given.labels, rate, given.number)[0])


def without_suspects(given: Given) -> Given:
    """Return the same images; those on the list of suspect labels may not stay."""
    found = suspect_labels(given.images.features[given.rows], given.labels, given.number)
    return replace(given, can_stay=~found.is_suspect)


def with_rare_classes(given: Given, ratio: float) -> Given:
    """Return a part of the images in which class sizes fall exponentially from the largest to 1 / ratio of it.

    Rank r of C classes has m * ratio ** (-r / (C - 1)) images, where m is the size of the smallest class before. Which
    class has which rank is drawn anew in each sub-pool, and so are the images.
    """
    generator, num_classes = stream("rare classes", given.number), given.images.num_classes
    largest, rows = int(given.labels.bincount().min()), []
    for rank, label in enumerate(torch.randperm(num_classes, generator=generator).tolist()):
        members = given.rows[given.labels == label]
        size = max(round(largest * ratio ** (-rank / (num_classes - 1))), 1)
        rows.append(members[torch.randperm(len(members), generator=generator)[:size]])
    return _of(given.images, given.number, torch.cat(rows).sort().values)


def with_copies(given: Given) -> Given:
    """Return the images with a third of each class twice; copies stand beside each other."""
    generator, twice = stream("copies", given.number), []
    for label in given.labels.unique().tolist():
        members = given.rows[given.labels == label]
        twice.append(members[torch.randperm(len(members), generator=generator)[: round(len(members) * DUPLICATED)]])
    return _of(given.images, given.number, torch.cat([given.rows, *twice]).sort().values)


def without_copies(given: Given) -> Given:
    """Return the same images; of images with equal features one may stay."""
    alone = identical_rows(given.images.features[given.rows]).alone(len(given.rows))
    can_stay = torch.zeros(len(given.rows), dtype=torch.bool)
    can_stay[alone] = True
    return replace(given, can_stay=can_stay)


def tested_on_other(given: Given) -> Given:
    """Return the same images, tested on those of another style."""
    assert given.images.other_test is not None
    return replace(given, images=replace(given.images, test=given.images.other_test))
