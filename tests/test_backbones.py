"""Backbones: weights from files, wrappers, refusals, statistics, feature widths."""

import os
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from prunetune.base.errors import InputError
from prunetune.config.build import build
from prunetune.networks.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from prunetune.networks.checkpoint import load_weights

MODEL = "prunetune_micro"


@pytest.fixture(scope="module")
def weights():
    """Return the state_dict of a micro network with a head of five classes."""
    torch.manual_seed(7)
    model = timm.create_model(MODEL, num_classes=5)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def loaded(checkpoint, **options):
    return Backbone(model=MODEL, checkpoint=str(checkpoint), **options).load()


def has_weights(network, weights):
    state = network.model.state_dict()
    return all(torch.equal(state[name], weights[name]) for name in state)


def saved(path, content):
    torch.save(content, path)
    return path


def test_safetensors_and_torch_files_give_the_same_network_and_their_head_is_not_used(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    saved(tmp_path / "w.pth", weights)
    first, second = loaded(tmp_path / "w.safetensors"), loaded(tmp_path / "w.pth")
    assert has_weights(first, weights)
    assert has_weights(second, weights)
    assert first.identity == second.identity
    assert not first.training


def test_other_weights_have_another_identity(tmp_path, weights):
    changed = {**weights, "stem.0.weight": weights["stem.0.weight"] + 1e-4}
    first, second = (loaded(saved(tmp_path / f"{i}.pth", each)) for i, each in enumerate([weights, changed]))
    assert first.identity["weights"] != second.identity["weights"]


def test_a_missing_and_an_unknown_tensor_are_named(tmp_path, weights):
    short = {name: tensor for name, tensor in weights.items() if name != "stem.0.weight"}
    path = saved(tmp_path / "w.pth", {**short, "neck.weight": torch.zeros(2)})
    with pytest.raises(InputError, match=r"1 tensors missing \(stem\.0\.weight\), 1 unknown \(neck\.weight\)"):
        loaded(path)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path, weights):
    path = saved(tmp_path / "w.pth", {**weights, "stem.0.weight": torch.zeros(16, 1, 3, 3)})
    with pytest.raises(InputError, match=r"stem\.0\.weight should be \[16, 3, 3, 3\], is \[16, 1, 3, 3\]"):
        loaded(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, weights, value):
    broken = {**weights, "stem.0.weight": torch.full((16, 3, 3, 3), value)}
    save_file(broken, tmp_path / "w.safetensors")
    for path in (saved(tmp_path / "w.pth", broken), tmp_path / "w.safetensors"):
        with pytest.raises(InputError, match=r"1 tensors hold NaN, infinity .* bits, first: stem\.0\.weight"):
            loaded(path)


REAL = "stem.0.weight"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.int64), "should hold real numbers, holds whole ones"),
        (lambda t: t.bool(), "should hold real numbers, holds whole ones"),
        (lambda t: t.to(torch.float8_e4m3fn), "should hold real numbers, holds eight-bit ones"),
        (lambda t: t.to(torch.complex64), "should hold real numbers, holds complex ones"),
        (lambda t: t.to_sparse(), "is a sparse, nested or quantized tensor"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is a sparse, nested or quantized tensor"),
        (lambda t: t.double() * 1e200, "numbers beyond 32 bits"),
    ],
    ids=["whole", "true and false", "eight bits", "complex", "sparse", "quantized", "too large"],
)
def test_tensors_of_another_kind_are_refused_and_never_converted(tmp_path, weights, change, message):
    path = saved(tmp_path / "w.pth", {**weights, REAL: change(weights[REAL])})
    with pytest.raises(InputError, match=f"stem.0.weight {message}|{message}, first: stem.0.weight") as caught:
        loaded(path)
    assert "\n" not in str(caught.value)


def test_numbers_of_16_and_64_bits_are_read_and_counters_stay_whole(tmp_path, weights):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        stem = loaded(saved(tmp_path / "w.pth", cast)).model.state_dict()[REAL]
        assert torch.equal(stem, weights[REAL].to(dtype).float())
    counter = "stem.1.num_batches_tracked"
    with pytest.raises(InputError, match=f"{counter} should hold whole numbers, holds real ones"):
        loaded(saved(tmp_path / "w.pth", {**weights, counter: torch.tensor(0.5)}))


def test_names_that_are_no_text_and_names_in_two_forms_are_refused(tmp_path, weights):
    with pytest.raises(InputError, match=r"does not fit the model: 0 tensors missing \(none\), 1 unknown \(7\)"):
        loaded(saved(tmp_path / "w.pth", {**weights, 7: torch.zeros(1)}))
    with pytest.raises(InputError, match=rf"1 unknown \(module\.{re.escape(REAL)}\)"):
        loaded(saved(tmp_path / "w.pth", {**weights, f"module.{REAL}": weights[REAL]}))


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, weights):
    marker = tmp_path / "the code ran"
    torch.save({"state_dict": weights, "extra": Evil(marker)}, tmp_path / "zip.pth")
    torch.save({"extra": Evil(marker)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(marker), protocol=2))
    for name in ("zip.pth", "old.pth", "bare.pth"):
        with pytest.raises(InputError, match="refused, since loading it could run code"):
            loaded(tmp_path / name)
    assert not marker.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert marker.exists()  # The file does run its code if torch loads it without checks.


def test_files_that_are_cut_short_give_a_one_line_error(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    saved(tmp_path / "w.pth", weights)
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth", "old.pt"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 1, 7, 64, 1000, len(whole) // 2, len(whole) - 1):
            cut = tmp_path / f"cut_{length}{Path(name).suffix}"
            cut.write_bytes(whole[:length])
            with pytest.raises(InputError) as caught:
                load_weights(cut)
            assert str(cut) in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not weights at all", b"<html>404</html>", b"\x80\x02."])
def test_files_that_hold_no_weights_give_a_one_line_error(tmp_path, content):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_weights(tmp_path / name)


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"a": 1}, {}])
def test_a_torch_file_without_a_dictionary_of_tensors_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="should hold a dictionary of tensors"):
        load_weights(saved(tmp_path / "w.pth", content))


def test_a_checkpoint_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing\.pth is not a file"):
        loaded(tmp_path / "missing.pth")


def test_an_unknown_timm_name_comes_with_a_suggestion():
    with pytest.raises(InputError, match=r"no model 'resnet81'\. Did you mean 'resnet\d+'"):
        Backbone(model="resnet81")


def test_arguments_that_a_model_does_not_have_are_refused():
    with pytest.raises(InputError, match=r"resnet18 refuses backbone\.model_args=.*colour"):
        Backbone(model="resnet18", pretrained=False, model_args={"colour": "red"}).load()


def test_weights_that_cannot_be_downloaded_give_a_one_line_error_with_the_fix(monkeypatch):
    def no_network(*args, **options):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr("prunetune.base.hub.is_reachable", lambda: True)  # The network fails only afterwards.
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(
        InputError, match=r"could not be fetched \(OSError: Temporary.*backbone\.checkpoint=<file>"
    ) as caught:
        Backbone(model="resnet18.tv_in1k").load()
    assert "\n" not in str(caught.value)


def statistics(network):
    return (network.mean.flatten() / 255).tolist(), (network.std.flatten() / 255).tolist()


def test_statistics_come_from_the_checkpoint_or_imagenet_or_the_user():
    def of(**options):
        return statistics(Backbone(model="vit_tiny_patch16_224.augreg_in21k", pretrained=False, **options).load())

    assert of() == ([0.5] * 3, [0.5] * 3)
    mean, std = of(normalization="imagenet")
    assert mean == pytest.approx(IMAGENET_MEAN)
    assert std == pytest.approx(IMAGENET_STD)
    mean, std = of(mean=(0.1, 0.2, 0.3))
    assert mean == pytest.approx([0.1, 0.2, 0.3])
    assert std == [0.5] * 3
    mean, std = of(normalization="imagenet", std=(0.3, 0.2, 0.1))
    assert mean == pytest.approx(IMAGENET_MEAN)
    assert std == pytest.approx([0.3, 0.2, 0.1])


def test_an_image_of_the_mean_colour_is_zero_after_normalisation():
    network = Backbone(model=MODEL, pretrained=False, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5)).load()
    image = torch.tensor([51, 102, 153], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert network.normalise(image).abs().max() < 1e-6
    brighter = network.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert brighter.flatten().tolist() == pytest.approx([8, 3, 0.8])


@pytest.mark.parametrize("option", [{"mean": (0.5, 0.5)}, {"std": (1, 2, 3)}, {"normalization": "none"}])
def test_bad_statistics_are_refused(option):
    with pytest.raises(InputError, match=f"backbone.{next(iter(option))} must be"):
        Backbone(model=MODEL, **option)


@pytest.mark.parametrize(
    ("model", "size", "width"),
    [
        (MODEL, 32, 96),
        ("resnet18", 64, 512),
        ("test_vit", 160, 64),
        ("mobilenetv2_100", 64, 1280),
        ("mobilenetv3_small_050", 64, 1024),  # The last feature map of this network has 288 channels.
    ],
)
def test_features_are_batch_by_width_for_convolutional_and_token_networks(model, size, width):
    network = Backbone(model=model, pretrained=False, input_size=size).load()
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        features = network(images)
    assert features.shape == (3, width)
    assert network.num_features == width
    assert features.isfinite().all()
    assert features[0].std() > 0  # The features must differ within an image.


def test_random_weights_are_the_same_in_every_process_state():
    torch.manual_seed(1)
    first = Backbone(model=MODEL, pretrained=False).load().identity
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert Backbone(model=MODEL, pretrained=False).load().identity == first
    assert torch.equal(torch.get_rng_state(), state)  # The random stream of the caller has not changed.


def test_an_input_size_resamples_the_positions_of_a_checkpoint_and_needs_no_other_key(tmp_path, caplog):
    caplog.set_level("INFO")
    at_160 = timm.create_model("test_vit", num_classes=3)
    path = saved(tmp_path / "w.pth", at_160.state_dict())
    network = Backbone(model="test_vit", checkpoint=str(path), input_size=96).load()
    assert network.model.pos_embed.shape == (1, 37, 64)  # A class token and 6 x 6 patches.
    assert torch.equal(network.model.pos_embed[:, 0], at_160.pos_embed[:, 0])
    grid = at_160.pos_embed[:, 1:].view(1, 10, 10, 64).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True)
    assert torch.allclose(network.model.pos_embed[:, 1:].view(1, 6, 6, 64).permute(0, 3, 1, 2), expected, atol=1e-6)
    assert "resampled to the size of the images: pos_embed" in caplog.text
    again = Backbone(model="test_vit", checkpoint=str(path), model_args={"img_size": 96}).load()
    assert again.input_size == 96
    assert again.identity["weights"] == network.identity["weights"]
    assert network.origin.load_random("proxy", 1).model.pos_embed.shape == (1, 37, 64)


def test_an_input_size_that_a_network_does_not_take_is_told_without_a_circular_hint():
    message = r"does not take images of 8 x 8 \(.*\); pass another backbone\.input_size or drop it$"
    with pytest.raises(InputError, match=message):
        Backbone(model="vit_tiny_patch16_224", pretrained=False, input_size=8).load()


def test_networks_without_pooled_features_are_one_line():
    with pytest.raises(InputError, match=r"^backbone\.model_args=\{features_only:true\} makes.*drop it$"):
        Backbone(model="test_resnet", pretrained=False, model_args={"features_only": True}).load()
    with pytest.raises(InputError, match=r"should give \[1, 96\] features, gave \[1, 96, 5, 5\]"):
        Backbone(model="test_resnet", pretrained=False, model_args={"global_pool": ""}).load()


def test_another_kind_of_masked_module_is_refused():
    with pytest.raises(InputError, match="mask_modules must be one of conv2d, linear, all, got 'norm'"):
        Backbone(model="test_vit", pretrained=False, mask_modules="norm")


def test_a_backbone_without_a_model_says_which_key_to_pass():
    with pytest.raises(InputError, match=r"needs a model; pass backbone\.model=<model>"):
        build({"_target_": "prunetune.networks.backbone.Backbone", "model": "???"})
