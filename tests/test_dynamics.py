"""Proxies: trained once, recorded epoch by epoch, charged for the epochs that are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.networks.backbone import Backbone
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.part import PartSignals
from prunetune.signals.proxy import LINEAR_PROBE, ProbeProxy, ProxyRecipe, RecordedProxy
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import made_pool
from prunetune.training.recipe import Recipe

MICRO = Backbone(model="prunetune_micro", mask_modules="conv2d")
SHORT = ProxyRecipe(Recipe("full", trained="all", epochs=7, learning_rate=1e-3, views=0))
PROBE = replace(LINEAR_PROBE, training=replace(LINEAR_PROBE.training, epochs=7))


@pytest.fixture(scope="module")
def network():
    return MICRO.load()


def signals_in(folder: Path, network, recipe: ProxyRecipe) -> NetworkSignals:
    return NetworkSignals(made_pool(), Embedding(network, Store(folder)), recipe)


def places(folder: Path) -> int:
    return len(list((folder / "proxies").iterdir()))


def test_a_full_proxy_keeps_logits_of_every_epoch_and_network_of_the_early_and_the_last(tmp_path, network):
    proxy = signals_in(tmp_path, network, SHORT).proxy()
    assert (proxy.num_epochs, proxy.num_images, proxy.num_classes) == (7, 23, 4)
    images = next(signals_in(tmp_path, network, SHORT).images(torch.arange(23)))
    for epoch in (5, 7):
        weight, bias = proxy.head(epoch)
        again = proxy.features(epoch) @ weight.T + bias
        assert torch.allclose(again, proxy.logits(epoch), atol=2e-2)  # Logits are stored in float16.
        with torch.inference_mode():
            assert torch.allclose(proxy.model(epoch)(images), again, atol=1e-4)
    # The backbone is trained, so its features change.
    assert not torch.allclose(proxy.features(5), proxy.features(7), atol=1e-3)
    with pytest.raises(InputError, match="kept features of epochs 5, 7, but epoch 6 is needed"):
        proxy.features(6)
    with pytest.raises(InputError, match="has epochs 1 to 7, but epoch 8 is needed"):
        proxy.logits(8)


def test_a_proxy_learns(tmp_path, network):
    signals = signals_in(tmp_path, network, replace(SHORT, training=replace(SHORT.training, learning_rate=1e-2)))
    proxy, labels = signals.proxy(), signals.pool.labels
    losses = [nn.functional.cross_entropy(proxy.logits(epoch), labels) for epoch in (1, 7)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("recipe", [SHORT, PROBE])
def test_a_shorter_proxy_is_the_beginning_of_a_longer_one(tmp_path, network, recipe):
    short = signals_in(tmp_path / "short", network, recipe).proxy(until=5)
    long = signals_in(tmp_path / "long", network, recipe).proxy()
    assert short.num_epochs == 5
    for epoch in (1, 5):
        assert torch.equal(short.logits(epoch), long.logits(epoch))
    assert torch.equal(short.features(5), long.features(5))


@pytest.mark.parametrize("recipe", [SHORT, PROBE])
def test_the_first_epochs_are_read_from_a_longer_stored_training_and_charged_alone(tmp_path, network, recipe):
    signals_in(tmp_path, network, recipe).proxy()
    signals = signals_in(tmp_path, network, recipe)
    assert signals.proxy(until=5).num_epochs == 5
    assert places(tmp_path) == 1
    early = signals.seconds - sum(cost for name, cost in signals.charges.items() if name.startswith("features"))
    signals.proxy()
    whole = signals.seconds - sum(cost for name, cost in signals.charges.items() if name.startswith("features"))
    assert 0 < early < whole
    assert signals.charges.keys() == signals.spent.keys()


def test_an_epoch_whose_network_was_not_kept_is_trained_again(tmp_path, network):
    signals_in(tmp_path, network, SHORT).proxy()
    assert signals_in(tmp_path, network, SHORT).proxy(until=3).features(3).shape == (23, network.num_features)
    assert places(tmp_path) == 2


@pytest.mark.parametrize("recipe", [SHORT, PROBE])
def test_repeats_differ_and_each_is_trained_once(tmp_path, network, recipe):
    signals = signals_in(tmp_path, network, recipe)
    first, second = signals.proxy(0, until=2), signals.proxy(1, until=2)
    assert not torch.allclose(first.logits(2), second.logits(2), atol=1e-3)
    assert torch.equal(first.logits(2), signals.proxy(0, until=2).logits(2))
    assert places(tmp_path) == 2


def test_training_a_proxy_leaves_the_network_as_it_was(tmp_path, network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    signals_in(tmp_path, network, SHORT).proxy(until=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_fresh_network_is_drawn_for_every_repeat(tmp_path, network):
    recipe = ProxyRecipe(replace(SHORT.training, epochs=1, learning_rate=1e-9), initial="random", augment=False)
    signals = signals_in(tmp_path, network, recipe)
    first, second = signals.proxy(0).features(1), signals.proxy(1).features(1)
    pretrained = signals_in(tmp_path, network, replace(recipe, initial="pretrained")).proxy(0).features(1)
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, pretrained, atol=1e-3)


def test_online_logits_are_those_before_the_update(tmp_path, network):
    """An epoch has one batch here. Its logits precede its step, so only the second epoch shows the learning rate."""

    def online(rate: float, epoch: int) -> torch.Tensor:
        training = replace(SHORT.training, epochs=2, learning_rate=rate)
        recipe = ProxyRecipe(training, augment=False, record="online")
        return signals_in(tmp_path, network, recipe).proxy().logits(epoch)

    assert torch.equal(online(0.5, 1), online(1e-12, 1))
    assert not torch.allclose(online(0.5, 2), online(1e-12, 2), atol=2e-2)
    assert torch.allclose(online(1e-12, 1), online(1e-12, 2), atol=2e-3)


def test_a_probe_proxy_is_a_linear_classifier_on_the_features(tmp_path, network):
    signals = signals_in(tmp_path, network, PROBE)
    proxy = signals.proxy()
    weight, bias = proxy.head(7)
    assert torch.equal(proxy.features(7), signals.features())
    assert torch.allclose(proxy.logits(7), signals.features() @ weight.T + bias, atol=1e-5)
    rows = torch.tensor([4, 2])
    assert torch.allclose(proxy.logits(7, rows), proxy.logits(7)[rows], atol=1e-5)
    images = next(signals.images(rows))
    with torch.inference_mode():
        assert torch.allclose(proxy.model(7)(images), proxy.logits(7, rows), atol=1e-3)


def test_tensors_get_the_same_linear_probe_as_a_network(tmp_path, network):
    signals = signals_in(tmp_path, network, LINEAR_PROBE)
    from_tensors = TensorSignals(signals.features(), pool=signals.pool)
    assert torch.equal(signals.proxy(until=3).logits(3), from_tensors.proxy(until=3).logits(3))


def test_tensors_without_a_pool_or_with_too_few_proxies_are_refused():
    with pytest.raises(InputError, match=r"pass proxies=\[\.\.\.\], or pool"):
        TensorSignals(torch.zeros(3, 2)).proxy()
    given = RecordedProxy([torch.zeros(3, 2)])
    assert TensorSignals(torch.zeros(3, 2), proxies=[given]).proxy() is given
    with pytest.raises(InputError, match="reads 2 proxies, got 1"):
        TensorSignals(torch.zeros(3, 2), proxies=[given]).proxy(1)
    with pytest.raises(InputError, match="reads images"):
        TensorSignals(torch.zeros(3, 2)).images()


def test_a_part_of_a_pool_trains_its_own_probe_and_reads_the_full_proxy_of_the_whole(tmp_path, network):
    positions = torch.arange(0, 23, 2)
    whole = signals_in(tmp_path, network, SHORT)
    part = PartSignals(whole, positions).proxy()
    assert torch.equal(part.logits(7), whole.proxy().logits(7, positions))
    assert torch.equal(part.logits(7, torch.tensor([3])), whole.proxy().logits(7, torch.tensor([6])))
    whole = signals_in(tmp_path, network, PROBE)
    part = PartSignals(whole, positions).proxy()
    assert isinstance(part, ProbeProxy)
    assert part.num_images == 12
    assert not torch.allclose(part.logits(7), whole.proxy().logits(7, positions), atol=1e-4)


def test_a_statistic_reads_every_image_once_whatever_the_chunk(monkeypatch):
    logits = torch.randn(3, 11, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(11) % 2
    proxy = RecordedProxy(list(logits))

    def spread(chunk, chunk_labels):
        return chunk[:, torch.arange(len(chunk_labels)), chunk_labels].std(dim=0)

    expected = logits[:, torch.arange(11), labels].std(dim=0).double()
    assert torch.allclose(proxy.statistic(spread, labels), expected)
    monkeypatch.setattr("prunetune.signals.proxy.NUMBERS_AT_ONCE", 13)  # Two images are processed at a time.
    assert torch.allclose(proxy.statistic(spread, labels), expected)
    last = proxy.statistic(lambda chunk, _: chunk[0, :, 0], labels, epochs=[3])
    assert torch.equal(last, logits[2, :, 0].double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": "fresh"}, "proxy.initial must be one of pretrained, random"),
        ({"record": "always"}, "proxy.record must be one of epoch_end, online"),
    ],
)
def test_a_proxy_recipe_refuses_unknown_values(options, message):
    with pytest.raises(InputError, match=message):
        ProxyRecipe(**options)


def test_a_probe_can_neither_start_fresh_nor_crop_nor_be_recorded_online():
    for options in ({"initial": "random"}, {"augment": True}, {"record": "online"}):
        with pytest.raises(InputError, match="linear-probe proxy reads stored features"):
            replace(LINEAR_PROBE, **options)
