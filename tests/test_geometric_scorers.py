"""Herding, k-Center, Contextual Diversity, Moderate, prototypes and ZCore: by hand, and against slow references."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.config import catalogue
from prunetune.data.pool import Pool
from prunetune.runs.scores import compute_scores
from prunetune.scorers import zcore
from prunetune.scorers.base import Scorer
from prunetune.scorers.contextual_diversity import ContextualDiversity, symmetric_divergences
from prunetune.scorers.herding import Herding, herd
from prunetune.scorers.k_center import KCenter, farthest_first, squared_distances
from prunetune.scorers.moderate import Moderate, distances_to_class_median
from prunetune.scorers.published.contextual_diversity import published_picks
from prunetune.scorers.ssp import SSP, cluster_centres
from prunetune.scorers.zcore import ZCore, coverage_less_redundancy, draw_points, triangular
from prunetune.signals.contract import FeatureKind
from prunetune.signals.proxy import RecordedProxy
from prunetune.signals.tensors import TensorSignals

LABELS = torch.tensor([2, 0, 0, 1, 0, 2, 2, 0, 2, 0, 2, 0, 2])  # The classes have 6, 1 and 6 images.
# The softmax of these logits has exact zeros.
ZERO_LOGITS = torch.tensor([[200.0, 0, -200], [0, 300, 0], [-150, 0, 250], [1, 2, 3], [3, 2, 1]])


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def made_features(*shape: int, name: str = "features") -> Tensor:
    return torch.randn(*shape, generator=stream("geometric", name, *shape))


def pool_of(labels: Tensor, classes: tuple[str, ...] | None = None) -> Pool:
    size = len(labels)
    ids = tuple(f"image{i:04d}" for i in range(size))
    return Pool("made", labels, ids, ("train",) * size, classes or tuple("abcdefgh"[: int(labels.max()) + 1]))


def scores_of(scorer: Scorer, features: Tensor, labels: Tensor, seed: int = 0, proxies=(), classes=None) -> Tensor:
    signals = TensorSignals(features, pool=pool_of(labels, classes), proxies=proxies)
    return compute_scores(scorer, signals, seed)


def picks_of(scores: Tensor, members: Tensor) -> list[int]:
    """Return the picked members in the order of their scores."""
    own = scores[members]
    return [int(members[i]) for i in own.argsort(descending=True, stable=True) if own[i] > 0]


# Herding


@pytest.mark.parametrize(("is_farthest", "picked", "gap"), [(False, [3.0, 2.0], 1.5), (True, [14.0, 3.0], 4.5)])
def test_herding_picks_what_the_method_notes_say(is_farthest, picked, gap):
    features = column(0, 1, 2, 3, 14)
    order = herd(features, 2, is_farthest)
    assert features[order].flatten().tolist() == picked
    assert abs(float(features[order].mean() - features.mean())) == gap


def slow_herding(features: Tensor, count: int, is_farthest: bool) -> list[int]:
    """Follow the definition in float64 without running sums."""
    features, picked = features.double(), []
    for i in range(count):
        target = (i + 1) * features.mean(dim=0) - features[picked].sum(dim=0)
        distances = (features - target).norm(dim=1)
        rest = [j for j in range(len(features)) if j not in picked]
        choose = max if is_farthest else min
        picked.append(choose(rest, key=lambda j: float(distances[j])))
    return picked


@pytest.mark.parametrize("is_farthest", [False, True])
def test_herding_with_running_sums_is_the_definition_also_far_from_the_origin(is_farthest):
    features = made_features(67, 5) + 30
    assert herd(features, 67, is_farthest).tolist() == slow_herding(features, 67, is_farthest)


def test_corrected_herding_keeps_the_mean_better_than_random_draws_and_the_published_one_worse():
    features = made_features(101, 8)

    def gap(subset: Tensor) -> float:
        return float((features[subset].mean(dim=0) - features.mean(dim=0)).norm())

    random = [gap(torch.randperm(101, generator=stream("subset", i))[:10]) for i in range(20)]
    assert gap(herd(features, 10)) < min(random) / 2
    assert gap(herd(features, 10, is_farthest=True)) > sum(random) / 20


@pytest.mark.parametrize("variant", ["fixed", "deepcore", "released"])
def test_herding_orders_each_class_on_its_own_to_its_depth(variant):
    features = made_features(13, 3)
    scorer, proxies = Herding(variant, "finetuned", depth=0.5), [RecordedProxy([torch.zeros(13, 3)], {1: features})]
    scores = scores_of(scorer, torch.zeros(13, 3), LABELS, proxies=proxies)
    for label in range(3):
        members = torch.nonzero(LABELS == label).flatten()
        count = len(members) // 2 + 1
        order = slow_herding(features[members], min(count, len(members)), variant != "fixed")
        assert picks_of(scores, members) == members[order].tolist()
    assert scores[3] == 1  # This class has a single image.
    assert not scorer.uses_seed
    assert scorer.uses_proxy


def test_pretrained_features_are_the_default_and_need_no_proxy():
    features = made_features(13, 3)
    other = [RecordedProxy([torch.zeros(13, 3)], {1: -features[:, :1]})]
    pretrained = scores_of(Herding(), features, LABELS, proxies=other)
    finetuned = scores_of(Herding(features="finetuned"), -features[:, :1], LABELS, proxies=other)
    assert torch.equal(pretrained, scores_of(Herding(), features, LABELS))
    assert torch.equal(finetuned, scores_of(Herding(), -features[:, :1], LABELS))
    assert not torch.equal(pretrained, finetuned)
    assert not Herding().uses_proxy
    assert not KCenter().uses_proxy


@pytest.mark.parametrize("kind", [Herding, KCenter])
def test_only_the_released_variant_collapses_pretrained_features(kind):
    asked = []

    class Watched(TensorSignals):
        def features(self, kind: FeatureKind | None = None):
            asked.append(kind.pooling)
            return made_features(13, 3)

    for variant in ("fixed", "deepcore", "released"):
        kind(variant).score(pool_of(LABELS), Watched(torch.zeros(13, 3), None, None), stream("any"))
    assert asked == ["backbone", "backbone", "token_collapse"]


# k-Center


def test_k_center_picks_what_the_method_notes_say():
    features = column(0, 1, 2, 10)
    order = farthest_first(squared_distances(features), 4, first=0, count=3)
    assert features[order].flatten().tolist() == [0, 10, 2]
    assert float(torch.cdist(features, features[order]).amin(dim=1).max()) == 1


def slow_farthest_first(distances: Tensor, first: int, count: int) -> list[int]:
    """Pick one at a time from distances [n, n], ties to the smaller position."""
    picked = [first]
    while len(picked) < count:
        nearest = distances[:, picked].amin(dim=1)
        nearest[picked] = -1
        picked.append(int(nearest.argmax()))
    return picked


@pytest.mark.parametrize("block", [1, 7, 128])
@pytest.mark.parametrize("features", [made_features(301, 2), made_features(301, 40) + 20], ids=["plane", "wide"])
def test_picks_in_blocks_are_those_of_one_at_a_time(features, block):
    distances = torch.cdist(features.double(), features.double())
    for count in (1, 2, 90, 301):
        order = farthest_first(squared_distances(features), 301, 5, count, block)
        assert order.tolist() == slow_farthest_first(distances, 5, count)


@pytest.mark.parametrize("block", [2, 16, 400])
def test_equal_distances_go_to_the_smaller_position(block):
    grid = torch.tensor(list(itertools.product(range(9), range(7), range(5))), dtype=torch.float32)
    grid = grid[torch.randperm(315, generator=stream("grid"))]
    expected = slow_farthest_first(torch.cdist(grid.double(), grid.double()).square().round(), 11, 200)
    assert farthest_first(squared_distances(grid), 315, 11, 200, block).tolist() == expected


def test_k_centers_radius_is_within_twice_the_optimum():
    knots = torch.tensor([[0.0, 0], [40, 0], [0, 40], [40, 40]])
    around = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    known = (knots.unsqueeze(1) + around).flatten(0, 1)  # With the 4 knots as centres the optimum is 1.
    small = made_features(13, 2)
    subsets = itertools.combinations(range(13), 3)
    optimum = min(float(torch.cdist(small, small[list(subset)]).amin(dim=1).max()) for subset in subsets)
    for features, count, best in ((known, 4, 1.0), (small, 3, optimum)):
        for first in range(len(features)):
            order = farthest_first(squared_distances(features), len(features), first, count)
            assert float(torch.cdist(features, features[order]).amin(dim=1).max()) <= 2 * best + 1e-6


def test_the_first_centre_depends_on_seed_and_class_name_and_on_no_other_class():
    features = made_features(90, 3)
    labels = torch.arange(90) % 3
    firsts = set()
    for seed in range(5):
        scores = scores_of(KCenter(), features, labels, seed, classes=("cat", "dog", "elk"))
        alone = scores_of(KCenter(), features[1::3], torch.zeros(30, dtype=torch.int64), seed, classes=("dog",))
        turned = scores_of(KCenter(), features, 2 - labels, seed, classes=("elk", "dog", "cat"))
        assert torch.equal(scores[1::3], alone)
        assert torch.equal(scores, turned)
        firsts |= {(label, int((scores[label::3] == 1).nonzero())) for label in range(3)}
    assert len(firsts) > 9
    assert len({first for _, first in firsts}) > 6
    assert KCenter().uses_seed


def test_one_run_of_picks_serves_every_depth():
    features = made_features(13, 3)
    whole, half = (scores_of(KCenter(depth=depth), features, LABELS) for depth in (1.0, 0.5))
    assert torch.equal(half[half > 0], whole[half > 0])
    assert [int((half[LABELS == label] > 0).sum()) for label in range(3)] == [4, 1, 4]
    assert (whole > 0).all()


# Contextual Diversity


def test_the_divergence_is_that_of_the_method_notes():
    logits = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    between = symmetric_divergences(logits)(slice(None), torch.arange(2))
    assert between[0, 1] == pytest.approx(0.439445, abs=1e-6)
    assert between[1, 0] == pytest.approx(0.439445, abs=1e-6)
    assert between.diagonal().abs().max() < 1e-12


def test_divergences_are_the_definition():
    logits = 3 * made_features(31, 6)
    p = logits.double().softmax(dim=1)
    slow = ((p.unsqueeze(1) - p) * (p.unsqueeze(1).log() - p.log())).sum(dim=2) / 2
    torch.testing.assert_close(symmetric_divergences(logits)(slice(None), torch.arange(31)), slow)


def test_exact_zeros_give_no_nan_in_the_fixed_variant():
    assert (ZERO_LOGITS.softmax(dim=1) == 0).any()
    divergences = symmetric_divergences(ZERO_LOGITS)(slice(None), torch.arange(5))
    assert divergences.isfinite().all()
    assert farthest_first(symmetric_divergences(ZERO_LOGITS), 5, 4, 5).sort().values.tolist() == list(range(5))
    # The third row, p = (0, 0, 1), is farthest from (3, 2, 1), since the sum of -log p is about 650.
    assert farthest_first(symmetric_divergences(ZERO_LOGITS), 5, 4, 2)[1] == divergences[:, 4].argmax()


def test_the_published_variant_returns_the_first_nan():
    probabilities = torch.tensor([[0.5, 0.5, 0.0], [0.6, 0.3, 0.1], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]])
    # From image 3 the distances of images 0 and 2 are NaN, and 0 is first. After it all are NaN and follow in order.
    assert published_picks(probabilities, 3, 4).tolist() == [3, 0, 1, 2]
    assert published_picks(probabilities, 1, 4).tolist() == [1, 0, 2, 3]


def test_the_published_variant_is_farthest_first_where_no_probability_is_zero():
    logits = made_features(61, 5)
    fixed = farthest_first(symmetric_divergences(logits), 61, 8, 61)
    assert published_picks(logits.softmax(dim=1), 8, 61).tolist() == fixed.tolist()


@pytest.mark.parametrize("variant", ["fixed", "deepcore", "released"])
def test_contextual_diversity_reads_the_proxys_last_epoch(variant):
    logits = 4 * made_features(13, 3)
    logits[::4] *= 100  # The softmax of such large logits has exact zeros.
    scorer = ContextualDiversity(variant)
    late = [RecordedProxy([torch.zeros(13, 3), logits])]
    scores = scores_of(scorer, torch.zeros(13, 2), LABELS, seed=1, proxies=late)
    assert scores.isfinite().all()
    members = torch.nonzero(LABELS == 2).flatten()
    first = picks_of(scores, members)[0]
    at = members.tolist().index(first)
    expected = {
        "fixed": lambda: farthest_first(symmetric_divergences(logits[members]), 6, at, 6),
    }.get(variant, lambda: published_picks(logits[members].softmax(dim=1), at, 6))()
    assert picks_of(scores, members) == members[expected].tolist()
    assert scorer.uses_proxy
    assert scorer.uses_seed


# Moderate


def test_moderate_is_the_distance_to_the_class_median_by_hand():
    features = torch.tensor([[0.0, 0], [2, 0], [4, 8], [10, 8], [7, 7], [3, 5]])
    labels = torch.tensor([0, 0, 0, 0, 1, 0])
    # In class 0 the median of x 0 2 3 4 10 is 3, and that of y 0 0 5 8 8 is 5.
    expected = [34**0.5, 26**0.5, 10**0.5, 58**0.5, 0, 0]
    assert scores_of(Moderate(), features, labels).tolist() == pytest.approx(expected)
    # In an even class the median is the mean of the two middle values: x 0 2 4 10 gives 3, and y 0 0 8 8 gives 4.
    even = distances_to_class_median(features[:4], labels[:4])
    assert even.tolist() == pytest.approx([5, 17**0.5, 17**0.5, 65**0.5])


def test_an_image_of_another_class_is_farther_than_those_of_the_class():
    features, labels = made_features(13, 40), LABELS.clone()
    features[LABELS == 2] += 5
    labels[0] = 0  # The label was 2.
    scores = scores_of(Moderate(), features, labels)
    assert scores[labels == 0].argmax() == 0


def test_the_scores_of_moderate_do_not_depend_on_chunks(monkeypatch):
    features = made_features(13, 40)
    whole = scores_of(Moderate(), features, LABELS)
    monkeypatch.setattr("prunetune.scorers.moderate.COLUMNS", 7)
    monkeypatch.setattr("prunetune.scorers.moderate.ROWS", 4)
    assert torch.equal(scores_of(Moderate(), features, LABELS), whole)


# Prototypes


def test_supervised_prototypes_are_cosines_to_the_class_direction_by_hand():
    features = torch.tensor([[3.0, 0], [0, 7], [5, 5], [-2, 0]])
    scores = scores_of(SSP(supervised=True), features, torch.tensor([0, 0, 0, 2]), classes=("x", "empty", "y"))
    assert scores.tolist() == pytest.approx([1 - 0.5**0.5, 1 - 0.5**0.5, 0, 0])
    assert not SSP(supervised=True).uses_seed


def test_self_supervised_prototypes_measure_the_angle_to_the_own_bundle_and_read_no_label():
    # The angles are in radians and lie around 0, 1.5 and 3.
    angles = torch.tensor([0.0, 0.1, -0.1, 1.5, 1.6, 1.4, 1.5, 3.0, 3.3, 2.7])
    lengths = 1 + torch.arange(10) % 4
    features = lengths.unsqueeze(1) * torch.stack([angles.cos(), angles.sin()], dim=1)
    mean = torch.tensor([0.0, 0, 0, 1.5, 1.5, 1.5, 1.5, 3, 3, 3])
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    scores = scores_of(SSP(), features, labels, seed=3)
    assert scores.tolist() == pytest.approx((1 - (angles - mean).double().cos()).tolist(), abs=1e-6)
    assert SSP().uses_seed


def test_the_scores_of_prototypes_do_not_depend_on_chunks(monkeypatch):
    features = made_features(13, 4)
    scorers = [SSP(), SSP(supervised=True), SSP(num_centres=5, num_fitted=9)]
    whole = [scores_of(scorer, features, LABELS) for scorer in scorers]
    monkeypatch.setattr("prunetune.scorers.ssp.ROWS", 3)
    for scorer, expected in zip(scorers, whole, strict=True):
        torch.testing.assert_close(scores_of(scorer, features, LABELS), expected, rtol=0, atol=1e-12)


def test_k_means_fits_on_a_sample_of_a_large_pool_and_assigns_all_images():
    bundles = torch.repeat_interleave(torch.eye(3), 30, dim=0) + 0.01 * made_features(90, 3)
    few = cluster_centres(bundles, 3, 40, stream("few"))
    every = cluster_centres(bundles, 3, 1000, stream("every"))
    assert few.argmax(dim=1).sort().values.tolist() == [0, 1, 2]
    torch.testing.assert_close(
        few[few.argmax(dim=1).argsort()], every[every.argmax(dim=1).argsort()], rtol=0, atol=0.01
    )


# ZCore


def slow_zcore(features: Tensor, planes: Tensor, points: Tensor, neighbours: int, exponent: int) -> np.ndarray:
    """Follow the published rule for one point after another."""
    values, total = features.numpy(), np.zeros(len(features))
    for plane, point in zip(planes.numpy(), points.numpy(), strict=True):
        x, y = values[:, plane].T
        winner = (np.abs(x - point[0]) + np.abs(y - point[1])).argmin()
        total[winner] += 1
        distances = np.abs(x - x[winner]) + np.abs(y - y[winner])
        others = [i for i in distances.argsort(kind="stable") if i != winner]
        if not others:
            continue
        if distances[others[0]] == 0:
            total[others[0]] -= 1
            continue
        near = others[:neighbours]
        penalties = distances[near].astype(np.float64) ** -exponent
        total[near] -= penalties / penalties.sum()
    return total


@pytest.mark.parametrize("dense", [1, 10**9], ids=["sorted", "whole"])
@pytest.mark.parametrize(("size", "neighbours", "exponent"), [(701, 50, 4), (701, 1000, 2), (1, 5, 4), (2, 5, 4)])
def test_zcore_follows_the_published_rule_with_and_without_sorted_dimensions(size, neighbours, exponent, dense):
    features = made_features(size, 5)
    planes, points = draw_points(features, 60, stream("points"))
    expected = slow_zcore(features, planes, points, neighbours, exponent)
    found = coverage_less_redundancy(features, planes, points, neighbours, exponent, dense)
    # The scores are ratios of float32 distances, raised to a power.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if size > 1:
        assert float(found.sum()) == pytest.approx(0, abs=1e-9)  # Every point adds 1 and subtracts 1, so the sum is 0.


@pytest.mark.parametrize("dense", [1, 10**9], ids=["sorted", "whole"])
def test_an_image_with_a_copy_gets_the_whole_penalty(dense):
    features = made_features(40, 2).repeat(2, 1)[:79]  # Only image 39 has no copy.
    planes, points = draw_points(features, 200, stream("points"))
    found = coverage_less_redundancy(features, planes, points, 78, 4, dense)
    np.testing.assert_allclose(found, slow_zcore(features, planes, points, 78, 4), rtol=0, atol=1e-5)
    assert (found[40:] < 0).sum() > 20


@pytest.mark.parametrize("dense", [1, 10**9], ids=["sorted", "whole"])
def test_images_at_the_distance_of_the_last_neighbour_are_penalised_too(dense):
    features = torch.tensor([[0.0, 0], [1, 0], [0, -1], [0.5, 0.5], [9, 9], [2, 0]])
    found = coverage_less_redundancy(features, torch.tensor([[0, 1]]), torch.zeros(1, 2), 2, 4, dense)
    assert found.tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3, 0, 0])


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_scores_of_zcore_do_not_depend_on_blocks_and_chunks(monkeypatch, is_whole):
    features = made_features(333, 7)
    planes, points = draw_points(features, 80, stream("points"))
    dense = 10**9 if is_whole else 1
    whole = coverage_less_redundancy(features, planes, points, 20, 4, dense)
    monkeypatch.setattr(zcore, "NUMBERS_AT_ONCE", 400)
    monkeypatch.setattr(zcore, "SORTED_BYTES", 2 * 2 * 12 * 333)  # Two dimensions are processed at a time.
    monkeypatch.setattr(zcore, "WINDOW", 3)
    monkeypatch.setattr(zcore, "PROBED", 10)
    torch.testing.assert_close(coverage_less_redundancy(features, planes, points, 20, 4, dense), whole)


def test_the_drawn_points_are_triangular_between_the_ends_of_a_dimension():
    uniform = torch.tensor([0.0, 0.125, 0.5, 0.875, 1.0], dtype=torch.float64)
    ends = (torch.full((5,), value, dtype=torch.float64) for value in (0.0, 1.0, 2.0))
    assert triangular(uniform, *ends).tolist() == pytest.approx([0, 0.5, 1, 1.5, 2])
    features = torch.tensor([[0.0, 5, -3], [4, 5, 0], [1, 5, 9]])  # The second dimension is constant.
    planes, points = draw_points(features, 6000, stream("points"))
    assert (planes[:, 0] < planes[:, 1]).all()
    assert torch.bincount(planes @ torch.tensor([3, 1]), minlength=6)[[1, 2, 5]].tolist() == pytest.approx(
        [2000] * 3, abs=150
    )
    drawn = points[planes == 0]
    assert 0 <= drawn.min() < 0.2
    assert 3.7 < drawn.max() <= 4
    # The three numbers are the minimum, the median and the maximum.
    assert float(drawn.mean()) == pytest.approx((0 + 1 + 4) / 3, abs=0.05)
    assert (points[planes == 1] == 5).all()


def test_zcore_starts_from_a_draw_and_keeps_lonely_images():
    features = torch.cat([0.1 * made_features(60, 4), torch.tensor([[3.0, 3, 3, 3], [-3, -3, -3, -3]])])
    scores = scores_of(ZCore(repeats=500), features, torch.zeros(62, dtype=torch.int64))
    assert scores[60:].min() > 5 > 0 > scores[:60].median()
    signals = TensorSignals(features, pool=pool_of(torch.zeros(62, dtype=torch.int64)))
    barely = ZCore(repeats=1).score(signals.pool, signals, stream("start"))
    start = torch.rand(62, dtype=torch.float64, generator=stream("start"))
    assert float((barely - start).sum()) == pytest.approx(0)
    assert int(((barely - start) > 0).sum()) == 1
    assert ZCore().uses_seed


# Options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Herding(variant="new"), r"scorer\.variant must be one of fixed, deepcore, released, got 'new'"),
        (lambda: Herding(features="raw"), r"scorer\.features must be one of pretrained, finetuned, got 'raw'"),
        (lambda: KCenter(depth=0), r"scorer\.depth"),
        (lambda: KCenter(variant=""), r"scorer\.variant"),
        (lambda: ContextualDiversity(variant="paper"), r"scorer\.variant"),
        (lambda: ContextualDiversity(depth=1.5), r"scorer\.depth"),
        (lambda: SSP(num_centres=0), r"scorer\.num_centres must be a whole number of at least 1 or null, got 0"),
        (lambda: SSP(num_fitted=None), r"scorer\.num_fitted must be a whole number"),
        (lambda: SSP(supervised=True, num_centres=3), r"one prototype per class; drop scorer\.num_centres"),
        (lambda: ZCore(repeats=1e6), r"scorer\.repeats must be a whole number of at least 1, got 1000000\.0"),
        (lambda: ZCore(exponent=True), r"scorer\.exponent"),
        (lambda: scores_of(ZCore(), column(1, 2), torch.tensor([0, 0])), "have one; use another backbone or scorer"),
        (lambda: scores_of(SSP(num_centres=5), column(1, 2), torch.tensor([0, 0])), r"lower scorer\.num_centres"),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kind", [Herding, KCenter, ContextualDiversity])
@pytest.mark.parametrize("variant", ["fixed", "deepcore", "released"])
def test_a_name_says_its_variant_and_whether_it_reads_a_proxy(kind, variant):
    name = kind.name if variant == "fixed" else f"{kind.name}_{variant}"
    group = catalogue.settings("scorer", name)
    scorer = kind(**{key: value for key, value in group.items() if key in ("variant", "features", "depth")})
    assert (scorer.variant, group["name"]) == (variant, name)
    assert group.get("uses_proxy", False) == scorer.uses_proxy
