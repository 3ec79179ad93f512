"""Full fine-tuning on the embedded textures: learning, repetition, micro-batches, evaluation."""

import copy

import pytest
import torch
from torch import nn

import runs  # noqa: F401  one thread
from prunetune import finetune as finetune_module
from prunetune.backbones import Backbone
from prunetune.datasets.textures import Textures
from prunetune.errors import InputError
from prunetune.finetune import MicroBatch, _step, finetune_all
from prunetune.recipe import Recipe

RECIPE = Recipe("full", trained="all", epochs=4, batch_size=32, learning_rate=0.05, milestones=(3,), views=0)


@pytest.fixture(scope="module")
def sets():
    dataset = Textures(num_pool=100, num_test=100, size=16)
    return dataset.pool("train"), dataset.pool("test")


def tuned(sets, seed=0, precision="fp32", **changes):
    pool, test = sets
    network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
    recipe = Recipe(**{**vars(RECIPE), **changes})
    subset = torch.arange(0, 100, 2)
    return finetune_all(network, pool, pool.images, subset, test, test.images, recipe, seed, precision, "cpu")


@pytest.fixture(scope="module")
def first(sets):
    return tuned(sets)


def test_the_training_loss_falls(first):
    losses = [epoch.train_loss for epoch in first.history]
    assert losses[0] > 2  # ten classes, so about ln 10
    assert losses[-1] < losses[0] - 0.1


def test_the_result_is_the_last_epochs(sets, first):
    assert [epoch.epoch for epoch in first.history] == [1, 2, 3, 4]
    accuracy = (first.predictions == sets[1].labels).double().mean().item()
    assert first.history[-1].test_accuracy == accuracy


def test_the_learning_rate_decays_after_its_milestone(first):
    assert [epoch.learning_rate for epoch in first.history] == pytest.approx([0.05, 0.05, 0.05, 0.005])


def test_it_repeats_exactly_on_a_cpu_whatever_was_drawn_before(sets, first):
    torch.manual_seed(99)
    again = tuned(sets)
    assert again.history == first.history
    assert torch.equal(again.predictions, first.predictions)


def test_another_seed_trains_otherwise(sets, first):
    assert tuned(sets, seed=1, epochs=1).history[0].train_loss != first.history[0].train_loss


def test_the_test_set_is_looked_at_as_often_as_asked_and_in_the_last_epoch(sets, first):
    rare = tuned(sets, evaluate_every=3)
    assert [epoch.test_accuracy is None for epoch in rare.history] == [True, True, False, False]
    assert [epoch.train_loss for epoch in rare.history] == [epoch.train_loss for epoch in first.history]
    assert torch.equal(rare.predictions, first.predictions)


def test_bfloat16_trains_to_about_the_same_loss(sets, first):
    half = tuned(sets, precision="bf16", epochs=1)
    assert half.history[0].train_loss != first.history[0].train_loss
    assert half.history[0].train_loss == pytest.approx(first.history[0].train_loss, rel=0.05)


def test_a_loss_that_is_no_number_stops_the_run(sets):
    with pytest.raises(InputError, match=r"training loss is (nan|inf) in epoch \d; lower finetune\.learning_rate"):
        tuned(sets, learning_rate=1e30)


class Limited(nn.Module):
    """A network whose memory ends above a number of images."""

    def __init__(self, model, limit):
        super().__init__()
        self.model, self.limit, self.seen = model, limit, []

    def forward(self, images):
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen.append(len(images))
        return self.model(images)


def stepped(model, batch_size):
    """Return the weights after one step on fifteen images, and the summed loss."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(15, 3, 4, 4, generator=generator)
    targets = torch.randint(0, 4, (15,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    loss, _ = _step(model, optimizer, images, targets, MicroBatch(model, batch_size), "fp32", "cpu")
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]), loss.item()


def small_network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)).double().float()


def test_parts_of_a_batch_give_the_gradient_of_the_whole_batch():
    whole, limited = small_network(), Limited(small_network(), limit=4)
    expected, loss = stepped(whole, 15)
    weights, limited_loss = stepped(limited, 15)
    assert limited.seen == [4, 4, 4, 3]  # 15 and then 8 images were too many
    assert torch.allclose(weights, expected, atol=1e-6)
    assert limited_loss == pytest.approx(loss, rel=1e-6)


def test_memory_that_ends_in_the_middle_of_a_batch_leaves_no_gradient_behind():
    class Late(Limited):
        def forward(self, images):
            if len(self.seen) == 1 and self.limit == 15:
                self.limit = 4
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.seen.append(len(images))
            return self.model(images)

    expected, loss = stepped(small_network(), 15)
    late = Late(small_network(), limit=15)
    weights, late_loss = stepped(late, 8)
    assert late.seen == [8, 4, 4, 4, 3]
    assert torch.allclose(weights, expected, atol=1e-6)
    assert late_loss == pytest.approx(loss, rel=1e-6)


def test_a_network_with_batch_statistics_gets_advice_instead_of_other_numbers():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"does not hold a batch of 15 images; lower finetune\.batch_size") as caught:
        stepped(Limited(model, limit=4), 15)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_one_image_that_is_too_much_is_refused():
    with pytest.raises(InputError, match="does not hold a batch of 1 images"):
        stepped(Limited(small_network(), limit=0), 15)


@pytest.mark.parametrize("limit", [4, 0])
def test_a_frozen_pass_that_is_too_large_goes_through_in_parts_if_one_image_fits(sets, monkeypatch, limit):
    from prunetune.features import embed, evaluation

    network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
    view = evaluation(sets[0].images, 16)
    whole = embed(network, view, range(20), 8, "fp32", "cpu", "features")
    forward = network.forward

    def limited(images):
        if len(images) > limit:
            raise torch.OutOfMemoryError("too many images")
        return forward(images)

    monkeypatch.setattr(network, "forward", limited)
    if limit:
        assert torch.allclose(embed(network, view, range(20), 8, "fp32", "cpu", "features"), whole, atol=1e-5)
    else:
        with pytest.raises(InputError, match="does not hold one image"):
            embed(network, view, range(20), 8, "fp32", "cpu", "features")


def test_all_weights_are_trained_and_the_given_networks_head_is_new(sets, monkeypatch):
    made = []

    class Kept(MicroBatch):
        def __init__(self, model, batch_size):
            super().__init__(model, batch_size)
            made.append((model, copy.deepcopy(model.state_dict())))

    monkeypatch.setattr(finetune_module, "MicroBatch", Kept)
    tuned(sets, epochs=1)
    [(model, before)] = made
    names = [name for name, _ in model.named_parameters()]
    assert {name for name in names if torch.equal(before[name], model.state_dict()[name])} == set()
    assert model[1].weight.shape == (10, 96)
