"""Learning complexity by nearest neighbours, and the layers of networks that it reads."""

import math

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone, Network
from prunetune.runs.scores import compute_scores
from prunetune.scorers.lc_knn import LCKnn, other_label_share
from prunetune.selection.neighbours import Neighbours
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.part import PartSignals
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import check_scorer, made_pool

MICRO = Backbone(model="prunetune_micro", mask_modules="conv2d")
VIT = Backbone(
    model="test_vit.r160_in1k", mask_modules="linear", pretrained=False, model_args={"img_size": 32}, input_size=32
)


def pool_of(labels: torch.Tensor) -> Pool:
    count = len(labels)
    return Pool("made", labels, tuple(f"{i:03d}" for i in range(count)), ("train",) * count, ("a", "b", "c"))


def timm_network(model: str, size: int) -> Network:
    return Backbone(model=model, pretrained=False, input_size=size).load()


def images_of(size: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=stream("images"), dtype=torch.uint8)


def test_the_share_of_other_labels_weighs_by_inverse_distance():
    found = Neighbours(torch.tensor([[1.0, 2.0], [0.5, 4.0], [0.0, 1.0]]), torch.tensor([[1, 2], [0, 2], [0, 1]]))
    shares = other_label_share(found, torch.tensor([0, 0, 1])).tolist()
    assert shares == pytest.approx([0.5 / 1.5, 0.25 / 2.25, 1.0])


def test_a_duplicate_counts_as_a_distance_of_a_millionth():
    found = Neighbours(torch.tensor([[0.0, 1.0]] * 3), torch.tensor([[1, 2], [0, 2], [0, 1]]))
    shares = other_label_share(found, torch.tensor([0, 1, 0])).tolist()
    assert shares == pytest.approx([1e6 / (1e6 + 1), 1, 1 / (1e6 + 1)], rel=1e-9)


@pytest.mark.parametrize("neighbours", [1, 4, 20])
def test_scores_agree_with_a_loop_over_the_whole_pool_without_the_image_itself(neighbours):
    features = torch.randn(17, 3, generator=stream("features"))
    labels = torch.tensor([0] * 9 + [1] + [2] * 7)
    signals = TensorSignals(features, pool=pool_of(labels))
    found = compute_scores(LCKnn(neighbours=neighbours), signals, 0).tolist()
    for i in range(17):
        others = sorted((math.dist(features[i].tolist(), features[j].tolist()), j) for j in range(17) if j != i)
        near = [(max(distance, 1e-6), int(labels[j])) for distance, j in others[:neighbours]]
        share = sum(1 / d for d, label in near if label == labels[i]) / sum(1 / d for d, _ in near)
        assert found[i] == pytest.approx(1 - share, abs=1e-5)


def test_an_image_among_those_of_another_class_is_the_hardest():
    features = torch.cat([torch.randn(10, 2, generator=stream("a")), 20 + torch.randn(10, 2, generator=stream("b"))])
    labels = torch.tensor([0] * 10 + [1] * 9 + [0])
    scores = compute_scores(LCKnn(neighbours=5), TensorSignals(features, pool=pool_of(labels)), 0)
    assert scores.argmax() == 19
    assert scores[19] == 1
    assert scores[:10].tolist() == [0] * 10


def test_the_score_is_the_mean_over_layers(tmp_path):
    signals = NetworkSignals(made_pool(), Embedding(MICRO.load(), Store(tmp_path), batch_size=5))
    alone = [compute_scores(LCKnn(), TensorSignals(layer, pool=made_pool()), 0) for layer in signals.layer_features()]
    assert len(alone) == 4
    assert torch.allclose(compute_scores(LCKnn(), signals, 0), torch.stack(alone).mean(0))


@pytest.mark.parametrize("backbone", [MICRO, VIT], ids=["micro", "test_vit"])
def test_the_contract_holds_on_a_convolutional_and_on_a_token_network(backbone):
    check_scorer(LCKnn(), backbone)


@pytest.mark.parametrize("neighbours", [0, -1, 2.0, True])
def test_an_invalid_number_of_neighbours_is_refused(neighbours):
    with pytest.raises(InputError, match="neighbours must be a whole number of at least 1"):
        LCKnn(neighbours=neighbours)


@pytest.mark.parametrize(
    ("model", "size", "widths"),
    [("prunetune_micro", 32, [16, 32, 64, 96]), ("test_vit", 160, [64] * 4), ("test_resnet", 64, [32, 48, 192, 96])],
)
def test_four_layers_of_a_network_are_read(model, size, widths):
    network = timm_network(model, size)
    with torch.inference_mode():
        layers = network.forward_layers(images_of(size))
    assert [layer.shape[1] for layer in layers] == widths
    assert all(layer.shape[0] == 2 and layer.dtype == torch.float32 for layer in layers)


def test_layers_of_a_convolutional_network_are_the_averages_of_its_last_four_stages():
    network = timm_network("test_resnet", 64)
    seen: dict[str, torch.Tensor] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        module = getattr(network.model, name)
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.mean((2, 3))))
    with torch.inference_mode():
        layers = network.forward_layers(images_of(64))
        network(images_of(64))
    for layer, name in zip(layers, ("layer1", "layer2", "layer3", "layer4"), strict=True):
        assert torch.allclose(layer, seen[name], atol=1e-6)


@pytest.mark.parametrize(("model", "blocks"), [("test_vit", [1, 2, 4, 5]), ("vit_tiny_patch16_224", [2, 5, 8, 11])])
def test_layers_of_a_transformer_are_the_class_tokens_of_its_quarters(model, blocks):
    network = Backbone(model=model, pretrained=False, model_args={"img_size": 32}, input_size=32).load()
    seen = []
    for block in blocks:
        network.model.blocks[block].register_forward_hook(lambda _, __, out: seen.append(out[:, 0]))
    with torch.inference_mode():
        network(images_of(32))
        expected, seen = seen, []
        layers = network.forward_layers(images_of(32))
    assert len(layers) == len(expected) == 4
    for layer, token in zip(layers, expected, strict=True):
        assert torch.allclose(layer, token, atol=1e-6)


def test_maps_of_equal_blocks_without_a_class_token_are_averaged():
    network = timm_network("mixer_s32_224", 224)
    seen = []
    for block in (1, 3, 5, 7):
        network.model.blocks[block].register_forward_hook(lambda _, __, out: seen.append(out.mean(1)))
    with torch.inference_mode():
        layers = network.forward_layers(images_of(224))
    assert len(layers) == len(seen) == 4
    for layer, average in zip(layers, seen, strict=True):
        assert torch.allclose(layer, average, atol=1e-5)


def test_a_network_without_layers_to_read_is_refused():
    class Flat(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            return x.mean((2, 3))

    with pytest.raises(InputError, match="Flat does not show the outputs of its layers"):
        Network(Flat(), (0.5,) * 3, (0.5,) * 3, 8).forward_layers(images_of(8))


def test_layer_features_are_computed_once_kept_and_charged(tmp_path):
    network, pool = MICRO.load(), made_pool()
    first = NetworkSignals(pool, Embedding(network, Store(tmp_path), batch_size=8))
    layers = list(first.layer_features())
    assert [tuple(layer.shape) for layer in layers] == [(23, 16), (23, 32), (23, 64), (23, 96)]
    assert first.charges["layers"] > 0
    assert first.spent["layers"] >= first.charges["layers"]
    with torch.inference_mode():
        expected = network.forward_layers(torch.cat(list(first.images())))
    for layer, other in zip(layers, expected, strict=True):
        assert torch.allclose(layer, other, atol=1e-4)
    second = NetworkSignals(pool, Embedding(network, Store(tmp_path), batch_size=3))
    for layer, other in zip(layers, second.layer_features(), strict=True):
        assert torch.equal(layer, other)
    assert second.charges == first.charges
    assert len(list((tmp_path / "layers").iterdir())) == 1


def test_layers_of_a_part_of_the_pool_are_its_rows(tmp_path):
    signals = NetworkSignals(made_pool(), Embedding(MICRO.load(), Store(tmp_path)))
    some = torch.tensor([1, 4, 22])
    for layer, part in zip(signals.layer_features(), PartSignals(signals, some).layer_features(), strict=True):
        assert torch.equal(layer[some], part)


def test_distances_are_euclidean():
    features = torch.tensor([[0.0, 0], [3, 4], [6, 8]])
    labels = torch.tensor([0, 0, 1])
    scores = compute_scores(LCKnn(), TensorSignals(features, pool=pool_of(labels)), 0)
    assert scores.tolist() == pytest.approx([(1 / 10) / (1 / 5 + 1 / 10), 0.5, 1.0])
