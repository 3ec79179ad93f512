"""Choosing gamma, or the end of a score, on held-out pool images."""

from dataclasses import dataclass, replace

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.config import identity
from prunetune.data.pool import Pool
from prunetune.runs import sampler_search
from prunetune.runs.sampler_search import Question, choose, inner_amount, split_pool
from prunetune.runs.scores import compute_scores
from prunetune.samplers import CCS, FlexRand, TopKFlexible
from prunetune.samplers import candidates as open_settings
from prunetune.samplers.amount import Amount
from prunetune.samplers.candidates import Search, beta_candidates, end_candidates, gamma_candidates, gammas
from prunetune.scorers import DLC, Scorer
from prunetune.signals.part import PartSignals
from prunetune.signals.tensors import TensorSignals
from prunetune.training.recipe import Recipe

GRID = Search().grid


def flexrand(gamma: float) -> FlexRand:
    return FlexRand(gamma=gamma)


def flexible(end: str) -> TopKFlexible:
    return TopKFlexible(end=end)


@pytest.fixture(autouse=True)
def _short_judges(monkeypatch):
    """Evaluate candidates with few epochs and one thread, since more would not help on such small problems."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(sampler_search, "RECIPE", Recipe("linear_probe", epochs=15, milestones=()))
    yield
    torch.set_num_threads(threads)


def pool_of(*sizes: int) -> Pool:
    """Return a pool of tensors with classes of these sizes."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ids = tuple(f"image{i:03d}" for i in range(len(labels)))
    splits = ("train",) * len(labels)
    return Pool("made", labels, ids, splits, tuple(map(str, range(len(sizes)))))


def task(misleading: str = "hardest") -> tuple[Pool, Tensor, Tensor]:
    """Return two classes of 60 with features [120, 6] and hardness [120].

    The features tell the class, except for the hardest (or easiest) 30 % of the images, which look like the other
    class. A probe that trains on these images is less accurate.
    """
    pool = pool_of(60, 60)
    hardness = torch.rand(120, generator=stream("hardness"))
    rare = hardness > 0.7 if misleading == "hardest" else hardness < 0.3
    sign = 2.0 * pool.labels - 1
    sign[rare] *= -1.5
    return pool, sign.unsqueeze(1) + 0.8 * torch.randn(120, 6, generator=stream("features")), hardness


@dataclass(frozen=True)
class Given(Scorer):
    """Gives every image the score of its sample_id."""

    values: tuple[float, ...] = ()

    name = "given"
    higher_means = "harder"
    version = 1

    def score(self, pool, signals, generator):
        return torch.tensor([self.values[int(name[5:])] for name in pool.sample_ids], dtype=torch.float64)


def search(candidates, scorer, pool, features, ratio=0.3, seed=0, settings=None):
    signals = TensorSignals(features, pool=pool)
    return choose(Question(candidates, scorer, Amount(ratio), seed, settings or Search()), signals, signals)


@pytest.mark.parametrize(
    ("ratio", "valid"),
    [
        (0.1, [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9]),
        (0.2, [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9]),  # The gamma 0.1 = ratio / 2 is valid.
        (0.3, [0.25, 0.4, 0.5, 0.6, 0.75]),
        (0.5, [0.25, 0.4, 0.5, 0.6, 0.75]),
        (0.7, [0.4, 0.5, 0.6]),
        (0.8, [0.4, 0.5, 0.6]),
        (0.9, [0.5]),
        (1.0, [0.5]),
    ],
)
def test_only_gammas_of_the_valid_range_are_tried(ratio, valid):
    assert gammas(GRID, ratio) == valid


def test_a_grid_without_a_valid_gamma_leaves_one_half():
    assert gammas([0.1, 0.9], 0.5) == [0.5]


def test_candidates_are_nearest_one_half_first_with_the_samplers_other_settings():
    made = gamma_candidates(
        lambda gamma: FlexRand(gamma=gamma, on_infeasible="clip_gamma", min_per_class=2), Search(), 0.3
    )
    assert list(made) == ["0.5", "0.4", "0.6", "0.25", "0.75"]
    assert made["0.6"] == FlexRand(gamma=0.6, on_infeasible="clip_gamma", min_per_class=2)


@pytest.mark.parametrize(("ratio", "cuts"), [(0.1, [0, 0.1, 0.2, 0.3]), (0.8, [0, 0.1, 0.2]), (0.95, [0])])
def test_cut_offs_that_leave_the_budget_are_candidates_the_smallest_first(ratio, cuts):
    made = beta_candidates(lambda beta: CCS(beta=beta, num_strata=7), Search(), ratio)
    assert list(made.values()) == [CCS(beta=beta, num_strata=7) for beta in cuts]


@pytest.mark.parametrize("betas", [(), (1.0,), (-0.1, 0.2)])
def test_cut_offs_outside_the_unit_interval_are_refused(betas):
    with pytest.raises(InputError, match=r"gamma_search\.betas must be a list of fractions in \[0, 1\)"):
        Search(betas=betas)


def test_the_ends_of_a_score_are_candidates_too():
    assert end_candidates(lambda end: TopKFlexible(end=end, min_per_class=0)) == {
        "easiest": TopKFlexible(end="easiest", min_per_class=0),
        "hardest": TopKFlexible(end="hardest", min_per_class=0),
    }


class Forbidden(TensorSignals):
    """Signals that raise an error if features are computed."""

    def features(self, kind=None):
        raise AssertionError("nothing may be computed")

    masked_features = features


@pytest.mark.parametrize("ratio", [0.9, 1.0])
def test_with_a_single_candidate_gamma_nothing_is_searched(ratio):
    pool = pool_of(10, 10)
    signals = Forbidden(torch.zeros(20, 2), None, pool)
    for candidates in (
        gamma_candidates(flexrand, Search(), ratio),
        gamma_candidates(flexrand, Search(grid=(0.5,)), 0.3),
    ):
        choice = choose(Question(candidates, DLC(), Amount(ratio), 0, Search()), signals, signals)
        assert choice.sampler == FlexRand(gamma=0.5)
        assert choice.record() is None
        assert choice.seconds == 0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sizes", [(10, 3, 2, 1), (25, 7), (4, 1)])
def test_a_part_of_each_class_is_held_out_and_never_the_whole(sizes, seed):
    pool = pool_of(*sizes)
    kept, held_out = split_pool(pool, Search(), seed, repeat=0)
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(len(pool)))
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held_out, held_out.sort().values)
    for label, size in enumerate(sizes):
        count = int((pool.labels[held_out] == label).sum())
        assert count == (0 if size == 1 else max(1, round(0.2 * size)))


def test_every_repeat_and_seed_holds_out_other_images():
    pool = pool_of(30, 30)
    splits = {(s, r): tuple(split_pool(pool, Search(), s, r)[1].tolist()) for s in (0, 1) for r in (0, 1, 2)}
    assert len(set(splits.values())) == 6
    assert splits[0, 1] == tuple(split_pool(pool, Search(), 0, 1)[1].tolist())


def test_a_pool_of_single_images_cannot_be_searched():
    with pytest.raises(InputError, match="none can be held out .*sampler.gamma=<number>"):
        split_pool(pool_of(1, 1, 1), Search(), 0, 0)


def test_prototypes_and_scores_are_computed_again_without_the_held_out_images():
    pool, features, _ = task()
    signals = TensorSignals(features, [features, features * 0.9], pool)
    kept, _ = split_pool(pool, Search(), 0, 0)
    inner = compute_scores(DLC(levels=2), PartSignals(signals, kept), 0)
    whole = compute_scores(DLC(levels=2), signals, 0)
    part = Pool(
        pool.name, pool.labels[kept], tuple(pool.sample_ids[i] for i in kept), ("train",) * len(kept), pool.classes
    )
    alone = compute_scores(
        DLC(levels=2), TensorSignals(features[kept], [features[kept], features[kept] * 0.9], part), 0
    )
    assert not torch.allclose(inner, whole[kept], atol=1e-4)
    assert torch.equal(inner, alone)


def watch(monkeypatch):
    """Return two lists, to which a search adds the pools it scores and the probes it trains."""
    pools, probes = [], []
    compute, train = sampler_search.compute_scores, sampler_search.train_probes

    def watched_scores(scorer, signals, seed):
        pools.append(signals.pool)
        return compute(scorer, signals, seed)

    def watched_train(bank, made, *rest):
        probes.extend(made)
        return train(bank, made, *rest)

    monkeypatch.setattr(sampler_search, "compute_scores", watched_scores)
    monkeypatch.setattr(sampler_search, "train_probes", watched_train)
    return pools, probes


def test_candidates_train_on_what_is_left_and_are_judged_on_what_was_held_out(monkeypatch):
    pool, features, _ = task()
    features = features.clone()
    features[:, 5] = torch.arange(len(pool))  # This feature identifies the image of every row.
    pools, probes = watch(monkeypatch)
    candidates = gamma_candidates(flexrand, Search(), 0.3)
    search(candidates, DLC(levels=1), pool, features)
    assert len(pools) == 3
    assert len(probes) == 3 * len(candidates)
    signals = TensorSignals(features, pool=pool)
    for repeat, inner in enumerate(pools):
        kept, held_out = split_pool(pool, Search(), 0, repeat)
        assert inner.sample_ids == tuple(pool.sample_ids[i] for i in kept)
        scores = compute_scores(DLC(levels=1), PartSignals(signals, kept), 0)
        for number, sampler in enumerate(candidates.values()):
            probe = probes[repeat * len(candidates) + number]
            assert torch.equal(probe.test_features[:, 5].long(), held_out)
            assert torch.equal(probe.test_labels, pool.labels[held_out])
            # As many images as ratio 0.3 keeps of the whole pool.
            picked = sampler.select(scores, inner.labels, 0.3 / 0.8, stream("search", 0, 0.3, repeat))
            assert torch.equal(probe.labels, inner.labels[picked])
            assert not set(picked_ids(inner, picked)) & {pool.sample_ids[i] for i in held_out}
    assert len({probe.seed for probe in probes}) == 3  # Each repeat has one seed, which all candidates share.


def picked_ids(pool: Pool, positions: Tensor) -> list[str]:
    return [pool.sample_ids[i] for i in positions.tolist()]


@pytest.mark.parametrize(("misleading", "better"), [("hardest", "easiest"), ("easiest", "hardest")])
def test_the_better_images_are_found(misleading, better):
    pool, features, hardness = task(misleading)
    scorer = Given(tuple(hardness.tolist()))
    choice = search(gamma_candidates(flexrand, Search(), 0.2), scorer, pool, features, ratio=0.2)
    assert (choice.sampler.gamma < 0.5) == (better == "easiest")
    assert search(end_candidates(flexible), scorer, pool, features, ratio=0.2).sampler.end == better


def test_the_search_keeps_as_many_images_as_the_run():
    """Of 24 images 5 % is one, for small gammas an easy one. Of the 19 that are left, it would be a hard one."""
    pool = pool_of(24, 24, 24, 24)
    hardness = torch.rand(96, generator=stream("hardness"))
    # Only the hardest two fifths mislead, so the one image should be an easy one.
    shown = torch.where(hardness > 0.6, (pool.labels + 1) % 4, pool.labels)
    features = 4.0 * torch.nn.functional.one_hot(shown, 6).float() + torch.randn(96, 6, generator=stream("features"))
    scorer, candidates = Given(tuple(hardness.tolist())), gamma_candidates(flexrand, Search(), 0.05)
    chosen = search(candidates, scorer, pool, features, ratio=0.05).sampler
    kept = chosen.select(hardness.double(), pool.labels, 0.05, stream("draw"))
    assert len(kept) == 4
    assert (hardness[kept] < hardness.quantile(0.6)).all()
    assert chosen.gamma < 0.5


def test_the_search_keeps_the_same_number_where_it_is_small_and_valid_for_all_candidates():
    def asked(amount: Amount, *gammas: float, keeps: str = "number") -> Amount:
        some = {f"{gamma:g}": flexrand(gamma) for gamma in gammas}
        return inner_amount(Question(some, DLC(), amount, 0, Search(keeps=keeps)), 0.8)

    assert asked(Amount(0.2), 0.25, 0.5).fraction == pytest.approx(0.25)
    assert asked(Amount(0.2), 0.25, 0.5, keeps="fraction") == Amount(0.2)
    assert asked(Amount(0.2), 0.1, 0.5) == Amount(0.2)  # A gamma of 0.1 is not valid where a quarter is kept.
    assert asked(Amount(0.5), 0.5) == Amount(0.5)
    assert asked(Amount(per_class=3), 0.5) == Amount(per_class=3)


def test_an_old_run_with_a_search_is_another_run_and_one_without_is_the_same():
    now = {"sampler": {"gamma": "auto"}, "gamma_search": {"repeats": 3, "keeps": "number"}}
    old = {"sampler": {"gamma": "auto"}, "gamma_search": {"repeats": 3}}
    assert identity.differences(old, now) == [("gamma_search.keeps", "fraction", "number")]
    assert identity.OPEN == open_settings.OPEN
    for gamma, is_recorded in (("auto", True), ("0.25", False)):
        with initialize_config_module("prunetune.configs", version_base="1.3"):
            cfg = compose("config", overrides=["sampler=flexrand", f"sampler.gamma={gamma}"])
        assert ("keeps" in identity.recorded(cfg)["gamma_search"]) == is_recorded


def test_equal_candidates_leave_gamma_at_one_half():
    pool = pool_of(20, 20)
    # With these features every subset trains a perfect probe.
    features = 4.0 * torch.nn.functional.one_hot(pool.labels, 6).float()
    choice = search(gamma_candidates(flexrand, Search(), 0.3), DLC(levels=1), pool, features)
    assert choice.accuracies == (1.0,) * 5
    assert choice.sampler.gamma == 0.5


def test_rounding_errors_of_a_mean_do_not_decide_a_tie():
    candidates = {"0.5": FlexRand(gamma=0.5), "0.4": FlexRand(gamma=0.4)}
    # The two means differ only by a rounding error of about 1e-17.
    accuracy = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]], dtype=torch.float64)
    for order in (accuracy, accuracy.flip(1)):
        assert sampler_search._best(candidates, order, 0.0).sampler.gamma == 0.5


def test_means_and_standard_errors_are_over_the_repeats():
    candidates = {"0.5": FlexRand(gamma=0.5), "0.4": FlexRand(gamma=0.4)}
    accuracy = torch.tensor([[0.5, 0.6], [0.7, 0.9], [0.6, 0.9]], dtype=torch.float64)
    choice = sampler_search._best(candidates, accuracy, 7.0)
    assert choice.sampler.gamma == 0.4
    assert choice.accuracies == pytest.approx((0.6, 0.8))
    # The standard error is the std with ddof 1, divided by sqrt(3).
    assert choice.standard_errors == pytest.approx((0.1 / 3**0.5, 0.1))
    assert choice.record() == {
        "recipe": "linear_probe",
        "chosen": "0.4",
        "candidates": [
            {"label": "0.5", "accuracy": choice.accuracies[0], "standard_error": choice.standard_errors[0]},
            {"label": "0.4", "accuracy": choice.accuracies[1], "standard_error": choice.standard_errors[1]},
        ],
    }
    assert sampler_search._best(candidates, accuracy[:1], 0.0).standard_errors == (None, None)


def test_a_search_is_repeatable_and_depends_on_the_seed():
    pool, features, _ = task()
    runs = [search(gamma_candidates(flexrand, Search(), 0.3), DLC(levels=1), pool, features, seed=s) for s in (0, 0, 1)]
    assert replace(runs[0], seconds=0) == replace(runs[1], seconds=0)
    assert runs[0].accuracies != runs[2].accuracies
    assert runs[0].seconds > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 0}, "repeats must be a whole number of at least 1"),
        ({"held_out": 0}, r"held_out must be in \(0, 1\)"),
        ({"held_out": 1}, r"held_out must be in \(0, 1\)"),
        ({"views": -1}, "views must be a whole number of at least 0"),
        ({"grid": ()}, r"gammas in \(0, 1\), got \[\]"),
        ({"grid": (0.5, 1)}, r"gammas in \(0, 1\)"),
    ],
)
def test_an_impossible_search_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Search(**settings)
