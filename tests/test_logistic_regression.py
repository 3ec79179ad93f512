"""finetune=logistic_regression: the fit itself, the choice of C, and runs and grids with it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed
from prunetune.runs import image_run
from prunetune.samplers import RS2
from prunetune.training import logistic_regression
from prunetune.training.linear_probe import Probe
from prunetune.training.logistic_regression import GRID, fit, fit_probes
from prunetune.training.sample_order import Slices, Static
from runs import MICRO, TEXTURES, grid_here, lasting, parsed_here, read_result, read_rows, run_here

FITTED = [*TEXTURES, *MICRO, "wandb=disabled", "precision=fp32", "finetune=logistic_regression"]


def noisy(num_classes=3, per_class=20, width=6):
    """Return features [n, D] in units that differ by dimension, and labels [n].

    All dimensions share a strong noise, so that a strong penalty and a weak one are both worse than one in between.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat(per_class)
    centres = torch.randn(num_classes, width, generator=generator)
    noise = 0.8 * torch.randn(len(labels), width, generator=generator)
    shared = 10 * torch.randn(len(labels), 1, generator=generator)
    return (centres[labels] + noise + shared) * torch.logspace(-2, 3, width), labels


def test_separable_classes_are_learnt_and_the_smallest_of_equally_good_strengths_is_taken():
    features = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [10.0, 5.0], [11.0, 5.0], [12.0, 5.0]])
    found = fit(features, torch.tensor([3, 3, 3, 7, 7, 7]), seed=0)
    # The classes lie symmetrically about 6, and the second feature, which is constant, must not count.
    assert found.predict(torch.tensor([[-50.0, 5.0], [5.9, 9.0], [6.1, -9.0], [70.0, 5.0]])).tolist() == [3, 3, 7, 7]
    assert found.accuracies == (1.0,) * len(GRID)
    assert (found.c, found.folds, found.has_converged) == (GRID[0], 3, True)


@pytest.mark.parametrize("width", [6, 80])  # With 80 there are more dimensions than images.
def test_the_strength_is_the_one_that_scikit_learns_search_chooses(width):
    features, labels = noisy(width=width)
    scaled = StandardScaler().fit_transform(features.double().numpy())
    folds = StratifiedKFold(5, shuffle=True, random_state=derive_seed("folds", 4) % 2**32)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": list(GRID)}, cv=folds).fit(scaled, labels.numpy())
    found = fit(features, labels, seed=4)
    assert found.c == search.best_params_["C"] not in (GRID[0], GRID[-1])
    assert np.allclose(found.accuracies, search.cv_results_["mean_test_score"], rtol=0, atol=1e-9)
    assert np.array_equal(found.predict(features).numpy(), search.predict(scaled))
    assert found.record()["candidates"][0] == {"C": GRID[0], "accuracy": found.accuracies[0]}
    assert found.record() == fit(features, labels, seed=4).record()


def test_there_are_as_many_folds_as_the_smallest_class_has_images_and_none_for_a_single_image():
    features, labels = noisy()
    two = torch.cat([torch.nonzero(labels == 0).flatten()[:2], torch.nonzero(labels > 0).flatten()])
    assert fit(features[two], labels[two], seed=0).folds == 2
    one = fit(features[two[1:]], labels[two[1:]], seed=0)
    assert one.record() == {
        "C": 1.0,
        "rule": "a class has a single image, so C is 1",
        "folds": None,
        "converged": True,
        "candidates": [],
    }
    scaled = StandardScaler().fit_transform(features[two[1:]].double().numpy())
    plain = LogisticRegression(max_iter=1000).fit(scaled, labels[two[1:]].numpy())
    assert np.allclose(one.model.coef_, plain.coef_)


def test_one_class_alone_is_refused():
    with pytest.raises(InputError, match="needs kept images of at least two classes, got one class; raise ratio"):
        fit(torch.zeros(3, 2), torch.full((3,), 4), seed=0)


def test_weights_count_relative_to_their_mean():
    features, labels = noisy(per_class=8)
    weights = torch.linspace(1, 3, len(labels), dtype=torch.float64)
    test = {"test_features": features, "test_labels": labels, "seed": 0}
    plain = Probe(torch.arange(len(labels)), labels, **test)
    weighted = [replace(plain, sample_order=Static(len(labels), scale * weights)) for scale in (1, 100)]
    results = fit_probes(features, [plain, *weighted])
    losses = [result.history[0].train_loss for result in results]
    assert losses[1] == pytest.approx(losses[2], abs=1e-9) != pytest.approx(losses[0], abs=1e-4)
    assert results[0].history[0].test_accuracy == (results[0].predictions == labels).double().mean().item()
    with pytest.raises(InputError, match="cannot change its images from epoch to epoch"):
        fit_probes(features, [replace(plain, sample_order=Slices(len(labels), 5))])


def test_a_fit_that_does_not_converge_says_so_in_one_line_and_in_its_record(monkeypatch, caplog):
    monkeypatch.setattr(logistic_regression, "MOST_STEPS", 2)
    with caplog.at_level(logging.WARNING):
        found = fit(*noisy(), seed=0)
    assert not found.record()["converged"]
    first, last = caplog.messages
    assert first.startswith("logistic regression, cross-validation: lbfgs failed to converge after 2 iteration")
    assert last.startswith(f"logistic regression, the fit with C={found.c:g}: lbfgs failed to converge")
    assert "\n" not in first + last


def test_a_grid_equals_single_runs_and_the_record_tells_how_c_was_chosen(tmp_path):
    grid_here(tmp_path / "grid", *FITTED, "methods=[random,herding]", "ratios=[0.5]", "seeds=[2]")
    alone = run_here(tmp_path / "alone", *FITTED, "method=herding", "ratio=0.5", "seed=2")
    cell = tmp_path / "grid" / alone.relative_to(tmp_path / "alone")
    result = read_result(alone)
    assert lasting(result) == lasting(read_result(cell))
    assert result["finetune"] == "logistic_regression"
    assert (result["logistic_regression"]["folds"], len(result["logistic_regression"]["candidates"])) == (2, 10)
    assert result["accuracy"] == result["best_accuracy"] > 0.1
    [row] = read_rows(alone / "history.csv")
    assert (row["epoch"], row["learning_rate"], float(row["test_accuracy"])) == ("1", "", result["accuracy"])
    assert len(list((tmp_path / "grid").rglob("result.json"))) == 2


def test_a_sampler_that_changes_its_images_in_every_epoch_is_refused_before_anything_is_computed(tmp_path):
    run = parsed_here(tmp_path, *FITTED)
    image_run.check(run)
    with pytest.raises(InputError, match="sampler=rs2 shows other images in every epoch, and finetune=logistic_regr"):
        image_run.check(replace(run, candidates={"": RS2()}))


@pytest.mark.parametrize("word", ["finetune.epochs=5", "finetune.views=0", "finetune.milestones=[]"])
def test_a_setting_of_trainings_in_epochs_is_refused(tmp_path, word):
    key = word.split("=")[0]
    with pytest.raises(InputError, match=f"{key} must be null with finetune.trained=logistic_regression, .* got .*"):
        parsed_here(tmp_path, *FITTED, word)


@pytest.mark.parametrize("key", ["epochs", "nesterov", "milestones", "decay", "last_batch"])
def test_a_training_in_epochs_needs_its_settings(tmp_path, key):
    with pytest.raises(InputError, match=f"finetune.{key} must be .*, got None"):
        parsed_here(tmp_path, *TEXTURES, *MICRO, f"finetune.{key}=null")
