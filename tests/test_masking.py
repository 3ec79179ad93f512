"""Masked networks: the counts and the ranking of docs/method_notes.md, Masking, by hand."""

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune

from prunetune.base.errors import InputError
from prunetune.networks.backbone import Backbone
from prunetune.networks.checkpoint import weights_hash
from prunetune.networks.maskable import enough_maskable, maskable
from prunetune.networks.masking import MaskPath, first_masked_level, masked_networks

A, B = torch.tensor([0.1, -0.9, 0.4]), torch.tensor([-0.2, 0.5, 0.05, 0.7])  # These numbers are test vector (b).
DLC_50 = {"levels": 50, "step": 0.02}


def tiny() -> nn.Sequential:
    """Return two convolutions with 18 and 36 weights, a norm and biases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3)).eval()


def newly_masked(path: MaskPath, weights: list[torch.Tensor] | None = None) -> list[set[float]]:
    weights = [A, B] if weights is None else weights
    levels = first_masked_level(weights, path, seed=0)
    values, first = torch.cat([w.flatten() for w in weights]), torch.cat([level.flatten() for level in levels])
    return [{round(v, 4) for v in values[first == k].tolist()} for k in range(path.levels)]


@pytest.mark.parametrize(
    ("total", "path", "expected"),
    [
        (7, MaskPath(levels=5, step=0.2), [0, 1, 2, 3, 4]),
        (10, MaskPath(levels=5, step=0.25), [0, 2, 4, 6, 7]),  # Both round(2.5) and round(1.5) are 2.
        (40, MaskPath(levels=5, step=0.25), [0, 10, 18, 24, 28]),
        (40, MaskPath(levels=4, step=0.25, include_unmasked=False), [10, 18, 24, 28]),
        (50, MaskPath("linear", levels=4, step=0.3), [0, 15, 30, 45]),
        (50, MaskPath("linear", levels=3, step=0.3, include_unmasked=False), [15, 30, 45]),
        (9, MaskPath(levels=1), [0]),
    ],
)
def test_masked_counts_are_those_of_the_test_vectors(total, path, expected):
    assert path.counts(total) == expected


def test_fifty_compound_levels_of_a_thousand_weights_have_the_published_counts():
    counts = MaskPath(**DLC_50).counts(1000)
    assert [counts[k] for k in (1, 2, 10, 25, 49)] == [20, 40, 183, 396, 628]


def test_the_last_level_of_the_released_path_masks_63_percent_and_of_the_linear_path_98():
    million = 1_000_000
    released, linear = MaskPath(**DLC_50).counts(million), MaskPath("linear", **DLC_50).counts(million)
    assert released[49] / million == pytest.approx(1 - 0.98**49, abs=1e-5)
    assert released[49] / million == pytest.approx(0.628398, abs=1e-5)
    assert [released[k] / million for k in (10, 25)] == pytest.approx([0.182927, 0.396535], abs=1e-5)
    assert linear[49] / million == pytest.approx(0.98, abs=1e-6)
    assert MaskPath().counts(million) == [0, 200_000, 360_000, 488_000, 590_400]


def test_compound_counts_equal_torchs_repeated_fractional_pruning():
    layer = nn.Linear(50, 20, bias=False)
    masked = [0]
    for _ in range(4):
        prune.global_unstructured([(layer, "weight")], prune.L1Unstructured, amount=0.25)
        masked.append(int((layer.weight_mask == 0).sum()))
    assert MaskPath(levels=5, step=0.25).counts(1000) == masked


def test_the_global_ranking_masks_the_smallest_weights_of_all_tensors_first():
    assert newly_masked(MaskPath()) == [set(), {0.05}, {0.1}, {-0.2}, {0.4}]


def test_few_weights_stall_and_the_repeated_network_is_refused():
    with pytest.raises(InputError, match=r"the same .*masked counts \[0, 1, 2, 2, 2\]"):
        first_masked_level([torch.tensor([0.3, -0.1, 0.2, 0.4])], MaskPath(), seed=0)


def test_the_key_of_a_path_still_contains_the_removed_option_scope():
    old = {"schedule": "compound", "levels": 5, "step": 0.2, "include_unmasked": True, "masking": "l1"}
    assert MaskPath().key(7) == {**old, "scope": "global", "modules": "all", "seed": None}
    random = MaskPath("linear", 4, 0.1, masking="random", modules="conv2d").key(7)
    changed = {"schedule": "linear", "levels": 4, "step": 0.1, "masking": "random", "seed": 7}
    assert random == {**old, "scope": "global", "modules": "conv2d", **changed}


def test_equal_weights_are_masked_in_their_order():
    tied = torch.full((10,), 0.5)
    [level] = first_masked_level([tied], MaskPath(levels=3, step=0.2), seed=0)
    assert level.tolist() == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3]  # The counts of masked weights are 0, 2 and 4.


@pytest.mark.parametrize("masking", ["l1", "random"])
@pytest.mark.parametrize("schedule", ["compound", "linear"])
def test_masks_are_nested_and_have_exactly_the_counts(masking, schedule):
    path, model = MaskPath(schedule, 5, 0.2, masking=masking, modules="conv2d"), tiny()
    weights = [weight.tensor for weight in maskable(model, "conv2d").weights.values()]
    masks = []
    with masked_networks(model, path, seed=3) as levels:
        for _ in levels:
            masks.append(torch.cat([(weight == 0).flatten() for weight in weights]))
    assert [int(mask.sum()) for mask in masks] == path.counts(54)
    assert all(bool((later | ~earlier).all()) for earlier, later in pairwise(masks))


def test_random_masks_depend_on_the_seed_and_on_nothing_else():
    path = MaskPath(masking="random")
    weights = [torch.randn(30), torch.randn(40)]
    first, again, other = (
        torch.cat(first_masked_level(group, path, seed))
        for group, seed in ((weights, 1), ([w + 5 for w in weights], 1), (weights, 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_are_restored_bit_by_bit_after_the_block_and_after_an_error():
    model = tiny()
    before = weights_hash(model)
    with masked_networks(model, MaskPath(modules="conv2d")) as levels:
        list(levels)
        assert weights_hash(model) != before
    assert weights_hash(model) == before

    class Interruption(Exception):
        pass

    def fail_at_the_fourth_level() -> None:
        with masked_networks(model, MaskPath(modules="conv2d")) as levels:
            for level in levels:
                if level == 3:
                    raise Interruption

    with pytest.raises(Interruption):
        fail_at_the_fourth_level()
    assert weights_hash(model) == before


def test_the_networks_of_a_path_give_different_features():
    network = Backbone(model="prunetune_micro", mask_modules="conv2d", pretrained=False).load()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    outputs = []
    with torch.inference_mode(), masked_networks(network.model, MaskPath(modules="conv2d")) as levels:
        for _ in levels:
            outputs.append(network(images))
    distances = torch.pdist(torch.stack(outputs).flatten(1))
    assert len(outputs) == 5
    assert distances.min() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # The last fraction is 5 * 0.2 = 1.
        ({"schedule": "linear", "levels": 6, "step": 0.2}, "must keep some weights"),
        ({"schedule": "linear", "levels": 50, "step": 0.02, "include_unmasked": False}, "must keep some weights"),
        ({"levels": 0}, r"must be a whole number in 1\.\."),
        ({"levels": 2.5}, "whole number"),
        ({"step": 0}, r"must be in \(0, 1\]"),
        ({"step": 1.5}, r"must be in \(0, 1\]"),
        ({"step": float("nan")}, r"must be in \(0, 1\]"),
        ({"schedule": "cubic"}, "compound, linear"),
        ({"masking": "l2"}, "l1, random"),
        ({"modules": "norm"}, "conv2d, linear, all"),
    ],
)
def test_an_invalid_mask_path_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MaskPath(**settings)


def test_levels_that_would_mask_the_same_weights_are_refused():
    with pytest.raises(InputError, match=r"would be the same .*masked counts \[0, 0, 0, 0, 0\]"):
        first_masked_level([torch.ones(5)], MaskPath(step=0.05), seed=0)


def test_a_level_that_masks_no_weight_is_refused():
    with pytest.raises(InputError, match=r"would be the same \(masked counts \[0, 0\]\)"):
        first_masked_level([torch.ones(5)], MaskPath(levels=1, step=0.05, include_unmasked=False), seed=0)


def test_a_network_without_maskable_weights_is_refused_with_the_key_to_change():
    with pytest.raises(InputError, match="no conv2d weights to mask; pass scorer.mask_modules=all"):
        with masked_networks(nn.Sequential(nn.BatchNorm2d(3)), MaskPath(modules="conv2d")):
            pass
    with torch.device("meta"):
        vit = timm.create_model("test_vit", num_classes=0)
    # The only convolution of this network is the patch embedding.
    with pytest.raises(InputError, match=r"^0% of the parameters of test_vit are conv2d.*mask_modules=all$"):
        enough_maskable(vit, "conv2d", "test_vit")


@pytest.mark.parametrize(
    ("model", "modules", "num_tensors", "num_weights"),
    [
        ("resnet18", "conv2d", 20, 11_166_912),
        ("resnet50", "conv2d", 53, 23_454_912),
        ("vit_small_patch16_224", "linear", 48, 21_233_664),
        ("vit_base_patch16_224", "linear", 48, 84_934_656),
        ("vit_small_patch16_224", "all", 48, 21_233_664),
    ],
)
def test_the_published_networks_have_the_published_number_of_maskable_weights(model, modules, num_tensors, num_weights):
    with torch.device("meta"):
        found = maskable(timm.create_model(model, num_classes=0), modules)
    sizes = [weight.tensor.numel() for weight in found.weights.values()]
    assert (len(sizes), sum(sizes)) == (num_tensors, num_weights)
    assert found.is_plain  # The key of stored masks is that of versions that knew no other weights.
    assert found.share > 0.99


@pytest.mark.parametrize(
    ("model", "modules", "has", "has_not"),
    [
        ("resnet18", "conv2d", ["conv1.weight", "layer2.0.downsample.0.weight"], ["bn1.weight", "fc.weight"]),
        ("resnet18", "all", ["conv1.weight"], ["bn1.weight", "fc.weight", "layer1.0.bn1.weight"]),
        (
            "test_vit",
            "linear",
            ["blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight"],
            ["patch_embed.proj.weight", "head.weight", "norm.weight", "blocks.0.norm1.weight", "pos_embed"],
        ),
        ("test_vit", "all", ["blocks.0.mlp.fc2.weight"], ["patch_embed.proj.weight", "cls_token", "pos_embed"]),
    ],
)
def test_biases_norms_tokens_patch_embedding_and_head_are_never_masked(model, modules, has, has_not):
    with torch.device("meta"):
        whole = timm.create_model(model, num_classes=0)
    names = set(maskable(whole, modules).weights)
    assert set(has) <= names
    assert not names & set(has_not)
    assert all(name.endswith(".weight") for name in names)
    assert set(has_not) - {"fc.weight", "head.weight"} <= dict(whole.named_parameters()).keys()


@pytest.mark.parametrize(("model", "modules"), [("prunetune_micro", "conv2d"), ("test_vit", "linear")])
def test_only_maskable_weights_change_while_a_network_is_masked(model, modules):
    network = Backbone(model=model, pretrained=False).load().model
    expected = set(maskable(network, modules).weights)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with masked_networks(network, MaskPath(modules=modules)) as levels:
        list(levels)
        changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == expected


@pytest.mark.parametrize("path", [MaskPath(), MaskPath(levels=50, step=0.02), MaskPath("linear", 9, 0.1)])
@pytest.mark.parametrize("kind", ["all different", "many ties", "bfloat16", "all the same"])
def test_masks_from_sorted_values_equal_those_of_one_stable_ranking(path, kind):
    generator = torch.Generator().manual_seed(0)
    weight = {
        "all different": torch.randn(4001, generator=generator),
        "many ties": torch.randint(-3, 4, (4001,), generator=generator).float(),
        "bfloat16": torch.randn(4001, generator=generator).bfloat16(),
        "all the same": torch.ones(4001),
    }[kind]
    order = weight.abs().float().argsort(stable=True)
    expected = torch.full((4001,), path.levels)
    for level, count in reversed(list(enumerate(path.counts(4001)))):
        expected[order[:count]] = level
    [found] = first_masked_level([weight], path, seed=0)
    assert torch.equal(found.long(), expected)


def test_a_path_of_more_levels_than_a_byte_holds_gives_the_same_masks():
    path = MaskPath("linear", 300, 0.003)
    [found] = first_masked_level([torch.arange(1000.0)], path, seed=0)
    assert found.bincount().tolist() == [0, *[3] * 299, 103]
