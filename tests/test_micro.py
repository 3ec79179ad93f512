import hashlib
import json
from functools import cache

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images.transforms import evaluation_view
from prunetune.data.readers.digits import Digits
from prunetune.data.readers.textures import CLASSES, Textures
from prunetune.networks import micro
from prunetune.networks.backbone import Backbone
from prunetune.scorers.dlc import DLC
from prunetune.signals.network import Embedding, NetworkSignals
from scripts.assets import pretraining_images

DATASETS = {"textures": Textures(), "digits": Digits()}
RANDOM_SEEDS = (0, 1, 2)


def network(seed=None):
    """Return the packaged network, or the same with random weights."""
    loaded = Backbone(name="micro", model="prunetune_micro").load()
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loaded.model = timm.create_model("prunetune_micro", num_classes=0)
    return loaded.eval()


@cache
def pool_of(name, part):
    return DATASETS[name].pool(part)


@cache
def pixels_of(name, part):
    images = pool_of(name, part).images
    return torch.stack([evaluation_view(images.decode(i), 32) for i in range(len(images))])  # [N, 3, 32, 32] uint8


@torch.no_grad()
def embed(module, name, part):
    return torch.cat([module(batch) for batch in pixels_of(name, part).split(250)])  # [N, D]


@cache
def features_of(name, seed=None):
    module = network(seed)
    return embed(module, name, "train"), embed(module, name, "test")


def probe_accuracy(name, seed=None, kept=None):
    """Return the test accuracy of a logistic regression on standardised features, which favours random weights."""
    pool, test = features_of(name, seed)
    labels = pool_of(name, "train").labels
    kept = torch.arange(len(labels)) if kept is None else kept
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(pool[kept].numpy(), labels[kept].numpy())
    return classifier.score(test.numpy(), pool_of(name, "test").labels.numpy())


def random_tenth(name, seed):
    labels = pool_of(name, "train").labels
    generator = torch.Generator().manual_seed(seed)
    members = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    return torch.cat(
        [rows[torch.randperm(len(rows), generator=generator)[: round(0.1 * len(rows))]] for rows in members]
    )


def slow_dlc(module, name):
    """Return the default score by its definition, one image and one class at a time."""
    labels = pool_of(name, "train").labels
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in convolutions])
    order = weights.abs().argsort(stable=True)
    features = embed(module, name, "train").double()
    prototypes = [features[labels == label].mean(dim=0).numpy() for label in range(len(CLASSES))]
    num_masked, total = 0, np.zeros(len(labels))
    for _ in range(5):
        masked = weights.clone()
        masked[order[:num_masked]] = 0
        for layer, values in zip(convolutions, masked.split([c.weight.numel() for c in convolutions]), strict=True):
            layer.weight.data = values.view_as(layer.weight).clone()
        for i, feature in enumerate(embed(module, name, "train").double().numpy()):
            logits = np.array([1 / max(np.linalg.norm(feature - prototype), 1e-6) for prototype in prototypes])
            total[i] += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[labels[i]]
        num_masked += round(0.2 * (len(weights) - num_masked))
    return total / 5


@cache
def dlc_scores(root):
    pool = pool_of("textures", "train")
    signals = NetworkSignals(pool, Embedding(network(), Store(root)))
    return DLC().score(pool, signals, stream("score", 0))


def mean_within_class_spearman(scores):
    labels, difficulty = pool_of("textures", "train").labels, DATASETS["textures"].difficulty("train")
    return float(
        np.mean([spearmanr(scores[labels == c], difficulty[labels == c]).statistic for c in range(len(CLASSES))])
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread, since on a busy machine several threads wait for one another and take ten times as long."""
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="module")
def store_root(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def test_the_packaged_file_is_the_one_that_its_provenance_describes():
    provenance = json.loads(micro.PROVENANCE.read_text())
    assert hashlib.sha256(micro.WEIGHTS.read_bytes()).hexdigest() == provenance["sha256"]
    assert micro.WEIGHTS.stat().st_size < 1_000_000
    model = timm.create_model("prunetune_micro")
    assert sum(parameter.numel() for parameter in model.parameters()) == provenance["num_parameters"] < 250_000
    assert not list(model.load_state_dict(load_file(micro.WEIGHTS), strict=True))[0]


def test_the_script_still_draws_the_classes_that_the_weights_were_trained_on():
    provenance = json.loads(micro.PROVENANCE.read_text())
    alphabet = pretraining_images.make_alphabet(stream("micro", provenance["seed"], "alphabet"))
    assert list(alphabet.names) == provenance["classes"]
    for label in range(0, len(alphabet.names), 9):
        maps = pretraining_images.draw_class(alphabet, label, 3, stream("a test", label))
        assert maps.shape == (3, 32, 32)
        assert maps.dtype == torch.uint8
        assert (maps.double().std(dim=(1, 2)) > 5).all()  # No map is empty, and the maps differ.
        assert not torch.equal(maps[0], maps[1])


def test_no_class_of_the_demo_was_pretrained_on():
    pretrained_on = json.loads(micro.PROVENANCE.read_text())["classes"]
    assert len(pretrained_on) > 100
    words = {word for name in pretrained_on for word in name.split("_")}
    demo = {*CLASSES, *(name.rstrip("s") for name in CLASSES), *Digits().pool("test").classes}
    assert not words & demo


def test_timm_makes_the_network_with_any_number_of_classes_and_channels():
    model = timm.create_model("prunetune_micro", num_classes=7, in_chans=1).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    maps = model.forward_features(torch.zeros(2, 1, 32, 32))
    assert maps.shape == (2, 96, 4, 4)
    assert model.forward_head(maps, pre_logits=True).shape == (2, model.num_features)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(0)
    assert torch.equal(model.forward_head(maps), maps.mean(dim=(2, 3)))
    assert timm.create_model("prunetune_micro", num_classes=0)(torch.zeros(2, 3, 48, 40)).shape == (2, 96)


def test_timms_pretrained_flag_loads_the_packaged_weights():
    model = timm.create_model("prunetune_micro", pretrained=True, num_classes=0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in load_file(micro.WEIGHTS).items())
    headed = timm.create_model("prunetune_micro", pretrained=True, num_classes=5)
    assert torch.equal(headed.stem[0].weight, model.stem[0].weight)
    assert headed.head.out_features == 5


def test_the_network_refuses_unknown_arguments_and_poolings():
    with pytest.raises(TypeError, match="depth"):
        timm.create_model("prunetune_micro", depth=3)
    with pytest.raises(ValueError, match="pools by 'avg' only, got 'max'"):
        micro.Micro().reset_classifier(3, global_pool="max")


def test_features_are_the_same_twice_and_do_not_depend_on_the_batch():
    module, images = network(), pixels_of("textures", "test")[:33]
    with torch.no_grad():
        together, again = module(images), module(images)
        apart = torch.cat([module(image[None]) for image in images])
    assert torch.equal(together, again)
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("name", DATASETS)
def test_pretraining_is_worth_fifteen_points_of_a_probes_accuracy(name):
    pretrained = probe_accuracy(name)
    random = float(np.mean([probe_accuracy(name, seed) for seed in RANDOM_SEEDS]))
    assert pretrained - random >= 0.15


@pytest.mark.parametrize("name", DATASETS)
def test_pretraining_is_worth_fifteen_points_at_a_tenth_of_the_pool(name):
    kept = [random_tenth(name, seed) for seed in RANDOM_SEEDS]
    pretrained = np.mean([probe_accuracy(name, kept=rows) for rows in kept])
    random = np.mean([probe_accuracy(name, seed, rows) for seed, rows in zip(RANDOM_SEEDS, kept, strict=True)])
    assert pretrained - random >= 0.15


def test_a_random_tenth_of_the_textures_leaves_room_for_a_better_choice():
    tenths = [probe_accuracy("textures", kept=random_tenth("textures", seed)) for seed in RANDOM_SEEDS]
    assert probe_accuracy("textures") - np.mean(tenths) >= 0.03


def test_dlc_follows_the_known_difficulty_within_the_classes(store_root):
    assert mean_within_class_spearman(dlc_scores(store_root)) >= 0.4


def test_dlc_of_random_weights_follows_the_known_difficulty_far_less():
    losses = slow_dlc(network(RANDOM_SEEDS[0]), "textures")
    assert abs(mean_within_class_spearman(torch.from_numpy(losses))) < 0.25


def test_dlc_equals_its_definition(store_root):
    assert np.allclose(dlc_scores(store_root).numpy(), slow_dlc(network(), "textures"), rtol=1e-4)


def test_harder_images_are_farther_from_the_prototype_of_their_class():
    features, labels = features_of("textures")[0].double(), pool_of("textures", "train").labels
    difficulty = DATASETS["textures"].difficulty("train")
    easy_means = torch.stack([features[(labels == c) & (difficulty < 0.5)].mean(dim=0) for c in range(len(CLASSES))])
    distances = torch.cdist(features, easy_means)  # [N, C]
    own = distances.gather(1, labels[:, None])[:, 0]
    # The margin is negative if the mean of the own class is the nearest.
    margin = own - distances.scatter(1, labels[:, None], float("inf")).min(dim=1).values
    for c in range(len(CLASSES)):
        members = labels == c
        assert margin[members & (difficulty > 0.7)].mean() > margin[members & (difficulty < 0.3)].mean()
