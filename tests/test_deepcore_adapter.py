"""Running a DeepCore checkout: how it is recognised, the inputs of its methods, and the use of their results."""

import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from made_checkout import write_checkout
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.networks.backbone import Backbone
from prunetune.networks.checkpoint import weights_hash
from prunetune.runs.scores import compute_scores
from prunetune.samplers import TopK, class_budgets
from prunetune.scorers.herding import Herding
from prunetune.scorers.published.deepcore import DeepCore
from prunetune.scorers.published.deepcore_adapter import (
    HOW_TO_GET_IT,
    Renewed,
    find_checkout,
    fingerprint,
    load_package,
)
from prunetune.signals.contract import Signals
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import CLASS_SIZES, check_scorer, made_pool

MICRO = Backbone(model="prunetune_micro", mask_modules="conv2d")
QUICK = {"fraction": 0.5, "epochs": 1, "batch_size": 8, "learning_rate": 0.01}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Return a stand-in for the real thing."""
    return write_checkout(tmp_path / "DeepCore")


@pytest.fixture
def signals(tmp_path) -> NetworkSignals:
    """Return signals of a small pool of images."""
    network = MICRO.load()
    return NetworkSignals(made_pool(network.input_size), Embedding(network, Store(tmp_path / "store"), batch_size=8))


def scored(checkout: Path, signals: Signals, seed: int = 0, **settings) -> torch.Tensor:
    return compute_scores(DeepCore(path=str(checkout), **{**QUICK, **settings}), signals, seed)


def seen(checkout: Path) -> dict:
    return load_package(checkout).methods.earlytrain.SEEN[-1]


def test_without_a_path_one_line_says_how_to_get_a_checkout():
    with pytest.raises(InputError) as error:
        DeepCore()
    assert "git clone https://github.com/PatrickZH/DeepCore && git -C DeepCore checkout 74ec709" in str(error.value)
    assert "scorer.path=" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="folder of a DeepCore checkout") as error:
        find_checkout(tmp_path / "nowhere")
    assert HOW_TO_GET_IT in str(error.value)


@pytest.mark.parametrize(
    "missing", ["deepcore/methods/coresetmethod.py", "deepcore/methods/earlytrain.py", "deepcore/__init__.py"]
)
def test_a_folder_without_the_files_of_a_checkout_is_refused(checkout, missing):
    (checkout / missing).unlink()
    with pytest.raises(InputError, match="is not a checkout of PatrickZH/DeepCore"):
        DeepCore(path=str(checkout))


def test_the_package_of_the_same_name_on_pypi_is_refused_by_name(tmp_path):
    (tmp_path / "deepcore" / "methods").mkdir(parents=True)
    for name in ("__init__.py", "methods/coresetmethod.py", "methods/earlytrain.py"):
        (tmp_path / "deepcore" / name).write_text("class Unrelated: ...\n")
    with pytest.raises(InputError, match=r"PyPI's package deepcore is another program"):
        find_checkout(tmp_path)


def test_a_checkout_that_cannot_be_imported_is_refused_and_leaves_nothing_behind(checkout):
    (checkout / "deepcore" / "methods" / "__init__.py").write_text("import no_such_module_anywhere\n")
    before = set(sys.modules)
    with pytest.raises(InputError, match=r"cannot be imported \(No module named 'no_such_module_anywhere'\)"):
        load_package(checkout)
    assert not {name for name in set(sys.modules) - before if "deepcore" in name}


def test_the_package_is_imported_under_a_private_name_and_the_import_path_stays(checkout):
    path = list(sys.path)
    package = load_package(checkout)
    assert package.__name__.startswith("_prunetune_deepcore_")
    assert sys.path == path
    assert "deepcore" not in sys.modules
    assert load_package(checkout) is package


def test_a_checkout_is_identified_by_its_content_and_not_by_its_place(checkout, tmp_path):
    copy = Path(shutil.copytree(checkout, tmp_path / "elsewhere"))
    one, other = DeepCore(path=str(checkout)), DeepCore(path=str(copy))
    assert one.key() == other.key()
    changed = copy / "deepcore" / "methods" / "coresetmethod.py"
    changed.write_text(changed.read_text() + "# changed\n")
    assert fingerprint(copy) != fingerprint(checkout)
    assert one.key() != other.key()
    assert one.key() != DeepCore(path=str(checkout), fraction=0.3).key()


def test_selected_images_score_one_and_top_k_keeps_exactly_them(checkout, signals):
    scores = scored(checkout, signals, method="Uniform", fraction=0.3)
    labels = signals.pool.labels
    expected = torch.cat(
        [torch.nonzero(labels == label).flatten()[: round(0.3 * size)] for label, size in enumerate(CLASS_SIZES)]
    )
    assert scores.unique().tolist() == [0, 1]
    assert torch.equal(torch.nonzero(scores).flatten(), expected.sort().values)
    kept = TopK(min_per_class=0).select(scores, labels, 0.3, torch.Generator())
    assert torch.equal(kept, expected.sort().values)


def test_a_method_sees_our_images_and_our_network(checkout, signals):
    scored(checkout, signals, method="Herding", epochs=0, initial="pretrained")
    assert torch.allclose(seen(checkout)["embeddings"], signals.features(), rtol=1e-4, atol=1e-4)


def test_a_fresh_network_has_other_weights_for_every_seed(checkout, signals):
    made = []
    for seed in (0, 1, 0):
        scored(checkout, signals, seed, method="Herding", epochs=0)
        made.append(seen(checkout)["embeddings"])
    assert torch.equal(made[0], made[2])
    assert not torch.allclose(made[0], made[1], rtol=0.1)
    assert not torch.allclose(made[0], signals.features(), rtol=0.1)


def test_the_training_of_a_method_uses_its_own_numbers_and_leaves_our_network_unchanged(checkout, signals):
    network = signals.embedding.network
    before = weights_hash(network.model)
    scored(checkout, signals, method="Herding", epochs=2, initial="pretrained")
    call = seen(checkout)
    assert call["steps"] == 2 * 3  # An epoch has 23 images in batches of 8, and the last batch is shorter.
    assert (call["args"].selection_batch, call["args"].selection_lr, call["args"].lr) == (8, 0.01, 0.01)
    assert (call["args"].selection_momentum, call["args"].selection_weight_decay) == (0.9, 5e-4)
    assert (call["args"].num_classes, call["args"].device) == (4, "cpu")
    assert call["options"]["balance"] is True
    assert not torch.allclose(call["embeddings"], signals.features(), rtol=1e-2)
    assert weights_hash(network.model) == before


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"method": "Submodular", "function": "GraphCut"}, {"function": "GraphCut"}),
        ({"method": "Submodular", "greedy": "LazyGreedy"}, {"greedy": "LazyGreedy"}),
        ({"method": "GraNd", "repeats": 3}, {"repeat": 3}),
    ],
)
def test_a_methods_own_arguments_reach_it(checkout, signals, settings, argument):
    scored(checkout, signals, epochs=0, **settings)
    assert seen(checkout)["options"].items() >= argument.items()


def test_the_contract_of_scorers_is_kept(checkout):
    check_scorer(DeepCore(path=str(checkout), method="Herding", **QUICK), MICRO)


def test_a_method_prints_nothing_and_leaves_the_global_state_unchanged(checkout, signals, capsys):
    torch.manual_seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    scored(checkout, signals, method="Uniform")
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


def test_functions_that_newer_libraries_removed_are_restored_in_memory(checkout, signals):
    text = (checkout / "deepcore" / "methods" / "kcentergreedy.py").read_text()
    centres = scored(checkout, signals, method="kCenterGreedy")
    assert torch.equal(centres, scored(checkout, signals, method="Uniform"))
    assert (checkout / "deepcore" / "methods" / "kcentergreedy.py").read_text() == text
    renewed = Renewed(np, in1d=np.isin)
    assert renewed.in1d([1, 2], [2]).tolist() == [False, True]
    assert renewed.zeros is np.zeros


def test_a_method_that_keeps_too_few_images_is_reported_and_filled_up(checkout, signals, caplog):
    with caplog.at_level(logging.WARNING):
        scores = scored(checkout, signals, method="Full")
    # Class b has one image, and round(0.5) is 0.
    assert "keeps less than the class budget of ['a', 'b']" in caplog.text
    kept = TopK().select(scores, signals.pool.labels, 0.5, torch.Generator())
    assert len(kept) == sum(class_budgets(signals.pool.labels, 0.5).values())


def test_a_refusal_of_a_method_gives_a_one_line_error_that_names_the_smallest_class(checkout, signals):
    with pytest.raises(InputError, match=r"Glister fails at fraction 0.5 \(Illegal budget") as error:
        scored(checkout, signals, method="Glister")
    assert "the smallest budget of a class is 0 of 1 images of class b" in str(error.value)


def test_an_unknown_method_is_refused_with_the_nearest_one(checkout, signals):
    with pytest.raises(InputError, match=r"one of DeepCore's .*got 'Herdin'. Did you mean 'Herding'\?"):
        scored(checkout, signals, method="Herdin")
    with pytest.raises(InputError, match="one of DeepCore's"):
        scored(checkout, signals, method="EarlyTrain")


def test_signals_without_a_network_are_refused(checkout, signals):
    features = TensorSignals(torch.zeros(sum(CLASS_SIZES), 2), pool=signals.pool)
    with pytest.raises(InputError, match="trains a network on images"):
        scored(checkout, features, method="Herding")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0}, "scorer.fraction"),
        ({"fraction": 1.5}, "scorer.fraction"),
        ({"epochs": -1}, "scorer.epochs"),
        ({"batch_size": 0}, "scorer.batch_size"),
        ({"learning_rate": 0.0}, "scorer.learning_rate"),
        ({"initial": "scratch"}, "random, pretrained"),
        ({"method": "GraNd", "repeats": 0}, "scorer.repeats"),
        ({"method": "Herding", "repeats": 2}, "goes with scorer.method=GraNd"),
        ({"method": "Herding", "function": "Entropy"}, "Uncertainty or Submodular, not Herding"),
        ({"method": "Herding", "greedy": "LazyGreedy"}, "Submodular or Craig or Glister"),
    ],
)
def test_an_invalid_setting_is_refused(checkout, settings, message):
    with pytest.raises(InputError, match=message):
        DeepCore(path=str(checkout), **settings)


@pytest.fixture(scope="module")
def real_checkout() -> Path:
    """Return a checkout of DeepCore itself."""
    if not os.environ.get("PRUNETUNE_DEEPCORE"):
        pytest.skip("PRUNETUNE_DEEPCORE names no checkout of PatrickZH/DeepCore")
    return Path(os.environ["PRUNETUNE_DEEPCORE"])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "Uniform"},
        {"method": "Forgetting"},
        {"method": "GraNd", "repeats": 1},
        {"method": "Uncertainty", "function": "Margin"},
        {"method": "GradMatch"},
        {"method": "Herding"},
    ],
    ids=lambda settings: settings["method"],
)
def test_methods_of_a_real_checkout_run_on_our_pool(real_checkout, signals, settings):
    scores = scored(real_checkout, signals, **settings)
    kept = torch.bincount(signals.pool.labels[scores > 0], minlength=4)
    assert (kept <= torch.tensor([round(0.5 * size) for size in CLASS_SIZES])).all()
    assert kept.sum() > 0


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_herding_of_a_real_checkout_on_pretrained_features_is_our_deepcore_variant(real_checkout, signals, ratio):
    theirs = scored(real_checkout, signals, method="Herding", fraction=ratio, epochs=0, initial="pretrained")
    ours = compute_scores(Herding(variant="deepcore"), signals, 0)
    kept = TopK(min_per_class=0).select(ours, signals.pool.labels, ratio, torch.Generator())
    assert torch.equal(torch.nonzero(theirs).flatten(), kept)
