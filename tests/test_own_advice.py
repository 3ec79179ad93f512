"""The learning curve, its intervals, the power law and the sentences that follow from them."""

import json
import re

import numpy as np
import pytest
import torch

from damage import damage, flip_a_bit
from made_data import make_image_folder
from prunetune import advise
from prunetune.base.errors import InputError
from prunetune.own.advice import Advice
from prunetune.own.estimate import interval
from prunetune.own.learning_curve import Curve, held_out, judging_variance, learning_curve, verdict
from prunetune.own.power_law import fit_power_law
from runs import prunetune_here


def first_ones(features, labels, fraction, seed):
    """Keep the first samples of each class: a method that is as good as random samples."""
    kept = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    return torch.cat([members[: max(round(fraction * len(members)), 1)] for members in kept]).sort().values


def clouds(count=60, width=8, spread=3.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(count)
    return torch.eye(3, width)[labels] * 3 + spread * torch.randn(len(labels), width, generator=generator), labels


def made_curve(chosen, drawn, splits=20, judging=1.0):
    noise = np.random.default_rng(0).normal(0, 0.002, (2, len(chosen), splits))
    fractions = (0.1, 0.3, 0.5, 1.0)
    accuracies = [np.array(values)[:, None] + part for values, part in zip((chosen, drawn), noise, strict=True)]
    return Curve(fractions, (10, 30, 50, 100), 100, *accuracies, np.full((4, splits), judging))


def test_a_split_holds_out_a_tenth_of_each_class_and_at_least_one_sample():
    labels = torch.tensor([0] * 40 + [1] * 5)
    pool, judges = held_out(labels, seed=0, number=3)
    assert torch.bincount(labels[judges]).tolist() == [4, 1]
    assert sorted([*pool.tolist(), *judges.tolist()]) == list(range(45))
    assert held_out(labels, 0, 4)[1].tolist() != judges.tolist()


def test_as_many_are_kept_as_the_fraction_of_all_samples_makes():
    features, labels = clouds(15)
    kept = []

    def select(features, labels, fraction, seed):
        kept.append(fraction * len(labels))
        return first_ones(features, labels, fraction, seed)

    curve = learning_curve(features, labels, select, fractions=(0.2, 0.7, 1.0))
    assert kept == pytest.approx([9.0] * 20 + [31.5] * 20)
    assert curve.counts[-1] == 39


def test_the_interval_is_that_of_nadeau_and_bengio():
    found = interval(np.array([0.01, 0.03, 0.02, 0.04]))
    half = 3.182446 * 0.012909944 * np.sqrt(1 / 4 + 1 / 9)
    assert (found.mean, found.high - found.mean) == pytest.approx((0.025, half), rel=1e-5)


def test_the_interval_of_a_loss_is_about_one_training():
    curve, exact = (made_curve([0.7, 0.75, 0.79, 0.8], [0.6] * 4, judging=judging) for judging in (1.0, 0.0))
    losses = curve.chosen[-1] - curve.chosen[0]
    assert curve.loss(0) == interval(losses)  # The judges vary more than the losses, so nothing is left for training.
    assert exact.loss(0) == interval(losses, losses.var(ddof=1))
    assert exact.loss(0).high - exact.loss(0).mean > 2 * (curve.loss(0).high - curve.loss(0).mean)


def test_the_variance_by_judges_is_that_within_classes():
    losses, labels = np.array([1.0, 0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    within = np.array([losses[labels == label].var(ddof=1) for label in (0, 1)])
    assert judging_variance(losses, labels) == pytest.approx(within.mean() / 8)
    assert judging_variance(losses[:2], np.array([0, 1])) == pytest.approx(0.25 / 2)


def test_a_loss_is_against_all_samples_and_not_those_that_are_not_held_out():
    counts = np.array([10.0, 30, 50, 90])
    accuracies = (0.9 - 2 * counts**-0.7)[:, None] * np.ones(20)
    curve = Curve((0.1, 0.3, 0.5, 1.0), (10, 30, 50, 90), 100, accuracies, accuracies, np.zeros((4, 20)))
    assert curve.loss(1).mean == pytest.approx(2 * 30**-0.7 - 2 * 100**-0.7, rel=1e-2)


def test_a_curve_is_written_and_read_again():
    curve = made_curve([0.7, 0.75, 0.79, 0.8], [0.6] * 4)
    again = Curve.from_json(json.loads(json.dumps(curve.as_json())))
    assert (again.fractions, again.counts) == (curve.fractions, curve.counts)
    assert all(np.array_equal(getattr(again, name), getattr(curve, name)) for name in ("chosen", "drawn", "judging"))


def test_all_samples_are_trained_on_at_the_end_and_the_same_seed_gives_the_same_curve():
    features, labels = clouds()
    curve, again = (learning_curve(features, labels, first_ones, fractions=(0.1, 1.0)) for _ in range(2))
    assert curve.counts == (18, 162)
    assert np.array_equal(curve.chosen[-1], curve.drawn[-1])
    assert np.array_equal(curve.chosen, again.chosen)
    assert curve.chosen[0].mean() < curve.chosen[1].mean()
    assert curve.num_samples == 180
    assert curve.loss(1).mean == pytest.approx(curve.beyond)
    assert curve.beyond > 0


def test_a_method_that_is_no_better_than_random_samples_does_not_matter():
    features, labels = clouds()
    curve = learning_curve(features, labels, first_ones, fractions=(0.1, 0.3, 1.0))
    assert curve.gain.low < 0 < curve.gain.high
    assert "does not matter here" in verdict(curve, "first")[-1]


def test_the_smallest_fraction_within_a_point_is_recommended():
    curve = made_curve([0.70, 0.795, 0.798, 0.80], [0.60, 0.70, 0.75, 0.80])
    lines = verdict(curve, "herding")
    assert lines[0].startswith("Keep 30%: the loss against all samples is 0.5 points, 95% interval [")
    assert lines[1].startswith("At 10% expect a loss of 10.")
    assert lines[2].startswith("Use herding: it is above random samples by ")


def test_where_no_fraction_is_safe_all_are_kept_and_the_likely_one_is_named():
    unsure = made_curve([0.70, 0.75, 0.795, 0.80], [0.72, 0.78, 0.80, 0.80])
    unsure.chosen[2] += np.linspace(-0.05, 0.05, 20)
    lines = verdict(unsure, "herding")
    assert lines[0].startswith("Keep all: no smaller fraction is surely within 1 point")
    assert re.match(r"At 50% the loss is .*: small, but too uncertain\.", lines[1])
    assert lines[-1].startswith("Use random samples: herding is below them by ")


def test_a_power_law_is_found_again():
    counts = np.array([10.0, 30, 50, 100])
    accuracies = 1 - (0.1 + 2 * counts**-0.7)
    law = fit_power_law((10, 30, 50, 100), 1 - accuracies[:, None] * np.ones(20), 100)
    assert (law.floor, law.scale, law.exponent) == pytest.approx((0.1, 2, 0.7), rel=1e-2)
    assert law.exponents == pytest.approx((0.7, 0.7), rel=1e-2)
    assert law.error(100) == pytest.approx(0.1 + 2 * 100**-0.7, rel=1e-3)
    assert law.doubled.mean == pytest.approx(2 * (100**-0.7 - 200**-0.7), rel=1e-2)


def test_what_a_pruning_costs_is_told_from_the_fractions_around_it():
    advice = Advice(made_curve([0.70, 0.75, 0.79, 0.80], [0.6, 0.7, 0.75, 0.8]), 100, "herding", "herding with topk")
    assert advice.at(0.302).startswith("This pruning keeps 30%: expect a loss of 5.")
    number = r"[-0-9.]+ points, 95% interval \[[-0-9., ]+\]"
    between = rf"This pruning keeps 20%: expect a loss between that at 30%, {number}, and that at 10%, {number}\."
    assert re.fullmatch(between, advice.at(0.2))
    assert re.fullmatch(rf"This pruning keeps 2%: expect a loss above that at 10%, {number}\.", advice.at(0.02))
    assert re.fullmatch(rf"This pruning keeps 80%: expect a loss below that at 50%, {number}\.", advice.at(0.8))
    assert advice.at(1.0) == ""


def test_every_accuracy_and_loss_of_the_table_has_its_interval():
    advice = Advice(made_curve([0.70, 0.75, 0.79, 0.80], [0.6, 0.7, 0.75, 0.8]), 100, "herding", "herding with topk")
    numbers = [re.findall(r"[-0-9.]+ \[[-0-9.]+, [-0-9.]+\]", line) for line in advice.table()[1:]]
    assert [len(found) for found in numbers] == [3, 3, 3, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0] * 20, "at least two classes, got one"), ([0] * 20 + [1] * 4, "the smallest class has 4")],
)
def test_data_that_are_too_small_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        advise(embeddings=np.random.default_rng(0).normal(size=(len(labels), 4)), labels=labels)


def test_the_command_and_the_function_give_the_same_advice(tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"bark": 20, "moss": 20})
    words = ["--backbone", "micro", "--store", str(tmp_path / "store")]
    done = prunetune_here("advise", str(photos), *words)
    assert done.returncode == 0, done.stderr
    found = advise(photos, "micro")
    assert done.stdout == f"{found}\n"
    assert [line.split()[0] for line in found.table()[1:]] == ["5%", "10%", "20%", "30%", "50%", "70%", "100%"]
    assert "Twice as many samples" in done.stdout


def test_the_same_question_is_answered_from_the_store_and_another_one_is_not(tmp_path, monkeypatch):
    photos = make_image_folder(tmp_path / "photos", {"bark": 10, "moss": 10})
    words = [str(photos), "--backbone", "micro", "--store", str(tmp_path / "store")]
    done = prunetune_here("advise", *words)
    [kept] = (tmp_path / "store").glob("advice/*/advice.json")
    damage(kept, flip_a_bit)
    again = prunetune_here("advise", *words)
    assert again.stdout == done.stdout
    assert "is damaged (advice.json" in again.stderr
    monkeypatch.setattr("prunetune.own.stored_advice.advise_data", None)
    assert prunetune_here("advise", *words).stdout == done.stdout
    with pytest.raises(TypeError):
        prunetune_here("advise", *words, "--seed", "1")


def test_a_folder_of_prune_is_not_overwritten_by_advice(tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"bark": 6, "moss": 6})
    words = [str(photos), "--backbone", "micro", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert prunetune_here("prune", *words, "--keep", "0.5").returncode == 0
    done = prunetune_here("advise", *words)
    assert done.returncode == 1
    assert "holds all.csv and 3 more, which `prunetune advise` has not written" in done.stderr
    assert (tmp_path / "out" / "kept.txt").is_file()


def test_data_without_labels_are_refused_in_one_line(tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"bark": 6, "moss": 6})
    done = prunetune_here("advise", str(photos), "--labels-from", "none", "--backbone", "micro")
    assert (done.returncode, done.stdout) == (1, "")
    reason = "error: advice is an accuracy by label, and these data have no labels; give labels too"
    assert done.stderr.splitlines()[-1] == reason
