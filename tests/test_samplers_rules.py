"""The rule of each sampler: values by hand and slow references."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_distribution

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.samplers import (
    BWS,
    CCS,
    D2,
    NUCS,
    ActiveFT,
    Beta,
    DoubleEnd,
    EasyDiverse,
    ProbCover,
    TypiClust,
    TypiClustReleased,
    Window,
)
from prunetune.samplers.activeft import gradient, nearest_unused
from prunetune.samplers.amount import Amount
from prunetune.samplers.base import unit
from prunetune.samplers.beta import beta_log_weights, draw_weighted
from prunetune.samplers.bws import ridge_accuracy
from prunetune.samplers.ccs import num_cut, strata_budgets, strata_of
from prunetune.samplers.clusters import first_of_clusters, k_means
from prunetune.samplers.d2 import directed, pick_by_messages, undirected
from prunetune.samplers.easy_diverse import easiest_of_clusters
from prunetune.samplers.nucs import winsorised_mean
from prunetune.samplers.probcover import cover, gaps_to_other_classes, pure_radius
from prunetune.samplers.typiclust import atypicality, in_turn
from prunetune.samplers.window import window
from prunetune.selection.neighbours import Neighbours
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import made_signals


def ramp(size: int) -> torch.Tensor:
    return torch.arange(size, dtype=torch.float64)


def one_class(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.int64)


def points(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def cloud(size: int, width: int = 3, name: str = "cloud") -> torch.Tensor:
    return torch.randn(size, width, generator=stream(name))


@pytest.mark.parametrize(("budget", "beta", "cut"), [(10, 0.2, 20), (85, 0.2, 15), (99, 0.3, 1), (10, 0, 0)])
def test_the_cut_is_at_most_the_number_of_images_that_are_not_kept(budget, beta, cut):
    assert num_cut(100, budget, beta) == cut
    kept = CCS(beta=beta).select(ramp(100), one_class(100), budget / 100, stream("draw"))
    assert kept.max() < 100 - cut
    assert len(kept) == budget


def test_strata_have_equal_widths_and_the_largest_score_is_in_the_last():
    scores = torch.tensor([0.0, 0.9, 1.0, 2.5, 4.0, 3.999], dtype=torch.float64)
    assert strata_of(scores, 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert strata_of(torch.full((3,), 7.0, dtype=torch.float64), 4).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        # 8 // 4 is 2, but this stratum is empty. Then 8 // 3 is 2, 6 // 2 is 3, and the last one gets the rest.
        ([5, 0, 2, 9], 8, [3, 0, 2, 3]),
        ([1, 1, 30], 10, [1, 1, 8]),
        ([4, 4, 4], 8, [2, 3, 3]),  # The budgets are 8 // 3 = 2, 6 // 2 = 3 and the remaining 3.
        ([3, 3], 6, [3, 3]),
        ([0, 0, 5], 1, [0, 0, 1]),
    ],
)
def test_a_budget_is_shared_among_strata_from_the_smallest(sizes, budget, expected):
    assert strata_budgets(torch.tensor(sizes), budget) == expected


def test_strata_budgets_are_always_met():
    generator = stream("strata")
    for _ in range(200):
        sizes = torch.randint(0, 9, (7,), generator=generator)
        for budget in range(int(sizes.sum()) + 1):
            budgets = torch.tensor(strata_budgets(sizes, budget))
            assert budgets.sum() == budget
            assert (budgets <= sizes).all()


def test_ccs_keeps_a_small_stratum_whole_and_never_the_hardest_images():
    scores = torch.cat([torch.full((30,), 1.0), torch.tensor([2.0]), torch.full((9,), 9.0)]).double()
    for seed in range(20):
        kept = CCS(beta=0.225, num_strata=2).select(scores, one_class(40), 0.1, stream(seed))
        assert int((kept == 30).sum()) == 1  # This is the only image in the upper half of the scores in [1, 2].
        assert kept.max() == 30


def test_double_end_skips_the_hardest_and_takes_the_next():
    scores = torch.tensor([5, 9, 9, 1, 7, 3, 8, 2, 0, 4], dtype=torch.float64)
    assert DoubleEnd(beta=0.2).select(scores, one_class(10), 0.3, stream()).tolist() == [0, 4, 6]
    # Among tied images image 1 is cut first.
    assert DoubleEnd(beta=0.1).select(scores, one_class(10), 0.2, stream()).tolist() == [2, 6]
    assert DoubleEnd(beta=0.2).select(scores, one_class(10), 0.9, stream()).tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_the_central_window_leaves_as_many_on_both_sides_and_the_odd_one_to_the_easy_side():
    assert Window().select(ramp(10), one_class(10), 0.4, stream()).tolist() == [3, 4, 5, 6]
    # Two harder images and three easier ones are left out.
    assert Window().select(ramp(9), one_class(9), 0.4, stream()).tolist() == [3, 4, 5, 6]
    assert Window().select(-ramp(9), one_class(9), 0.4, stream()).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(("start", "expected"), [(0, [9, 8, 7]), (0.5, [6, 5, 4]), (1, [2, 1, 0])])
def test_a_window_starts_between_the_hardest_and_the_easiest(start, expected):
    assert window(ramp(10), 3, start).tolist() == expected


def test_beta_weights_are_the_score_times_a_beta_density():
    scores = torch.rand(30, generator=stream("scores"), dtype=torch.float64)
    probabilities = torch.rand(30, generator=stream("probabilities"), dtype=torch.float64)
    mu = float(probabilities[scores.argsort(descending=True)[:10]].mean())
    b = 15 * (1 - mu) * (1 - 0.9**4)
    expected = scores.numpy() * beta_distribution.pdf(probabilities.numpy(), 16 - b, b)
    weights = beta_log_weights(scores, probabilities, 0.9, 4.0).exp().numpy()
    assert weights / weights.sum() == pytest.approx(expected / expected.sum())


def test_beta_weights_stay_finite_at_the_edges_and_vanish_for_a_score_of_zero():
    scores, probabilities = torch.tensor([1.0, 1.0, 0.0]).double(), torch.tensor([0.0, 1.0, 0.5]).double()
    for dropped in (0.0, 0.5, 1.0):
        weights = beta_log_weights(scores, probabilities, dropped, 4.0)
        assert weights[:2].isfinite().all()
        assert weights[2] == -math.inf


def test_a_weighted_draw_is_one_after_the_other_in_proportion():
    weights, pairs, num_draws, generator = torch.tensor([6.0, 3.0, 1.0]), {}, 4000, stream("pairs")
    for _ in range(num_draws):
        pair = tuple(draw_weighted(weights.double().log(), 2, generator).tolist())
        pairs[pair] = pairs.get(pair, 0) + 1
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            chance = float(weights[first] / 10 * weights[second] / (10 - weights[first]))
            deviation = (chance * (1 - chance) / num_draws) ** 0.5
            assert abs(pairs.get((first, second), 0) / num_draws - chance) < 4.5 * deviation


def test_images_without_weight_come_last_the_smaller_position_first():
    weights = torch.tensor([-math.inf, 0.0, -math.inf, 0.0], dtype=torch.float64)
    for seed in range(10):
        assert set(draw_weighted(weights, 3, stream(seed)).tolist()) == {0, 1, 3}


def test_beta_moves_to_easier_images_as_fewer_are_kept():
    generator = stream("made")
    probabilities = torch.rand(400, generator=generator, dtype=torch.float64)
    scores = 1 - probabilities / 2  # Hard images have the higher score.
    means = []
    for ratio in (0.5, 0.05):
        kept = Beta().select_in_class(scores, 100, ratio, stream("draw"), probabilities)
        means.append(float(probabilities[kept].mean()))
    assert means[1] > means[0] + 0.3


def test_beta_reads_the_mean_probability_over_its_first_epochs():
    labels = torch.arange(24) % 2
    signals = made_signals(labels, epochs=6)
    proxy = signals.proxy()
    logits = torch.stack([proxy.logits(epoch) for epoch in range(1, 4)])
    expected = logits.double().softmax(dim=2)[:, torch.arange(24), labels].mean(dim=0)
    assert torch.allclose(Beta(epochs=3)._needed(labels, signals), expected)
    assert not torch.allclose(Beta(epochs=30)._needed(labels, signals), expected)


def test_beta_refuses_scores_that_cannot_be_weights():
    with pytest.raises(InputError, match="needs scores of at least 0, got -8; pass scorer=dual"):
        Beta().select(-ramp(9), one_class(9), 0.5, stream(), made_signals(one_class(9)))


def test_d2_raises_a_score_by_its_neighbours_and_lowers_them_after_a_pick():
    scores = torch.tensor([1.0, 2.0, 1.5, 0.1]).double()
    found = Neighbours(torch.tensor([[0.5], [0.5], [1.0], [2.0]]), torch.tensor([[1], [0], [1], [2]]))
    graph = directed(found)
    values = [1 + 2 * math.exp(-0.5), 2 + math.exp(-0.5), 1.5 + 2 * math.exp(-1), 0.1 + 1.5 * math.exp(-2)]
    assert values == pytest.approx([2.2131, 2.6065, 2.2358, 0.3030], abs=1e-4)
    # After pick 1, image 0 has 2.2131 - 1.5810 = .6321, as exp(-gamma .5) 2.6065 is subtracted. Then 2 and 0 follow.
    assert pick_by_messages(scores, graph, 4, 1.0).tolist() == [1, 2, 0, 3]
    # At gamma 0 the whole score of image 1 is subtracted, so image 0 falls below image 3.
    assert pick_by_messages(scores, graph, 4, 0.0).tolist() == [1, 2, 3, 0]


def test_d2s_undirected_graph_has_every_pair_once_for_each_of_its_images():
    # The nearest image of 2 is 1, and that of 3 is 2. 0 and 1 are each other's, and are still a single edge.
    found = Neighbours(torch.tensor([[0.5], [0.5], [1.0], [2.0]]), torch.tensor([[1], [0], [1], [2]]))
    graph = undirected(found)
    assert graph.starts.tolist() == [0, 1, 3, 5, 6]
    assert graph.indices.tolist() == [1, 0, 2, 1, 3, 2]
    assert graph.distances.tolist() == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]
    scores = torch.tensor([1.0, 2.0, 1.5, 0.1]).double()
    # Image 1 now also gains exp(-1) 1.5, and image 2 gains exp(-2) .1, from those whose nearest image they are.
    values = [2.2131, 2.6065 + 0.5518, 2.2358 + 0.0135, 0.3030]
    # Pick 1 takes exp(-1) 3.1583 = 1.1619 from image 2, which is left with 1.0874, and 1.9156 from image 0: .2974 left.
    # Pick 2 takes exp(-2) 1.0874 = .1472 from image 3, so image 0 is before it.
    assert 2.2131 - math.exp(-0.5) * values[1] > 0.3030 - math.exp(-2) * (values[2] - math.exp(-1) * values[1])
    assert pick_by_messages(scores, graph, 4, 1.0).tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize(("graph", "kept"), [("undirected", [0, 3]), ("directed", [0, 2])])
def test_d2_on_a_circle_of_five_images(graph, kept):
    angles = torch.deg2rad(torch.tensor([0.0, 10, -11, 90, 130]))
    features, scores = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([1, 1, 1, 0.9, 0.9]).double()
    # The nearest image of 1 and of 2 is 0, whose own nearest is 1. Only the undirected graph lets pick 0 lower 2.
    sampler = D2(neighbours=1, gamma_r=0, graph=graph)
    picks = sampler.select(scores, one_class(5), 0.4, stream(), TensorSignals(features))
    assert picks.tolist() == kept


def d2_slowly(features: torch.Tensor, scores: list[float], k: int, count: int, gamma: float) -> list[int]:
    """The paper's steps: an undirected graph of k nearest neighbours, messages to every image, then picks."""
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    gaps = torch.cdist(directions, directions)
    images = range(len(gaps))
    edges = {frozenset((i, j)) for i in images for j in sorted(set(images) - {i}, key=lambda j: gaps[i, j])[:k]}
    near = [[j for j in images if frozenset((i, j)) in edges and i != j] for i in images]
    values = [scores[i] + sum(math.exp(-gaps[i, j]) * scores[j] for j in near[i]) for i in images]
    picks = []
    for _ in range(count):
        pick = max((i for i in range(len(gaps)) if i not in picks), key=lambda i: values[i])
        picks.append(pick)
        for j in near[pick]:
            values[j] -= math.exp(-gamma * gaps[pick, j]) * values[pick]
    return picks


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_d2_picks_as_the_slow_reference(gamma):
    features, scores = cloud(31), torch.rand(31, generator=stream("scores"), dtype=torch.float64)
    picks = D2(neighbours=4, gamma_r=gamma).select_in_class(scores, 20, 0.6, stream(), features)
    assert picks.tolist() == d2_slowly(features, scores.tolist(), 4, 20, gamma)
    shifted = D2(neighbours=4, gamma_r=gamma).select_in_class(scores - scores.min() - 3, 20, 0.6, stream(), features)
    raised = D2(neighbours=4, gamma_r=gamma).select_in_class(scores - scores.min(), 20, 0.6, stream(), features)
    assert shifted.tolist() == raised.tolist()


def test_d2_without_the_hardest_is_d2_of_the_others():
    features, scores = cloud(30), torch.rand(30, generator=stream("scores"), dtype=torch.float64)
    left = scores.argsort()[:18].sort().values
    picks = D2(beta=0.4, neighbours=4).select_in_class(scores, 10, 0.3, stream(), features)
    expected = D2(neighbours=4).select_in_class(scores[left], 10, 0.3, stream(), features[left])
    assert picks.tolist() == left[expected].tolist()
    everything = D2(beta=0.4, neighbours=4).select_in_class(scores, 30, 1.0, stream(), features)
    assert sorted(everything.tolist()) == list(range(30))  # The budget has priority over the cut.


def ridge_slowly(features: np.ndarray, labels: np.ndarray, kept: np.ndarray, ridge: float) -> float:
    """The dual form: kernel ridge regression with the linear kernel of centred features."""
    targets = np.eye(labels.max() + 1)[labels]
    mean, target_mean = features[kept].mean(0), targets[kept].mean(0)
    rows, values = features[kept] - mean, targets[kept] - target_mean
    penalty = ridge * (rows**2).sum() / features.shape[1]
    duals = np.linalg.solve(rows @ rows.T + penalty * np.eye(len(kept)), values)
    return ((((features - mean) @ rows.T) @ duals + target_mean).argmax(1) == labels).mean()


@pytest.mark.parametrize("ridge", [0.1, 1.0, 5.0])
def test_the_ridge_regression_equals_its_dual_form(ridge, monkeypatch):
    monkeypatch.setattr("prunetune.samplers.bws.ROWS", 16)
    labels = torch.arange(60) % 3
    features = cloud(60, 5) + labels.unsqueeze(1)
    kept = torch.randperm(60, generator=stream("kept"))[:20]
    expected = ridge_slowly(features.double().numpy(), labels.numpy(), kept.numpy(), ridge)
    assert 0.4 < expected < 1
    assert ridge_accuracy(features, labels, kept, ridge) == pytest.approx(expected)


def test_bws_takes_the_window_with_the_best_ridge_regression():
    labels, scores = torch.arange(90) % 3, torch.rand(90, generator=stream("scores"), dtype=torch.float64)
    # The features of hard images are noisier.
    features = cloud(90, 6) * (0.3 + 2 * scores.float().unsqueeze(1)) + torch.eye(6)[labels]
    budgets, starts = {0: 4, 1: 4, 2: 4}, [i / 20 for i in range(21)]
    accuracies = {}
    for start in starts:
        kept = torch.cat([torch.arange(c, 90, 3)[window(scores[c::3], 4, start)] for c in range(3)])
        accuracies[start] = ridge_slowly(features.double().numpy(), labels.numpy(), kept.numpy(), 1.0)
    best = max(starts, key=lambda start: (round(accuracies[start], 9), -abs(start - 0.5), -start))
    assert accuracies[best] > accuracies[0.5]
    assert BWS().settled(scores, labels, budgets, features).start == best
    signals = TensorSignals(features)
    kept, same = (
        sampler.select(scores, labels, 4 / 30, stream(), signals).tolist() for sampler in (BWS(), BWS(start=best))
    )
    assert kept == same


def test_of_equally_good_windows_the_central_one_is_taken():
    labels = torch.arange(40) // 20
    features = torch.stack([labels.float() * 10, torch.zeros(40)], dim=1) + 0.01 * cloud(40, 2)
    assert BWS().settled(ramp(40), labels, {0: 4, 1: 4}, features).start == 0.5


def test_nucs_refuses_a_number_of_images_per_class():
    with pytest.raises(InputError, match="class budgets of its own"):
        Amount(per_class=4).check_sampler(NUCS())


def nucs_slowly(features, labels, scores, ratio, winsor) -> list[int]:
    """Return what NUCS keeps where no class is too small for its budget: its formula, and every window tried."""
    classes, num_kept = range(labels.max() + 1), sum(round((labels == c).sum() * ratio) for c in set(labels.tolist()))
    means = [winsorised_slowly(scores[labels == c], winsor) for c in classes]
    normaliser = sum(mean * (labels == c).sum() for c, mean in enumerate(means)) / len(labels)
    shares = [num_kept / len(labels) * means[c] * (labels == c).sum() / normaliser for c in classes]
    budgets = [int(share) for share in shares]
    for c in sorted(classes, key=lambda c: budgets[c] - shares[c])[: num_kept - sum(budgets)]:
        budgets[c] += 1
    best, most = [], -1.0
    for start in sorted((i / 20 for i in range(21)), key=lambda start: (abs(start - 0.5), start)):
        kept = []
        for c in classes:
            ranking = sorted(np.flatnonzero(labels == c), key=lambda i: -scores[i])
            first = round((len(ranking) - budgets[c]) * start - 1e-9)
            kept += ranking[first : first + budgets[c]]
        accuracy = round(ridge_slowly(features, labels, np.array(kept), 1.0), 9)
        if accuracy > most:
            best, most = sorted(int(i) for i in kept), accuracy
    return best


def winsorised_slowly(scores, winsor) -> float:
    low, high = np.quantile(scores, winsor), np.quantile(scores, 1 - winsor)
    return sum(min(max(score, low), high) for score in scores.tolist()) / len(scores)


@pytest.mark.parametrize("winsor", [0.0, 0.05, 0.3])
def test_nucs_divides_by_winsorised_means_and_takes_the_best_windows(winsor):
    labels = torch.arange(120) % 3
    scores = torch.rand(120, generator=stream("scores"), dtype=torch.float64) * (1 + labels)
    features = cloud(120, 6) * (0.3 + scores.float().unsqueeze(1)) + torch.eye(6)[labels]
    kept = NUCS(winsor=winsor).select(scores, labels, 0.2, stream(), TensorSignals(features))
    expected = nucs_slowly(features.double().numpy(), labels.numpy(), scores.numpy(), 0.2, winsor)
    assert kept.tolist() == expected
    counts = torch.bincount(labels[kept]).tolist()
    assert counts[0] < counts[1] < counts[2]


def test_nucs_keeps_a_small_hard_class_whole_and_hands_the_rest_on():
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] * 4)
    scores = torch.tensor([0.1] * 40 + [0.3] * 40 + [1.0] * 4, dtype=torch.float64)
    # The total is 20 + 20 + 2. The last class would keep 8.4 of its 4, and the others share 38 in the ratio 1 : 3.
    assert NUCS().budgets_of(scores, labels, 0.5) == {0: 10, 1: 28, 2: 4}


def test_a_winsorised_mean_moves_the_tails_to_their_quantiles():
    scores = torch.tensor([0.0] * 19 + [100.0], dtype=torch.float64)
    assert float(winsorised_mean(scores, 0.0)) == 5
    assert float(winsorised_mean(scores, 0.05)) == pytest.approx(0.25)  # The upper quantile lies at 5.
    assert float(winsorised_mean(scores, 0.1)) == 0


def test_nucs_refuses_negative_scores_and_other_budgets():
    with pytest.raises(InputError, match=r"scores of at least 0, got -1; pass scorer=el2n"):
        NUCS().select(ramp(9) - 1, one_class(9), 0.5, stream(), TensorSignals(cloud(9)))
    with pytest.raises(InputError, match=r"budgets of its own, got sampler\.budgets=equal; leave it"):
        NUCS(budgets="equal")


def test_first_of_clusters_takes_the_cheapest_of_each_and_then_of_the_largest():
    clusters = torch.tensor([2, 0, 0, 0, 2, 1, 0])
    costs = torch.tensor([3, 5, 1, 1, 2, 9, 7], dtype=torch.float64)
    # First picks: 2 of cluster 0 (four images), 4 of cluster 2 (two), 5 of cluster 1 (one). Then 3 and 0, then 1 and 6.
    assert first_of_clusters(clusters, costs, 7).tolist() == [2, 4, 5, 3, 0, 1, 6]
    assert first_of_clusters(clusters, costs, 2).tolist() == [2, 4]


def test_k_means_finds_clusters_that_are_far_apart_also_from_drawn_images(monkeypatch):
    groups = torch.arange(60) % 3
    features = cloud(60) + 100 * groups.unsqueeze(1)
    for many in (2**23, 0):
        monkeypatch.setattr("prunetune.samplers.clusters.MANY", many)
        clusters = k_means(features, 3, stream("start"))
        assert len({(int(g), int(c)) for g, c in zip(groups, clusters, strict=True)}) >= 3
        assert torch.equal(clusters, k_means(features, 3, stream("start")))
    monkeypatch.undo()
    clusters = k_means(features, 3, stream("start"))
    assert len({(int(g), int(c)) for g, c in zip(groups, clusters, strict=True)}) == 3


def test_features_that_repeat_leave_clusters_empty_and_the_budget_is_met():
    features = points((1, 0), (0, 1)).repeat(10, 1)
    for sampler in (TypiClust(), EasyDiverse()):
        kept = sampler.select_in_class(ramp(20), 6, 0.3, stream("draw"), features)
        assert len(kept.unique()) == 6
        assert {int(i) % 2 for i in kept} == {0, 1}


def test_atypicality_is_the_mean_distance_to_neighbours_of_the_same_cluster():
    features = points((0, 0), (0, 3), (4, 0), (0, 1), (9, 9))
    clusters = torch.tensor([0, 0, 0, 1, 2])
    assert atypicality(features, clusters, 20).tolist() == pytest.approx([3.5, 4.0, 4.5, 0, 0])
    assert atypicality(features, clusters, 1).tolist() == pytest.approx([3.0, 3.0, 4.0, 0, 0])


def test_typiclust_takes_the_middle_of_each_cluster():
    ring = [(math.cos(a), math.sin(a)) for a in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    features = points(*ring, *[(-5 * y, 5 * x) for x, y in ring])  # The second ring is longer and turned by 90 degrees.
    assert set(TypiClust().select_in_class(ramp(10), 2, 0.2, stream("draw"), features).tolist()) == {2, 7}


def in_turn_slowly(features: np.ndarray, clusters: np.ndarray, neighbours: int, count: int) -> list[int]:
    """Picks of clusters of more than 5 images in turn, the largest first, and of the small ones after them."""
    sizes, labels, picks = np.bincount(clusters), clusters.copy(), []
    for group in (np.flatnonzero(sizes > 5), np.flatnonzero((sizes <= 5) & (sizes > 0))):
        group = group[np.argsort(-sizes[group], kind="stable")]
        turn = 0
        while len(picks) < count and np.isin(labels, group).any():
            members = np.flatnonzero(labels == group[turn % len(group)])
            turn += 1
            if len(members) == 0:
                continue
            squares = ((features[members, None] - features[None, members]) ** 2).sum(2)
            few = min(neighbours, len(members) // 2)
            means = np.sort(squares, axis=1)[:, 1 : few + 1].mean(axis=1) if few else np.zeros(1)
            picks.append(int(members[means.argmin()]))
            labels[picks[-1]] = -1
    return picks


@pytest.mark.parametrize("count", [3, 11, 30, 41])
@pytest.mark.parametrize("neighbours", [2, 20])
def test_typiclust_as_released_picks_as_the_slow_reference(count, neighbours):
    features = cloud(41)
    clusters = torch.tensor([0] * 14 + [1] * 3 + [2] * 15 + [4] * 9)[torch.randperm(41, generator=stream("clusters"))]
    picks = in_turn(features, clusters, neighbours, count)
    assert picks.tolist() == in_turn_slowly(features.double().numpy(), clusters.numpy(), neighbours, count)
    kept = TypiClustReleased().select_in_class(ramp(41), count, count / 41, stream("draw"), features)
    assert len(kept.unique()) == count


def test_easy_and_diverse_takes_the_easiest_of_each_cluster_in_proportion():
    clusters = torch.tensor([0] * 6 + [1] * 3 + [3])
    scores = torch.tensor([5, 4, 3, 3, 8, 9, 2, 1, 0, 7], dtype=torch.float64)
    # The shares of 4 images are 2.4, 1.2 and .4, which become 2, 1 and 1.
    assert sorted(easiest_of_clusters(scores, clusters, 4).tolist()) == [2, 3, 8, 9]
    # The shares of 3 images are 1.8, .9 and .3, which give 2, 1 and 0. The largest cluster pays for the minimum of one.
    assert sorted(easiest_of_clusters(scores, clusters, 3).tolist()) == [2, 8, 9]


def test_easy_and_diverse_makes_at_most_as_many_clusters_as_images_are_kept():
    features = torch.cat([cloud(10), cloud(10) + 50, cloud(10) - 50])
    kept = EasyDiverse().select_in_class(ramp(30), 3, 0.1, stream("draw"), features)
    assert sorted(kept.tolist()) == [0, 10, 20]
    assert EasyDiverse(num_clusters=1).select_in_class(ramp(30), 3, 0.1, stream(), features).tolist() == [0, 1, 2]


def cover_slowly(features: torch.Tensor, delta: float, count: int) -> list[int]:
    gaps = torch.cdist(features.double(), features.double())
    left, picks = set(range(len(features))), []
    while left and len(picks) < count:
        gains = [len({j for j in left if gaps[i, j] <= delta}) for i in range(len(features))]
        picks.append(max((i for i in range(len(gains)) if i not in picks), key=lambda i: gains[i]))
        left -= {j for j in left if gaps[picks[-1], j] <= delta}
    return picks


@pytest.mark.parametrize("delta", [0.2, 0.6, 1.3, 5.0])
def test_the_cover_is_that_of_the_slow_reference(delta, monkeypatch):
    monkeypatch.setattr("prunetune.samplers.probcover.NUMBERS_AT_ONCE", 200)
    features = unit(cloud(47))
    assert cover(features, delta, 30).tolist() == cover_slowly(features, delta, 30)


def test_an_image_is_covered_by_itself_and_its_doubles_at_any_radius():
    features = unit(cloud(3, 384)).repeat(4, 1)
    assert cover(features, 1e-12, 12).tolist() == [0, 1, 2]


def gap_slowly(features: torch.Tensor, labels: torch.Tensor, position: int) -> float:
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    return float((directions[labels != labels[position]] - directions[position]).norm(dim=1).min())


def test_the_gaps_are_those_to_the_nearest_image_of_another_class(monkeypatch):
    monkeypatch.setattr("prunetune.samplers.probcover.NUMBERS_AT_ONCE", 30)
    features, labels = cloud(25), torch.arange(25) % 3
    judged = torch.tensor([0, 4, 24])
    expected = [gap_slowly(features, labels, int(i)) for i in judged]
    assert gaps_to_other_classes(features, labels, judged).tolist() == pytest.approx(expected, abs=1e-5)
    assert gaps_to_other_classes(features, one_class(25), judged).tolist() == [2, 2, 2]


def test_the_radius_is_the_largest_at_which_enough_balls_are_pure():
    gaps = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7], dtype=torch.float64)
    assert pure_radius(gaps, 0.999) == 0.1  # A ball does not include the points at exactly its radius.
    assert pure_radius(gaps, 0.8) == 0.3  # One ball of five may be impure.
    assert pure_radius(gaps, 0.6) == 0.5
    assert pure_radius(gaps, 0.0) == 0.9


def test_probcover_measures_the_radius_on_the_whole_pool_and_draws_what_covers_nothing_new():
    labels = torch.arange(30) // 15
    features = torch.cat([points((1, 0), (0, 1)).repeat(8, 1)[:15], points((-1, 0)).repeat(15, 1)])
    sampler = ProbCover().settled(ramp(30), labels, {}, features)
    assert sampler.delta == pytest.approx(2**0.5)
    assert ProbCover(delta=0.3).settled(ramp(30), labels, {}, features).delta == 0.3
    subsets = set()
    for seed in range(20):
        kept = ProbCover(delta=0.5).select(ramp(30), labels, 0.2, stream(seed), TensorSignals(features))
        assert {0, 1, 15} <= set(kept.tolist())
        subsets.add(tuple(kept.tolist()))
    assert len(subsets) > 10


@pytest.mark.parametrize(("num", "tau"), [(1, 0.07), (2, 0.07), (9, 0.07), (30, 0.5)])
def test_the_gradient_in_closed_form_is_that_of_the_objective(num, tau):
    features = unit(cloud(40, 6)).double()
    free = features[torch.randperm(40, generator=stream("centres"))[:num]].clone().requires_grad_()
    centres = torch.nn.functional.normalize(free, dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for row in features:
        owner = int((centres @ row).argmax())
        own = row @ centres[owner] / tau
        pushes = [(other.detach() @ centres[owner] / tau).exp() for other in centres]
        total = total + torch.log(own.exp() + sum(pushes)) - own
    (total / len(features)).backward()
    found = gradient(features.float(), free.detach().float(), tau)
    assert torch.allclose(found.double(), free.grad, atol=2e-6)


def test_a_single_centre_moves_towards_the_mean_of_the_class():
    features = cloud(9) + points((2, 0, 0))
    mean = unit(unit(features).mean(dim=0, keepdim=True))
    sampler = ActiveFT(learning_rate=1e-2)
    picks = {int(sampler.select_in_class(ramp(9), 1, 0.1, stream(seed), features)) for seed in range(30)}
    assert picks == {int((unit(features) @ mean.T).argmax())}


def test_each_centre_takes_the_nearest_remaining_image():
    features = points((1, 0), (0.8, 0.6), (0, 1), (1, 0))
    assert nearest_unused(features, points((1, 0), (1, 0), (1, 0))).tolist() == [0, 3, 1]
    assert nearest_unused(features, points((0, 1), (0.6, 0.8))).tolist() == [2, 1]


def test_activeft_spreads_over_the_groups_of_a_class():
    groups = torch.arange(90) % 3
    features = torch.eye(3)[groups] * 4 + 0.3 * cloud(90)
    sampler = ActiveFT(steps=120, learning_rate=2e-2)
    assert {int(groups[i]) for i in sampler.select_in_class(ramp(90), 3, 0.03, stream("b"), features)} == {0, 1, 2}
    small = ActiveFT(steps=120, learning_rate=2e-2, batch_size=16)
    assert {int(groups[i]) for i in small.select_in_class(ramp(90), 3, 0.03, stream("b"), features)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (CCS, {"beta": 1}, r"beta must be in \[0, 1\)"),
        (CCS, {"num_strata": 0}, "num_strata must be a whole number of at least 1"),
        (DoubleEnd, {"beta": -0.1}, r"beta must be in \[0, 1\)"),
        (Beta, {"power": 0}, "power must be a number above 0"),
        (Beta, {"epochs": 0}, "epochs must be a whole number"),
        (D2, {"beta": 1}, r"beta must be in \[0, 1\)"),
        (D2, {"neighbours": 0}, "neighbours must be a whole number"),
        (D2, {"gamma_r": -1}, "gamma_r must be a number of at least 0"),
        (D2, {"graph": "both"}, "graph must be one of undirected, directed"),
        (BWS, {"start": 2}, r"start must be in \[0, 1\]"),
        (BWS, {"num_windows": 1}, "at least 2"),
        (BWS, {"ridge": float("nan")}, "ridge must be a number above 0"),
        (ProbCover, {"delta": 0}, "delta must be a number above 0"),
        (ProbCover, {"purity": 1}, r"purity must be in \[0, 1\)"),
        (ActiveFT, {"tau": "cold"}, "tau must be a number above 0"),
        (EasyDiverse, {"num_clusters": 2.5}, "num_clusters must be a whole number"),
        (TypiClust, {"neighbours": True}, "neighbours must be a whole number"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(made, options, message):
    with pytest.raises(InputError, match=message):
        made(**options)
