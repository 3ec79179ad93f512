"""DLC's values: by hand, against a slow reference, and against a committed file.

After a deliberate change of the scores raise `DLC.version` and run, in tests/:
python -c "import test_dlc; test_dlc.renew()"
"""

import copy
import csv
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageArrays
from prunetune.data.images.transforms import evaluation_view
from prunetune.data.pool import Pool
from prunetune.data.readers.digits import Digits
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.masking import MaskPath
from prunetune.runs.scores import compute_scores, read_scores, write_scores
from prunetune.scorers import DLC
from prunetune.scorers.dlc import class_means, learning_complexity, prototype_losses
from prunetune.signals.contract import FeatureKind
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.part import PartSignals
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import made_pool

GOLDEN = Path(__file__).parent / "golden" / "scores"
MICRO = Backbone(model="prunetune_micro", mask_modules="conv2d")
NETWORKS = {
    "micro": MICRO,
    "test_vit": Backbone(
        model="test_vit.r160_in1k",
        pretrained=False,
        mask_modules="linear",
        model_args={"img_size": 32},
        input_size=32,
    ),
}
LEVEL_0 = torch.tensor([[0.0, 0], [2, 0], [4, 4]])
LEVEL_1 = torch.tensor([[0, 0.5], [1.5, 0.5], [3, 3]])


def tensor_pool(*labels: int) -> Pool:
    num_images = len(labels)
    ids, classes = tuple(f"image{i}" for i in range(num_images)), tuple(map(str, range(max(labels) + 1)))
    return Pool("made", torch.tensor(labels), ids, ("train",) * num_images, classes)


def score(scorer: DLC, features: Tensor, masked: list[Tensor], *labels: int) -> tuple[Tensor, Tensor]:
    """Return scores [N] and losses [T, N] of tensors."""
    signals = TensorSignals(features=features, masked=masked)
    scores = scorer.score(tensor_pool(*labels), signals, torch.Generator())
    return scores, signals.products["losses"]


def signals_of(
    network: Network, folder: Path, pool: Pool | None = None, keeps_masked: bool = False, batch_size: int = 8
) -> NetworkSignals:
    pool = made_pool(network.input_size) if pool is None else pool
    return NetworkSignals(pool, Embedding(network, Store(folder), batch_size=batch_size), keeps_masked=keeps_masked)


def test_scores_and_losses_are_those_of_the_test_vector():
    scores, losses = score(DLC(levels=2), LEVEL_0, [LEVEL_0, LEVEL_1], 0, 0, 1)
    expected = torch.tensor([[0.363958, 0.378479, 0], [0.401106, 0.267544, 0.501180]], dtype=torch.float64)
    assert torch.allclose(losses, expected, rtol=0, atol=1e-6)
    assert scores.tolist() == pytest.approx([0.382532, 0.323012, 0.250590], abs=1e-6)
    assert (scores.dtype, losses.dtype) == (torch.float64, torch.float64)


def test_far_prototypes_make_the_softmax_nearly_flat_and_the_losses_keep_their_decimals():
    losses = prototype_losses(torch.zeros(4, 1), torch.tensor([[20.0], [21], [22], [23]]), torch.arange(4))
    assert losses.tolist() == pytest.approx([1.382935, 1.385316, 1.387481, 1.389457], abs=1e-6)
    assert (-losses).exp().tolist() == pytest.approx([0.250841, 0.250245, 0.249704, 0.249211], abs=1e-6)


def test_distances_are_clamped_at_a_millionth_and_not_before():
    image, second = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1])
    losses = [
        prototype_losses(image, torch.tensor([[near], [far]], dtype=torch.float64), second).item()
        for near, far in ((1e-7, 5e-7), (1e-4, 1 / 9999))
    ]
    # The logits of the two images are (1e6, 1e6) and (10000, 9999). Their exponentials are beyond float32.
    assert losses == pytest.approx([math.log(2), math.log(1 + math.e)], abs=1e-6)


def test_distances_far_from_the_origin_lose_no_digits():
    near, centres = torch.rand(40, 8, generator=stream("near")), torch.rand(30, 8, generator=stream("centres"))
    labels, far = torch.arange(40) % 30, 1024.0
    shifted = prototype_losses(near.double() + far, centres.double() + far, labels)
    assert torch.allclose(shifted, prototype_losses(near, centres, labels), atol=1e-6)


def test_prototypes_are_class_means_and_a_class_without_images_takes_no_part():
    features = torch.tensor([[1.0, 2], [3, 4], [10, 10]])
    means = class_means(features, torch.tensor([0, 0, 3]), 5)
    assert means[[0, 3]].tolist() == [[2, 3], [10, 10]]
    assert means[[1, 2, 4]].isnan().all()
    labels = torch.tensor([0, 0, 3])
    assert torch.equal(
        prototype_losses(features, means, labels), prototype_losses(features, means[[0, 3]], torch.tensor([0, 0, 1]))
    )


def test_a_class_with_one_image_has_no_loss_on_the_unmasked_network():
    scores, losses = score(DLC(levels=2), LEVEL_0, [LEVEL_0, LEVEL_1], 0, 0, 1)
    assert losses[0, 2] == pytest.approx(0, abs=1e-12)
    assert scores.isfinite().all()


def test_learning_complexity_is_the_plain_mean_in_double_precision():
    losses = torch.tensor([[1.0, 2], [2, 4], [6, 0]])
    assert learning_complexity(losses).tolist() == [3, 2]
    assert learning_complexity(losses).dtype == torch.float64


def test_signals_with_another_number_of_networks_are_refused():
    with pytest.raises(InputError, match="features of 5 masked networks, got 2"):
        score(DLC(), LEVEL_0, [LEVEL_0, LEVEL_1], 0, 0, 1)
    with pytest.raises(InputError, match="got 0; pass masked"):
        DLC().score(tensor_pool(0, 0, 1), TensorSignals(LEVEL_0), torch.Generator())


def slow_scores(backbone: Backbone, pool: Pool, scorer: DLC) -> np.ndarray:
    """Return the scores by loops over levels, images and classes, with a copy of the network for every level."""
    network, size = backbone.load(), backbone.input_size or 32
    mean, std = (np.array(network.model.pretrained_cfg[key]) for key in ("mean", "std"))

    def features_of(model: nn.Module) -> list[np.ndarray]:
        rows = []
        for position in range(len(pool)):
            pixels = evaluation_view(pool.images.decode(position), size).permute(1, 2, 0).numpy()
            image = torch.tensor((pixels / 255 - mean) / std).permute(2, 0, 1)  # [3, S, S]
            with torch.no_grad():
                rows.append(model(image[None].float())[0].double().numpy())
        return rows

    def masked_copy(level: int) -> nn.Module:
        model = copy.deepcopy(network.model)
        kind = {"conv2d": nn.Conv2d, "linear": nn.Linear}[backbone.mask_modules]
        layers = [m for name, m in model.named_modules() if isinstance(m, kind) and "patch_embed" not in name]
        total = sum(layer.weight.numel() for layer in layers)
        count = 0
        for _ in range(level):
            count += round(scorer.step * (total - count))
        if scorer.schedule == "linear":
            count = round(level * scorer.step * total)
        ranked = sorted(
            (abs(value), layer, i)
            for layer, module in enumerate(layers)
            for i, value in enumerate(module.weight.detach().flatten().tolist())
        )
        for _, layer, i in ranked[:count]:
            weight = layers[layer].weight.data
            weight[tuple(np.unravel_index(i, weight.shape))] = 0
        return model

    plain = features_of(network.model)
    labels = pool.labels.tolist()
    prototypes = [
        np.mean([f for f, label in zip(plain, labels, strict=True) if label == c], axis=0)
        for c in range(len(pool.classes))
    ]
    losses = np.zeros((scorer.levels, len(pool)))
    for level in range(scorer.levels):
        for i, feature in enumerate(features_of(masked_copy(level))):
            logits = [1 / max(np.linalg.norm(feature - prototype), 1e-6) for prototype in prototypes]
            highest = max(logits)
            log_sum = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
            losses[level, i] = log_sum - logits[labels[i]]
    return losses.mean(axis=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "scorer",
    [DLC(levels=3, step=0.3), DLC(schedule="linear", levels=3, step=0.3)],
    ids=["compound", "linear"],
)
def test_the_engine_agrees_with_a_slow_reference(name, scorer, tmp_path):
    pool = made_pool(40)
    fast = compute_scores(scorer, signals_of(NETWORKS[name].load(), tmp_path, pool), seed=0)
    slow = slow_scores(NETWORKS[name], pool, scorer)
    assert np.abs(fast.numpy() - slow).max() < 1e-4 * slow.std()


def test_levels_from_one_on_are_the_longer_path_without_its_first_network(tmp_path):
    network = MICRO.load()
    longer, shorter = signals_of(network, tmp_path), signals_of(network, tmp_path)
    compute_scores(DLC(levels=4), longer, 0)
    scores = compute_scores(DLC(levels=3, include_unmasked=False), shorter, 0)
    assert torch.equal(shorter.products["losses"], longer.products["losses"][1:])
    assert torch.equal(scores, longer.products["losses"][1:].mean(dim=0))


def test_the_first_levels_of_a_path_are_a_shorter_path(tmp_path):
    network = MICRO.load()
    longer, shorter = signals_of(network, tmp_path), signals_of(network, tmp_path)
    compute_scores(DLC(levels=5), longer, 0)
    compute_scores(DLC(levels=2), shorter, 0)
    assert torch.equal(shorter.products["losses"], longer.products["losses"][:2])


def test_a_path_of_one_network_is_the_loss_of_the_plain_features(tmp_path):
    signals = signals_of(MICRO.load(), tmp_path)
    scores = compute_scores(DLC(levels=1), signals, 0)
    features, labels = signals.features(), signals.pool.labels
    assert torch.equal(scores, prototype_losses(features, class_means(features, labels, 4), labels))


def test_stored_masked_features_equal_those_of_the_running_pass(tmp_path):
    network = MICRO.load()
    streamed = compute_scores(DLC(levels=3), signals_of(network, tmp_path / "a"), 0)
    keeping = signals_of(network, tmp_path / "b", keeps_masked=True)
    assert torch.equal(compute_scores(DLC(levels=3), keeping, 0), streamed)
    again = signals_of(network, tmp_path / "b")
    # The stored scores must not be computed again with the changed weights.
    network.model.stages.requires_grad_(False)[0].path[0].weight.zero_()
    assert torch.equal(compute_scores(DLC(levels=3), again, 0), streamed)


def test_parts_of_a_pool_are_scored_from_the_same_passes_with_prototypes_of_their_own(tmp_path):
    network, passes = MICRO.load(), 0

    def count(module, inputs):
        nonlocal passes
        passes += 1

    network.model.register_forward_pre_hook(count)
    signals = signals_of(network, tmp_path, keeps_masked=True, batch_size=64)
    whole = compute_scores(DLC(levels=3), signals, 0)
    for kept in (torch.arange(0, 23, 2), torch.arange(1, 23)):
        inner = PartSignals(signals, kept)
        scores = compute_scores(DLC(levels=3), inner, 0)
        features, labels = signals.features()[kept], signals.pool.labels[kept]
        levels = [level[kept] for level in signals.masked_features(MaskPath(levels=3, modules="conv2d"))]
        prototypes = class_means(features, labels, 4)
        by_hand = torch.stack([prototype_losses(level, prototypes, labels) for level in levels]).mean(dim=0)
        assert torch.equal(scores, by_hand)
        assert not torch.allclose(scores, whole[kept], atol=1e-4)
    assert passes == 3  # The network makes three passes over the whole pool, one unmasked and two masked.


def test_the_released_feature_of_a_token_network_is_one_number_for_each_image(tmp_path):
    network, kind = NETWORKS["test_vit"].load(), FeatureKind(pooling="token_collapse")
    signals = signals_of(network, tmp_path)
    features = signals.features(kind)
    assert features.shape == (len(signals.pool), 1)
    assert signals.features().shape == (len(signals.pool), network.num_features)
    view = evaluation_view(signals.pool.images.decode(3), 32)
    with torch.no_grad():
        tokens = network.model.forward_features(network.normalise(view[None]))  # [1, tokens, D]
    assert tokens.ndim == 3
    assert features[3].item() == pytest.approx(tokens.mean().item(), abs=1e-5)


def test_the_released_pooling_leaves_a_convolutional_network_as_it_is(tmp_path):
    signals = signals_of(MICRO.load(), tmp_path)
    assert torch.equal(signals.features(FeatureKind(pooling="token_collapse")), signals.features())


def test_the_released_transform_shows_new_crops_of_train_images_at_every_level_and_val_images_as_they_are(tmp_path):
    network = MICRO.load()
    shown: list[Tensor] = []

    def watch(images: Tensor) -> Tensor:
        shown.append(images.clone())
        return (images.float() - network.mean) / network.std

    network.normalise = watch
    scorer = DLC(levels=3, transform="training_on_train")
    signals = signals_of(network, tmp_path, batch_size=64)
    compute_scores(scorer, signals, 0)
    assert len(shown) == 3  # The unmasked pass is level 0.
    is_val = torch.tensor([split == "val" for split in signals.pool.splits])
    plain = torch.stack([evaluation_view(signals.pool.images.decode(i), 32) for i in range(len(signals.pool))])
    for level in range(3):
        same = (shown[level] == plain).flatten(1).all(dim=1)
        assert torch.equal(same, is_val)
    assert not (shown[0] == shown[1]).flatten(1).all(dim=1)[~is_val].any()
    assert not (shown[1] == shown[2]).flatten(1).all(dim=1)[~is_val].any()
    compute_scores(scorer, signals_of(network, tmp_path / "again", batch_size=64), 0)
    assert all(torch.equal(shown[level], shown[level + 3]) for level in range(3))


def test_only_random_masking_uses_the_seed(tmp_path):
    assert [DLC(masking=masking).uses_seed for masking in ("l1", "random")] == [False, True]
    network = MICRO.load()
    one, other = (
        compute_scores(DLC(levels=2, masking="random"), signals_of(network, tmp_path), seed) for seed in (0, 1)
    )
    assert not torch.equal(one, other)


def test_an_image_under_the_label_of_another_class_is_harder_than_the_median_of_that_class(tmp_path):
    digits = Digits().pool("train")
    few = torch.cat([torch.nonzero(digits.labels == label).flatten()[:25] for label in range(3)])
    pool = digits.take(few)
    swapped = [int(torch.nonzero(pool.labels == label).flatten()[7]) for label in range(3)]
    labels = pool.labels.clone()
    labels[swapped] = (labels[swapped] + 1) % 3
    wrong = Pool(pool.name, labels, pool.sample_ids, pool.splits, pool.classes, pool.images)
    scores = compute_scores(DLC(), signals_of(MICRO.load(), tmp_path, wrong, batch_size=64), 0)
    for position in swapped:
        same_class = labels == labels[position]
        same_class[swapped] = False
        assert scores[position] > scores[same_class].median()
    assert DLC.higher_means == "harder"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "backbone, token_collapse"),
        ({"transform": "training"}, "evaluation, training_on_train"),
        ({"mask_modules": "norm"}, "conv2d, linear, all"),
        ({"levels": 0}, r"must be a whole number in 1\.\."),
    ],
)
def test_a_setting_that_dlc_does_not_know_is_refused_when_it_is_made(settings, message):
    with pytest.raises(InputError, match=message):
        DLC(**settings)


class Arithmetic(nn.Module):
    """Two convolutions whose weights are sines of their positions, so that they are the same on every machine."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 5, stride=2), nn.Conv2d(8, 12, 3, stride=2)
        for frequency, layer in ((1.7, self.first), (2.3, self.second)):
            waves = torch.sin(frequency * torch.arange(1, layer.weight.numel() + 1, dtype=torch.float64) ** 1.5)
            layer.weight.data = (0.5 * waves).float().view_as(layer.weight)
            layer.bias.data.fill_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x)))).mean(dim=(2, 3))


def golden_scores(folder: Path) -> tuple[Pool, Tensor]:
    """Return a pool of 30 made images in three unequal classes and its default DLC scores."""
    y, x, i = np.meshgrid(np.arange(24), np.arange(28), np.arange(30), indexing="ij")
    pixels = np.stack([(x * (3 + i % 3) + y * (1 + i // 7) * c + i * i) % 256 for c in (1, 2, 5)], axis=-1)
    labels = torch.arange(30) % 3
    labels[24:] = 0
    pool = Pool(
        "made",
        labels,
        tuple(f"image{n:02d}" for n in range(30)),
        ("train",) * 30,
        ("a", "b", "c"),
        ImageArrays(pixels.transpose(2, 0, 1, 3).astype(np.uint8)),
    )
    network = Network(Arithmetic(), (0.5,) * 3, (0.25,) * 3, 24).eval()
    network.mask_modules, network.identity = "conv2d", {"model": "arithmetic"}
    return pool, compute_scores(DLC(), signals_of(network, folder, pool), 0)


def renew() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pool, scores = golden_scores(Path(folder))
    write_scores(GOLDEN / f"dlc.v{DLC.version}.csv", pool, scores)


def test_scores_change_only_with_the_version(tmp_path):
    pool, scores = golden_scores(tmp_path)
    path = GOLDEN / f"dlc.v{DLC.version}.csv"
    assert path.is_file(), f"DLC.version is {DLC.version}: renew the golden scores (see the top of this file)"
    difference = (scores - read_scores(path, pool)).abs().max().item()
    assert difference < 1e-5, "DLC's scores moved: raise DLC.version, or stored scores and new ones will be mixed"
    assert sorted(GOLDEN.glob("dlc.v*.csv")) == [path]


def test_the_golden_scores_tell_the_images_apart():
    with (GOLDEN / f"dlc.v{DLC.version}.csv").open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(set(scores)) == 30
    assert max(scores) - min(scores) > 0.05
