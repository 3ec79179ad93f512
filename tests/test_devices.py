"""Which arithmetic `precision=auto` resolves to."""

import pytest
from torch import nn

from prunetune.base import devices
from prunetune.base.devices import resolve_precision
from prunetune.base.errors import InputError
from prunetune.networks.backbone import Backbone


def test_auto_is_bf16_only_where_it_keeps_the_ranking(monkeypatch):
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


def test_another_precision_is_one_clear_line():
    with pytest.raises(InputError, match="must be auto, fp32 or bf16, got 'fp16'"):
        resolve_precision("fp16", "cpu")
