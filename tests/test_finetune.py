"""Full fine-tuning on the embedded textures: learning, repetition, micro-batches, evaluation."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import runs  # noqa: F401  one thread
from prunetune.base.devices import Hardware
from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.data.images import device_views
from prunetune.data.images.decoded import ShownImages
from prunetune.data.images.device_views import DeviceView, Source
from prunetune.data.readers.textures import Textures
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.frozen_pass import training
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe
from prunetune.training import full as finetune_module
from prunetune.training.full import Batch, MicroBatch, _optimizer, _step, finetune_all, train_epochs, training_views
from prunetune.training.recipe import Recipe
from prunetune.training.sample_order import Static, Walk

RECIPE = Recipe("full", trained="all", epochs=4, batch_size=32, learning_rate=0.05, milestones=(3,), views=0)


@pytest.fixture(scope="module")
def sets():
    dataset = Textures(num_pool=100, num_test=100, size=16)
    return dataset.pool("train"), dataset.pool("test")


def tuned(sets, seed=0, precision="fp32", **changes):
    pool, test = sets
    network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
    recipe = Recipe(**{**vars(RECIPE), **changes})
    shown = ShownImages(pool, pool.images, torch.arange(0, 100, 2))
    judged = ShownImages.whole(test, test.images)
    return finetune_all(network, shown, judged, recipe, seed, Hardware("cpu", precision))


@pytest.fixture(scope="module")
def first(sets):
    return tuned(sets)


def test_the_training_loss_falls(first):
    losses = [epoch.train_loss for epoch in first.history]
    assert losses[0] > 2  # There are ten classes, so the first loss is about ln 10.
    assert losses[-1] < losses[0] - 0.1


def test_the_result_is_the_last_epochs(sets, first):
    assert [epoch.epoch for epoch in first.history] == [1, 2, 3, 4]
    accuracy = (first.predictions == sets[1].labels).double().mean().item()
    assert first.history[-1].test_accuracy == accuracy


def test_the_learning_rate_decays_after_its_milestone(first):
    assert [epoch.learning_rate for epoch in first.history] == pytest.approx([0.05, 0.05, 0.05, 0.005])


def test_training_repeats_exactly_on_a_cpu_whatever_was_drawn_before(sets, first):
    torch.manual_seed(99)
    again = tuned(sets)
    assert again.history == first.history
    assert torch.equal(again.predictions, first.predictions)


def test_another_seed_gives_another_training(sets, first):
    assert tuned(sets, seed=1, epochs=1).history[0].train_loss != first.history[0].train_loss


def test_the_test_set_is_evaluated_as_often_as_asked_and_in_the_last_epoch(sets, first):
    rare = tuned(sets, evaluate_every=3)
    assert [epoch.test_accuracy is None for epoch in rare.history] == [True, True, False, False]
    assert [epoch.train_loss for epoch in rare.history] == [epoch.train_loss for epoch in first.history]
    assert torch.equal(rare.predictions, first.predictions)


def test_bfloat16_trains_to_about_the_same_loss(sets, first):
    half = tuned(sets, precision="bf16", epochs=1)
    assert half.history[0].train_loss != first.history[0].train_loss
    assert half.history[0].train_loss == pytest.approx(first.history[0].train_loss, rel=0.05)


def test_a_training_of_few_steps_says_that_the_learning_rate_matters(sets, monkeypatch, caplog):
    caplog.set_level("INFO", "prunetune")
    hint = "the training has only 2 steps, so that the result depends much on finetune.learning_rate, here 0.05"
    tuned(sets, epochs=1)  # 50 images make two batches of 25.
    assert hint in caplog.text
    caplog.clear()
    monkeypatch.setattr(finetune_module, "FEW_STEPS", 1)
    tuned(sets, epochs=1)
    assert "steps" not in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(sets):
    with pytest.raises(InputError, match=r"training loss is (nan|inf) in epoch \d+; lower finetune\.learning_rate"):
        tuned(sets, learning_rate=1000.0, weight_decay=1000.0, epochs=20)


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
    loss, _ = _step(model, optimizer, Batch(images, targets), MicroBatch(model, batch_size), Hardware())
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]), loss.item()


def small_network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)).double().float()


def test_parts_of_a_batch_give_the_gradient_of_the_whole_batch():
    whole, limited = small_network(), Limited(small_network(), limit=4)
    expected, loss = stepped(whole, 15)
    weights, limited_loss = stepped(limited, 15)
    assert limited.seen == [4, 4, 4, 3]  # Batches of 15 and then of 8 images did not fit into memory.
    assert torch.allclose(weights, expected, atol=1e-6)
    assert limited_loss == pytest.approx(loss, rel=1e-6)


def test_running_out_of_memory_in_a_batch_leaves_no_gradient_behind():
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


def test_a_network_with_batch_norm_gets_an_error_instead_of_other_numbers():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"does not hold a batch of 15 images; lower finetune\.batch_size") as caught:
        stepped(Limited(model, limit=4), 15)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_one_image_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(InputError, match="does not hold a batch of 1 images"):
        stepped(Limited(small_network(), limit=0), 15)


@pytest.mark.parametrize("limit", [4, 0])
def test_a_frozen_pass_that_is_too_large_goes_through_in_parts_if_one_image_fits(sets, monkeypatch, limit):
    from prunetune.networks.frozen_pass import Passes, embed, evaluation

    network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
    view = evaluation(sets[0].images, 16)
    whole = embed(network, view, range(20), Passes(8), "features")
    forward = network.forward

    def limited(images):
        if len(images) > limit:
            raise torch.OutOfMemoryError("too many images")
        return forward(images)

    monkeypatch.setattr(network, "forward", limited)
    if limit:
        assert torch.allclose(embed(network, view, range(20), Passes(8), "features"), whole, atol=1e-5)
    else:
        with pytest.raises(InputError, match="does not hold one image"):
            embed(network, view, range(20), Passes(8), "features")


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


def noise_images(count=9):
    """Return images of many sizes, wider and higher than a view and smaller, smooth enough to be resized."""
    generator = torch.Generator().manual_seed(7)
    images = []
    for number in range(count):
        height, width = 7 + 13 * number % 61, 9 + 29 * number % 83
        images.append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
    return SimpleNamespace(decode=images.__getitem__), [f"image {number}" for number in range(count)]


@pytest.mark.parametrize("size", [8, 24, 64])
def test_views_made_on_the_device_equal_those_of_the_threads_up_to_rounding(size):
    images, ids = noise_images()
    positions = torch.tensor([8, 2, 0, 5, 7, 1])  # These are not all positions, and they are not sorted.
    source = Source.of(images, positions, "cpu")
    view = training(images, size, SimpleNamespace(sample_ids=ids), "crop", 3, 1)
    [*made] = DeviceView(source, size, ids, ("crop", 3, 1)).batches(positions.tolist(), 4)
    assert [len(batch) for batch in made] == [4, 2]
    expected = torch.stack([view(position) for position in positions.tolist()])
    difference = (torch.cat(made).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference == 0).float().mean() > 0.999
    other = torch.cat(list(DeviceView(source, size, ids, ("crop", 3, 2)).batches(positions.tolist(), 4)))
    assert not torch.equal(other, torch.cat(made))


def test_images_that_do_not_fit_on_the_device_are_sent_batch_by_batch(monkeypatch):
    images, ids = noise_images()
    positions = torch.arange(9)
    resident, sent = (Source.of(images, positions, "cpu", limit) for limit in (None, 0))
    assert sent.pixels is None
    whole = [list(DeviceView(source, 16, ids, ("crop",)).batches(range(9), 4)) for source in (resident, sent)]
    assert torch.equal(torch.cat(whole[0]), torch.cat(whole[1]))
    # Image by image there is less padding, but the crops are the same.
    monkeypatch.setattr(device_views, "PIXELS_AT_ONCE", 1)
    alone = torch.cat(list(DeviceView(resident, 16, ids, ("crop",)).batches(range(9), 4)))
    assert (alone.int() - torch.cat(whole[0]).int()).abs().max() <= 1
    assert (alone == torch.cat(whole[0])).float().mean() > 0.999
    assert list(DeviceView(resident, 16, ids, ("crop",)).batches([], 4)) == []


def epochs_with(sets, view_of):
    pool, _ = sets
    network = Backbone(model="prunetune_micro", input_size=16).load()
    with seeded("finetune", 0) as generator:
        model = nn.Sequential(network, nn.Linear(network.num_features, 10))
        walk = Walk(Static(len(ODD)), generator)
        return [loss for _, loss in train_epochs(model, odd_images(pool), view_of, RECIPE, walk, Hardware())]


def odd_images(pool):
    return ShownImages(pool, pool.images, ODD)


ODD = torch.arange(1, 100, 2)


def test_training_on_views_made_on_the_device_is_training_on_the_same_pixels_from_threads(sets):
    pool, _ = sets
    source = Source.of(pool.images, ODD, "cpu")

    def on_device(epoch):
        return DeviceView(source, 16, pool.sample_ids, ("crop", 0, epoch))

    def same_pixels(epoch):
        made = torch.cat(list(on_device(epoch).batches(range(1, 100, 2), 50)))
        return lambda position: made[position // 2]

    losses = epochs_with(sets, on_device)
    assert losses == pytest.approx(epochs_with(sets, same_pixels), abs=1e-5)
    threads = training_views(odd_images(pool), 16, "cpu", "crop", 0)
    assert losses == pytest.approx(epochs_with(sets, threads), rel=2e-3)


def test_a_gpu_makes_its_own_views_and_on_a_cpu_threads_make_them(sets, monkeypatch):
    pool, _ = sets
    monkeypatch.setattr(finetune_module.Source, "of", lambda images, positions, device: (device, positions))
    view = training_views(odd_images(pool), 16, "cuda", "crop", 4)(7)
    assert (view.source, view.size, view.names) == (("cuda", ODD), 16, ("crop", 4, 7))
    assert not isinstance(training_views(odd_images(pool), 16, "cpu", "crop", 4)(7), DeviceView)


def test_the_fused_optimiser_of_a_gpu_takes_the_same_steps():
    def weights(fused):
        model = small_network()
        settings = vars(_optimizer(model, RECIPE))["defaults"]
        optimiser = torch.optim.SGD(model.parameters(), **{**settings, "fused": fused, "foreach": False})
        images = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(3))
        for step in range(5):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), torch.arange(20) * (step + 1) % 4).backward()
            optimiser.step()
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    assert torch.allclose(weights(True), weights(False), atol=1e-6)


@pytest.mark.parametrize(("kept_bytes", "looks"), [(2**28, 1), (0, 4)])
def test_the_views_of_the_test_set_are_made_once_where_they_can_be_kept(sets, first, monkeypatch, kept_bytes, looks):
    made, evaluation = [], finetune_module.evaluation
    monkeypatch.setattr(finetune_module, "evaluation", lambda *args: made.append(1) or evaluation(*args))
    monkeypatch.setattr(finetune_module, "KEPT_BYTES", kept_bytes)
    assert tuned(sets).history == first.history
    assert len(made) == looks


def small_maps(normalises=True):
    """Return a network that shrinks images of 16 pixels to one and there normalises over the batch, if asked to."""
    norm = nn.BatchNorm2d(6) if normalises else nn.Identity()
    model = nn.Sequential(nn.Conv2d(3, 6, 16), norm, nn.ReLU(), nn.Flatten())
    model.num_features = 6
    return Network(model, (0.5,) * 3, (0.5,) * 3, 16)


def batches_seen(sets, count, network, on_device=False, last_batch="keep"):
    """Train for two epochs on the first images in batches of 4, and return the sizes of the batches."""
    pool, seen = sets[0], []
    some = ShownImages(pool, pool.images, torch.arange(count))
    model = nn.Sequential(network, nn.Linear(6, 10))
    model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    view_of = training_views(some, 16, "cpu", "crop", 0)
    if on_device:
        source = Source.of(some.pixels, some.positions, "cpu")

        def view_of(epoch):
            return DeviceView(source, 16, pool.sample_ids, ("crop", 0, epoch))

    walk = Walk(Static(count), torch.Generator().manual_seed(0))
    recipe = replace(RECIPE, epochs=2, batch_size=4, last_batch=last_batch)
    list(train_epochs(model, some, view_of, recipe, walk, Hardware()))
    return seen


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("count", "normalises", "sizes"),
    [
        (9, True, [4, 5]),
        (9, False, [4, 4, 1]),
        (10, True, [4, 4, 2]),
        (5, True, [5]),
        (8, True, [4, 4]),
        (1, False, [1]),
    ],
)
def test_a_last_batch_of_one_image_joins_the_one_before_it_where_batches_are_normalised(
    sets, count, normalises, sizes, on_device
):
    assert batches_seen(sets, count, small_maps(normalises), on_device) == sizes * 2


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("count", "last_batch", "sizes"),
    [(9, "balanced", [3, 3, 3]), (10, "balanced", [4, 3, 3]), (9, "drop", [4, 4]), (3, "drop", [3])],
)
def test_whole_networks_are_trained_in_the_batches_of_the_rule(sets, count, last_batch, sizes, on_device):
    assert batches_seen(sets, count, small_maps(), on_device, last_batch) == sizes * 2


def test_one_image_that_cannot_be_normalised_is_one_line_with_the_way_out(sets):
    with pytest.raises(InputError, match=r"cannot be trained on one image alone; raise finetune\.batch_size"):
        batches_seen(sets, 1, small_maps())


def test_a_proxy_on_a_pool_of_one_image_more_than_its_batches_is_trained(sets, tmp_path):
    pool = sets[0].take(range(0, 90, 10))
    network = Backbone(model="test_resnet", pretrained=False, input_size=32).load()  # Its last map has one pixel.
    recipe = ProxyRecipe(replace(RECIPE, epochs=1, batch_size=4, views=0))
    signals = NetworkSignals(pool, Embedding(network, Store(tmp_path)), recipe)
    assert signals.proxy().logits(1).isfinite().all()
