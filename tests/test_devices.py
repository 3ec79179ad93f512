"""The precision that `precision=auto` gives, and TF32, which is turned off on a GPU inside our own passes only."""

from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import runs  # noqa: F401  one thread
from prunetune.base import devices
from prunetune.base.devices import exact_float32, resolve_device, resolve_precision
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.images.decoded import ShownImages
from prunetune.data.readers.textures import Textures
from prunetune.networks.backbone import Backbone
from prunetune.runs import scores
from prunetune.scorers.grand import Grand
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import LINEAR_PROBE
from prunetune.training import full, linear_probe
from prunetune.training.recipe import Recipe


def test_auto_is_bf16_only_where_that_keeps_the_ranking(monkeypatch):
    monkeypatch.setattr(devices, "_has_bfloat16", lambda device: True)
    tokens = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    convolutions = Backbone(model="prunetune_micro").load()
    assert resolve_precision("auto", "cpu", tokens) == "bf16"
    assert resolve_precision("auto", "cpu", convolutions) == "fp32"
    assert resolve_precision("bf16", "cpu", convolutions) == "bf16"
    assert resolve_precision("auto", "cpu") == "bf16"


def test_auto_is_fp32_without_the_hardware(monkeypatch):
    monkeypatch.setattr(devices, "_has_bfloat16", lambda device: False)
    assert resolve_precision("auto", "cpu", nn.Linear(4, 4)) == "fp32"


def test_another_precision_gives_a_one_line_error():
    with pytest.raises(InputError, match="must be auto, fp32 or bf16, got 'fp16'"):
        resolve_precision("fp16", "cpu")


def tf32_switches():
    return [getattr(holder, name) for holder, name, _ in devices._float32_switches()]


@pytest.fixture
def switches_put_back():
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in devices._float32_switches()]
    yield
    for holder, name, value in before:
        setattr(holder, name, value)


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_tf32_is_off_inside_our_passes_on_a_gpu_and_as_the_user_chose_after_them(switches_put_back, matmul):
    torch.set_float32_matmul_precision(matmul)
    before, exact = tf32_switches(), [value for _, _, value in devices._float32_switches()]
    assert before[0] != exact[0], "torch convolves in TF32 by default"
    with exact_float32("cuda"):
        assert tf32_switches() == exact
        with exact_float32("cuda"):
            pass
        assert tf32_switches() == exact, "the end of an inner block is not that of the outer one"
    assert tf32_switches() == before
    with pytest.raises(KeyError), exact_float32("cuda"):
        raise KeyError
    assert tf32_switches() == before
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.allow_tf32
    with exact_float32("cpu"):
        assert tf32_switches() == before


def test_the_older_switches_of_torch_are_set_where_it_has_no_newer_ones(monkeypatch):
    cudnn, matmul = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    with exact_float32("cuda"):
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)


def test_choosing_a_device_changes_no_switch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = tf32_switches()
    assert resolve_device("cuda") == "cuda"
    assert tf32_switches() == before


def test_every_pass_and_every_training_step_runs_without_tf32(monkeypatch, tmp_path):
    depth, found = 0, Counter()

    @contextmanager
    def noted(device):
        nonlocal depth
        depth += 1
        yield
        depth -= 1

    for module in (devices, full, linear_probe, scores):
        monkeypatch.setattr(module, "exact_float32", noted)
    step = linear_probe._Heads.train_epoch
    monkeypatch.setattr(linear_probe._Heads, "train_epoch", lambda *args: watch("probe") or step(*args))

    def watch(what):
        found[what, depth > 0] += 1

    dataset = Textures(num_pool=100, num_test=100, size=16)
    pool, test = dataset.pool("train"), dataset.pool("test")
    network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
    network.register_forward_pre_hook(lambda *_: watch("forward"))
    signals = NetworkSignals(pool, Embedding(network, Store(tmp_path)), LINEAR_PROBE)
    signals.features()
    scores.compute_scores(Grand(), signals, 0)
    next(network.parameters()).register_post_accumulate_grad_hook(lambda *_: watch("backward"))
    recipe = Recipe("full", trained="all", epochs=1, batch_size=50, views=0)
    shown, judged = ShownImages.whole(pool, pool.images), ShownImages.whole(test, test.images)
    full.finetune_all(network, shown, judged, recipe, 0, devices.Hardware())
    assert {what for what, _ in found} == {"forward", "backward", "probe"}
    assert {is_exact for _, is_exact in found} == {True}
