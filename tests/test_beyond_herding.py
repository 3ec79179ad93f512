"""The candidates that try to beat herding: what they pick on made features, and how their differences are counted."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import ttest_1samp

from prunetune.base.seeding import stream
from prunetune.scorers.herding import herd
from scripts.survey import beyond_herding
from scripts.survey.beyond_herding import RIDGE, Trained, interval, mean_weights, rows_of, side_by_side, toward


def cloud(size: int, width: int, name: str = "cloud") -> torch.Tensor:
    return torch.randn(size, width, generator=stream(name))


def made(classes: int = 4, size: int = 30, width: int = 6) -> beyond_herding.Material:
    """Return material of classes of one size, without signals."""
    given = object.__new__(beyond_herding.Material)
    given.labels = torch.arange(classes).repeat_interleave(size)
    given.features = 2 * torch.eye(classes, width)[given.labels] + cloud(len(given.labels), width)
    given.members = beyond_herding.class_members(given.labels)
    return given


def test_picks_toward_the_mean_are_those_of_herding():
    features = cloud(40, 5)
    assert toward(features, features.double().mean(dim=0), 12) == herd(features, 12).tolist()


def test_images_that_are_kept_already_are_made_up_for():
    features = torch.tensor([[4.0], [-1.0], [-3.5], [0.0], [1.0]])
    # With 4 kept, the next pick brings the sum nearest to 0: -3.5, then -1.
    assert toward(features, torch.zeros(1, dtype=torch.float64), 2, [0]) == [2, 1]


def test_blocks_side_by_side_have_the_same_spread():
    members = [torch.arange(20), torch.arange(20, 50)]
    blocks = side_by_side([cloud(50, 3), 100 * cloud(50, 8, "other")], members).split([3, 8], dim=1)
    for block in blocks:
        inside = torch.cat([block[rows] - block[rows].mean(dim=0) for rows in members])
        assert float(inside.square().sum(dim=1).mean()) == pytest.approx(1, rel=1e-5)


def test_weights_minimise_the_distance_of_the_means_with_their_penalty():
    everything = cloud(60, 4)
    kept, mean = everything[:5].double(), everything.double().mean(dim=0)
    penalty = RIDGE * float((everything.double() - mean).square().sum(dim=1).mean())

    def cost(weights: np.ndarray) -> float:
        distance = torch.from_numpy(weights) @ kept - mean
        return float(distance.square().sum()) + penalty * float(((weights - 0.2) ** 2).sum())

    simplex = {"constraints": {"type": "eq", "fun": lambda w: w.sum() - 1}, "bounds": [(0, 1)] * 5}
    best = minimize(cost, np.full(5, 0.2), method="SLSQP", options={"ftol": 1e-12}, **simplex).x
    assert mean_weights(everything[:5], everything).numpy() == pytest.approx(best, abs=1e-4)


def test_the_joint_picks_bring_differences_of_means_nearer_than_herding_does():
    given = made()

    def error(kept: beyond_herding.Kept) -> float:
        gaps = [
            given.features[own].mean(dim=0) - given.features[rows].mean(dim=0)
            for rows in given.members
            for own in [kept.rows[given.labels[kept.rows] == given.labels[rows[0]]]]
        ]
        return float(sum((a - b).square().sum() for a in gaps for b in gaps))

    plain = beyond_herding.herded(given.features, given.members, given.budgets(0.1))
    assert error(beyond_herding.differences(given, 0.1)) < error(plain)


@pytest.mark.parametrize("name", ["spread_budgets", "weights", "trimmed", "apart", "differences"])
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.5])
def test_candidates_keep_the_budget_and_nothing_twice(name, ratio):
    kept = beyond_herding._kept(made(), name, ratio)
    assert kept.weights is None or float(kept.weights.mean()) == pytest.approx(1, abs=1e-4)


def test_the_interval_is_that_of_a_t_test():
    values = np.array([1.0, 2.0, 4.0, 4.5])
    assert interval(values, 0.05) == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval(0.95)))


def test_networks_of_a_set_are_averaged_before_the_sets():
    runs = [("a", "one", 2.0), ("a", "two", 4.0), ("b", "one", 9.0)]
    accuracies = [
        Trained("develop", name, dataset, backbone, seed, ratio, 50 + (gain + seed if name == "apart" else 0))
        for dataset, backbone, gain in runs
        for seed in (0, 1)
        for ratio in beyond_herding.RATIOS
        for name in ("herding", "apart")
    ]
    row = rows_of(accuracies)[0]
    assert (row["candidate"], row["budget"], row["n"], row["sets"]) == ("apart", "small", 2, 2)
    assert row["difference"] == pytest.approx((3.5 + 9.5) / 2)
    assert (row["low"], row["high"]) == pytest.approx(interval(np.array([6.0, 7.0]), 0.05))
    assert (row["sets_low"], row["sets_high"]) == pytest.approx(interval(np.array([3.5, 9.5]), 0.05))
