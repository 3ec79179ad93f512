"""The surveys about own data, on features that are made here: what they draw, and what they count."""

import numpy as np
import pytest
import torch

from prunetune.own.learning_curve import FRACTIONS, Curve
from scripts.bench import own_images
from scripts.survey import advice_coverage, features, suspect_labels


@pytest.fixture
def made():
    """Return three clouds of features that a probe tells apart with some errors."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(3).repeat(40)
    pool, test = (torch.eye(3, 8)[labels] * 3 + torch.randn(120, 8, generator=generator) for _ in range(2))
    return features.Features("made", pool, labels, test, labels)


def test_a_sub_pool_has_the_same_fraction_of_each_class_and_at_least_eight():
    labels = torch.tensor([0] * 40 + [1] * 10 + [2] * 4)
    rows = advice_coverage.sub_pool(labels, 0)
    assert labels[rows].bincount().tolist() == [24, 8, 4]
    assert rows.tolist() != advice_coverage.sub_pool(labels, 1).tolist()


def test_a_sub_pool_gives_an_interval_and_a_loss_for_each_fraction(made):
    found = advice_coverage.measured(made, 0)
    assert found["samples"] == 72
    assert len(found["losses"]) == len(FRACTIONS) - 1
    assert Curve.from_json(found["curve"]).fractions == FRACTIONS


def test_the_coverage_counts_the_intervals_that_hold_the_loss(made):
    chosen = np.full((7, 20), 0.6) + np.linspace(-0.05, 0.05, 20)
    chosen[-1] = 0.7  # The loss is 10 points at every fraction.
    curve = Curve(FRACTIONS, (5, 10, 20, 30, 50, 70, 90), 90, chosen, chosen, np.ones((7, 20)))
    found = [
        {"samples": 72, "curve": curve.as_json(), "losses": losses}
        for losses in ([0.1] * 6, [0.3, 0.1, 0.1, 0.1, 0.1, -0.1])
    ]
    row = advice_coverage.row_of(made, found)
    assert row["coverage"] == pytest.approx(100 * 10 / 12)
    assert (row["at_0.05"], row["at_0.1"], row["at_0.7"]) == (50, 100, 50)
    assert row["width"] == pytest.approx(100 * (curve.loss(0).high - curve.loss(0).low))
    assert row["bias"] == pytest.approx(0, abs=1e-9)


def test_flipped_labels_are_as_many_as_asked_for_and_all_wrong(made):
    changed, is_wrong = suspect_labels.flipped(made.labels, 0.1, 0)
    assert is_wrong.sum() == 12
    assert ((changed != made.labels).numpy() == is_wrong).all()
    found = suspect_labels.measured(made, 0.1, 0)
    assert found["auc"] > 0.8
    assert 0 < found["precision"] <= 100


def test_the_ratio_of_a_procedure_is_to_the_plain_pass_of_its_own_round():
    plain = [{"seconds": 1.0, "cpu_seconds": 1.0}, {"seconds": 1.0, "cpu_seconds": 4.0}]
    own = [{"seconds": 2.0, "cpu_seconds": 1.1}, {"seconds": 2.0, "cpu_seconds": 4.8}]
    row = own_images.row_of("prune()", own, plain)
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((1.15, 1.1, 1.2))


def test_patients_are_either_pruned_or_tested(tmp_path):
    images = [f"images_64/{patient:08d}_{view:03d}.jpg" for patient in range(10) for view in range(2)]
    lines = [f"{image},{'No Finding' if number % 2 else 'Mass|Nodule'}" for number, image in enumerate(images)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,finding_labels", *lines]) + "\n")
    lists = features.x_rays(tmp_path, tmp_path)
    patients = {part: {line.split("_")[1] for line in path.read_text().splitlines()} for part, path in lists.items()}
    assert patients["train"].isdisjoint(patients["test"])
    assert len(patients["test"]) == 4
    assert set(np.unique([line.split()[1] for line in lists["train"].read_text().splitlines()])) == {"with", "without"}
