"""The contract of scorers and samplers as named checks. They also work for classes outside this package.

`check_scorer(MyScorer())` and `check_sampler(MySampler())` run all checks, and raise AssertionError with the promise
that is broken. With pytest each check becomes a separate test:

    @parametrize_with_checks(MyScorer(), MySampler())
    def test_my_method(check):
        check()
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.checkpoint import weights_hash
from prunetune.runs.scores import compute_scores
from prunetune.samplers import Sampler, class_budgets
from prunetune.scorers import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe, RecordedProxy
from prunetune.signals.tensors import TensorSignals
from prunetune.training.recipe import Recipe

# The classes differ in size, and one has a single image. The sum, 23, is not a multiple of the batch sizes used below,
# so that the last batch is shorter.
CLASS_SIZES = (11, 1, 7, 4)
SHORT_PROXY = ProxyRecipe(Recipe("full", trained="all", epochs=6, learning_rate=1e-3, views=0))
CLOSE = {"rtol": 1e-3, "atol": 1e-6}  # Tolerance for scores that were computed in float32 with another batch size.
RATIOS = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Check:
    """One promise of a scorer or sampler. Calling the check raises AssertionError if the promise is broken.

    name: the promise in words, such as "Herding: the same seed gives the same scores". run: checks the promise.
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()


def parametrize_with_checks(*methods: Scorer | Sampler) -> Any:
    """Return a pytest decorator that runs a test once for every check of every method, passed as argument `check`."""
    import pytest  # Imported here, since an installation without tests may not have pytest.

    checks = [check for method in methods for check in checks_of(method)]
    return pytest.mark.parametrize("check", [pytest.param(check, id=check.name) for check in checks])


def checks_of(method: Scorer | Sampler) -> list[Check]:
    """Return the named checks of a scorer or a sampler."""
    return sampler_checks(method) if isinstance(method, Sampler) else scorer_checks(method)


def check_scorer(scorer: Scorer, backbone: Backbone | None = None, proxy: ProxyRecipe = SHORT_PROXY) -> None:
    """Check all promises of a scorer on a small pool; the arguments are those of `scorer_checks`."""
    for check in scorer_checks(scorer, backbone, proxy):
        check()


def check_sampler(sampler: Sampler, keeps_budgets: bool = True) -> None:
    """Check all promises of a sampler; the arguments are those of `sampler_checks`."""
    for check in sampler_checks(sampler, keeps_budgets):
        check()


def scorer_checks(scorer: Scorer, backbone: Backbone | None = None, proxy: ProxyRecipe = SHORT_PROXY) -> list[Check]:
    """Return the named checks of a scorer. They share what has been computed, and may run in any order.

    Args:
        scorer: any scorer.
        backbone: the network that the scorer is checked with; by default the one that comes with the package.
        proxy: how to train the proxy network, for scorers that read it.
    """
    trial = _ScorerTrial(scorer, backbone or Backbone(model="prunetune_micro", mask_modules="conv2d"), proxy)
    return trial.checks()


@dataclass(frozen=True)
class _ScorerTrial:
    """A scorer on a small pool of noise images."""

    scorer: Scorer
    backbone: Backbone
    proxy: ProxyRecipe
    _done: dict[str, Tensor] = field(default_factory=dict)

    def checks(self) -> list[Check]:
        promises = {
            "direction and version are declared": self.is_declared,
            "scores are one finite float64 number for each image": self.scores_are_numbers,
            "scores tell images apart unless they mean nothing": self.scores_tell_apart,
            "the backbone is unchanged afterwards": self.backbone_is_unchanged,
            "the same seed gives the same scores": self.seed_repeats,
            "another seed changes the scores exactly if uses_seed says so": self.seed_is_declared,
            "scores do not depend on the listing order": self.order_does_not_matter,
            "scores do not depend on the batch size": self.batch_size_does_not_matter,
        }
        return [Check(f"{type(self.scorer).__name__}: {name}", run) for name, run in promises.items()]

    @cached_property
    def network(self) -> Network:
        return self.backbone.load()

    @property
    def scores(self) -> Tensor:
        """The scores of seed 0, computed once."""
        if "scores" not in self._done:
            self._done["scores"] = self._compute(seed=0)
        return self._done["scores"]

    @property
    def scores_of_another_seed(self) -> Tensor:
        """The scores of seed 1, computed once."""
        if "another seed" not in self._done:
            self._done["another seed"] = self._compute(seed=1)
        return self._done["another seed"]

    def is_declared(self) -> None:
        assert self.scorer.higher_means in ("harder", "picked earlier", "nothing"), (
            "higher_means must be harder, picked earlier or nothing"
        )
        assert self.scorer.version >= 1, "version must be a whole number from 1"

    def scores_are_numbers(self) -> None:
        assert self.scores.shape == (sum(CLASS_SIZES),), "scores must be [N]"
        assert self.scores.dtype == torch.float64, "scores must be float64"
        assert self.scores.isfinite().all(), "scores must be finite"

    def scores_tell_apart(self) -> None:
        is_constant = bool((self.scores == self.scores[0]).all())
        means_nothing = self.scorer.higher_means == "nothing"
        assert is_constant == means_nothing, "scores must tell images apart unless they mean nothing"

    def backbone_is_unchanged(self) -> None:
        before = weights_hash(self.backbone.load().model)
        assert self.scores is not None
        assert weights_hash(self.network.model) == before, "the backbone must be unchanged afterwards"

    def seed_repeats(self) -> None:
        # A scorer that ignores the seed has repeated its scores already if those of another seed are equal.
        has_repeated = not self.scorer.uses_seed and torch.equal(self.scores, self.scores_of_another_seed)
        assert has_repeated or torch.equal(self.scores, self._compute(seed=0)), (
            "the same seed must give the same scores"
        )

    def seed_is_declared(self) -> None:
        is_equal = torch.equal(self.scores, self.scores_of_another_seed)
        assert is_equal != self.scorer.uses_seed, "another seed must change the scores exactly if uses_seed says so"

    def order_does_not_matter(self) -> None:
        backwards = list(reversed(range(sum(CLASS_SIZES))))
        scores = self._compute(seed=0, order=backwards)
        assert torch.equal(self.scores, scores), "scores must not depend on the listing order"

    def batch_size_does_not_matter(self) -> None:
        scores = self._compute(seed=0, batch_size=5)
        assert torch.allclose(self.scores, scores, **CLOSE), "scores must not depend on the batch size"

    def _compute(self, seed: int, order: list[int] | None = None, batch_size: int = 8) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            embedding = Embedding(self.network, Store(Path(folder)), batch_size=batch_size)
            pool = made_pool(self.network.input_size, order)
            return compute_scores(self.scorer, NetworkSignals(pool, embedding, self.proxy), seed)


def sampler_checks(sampler: Sampler, keeps_budgets: bool = True) -> list[Check]:
    """Return the named checks of a sampler, on made scores, features and proxy logits.

    Args:
        sampler: any sampler.
        keeps_budgets: False leaves out the check of class budgets, for published methods that do not keep them.
    """
    trial = _SamplerTrial(sampler)
    return [check for check in trial.checks() if keeps_budgets or check.run != trial.budgets_are_kept]


@dataclass(frozen=True)
class _SamplerTrial:
    """A sampler on made scores of 23 images in four classes."""

    sampler: Sampler

    def checks(self) -> list[Check]:
        promises = {
            "a subset is ascending, unique positions": self.positions_are_sorted,
            "the same generator gives the same subset": self.draws_repeat,
            "other scores change the subset exactly if reads_scores says so": self.scores_are_declared,
            "classes keep their budgets": self.budgets_are_kept,
            "ratio 1 keeps everything": self.whole_pool_is_kept,
        }
        return [Check(f"{type(self.sampler).__name__}: {name}", run) for name, run in promises.items()]

    @cached_property
    def labels(self) -> Tensor:
        labels = torch.repeat_interleave(torch.arange(len(CLASS_SIZES)), torch.tensor(CLASS_SIZES))
        return labels[torch.randperm(len(labels), generator=stream("made labels"))]

    @cached_property
    def signals(self) -> Signals:
        return made_signals(self.labels)

    def positions_are_sorted(self) -> None:
        for ratio in RATIOS:
            kept = self._select(ratio)
            assert kept.dtype == torch.int64, "a subset must be [M] int64 positions"
            assert torch.equal(kept, kept.unique()), "positions must be ascending and unique"

    def draws_repeat(self) -> None:
        for ratio in RATIOS:
            assert torch.equal(self._select(ratio), self._select(ratio)), "the same generator must give the same subset"

    def scores_are_declared(self) -> None:
        is_moved = any(not torch.equal(self._select(ratio), self._select(ratio, "other scores")) for ratio in RATIOS)
        assert is_moved == self.sampler.reads_scores, (
            "other scores must change the subset exactly if reads_scores says so"
        )

    def budgets_are_kept(self) -> None:
        sampler = self.sampler
        recall = self.signals.class_recall() if sampler.budgets == "drop" else None
        for ratio in RATIOS:
            budgets = class_budgets(
                self.labels, ratio, sampler.min_per_class, sampler.rounding, sampler.budgets, recall
            )
            kept = self._select(ratio)
            counts = {label: int((self.labels[kept] == label).sum()) for label in budgets}
            assert counts == budgets, f"classes must keep their budgets at ratio {ratio}"

    def whole_pool_is_kept(self) -> None:
        everything = self._select(1.0)
        assert torch.equal(everything, torch.arange(len(self.labels))), "ratio 1 must keep everything"

    def _select(self, ratio: float, scores: str = "made scores") -> Tensor:
        values = torch.rand(len(self.labels), generator=stream(scores), dtype=torch.float64)
        return self.sampler.select(values, self.labels, ratio, stream("draw", ratio), self.signals)


def made_pool(size: int = 32, order: list[int] | None = None) -> Pool:
    """Return a small pool of noise images, [3, size, size]. A pattern of bright rows shows the class.

    order: the order in which the images are passed to the pool. A pool sorts its images, so the order has no effect.
    """
    labels = torch.repeat_interleave(torch.arange(len(CLASS_SIZES)), torch.tensor(CLASS_SIZES))
    noise = torch.randint(0, 128, (len(labels), size, size, 3), generator=stream("made pool")).numpy().astype(np.uint8)
    for pixels, label in zip(noise, labels.tolist(), strict=True):
        pixels[:: label + 2] += 100
    ids = [f"image{position:02d}" for position in range(len(labels))]
    order = list(range(len(labels))) if order is None else order
    return Pool(
        "made",
        labels[order],
        tuple(ids[i] for i in order),
        tuple("val" if i % 4 == 3 else "train" for i in order),
        tuple("abcd"),
        ImageArrays(noise[order]),
    )


def made_signals(labels: Tensor, width: int = 8, epochs: int = 6) -> Signals:
    """Return random features [N, width] and a random proxy for images with labels [N] int64.

    Both depend on the labels, so that classes can be told apart.
    """
    num_classes, generator = int(labels.max()) + 1, stream("made signals")
    pool = Pool(
        "made",
        labels,
        tuple(f"image{position:06d}" for position in range(len(labels))),
        ("train",) * len(labels),
        tuple(map(str, range(num_classes))),
    )
    directions = torch.randn(num_classes, width, generator=generator)
    features = directions[labels] + torch.randn(len(labels), width, generator=generator)
    logits = torch.randn(epochs, len(labels), num_classes, generator=generator)
    logits += torch.nn.functional.one_hot(labels, num_classes) * torch.arange(epochs).view(-1, 1, 1)
    return TensorSignals(features, pool=pool, proxies=[RecordedProxy(list(logits))])
