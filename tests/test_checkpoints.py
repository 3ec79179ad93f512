"""Checkpoints as training scripts write them, with and without a head, in three formats, right and wrong."""

import argparse
import copy
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.networks.backbone import Backbone
from prunetune.networks.checkpoint import load_into, load_weights

MODEL = "prunetune_micro"
COUNTERS = "num_batches_tracked"


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def noise(tensors):
    """Return other weights of the same network."""
    return {name: tensor + 1 for name, tensor in tensors.items()}


EXTRA = {"queue": torch.ones(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
SGD = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
OPTIONS = argparse.Namespace(arch="micro", lr=0.1, best=np.float64(71.5))
# What each training script makes of the weights w, with the place under which they must be found.
LAYOUTS = {
    "bare": (lambda w: w, ""),
    "ordered, as torch saves it": (lambda w: OrderedDict(w), ""),
    "state_dict": (lambda w: {"state_dict": w, "epoch": 3}, "state_dict."),
    "model": (lambda w: {"model": w, "optimizer": SGD, "args": OPTIONS}, "model."),
    "model_state_dict": (lambda w: {"model_state_dict": w, "optimizer_state_dict": SGD}, "model_state_dict."),
    "net": (lambda w: {"net": w, "acc": 93.1, "epoch": 7}, "net."),
    "params": (lambda w: {"params": w}, "params."),
    "network, twice nested": (lambda w: {"checkpoint": {"network": w}, "step": 9}, "checkpoint.network."),
    "data-parallel": (lambda w: prefixed("module.", w), "module."),
    "compiled": (lambda w: prefixed("_orig_mod.", w), "_orig_mod."),
    "compiled in data-parallel": (lambda w: prefixed("module._orig_mod.", w), "module._orig_mod."),
    "data-parallel in compiled": (lambda w: {"model": prefixed("_orig_mod.module.", w)}, "model._orig_mod.module."),
    "data-parallel state_dict": (lambda w: {"state_dict": prefixed("module.", w)}, "state_dict.module."),
    "Lightning": (
        lambda w: {"state_dict": {**prefixed("model.", w), "loss.weight": torch.ones(5)}, "callbacks": {}, "epoch": 1},
        "state_dict.model.",
    ),
    "Lightning, compiled": (lambda w: {"state_dict": prefixed("model._orig_mod.", w)}, "state_dict.model._orig_mod."),
    "Lightning, backbone": (lambda w: {"state_dict": prefixed("backbone.", w)}, "state_dict.backbone."),
    "backbone with a projector": (
        lambda w: {**prefixed("backbone.", w), "projector.0.weight": torch.ones(8, 96)},
        "backbone.",
    ),
    "SupCon": (
        lambda w: {"opt": OPTIONS, "model": {**prefixed("encoder.module.", w), "head.0.weight": torch.ones(8, 96)}},
        "model.encoder.module.",
    ),
    "MoCo": (
        lambda w: {
            "state_dict": {
                **prefixed("module.encoder_q.", w),
                **prefixed("module.encoder_k.", noise(w)),
                **prefixed("module.", EXTRA),
            }
        },
        "state_dict.module.encoder_q.",
    ),
    "MoCo v3": (
        lambda w: {
            "state_dict": {
                **prefixed("module.momentum_encoder.", noise(w)),
                **prefixed("module.base_encoder.", w),
            }
        },
        "state_dict.module.base_encoder.",
    ),
    "BYOL": (
        lambda w: {**prefixed("online_network.", w), **prefixed("target_network.", noise(w))},
        "online_network.",
    ),
    "DINO, the teacher": (
        lambda w: {
            "student": prefixed("module.backbone.", noise(w)),
            "teacher": {**prefixed("backbone.", w), "head.mlp.0.weight": torch.ones(8, 96)},
            "args": OPTIONS,
        },
        "teacher.backbone.",
    ),
    "DINO, extracted": (lambda w: {"teacher": w}, "teacher."),
    "timm with an average": (lambda w: {"state_dict": noise(w), "state_dict_ema": w, "arch": "x"}, "state_dict_ema."),
    "torchvision with an average": (
        lambda w: {"model": noise(w), "model_ema": {**prefixed("module.", w), "n_averaged": torch.tensor(5)}},
        "model_ema.module.",
    ),
    "BasicSR with an average": (lambda w: {"params": noise(w), "params_ema": w}, "params_ema."),
    "Lightning with an average": (
        lambda w: {"state_dict": {**prefixed("model.", noise(w)), **prefixed("ema_model.module.", w)}},
        "state_dict.ema_model.module.",
    ),
    "both wrappers of timm": (lambda w: {"model": noise(w), "state_dict": w}, "state_dict."),
    "MMPretrain": (
        lambda w: {"meta": {"epoch": 1}, "state_dict": {**prefixed("backbone.", w), "neck.x": torch.ones(2)}},
        "state_dict.backbone.",
    ),
    "OpenCLIP": (lambda w: {**prefixed("visual.trunk.", w), "logit_scale": torch.ones(())}, "visual.trunk."),
    "without counters": (lambda w: {name: tensor for name, tensor in w.items() if COUNTERS not in name}, ""),
    "tensors beside numbers": (lambda w: {**w, "epoch": 12, "best_acc": np.float64(88.2), "name": "run 3"}, ""),
    "parameters": (lambda w: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in w.items()}, ""),
    "half precision": (lambda w: {name: t.half() if t.is_floating_point() else t for name, t in w.items()}, ""),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(7)
    return timm.create_model(MODEL, num_classes=0)


@pytest.fixture(scope="module")
def weights():
    """Return the weights of a trained network with a head of five classes; half precision keeps their values."""
    torch.manual_seed(8)
    state = timm.create_model(MODEL, num_classes=5).state_dict()
    return {name: tensor.half().float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def flat(content, place=""):
    """Return the tensors of nested dictionaries by joined names, the only form that safetensors has."""
    tensors = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            tensors[f"{place}{name}"] = value.detach().clone()
        elif isinstance(value, dict):
            tensors |= flat(value, f"{place}{name}.")
    return tensors


def write(path, content):
    if path.suffix == ".safetensors":
        save_file(flat(content), path)
    else:
        torch.save(content, path)
    return path


def read(model, path, use_ema=True):
    """Return the weights of a network that has read a file."""
    fresh = copy.deepcopy(model)
    load_into(fresh, load_weights(path), ("head.",), str(path), use_ema)
    return fresh.state_dict()


def broken(weights):
    """Return the weights with one tensor of another shape, and with one of another name."""
    return {
        r"stages\.1\.path\.0\.weight should be \[32, 16, 3, 3\], is \[32, 16, 1, 1\]": {
            **weights,
            "stages.1.path.0.weight": torch.ones(32, 16, 1, 1),
        },
        r"1 tensors missing \(stem\.0\.weight\), 1 unknown \(stem\.7\.weight\)": {
            ("stem.7.weight" if name == "stem.0.weight" else name): tensor for name, tensor in weights.items()
        },
    }


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_with_and_without_a_head_and_one_wrong_tensor_is_named(
    tmp_path, caplog, model, weights, layout, suffix
):
    caplog.set_level("INFO")
    wrap, place = LAYOUTS[layout]
    headless = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    for number, some in enumerate((weights, headless)):
        caplog.clear()
        state = read(model, write(tmp_path / f"{number}{suffix}", wrap(some)))
        assert all(torch.equal(state[name], weights[name]) for name in state)
        assert f"under {place!r}" in caplog.text if place else "without a prefix" in caplog.text
        for message, wrong in broken(some).items():
            with pytest.raises(InputError, match=message):
                read(model, write(tmp_path / f"wrong{suffix}", wrap(wrong)))


def test_the_average_is_left_alone_if_asked_and_a_file_with_nothing_else_is_refused(tmp_path, model, weights):
    for layout in ("timm with an average", "DINO, the teacher", "Lightning with an average"):
        path = write(tmp_path / "w.pth", LAYOUTS[layout][0](weights))
        assert torch.equal(read(model, path, use_ema=False)["stem.0.weight"], weights["stem.0.weight"] + 1)
    path = write(tmp_path / "w.pth", {"state_dict_ema": weights})
    with pytest.raises(InputError, match="a moving average of the weights only; drop backbone.use_ema=false"):
        read(model, path, use_ema=False)
    plain, averaged = (
        Backbone(
            model=MODEL, checkpoint=str(write(tmp_path / "w.pth", {"a_ema": weights, "a": noise(weights)})), **option
        )
        for option in ({"use_ema": False}, {})
    )
    assert plain.load().identity["weights"] != averaged.load().identity["weights"]


def test_a_file_that_holds_the_network_twice_is_refused_with_both_places(tmp_path, model, weights):
    path = write(tmp_path / "w.pth", {"generator": weights, "critic": noise(weights)})
    with pytest.raises(InputError, match=r"holds the network 2 times, under 'generator\.', 'critic\.'; save one"):
        read(model, path)


def test_a_file_of_another_network_names_what_is_missing(tmp_path, model):
    other = timm.create_model("test_resnet", num_classes=0).state_dict()
    with pytest.raises(InputError, match=r"does not fit the model: \d+ tensors missing \(stages.*check backbone.model"):
        read(model, write(tmp_path / "w.pth", {"model": other}))


def test_an_average_with_a_wrong_tensor_is_not_replaced_by_other_weights_in_silence(tmp_path, model, weights):
    [(message, wrong), _] = broken(weights).items()
    with pytest.raises(InputError, match=message):
        read(model, write(tmp_path / "w.pth", {"state_dict": weights, "state_dict_ema": wrong}))


def test_only_a_position_embedding_may_have_another_shape(tmp_path):
    wide = timm.create_model("test_vit", num_classes=0, patch_size=8).state_dict()  # timm would resample its patches.
    with pytest.raises(InputError, match=r"patch_embed\.proj\.weight should be \[64, 3, 16, 16\], is \[64, 3, 8, 8\]"):
        Backbone(model="test_vit", checkpoint=str(write(tmp_path / "w.pth", wide))).load()


def test_names_of_another_release_are_translated_by_timm(tmp_path, caplog):
    model = timm.create_model("convnext_atto", num_classes=0)
    theirs = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace("conv_dw", "dwconv")
        name = name.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2").replace("head.norm", "norm")
        parts = name.split(".")
        if len(parts) > 3 and parts[2] == "downsample":
            name = ".".join(["downsample_layers", parts[1], *parts[3:]])
        theirs[name] = tensor
    network = Backbone(
        model="convnext_atto", checkpoint=str(write(tmp_path / "w.pth", {"model": theirs})), input_size=32
    ).load()
    state = network.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
