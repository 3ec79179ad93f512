"""Linear probes trained together, against torch's own layer, loss and optimiser."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded, stream
from prunetune.training import linear_probe as probe_module
from prunetune.training.linear_probe import Probe, share_seconds, train_probes
from prunetune.training.recipe import FinetuneResult, Recipe, check_loss

NUM_CLASSES, WIDTH = 3, 6
RECIPE = Recipe("linear_probe", epochs=12, batch_size=8, learning_rate=0.1, milestones=(5, 9), weight_decay=1e-2)


def bank_of(num_views: int, num_rows: int) -> Tensor:
    """Return [V, U, D] whose rows lean towards the class that `label_of` gives them."""
    noise = torch.randn(num_views, num_rows, WIDTH, generator=stream("bank"))
    return noise + 2 * nn.functional.one_hot(label_of(torch.arange(num_rows)), WIDTH)


def label_of(rows: Tensor) -> Tensor:
    return rows * 7 % 5 % NUM_CLASSES


def probe_of(size: int, seed: int, num_rows: int = 60) -> Probe:
    rows = torch.randperm(num_rows, generator=stream("rows", size, seed))[:size].sort().values
    test_rows = torch.arange(num_rows)
    test = torch.randn(num_rows, WIDTH, generator=stream("test")) + 2 * nn.functional.one_hot(
        label_of(test_rows), WIDTH
    )
    return Probe(rows, label_of(rows), test, label_of(test_rows), seed)


def reference(bank: Tensor, probe: Probe, recipe: Recipe) -> tuple[list[float], list[float], Tensor]:
    """Return losses, rates and predictions of the same head with torch's own parts."""
    with seeded("finetune", probe.seed) as generator:
        head = nn.Linear(WIDTH, NUM_CLASSES)
    optimiser = torch.optim.SGD(
        head.parameters(), recipe.learning_rate, recipe.momentum, 0, recipe.weight_decay, recipe.nesterov
    )
    learning_rates = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(recipe.milestones), recipe.decay)
    losses, rates = [], []
    for epoch in range(recipe.epochs):
        view, total = bank[epoch % len(bank)].float(), 0.0
        order = torch.randperm(len(probe.rows), generator=generator)
        rates.append(optimiser.param_groups[0]["lr"])
        batches = split(order, recipe)
        for batch in batches:
            loss = nn.functional.cross_entropy(head(view[probe.rows[batch]]), probe.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        learning_rates.step()
        losses.append(total / sum(map(len, batches)))
    return losses, rates, head(probe.test_features).argmax(dim=1)


def split(order: Tensor, recipe: Recipe) -> list[Tensor]:
    """Return the batches of an epoch, in another way than the package does."""
    if recipe.last_batch == "balanced":
        parts = np.array_split(order.numpy(), math.ceil(len(order) / recipe.batch_size))
        return [torch.from_numpy(part) for part in parts]
    batches = list(order.split(recipe.batch_size))
    is_short = len(batches) > 1 and len(batches[-1]) < recipe.batch_size
    return batches[:-1] if recipe.last_batch == "drop" and is_short else batches


def losses_of(result: FinetuneResult) -> list[float]:
    return [epoch.train_loss for epoch in result.history]


@pytest.mark.parametrize(("nesterov", "last_batch"), [(True, "balanced"), (False, "keep"), (True, "drop")])
# The sizes are less than a batch, one batch, and two batches and a shorter one.
@pytest.mark.parametrize("size", [5, 8, 21])
def test_a_probe_equals_a_linear_layer_of_torch_trained_by_sgd(size, nesterov, last_batch):
    recipe = replace(RECIPE, nesterov=nesterov, last_batch=last_batch)
    bank, probe = bank_of(4, 60), probe_of(size, seed=1)
    [result] = train_probes(bank, [probe], NUM_CLASSES, recipe, "cpu")
    losses, rates, predictions = reference(bank, probe, recipe)
    assert losses_of(result) == pytest.approx(losses, abs=1e-5)
    assert [epoch.learning_rate for epoch in result.history] == pytest.approx(rates)
    assert torch.equal(result.predictions, predictions)
    assert result.history[-1].test_accuracy == (predictions == probe.test_labels).double().mean().item()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("last_batch", ["balanced", "keep", "drop"])
def test_probes_trained_together_equal_those_trained_alone(last_batch):
    recipe = replace(RECIPE, last_batch=last_batch)
    probes = [probe_of(size, seed) for size, seed in ((8, 0), (30, 1), (5, 2), (17, 0), (30, 3), (1, 4))]
    together = train_probes(bank_of(3, 60), probes, NUM_CLASSES, recipe, "cpu")
    for probe, result in zip(probes, together, strict=True):
        [alone] = train_probes(bank_of(3, 60), [probe], NUM_CLASSES, recipe, "cpu")
        assert losses_of(result) == pytest.approx(losses_of(alone), abs=1e-5)
        assert torch.equal(result.predictions, alone.predictions)
        assert torch.equal(result.uses, alone.uses)
        assert (result.trained_together, alone.trained_together) == (6, 1)


def test_dropped_images_of_an_epoch_do_not_count_as_shown():
    [result] = train_probes(bank_of(3, 60), [probe_of(21, 0)], NUM_CLASSES, replace(RECIPE, last_batch="drop"), "cpu")
    assert result.uses.sum() == 16 * RECIPE.epochs
    assert (result.uses <= RECIPE.epochs).all()


def test_a_batch_of_probes_too_large_for_memory_is_trained_in_parts(monkeypatch):
    probes = [probe_of(size, seed) for size, seed in ((8, 0), (30, 1), (5, 2))]
    together = train_probes(bank_of(3, 60), probes, NUM_CLASSES, RECIPE, "cpu")
    one = 4 * (RECIPE.batch_size * (WIDTH + NUM_CLASSES) + 3 * NUM_CLASSES * WIDTH)
    monkeypatch.setitem(probe_module.TOGETHER_BYTES, "cpu", 2 * one)  # Two probes fit into memory at a time.
    in_parts = train_probes(bank_of(3, 60), probes, NUM_CLASSES, RECIPE, "cpu")
    # The two larger probes are trained first, then the smallest one.
    assert [result.trained_together for result in in_parts] == [2, 2, 1]
    for one, other in zip(together, in_parts, strict=True):
        assert losses_of(one) == pytest.approx(losses_of(other), abs=1e-5)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_groups_trained_in_parallel_threads_equal_those_trained_in_turn(monkeypatch, three_threads):
    monkeypatch.setitem(probe_module.TOGETHER_BYTES, "cpu", 1)  # Every probe is a group of its own.
    probes = [probe_of(size, seed) for seed, size in enumerate((8, 30, 5, 17, 30, 1))]
    state = torch.get_rng_state()
    start = time.perf_counter()
    threaded = train_probes(bank_of(3, 60), probes, NUM_CLASSES, RECIPE, "cpu")
    # Time in parallel threads is not counted twice.
    assert sum(result.seconds for result in threaded) <= time.perf_counter() - start
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(1)
    for one, other in zip(threaded, train_probes(bank_of(3, 60), probes, NUM_CLASSES, RECIPE, "cpu"), strict=True):
        assert losses_of(one) == pytest.approx(losses_of(other), abs=1e-6)
        assert torch.equal(one.predictions, other.predictions)
        assert torch.equal(one.uses, other.uses)


def test_a_group_that_fails_in_a_thread_stops_the_run_and_leaves_the_threads_as_they_were(monkeypatch, three_threads):
    monkeypatch.setitem(probe_module.TOGETHER_BYTES, "cpu", 1)
    with pytest.raises(InputError, match="loss is nan in epoch 1"):
        train_probes(torch.full((1, 60, WIDTH), torch.nan), [probe_of(9, 0)] * 4, NUM_CLASSES, RECIPE, "cpu")
    assert torch.get_num_threads() == 3


def test_many_probes_are_trained_in_more_groups_than_there_are_threads(three_threads):
    results = train_probes(bank_of(1, 60), [probe_of(5, 0)] * 150, NUM_CLASSES, RECIPE, "cpu")
    assert {result.trained_together for result in results} == {25}


def test_probes_evaluated_in_parts_on_different_test_sets_equal_those_evaluated_alone(monkeypatch):
    probes = [probe_of(9, seed) for seed in range(5)]
    other = replace(probes[0], test_features=-probes[0].test_features[:7], test_labels=label_of(torch.arange(7)))
    test = {"test_features": probes[0].test_features, "test_labels": probes[0].test_labels}
    shared = [replace(probe, **test) for probe in probes]
    mixed = [*shared[:3], other, *shared[3:]]
    # The logits of two heads fit into memory at a time.
    monkeypatch.setitem(probe_module.LOGITS_BYTES, "cpu", 2 * 4 * NUM_CLASSES * 60)
    for probe, result in zip(mixed, train_probes(bank_of(3, 60), mixed, NUM_CLASSES, RECIPE, "cpu"), strict=True):
        [alone] = train_probes(bank_of(3, 60), [probe], NUM_CLASSES, RECIPE, "cpu")
        assert torch.equal(result.predictions, alone.predictions)
        assert [e.test_accuracy for e in result.history] == [e.test_accuracy for e in alone.history]


def test_the_last_accuracy_is_that_of_the_predictions_even_where_classes_tie():
    bank = torch.zeros(1, 4, WIDTH)
    labels, test_labels = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2])
    probe = Probe(torch.arange(4), labels, torch.full((2, WIDTH), -torch.inf), test_labels, seed=0)
    [result] = train_probes(bank, [probe], NUM_CLASSES, RECIPE, "cpu")
    assert result.history[-1].test_accuracy == (result.predictions == probe.test_labels).double().mean().item()


def test_epochs_show_the_views_in_turn():
    bank, probe = bank_of(2, 60), probe_of(20, seed=0)
    recipe = Recipe("linear_probe", epochs=5, batch_size=8)
    [cycled] = train_probes(bank, [probe], NUM_CLASSES, recipe, "cpu")
    [spelt_out] = train_probes(bank[[0, 1, 0, 1, 0]], [probe], NUM_CLASSES, recipe, "cpu")
    [other] = train_probes(bank[[1, 0]], [probe], NUM_CLASSES, recipe, "cpu")
    assert losses_of(cycled) == losses_of(spelt_out)
    assert losses_of(cycled) != losses_of(other)


def test_a_half_precision_bank_trains_in_single_precision():
    bank, probe = bank_of(2, 60).half(), probe_of(20, seed=0)
    [half] = train_probes(bank, [probe], NUM_CLASSES, RECIPE, "cpu")
    [single] = train_probes(bank.float(), [probe], NUM_CLASSES, RECIPE, "cpu")
    assert losses_of(half) == losses_of(single)


def test_the_seed_decides_the_head_and_the_order_and_the_same_seed_repeats_the_run():
    bank, probe = bank_of(2, 60), probe_of(20, seed=0)
    runs = [train_probes(bank, [Probe(**{**vars(probe), "seed": s})], NUM_CLASSES, RECIPE, "cpu") for s in (0, 0, 1)]
    first, again, other = (losses_of(run[0]) for run in runs)
    assert first == again
    assert first[0] != other[0]


def test_a_class_without_images_in_the_subset_is_trained_all_the_same():
    probe = probe_of(20, seed=0)
    kept = probe.labels != 2
    without = Probe(probe.rows[kept], probe.labels[kept], probe.test_features, probe.test_labels, 0)
    [result] = train_probes(bank_of(2, 60), [without], NUM_CLASSES, RECIPE, "cpu")
    assert set(result.predictions.tolist()) <= {0, 1, 2}
    assert losses_of(result) == pytest.approx(reference(bank_of(2, 60), without, RECIPE)[0], abs=1e-5)


def test_no_probes_give_no_results():
    assert train_probes(bank_of(1, 4), [], NUM_CLASSES, RECIPE, "cpu") == []


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_epoch_and_the_key_to_change(broken):
    bank = bank_of(3, 60)
    bank[1] = broken
    with pytest.raises(InputError, match=r"loss is nan in epoch 2; lower finetune\.learning_rate \(now 0\.1\)"):
        train_probes(bank, [probe_of(20, 0)], NUM_CLASSES, RECIPE, "cpu")
    with pytest.raises(InputError, match="loss is inf in epoch 7"):
        check_loss(float("inf"), 7, RECIPE)


def test_the_test_set_is_evaluated_when_asked_and_always_at_the_end():
    recipe = Recipe(**{**vars(RECIPE), "epochs": 7, "evaluate_every": 3})
    [result] = train_probes(bank_of(1, 60), [probe_of(20, 0)], NUM_CLASSES, recipe, "cpu")
    assert [epoch.epoch for epoch in result.history if epoch.test_accuracy is not None] == [3, 6, 7]


def test_a_common_cost_is_shared_equally():
    results = train_probes(bank_of(1, 60), [probe_of(5, 0), probe_of(9, 1)], NUM_CLASSES, RECIPE, "cpu")
    shared = share_seconds(results, 10.0)
    assert [b.seconds - a.seconds for a, b in zip(results, shared, strict=True)] == pytest.approx([5, 5])


def test_the_full_recipe_decays_twice_and_the_released_one_once():
    full = Recipe("full", trained="all", learning_rate=1e-3, milestones=(25, 37))
    released = Recipe("full_released", trained="all", learning_rate=1e-3, milestones=(25,))
    assert [full.rate(epoch) for epoch in (1, 25, 26, 37, 38, 50)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    )
    assert [released.rate(epoch) for epoch in (1, 25, 26, 37, 38, 50)] == pytest.approx([1e-3, 1e-3, *[1e-4] * 4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trained": "body"}, "finetune.trained must be one of head, all, got 'body'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"views": -1}, "views must be a whole number of at least 0"),
        ({"evaluate_every": 0}, "evaluate_every must be a whole number of at least 1"),
        ({"learning_rate": 0}, r"learning_rate must be in \(0, 1000\], got 0"),
        ({"learning_rate": float("nan")}, r"learning_rate must be in \(0, 1000\], got nan"),
        ({"momentum": 0}, "nesterov=false"),
    ],
)
def test_an_invalid_recipe_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Recipe("made", **settings)
