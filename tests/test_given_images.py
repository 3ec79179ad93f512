"""The scripts about what users have: what is done to the images, what methods see of it, and what is compared."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prunetune.own.suspects import suspect_labels
from prunetune.runs.scores import compute_scores
from prunetune.scorers import KMedoids
from scripts.reproduce.study_cells import Opened, Pair
from scripts.survey import draws, given_images, robustness
from scripts.survey.given_images import sub_pool

SMALL = ("dataset=textures", "dataset.num_pool=250", "dataset.num_test=100", "backbone=micro")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return Opened(Pair("textures", "micro", SMALL), tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def images(opened):
    return given_images.images_of(opened)


def test_where_nothing_is_wrong_the_study_keeps_and_finds_the_same(opened, images):
    methods, budgets = ("random", "herding", "dlc_0.25"), ("0.1", "0.3")
    part, user = opened.part(3), sub_pool(images, 3)
    expected = [selection.rows for selection in part.selections(methods, budgets)]
    kept = [some for method in methods for some in user.kept(method, budgets)]
    assert [user.rows[some].tolist() for some in kept] == [rows.tolist() for rows in expected]
    found = [row["accuracy"] for row in user.judged(kept)]
    assert found == pytest.approx(part.accuracies(expected), abs=1e-9)


def test_k_medoids_keeps_its_first_picks_at_every_budget(images):
    user = sub_pool(images, 0)
    order = compute_scores(KMedoids(), user.signals, 0)
    for budget, kept in zip(("0.1", "3_per_class"), user.kept("k_medoids", ["0.1", "3_per_class"]), strict=True):
        assert len(kept) == sum(user.counts(budget).values())
        for label, count in user.counts(budget).items():
            members = torch.nonzero(user.labels == label).flatten()
            first = members[order[members].argsort(descending=True)[:count]]
            assert sorted(kept[user.labels[kept] == label].tolist()) == sorted(first.tolist())


def test_wrong_labels_are_seen_by_methods_and_not_by_the_test(images):
    clean = sub_pool(images, 0)
    user = given_images.with_wrong_labels(clean, 0.1)
    everything = torch.arange(len(user.rows))
    [row] = user.judged([everything])
    assert row["wrong"] == round(0.1 * len(user.rows)) == int((user.labels != clean.labels).sum())
    assert user.signals.pool.labels.tolist() == user.labels.tolist()
    assert user.images.test[1] is images.test[1]


def test_suspects_are_not_kept_and_as_many_images_are(images):
    user = given_images.with_wrong_labels(sub_pool(images, 0), 0.1)
    cleaned = given_images.without_suspects(user)
    suspects = suspect_labels(images.features[user.rows], user.labels, 0).ranking
    assert 0 < len(suspects) == int((~cleaned.can_stay).sum())
    for before, after in zip(user.kept("herding", ["0.1"]), cleaned.kept("herding", ["0.1"]), strict=True):
        assert len(after) == len(before)
        assert not set(after.tolist()) & set(suspects.tolist())
        assert user.labels[after].bincount().tolist() == user.labels[before].bincount().tolist()


def test_class_sizes_fall_exponentially_and_equal_budgets_keep_more_of_rare_classes(images):
    clean = sub_pool(images, 0)
    user = given_images.with_rare_classes(clean, 10)
    largest, sizes = int(clean.labels.bincount().min()), sorted(user.labels.bincount().tolist(), reverse=True)
    assert sizes == [max(round(largest * 10 ** (-rank / 9)), 1) for rank in range(10)]
    equal = replace(user, budgets="equal")
    [kept], [kept_equal] = user.kept("random", ["0.5"]), equal.kept("random", ["0.5"])
    rarest = int(user.labels.bincount().argmin())
    assert len(kept) == len(kept_equal)
    assert (user.labels[kept_equal] == rarest).sum() == (user.labels == rarest).sum()


def test_a_third_is_there_twice_and_copies_are_not_kept_when_they_are_removed(images):
    clean = sub_pool(images, 0)
    user = given_images.with_copies(clean)
    sizes = clean.labels.bincount().tolist()
    assert user.labels.bincount().tolist() == [size + round(size / 3) for size in sizes]
    alone = given_images.without_copies(user)
    assert user.rows[alone.allowed].tolist() == clean.rows.tolist()
    [kept], [kept_alone] = user.kept("random", ["0.5"]), alone.kept("random", ["0.5"])
    [row, row_alone] = user.judged([kept, kept_alone])
    assert row_alone["different"] == row_alone["images"] == row["images"] > row["different"]


def test_a_number_of_images_of_each_class_is_kept(images):
    user = sub_pool(images, 0)
    for kept in user.kept("herding", ["1_per_class", "4_per_class"]):
        assert len(set(user.labels[kept].bincount().tolist())) == 1
    assert len(kept) == 40


def test_common_classes_are_numbered_as_they_are_named(opened, images):
    part = given_images.in_common_classes(opened, [("waves", "weave"), ("rings", "none of this set")])
    names = [opened.pool.classes[label] for label in images.labels.tolist()]
    assert part.labels.tolist() == [int(name == "rings") for name in names if name in ("waves", "weave", "rings")]
    assert len(part.features) == len(part.sample_ids) == len(part.levels[0]) == len(part.labels)
    assert set(part.test[1].tolist()) == {0, 1}


def test_the_table_shows_paired_differences(tmp_path):
    accuracies = {"random": [0.5, 0.6, 0.7], "herding": [0.6, 0.8, 0.8]}
    for number in range(3):
        methods = {
            method: {b: {"accuracy": values[number], "images": 10, "wrong": 1} for b in robustness.BUDGETS}
            for method, values in accuracies.items()
        }
        found = {"case": "flipped", "set": "textures-micro", "number": number, "methods": methods}
        (tmp_path / f"{number}.json").write_text(json.dumps(found))
    rows = list(robustness.rows_of(robustness.read_parts(tmp_path, ("random", "herding"), 3), "flipped"))
    assert [row["method"] for row in rows] == ["random", "herding"]
    assert rows[1]["0.1"] == pytest.approx(100 * np.mean(accuracies["herding"]))
    # The differences are 10, 20 and 10 points: mean 13.3, standard error 3.33, t of 2 degrees of freedom 4.303.
    assert rows[1]["small_random"] == "+13.3 [-1.0, 27.7]"
    assert rows[0]["small_herding"] == "-13.3 [-27.7, 1.0]"
    assert rows[1]["wrong"] == pytest.approx(10)
    assert "effect" not in rows[1]


def test_a_difference_that_is_rounded_to_zero_has_no_sign():
    assert robustness.shown(np.array([-0.0002, 0.0, 0.0001])) == "0.0 [0.0, 0.0]"


def test_a_head_of_an_ensemble_is_the_head_of_a_probe(images):
    user = sub_pool(images, 0)
    [kept] = user.kept("herding", ["0.2"])
    [accuracy] = draws._accuracies(user, [kept], [2])
    assert draws._accuracy(user, draws._logits(user, kept, 2)) == pytest.approx(accuracy, abs=0.011)


def test_draws_differ_by_their_number_alone(images):
    user = sub_pool(images, 0)
    scores = draws._scores(user, draws.DLC)
    first, again, other = (draws.drawn(user, draws.DLC, scores, "0.1", number) for number in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
