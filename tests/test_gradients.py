"""Networks before gradients: their memory layout, what modules keep from frozen passes, and weights that are shared."""

import pytest
import torch
from torch import nn

from prunetune.base.devices import Hardware
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.images.decoded import ShownImages
from prunetune.data.readers import Textures
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.gradients import ready_for_gradients
from prunetune.runs.scores import stored_scores
from prunetune.scorers import Herding, LCKnn
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe
from prunetune.training.full import finetune_all
from prunetune.training.recipe import Recipe

ONE_EPOCH = Recipe("full", trained="all", epochs=1, batch_size=12, learning_rate=0.1, views=0)


@pytest.fixture(scope="module")
def pool():
    return Textures(num_pool=100, size=32).pool("train").take(range(0, 97, 8))


def network_of(model, size=16):
    return Network(model, (0.5,) * 3, (0.5,) * 3, size).eval()


def signals_of(network, pool, folder):
    return NetworkSignals(pool, Embedding(network, Store(folder)), ProxyRecipe(ONE_EPOCH))


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gradients_on_a_cpu_need_the_default_layout(device):
    network = Backbone(model="prunetune_micro", pretrained=False).load()
    weight, images = network.model.stages[1].path[0].weight, torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert is_channels_last(weight)
    assert is_channels_last(network.normalise(images))
    before = network(images)
    ready_for_gradients(nn.Sequential(network, nn.Linear(96, 2)), device)
    assert is_channels_last(weight) == (device == "cuda")
    assert is_channels_last(network.normalise(images)) == (device == "cuda")
    assert torch.allclose(network(images), before, atol=1e-5)


def test_proxies_and_fine_tuned_networks_are_trained_in_the_default_layout(pool, tmp_path, monkeypatch):
    layouts = []
    forward = Network.forward

    def watched(self, images):
        if self.training:
            layouts.append(
                is_channels_last(self.normalise(images)) or is_channels_last(self.model.stages[1].path[0].weight)
            )
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", watched)
    network = Backbone(model="prunetune_micro", pretrained=False).load()
    signals_of(network, pool, tmp_path).proxy()
    assert is_channels_last(network.model.stages[1].path[0].weight)  # The proxy was a copy.
    whole = ShownImages.whole(pool, pool.images)
    finetune_all(network, whole, whole, ONE_EPOCH, 0, Hardware())
    assert layouts == [False] * 4  # Two balanced batches for the proxy, and two for the fine-tuning.


def test_a_network_with_parameters_of_five_dimensions_keeps_the_default_layout(pool, tmp_path):
    network = Backbone(model="lambda_resnet26t", pretrained=False, input_size=64).load()
    assert any(parameter.ndim == 5 for parameter in network.parameters())
    assert not network.is_channels_last
    assert signals_of(network, pool, tmp_path).features().isfinite().all()


def test_what_a_module_keeps_from_a_frozen_pass_does_not_stop_the_training(pool):
    network = Backbone(model="convit_tiny", pretrained=False, input_size=32).load()
    network.model.blocks[0].attn.rel_indices = None
    with torch.inference_mode():
        network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert network.model.blocks[0].attn.rel_indices.is_inference()
    whole = ShownImages.whole(pool, pool.images)
    assert finetune_all(network, whole, whole, ONE_EPOCH, 0, Hardware()).history[0].train_loss > 0


class Tied(nn.Module):
    """A network in which two layers share their weight, and which keeps a product until it is trained again."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(48, 48, bias=False), nn.Linear(48, 48, bias=False)
        self.second.weight = self.first.weight
        self.num_features, self.kept = 48, None

    def train(self, mode=True):
        if mode:
            self.kept = None
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.second(self.first(x.mean(dim=3).flatten(1)))
        if self.kept is None:
            self.kept = self.first.weight.detach() @ self.second.weight.detach()
        return x.mean(dim=3).flatten(1) @ self.kept.T


def test_a_proxy_with_shared_weights_is_saved_and_gives_the_recorded_features_again(pool, tmp_path):
    signals = signals_of(network_of(Tied()), pool, tmp_path)
    signals.features()
    proxy = signals.proxy()
    model = proxy.model(1)
    assert torch.equal(model[0].model.first.weight, model[0].model.second.weight)
    with torch.no_grad():
        again = model[0](torch.cat(list(signals.images())))
    assert torch.allclose(again, proxy.features(1), atol=1e-5)
    assert not torch.allclose(again, signals.features(), atol=1e-3)


@pytest.mark.parametrize(("model", "size"), [("convit_tiny", 32), ("cait_xxs24_224", 32), ("pit_ti_224", 64)])
def test_layers_of_networks_that_add_their_class_token_late_are_averaged_maps(model, size):
    network = Backbone(model=model, pretrained=False, input_size=size).load()
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        layers = network.forward_layers(images)
        maps = network.model.forward_intermediates(network.normalise(images), intermediates_only=True)
    assert 3 <= len(layers) <= 4
    assert torch.allclose(layers[-1], maps[-1].mean(dim=(2, 3)))


def test_a_network_that_shows_no_layers_or_tokens_is_refused_before_images_are_decoded(pool, tmp_path):
    signals = signals_of(network_of(Tied()), pool, tmp_path)
    with pytest.raises(InputError, match="Tied does not show the outputs of its layers"):
        stored_scores(LCKnn(neighbours=3), signals, 0)
    with pytest.raises(InputError, match=r"Tied does not give one number for each image \(Attr.*another scorer"):
        stored_scores(Herding(variant="released"), signals, 0)
    assert list(tmp_path.iterdir()) == []


def test_several_token_tensors_are_no_token_tensor():
    network = Backbone(model="coat_tiny", pretrained=False, input_size=64).load()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert isinstance(network.model.forward_features(network.normalise(images)), list)
        assert torch.equal(network.forward_collapsed(images), network(images))
        tokens = Backbone(model="test_vit", pretrained=False, input_size=64).load()
        assert tokens.forward_collapsed(images).shape == (2, 1)
