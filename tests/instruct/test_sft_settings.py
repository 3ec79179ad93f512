"""The fields of configs/sft: presets, checks, learning rates by hand."""

import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from transformers import get_cosine_schedule_with_warmup

from prunetune.base.errors import InputError
from prunetune.instruct.tuning.sft_settings import SftSettings, needed_steps

FOLDER = Path(__file__).parents[2] / "configs" / "sft"
PUBLISHED = {  # The values are in docs/method_notes.md, Instruction data.
    "paper": ("sgd", 7e-6, 0.9, 0.01, 100, 3, 32, "response"),
    "paper_v1": ("sgd", 7e-6, 0.9, 0.01, 100, 1, 32, "response"),
    "released": ("adamw", 5e-4, 0.0, 5e-4, 100, 1, 4, "all"),
}
KEYS = ("optimizer", "learning_rate", "momentum", "weight_decay", "warmup_steps", "epochs", "batch_size", "loss_on")


def preset(name):
    return SftSettings(**yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_states_every_field_and_its_own_name(path):
    content = yaml.safe_load(path.read_text())
    assert list(content) == [field.name for field in fields(SftSettings)]
    assert content["name"] == path.stem
    settings = SftSettings(**content)
    assert (settings.lora_r, settings.lora_alpha, settings.lora_dropout) == (16, 32, 0.05)
    assert settings.lora_targets == ("q_proj", "v_proj")


def test_there_are_four_presets():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"paper", "paper_v1", "released", "none"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_presets_are_the_published_recipes(name):
    settings = preset(name)
    assert tuple(getattr(settings, key) for key in KEYS) == PUBLISHED[name]


def test_the_preset_none_trains_nothing():
    assert needed_steps(preset("none"), 1000) == 0


@pytest.mark.parametrize(("name", "steps"), [("paper", 3 * 32), ("paper_v1", 32), ("released", 250)])
def test_steps_count_the_last_shorter_batch_of_every_epoch(name, steps):
    assert needed_steps(preset(name), 1000) == steps  # An epoch has 1000 / 32 = 31.25 batches.


def test_the_learning_rate_rises_from_zero_and_falls_by_half_a_cosine():
    settings = SftSettings("hand", learning_rate=1.0, warmup_steps=4)
    rates = [settings.rate(step, 8) for step in range(8)]
    falling = [1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, *falling])


@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 10), (100, 250)])
def test_the_learning_rate_equals_that_of_transformers(warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    learning_rates = get_cosine_schedule_with_warmup(optimizer, warmup, total)
    settings = SftSettings("x", learning_rate=5e-4, warmup_steps=warmup)
    for step in range(total):
        assert settings.rate(step, total) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        learning_rates.step()


def test_a_training_shorter_than_the_warm_up_never_reaches_the_peak():
    settings = preset("paper")
    assert [settings.rate(step, 3) for step in range(3)] == pytest.approx([0, 7e-8, 1.4e-7])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "sft.epochs must be a whole number of at least 0, got -1"),
        ({"epochs": 1.5}, "sft.epochs must be a whole number of at least 0, got 1.5"),
        ({"batch_size": 0}, "sft.batch_size must be a whole number of at least 1, got 0"),
        ({"micro_batch_tokens": True}, "sft.micro_batch_tokens must be a whole number"),
        ({"optimizer": "lion"}, "sft.optimizer must be one of sgd, adamw, got 'lion'"),
        ({"schedule": "linear"}, "sft.schedule must be cosine, got 'linear'"),
        ({"loss_on": "prompt"}, "sft.loss_on must be one of response, all, got 'prompt'"),
        ({"learning_rate": 0}, "sft.learning_rate must be in (0, 1000], got 0"),
        ({"learning_rate": float("nan")}, "sft.learning_rate must be in (0, 1000], got nan"),
        ({"weight_decay": -0.1}, "sft.weight_decay must be in [0, 1000], got -0.1"),
        ({"clip_norm": "1"}, "sft.clip_norm must be a number of at least 0, got '1'"),
        ({"lora_dropout": 1.0}, "sft.lora_dropout must be in [0, 1), got 1.0"),
        ({"lora_dropout": "no"}, "sft.lora_dropout must be in [0, 1), got 'no'"),
        ({"lora_r": 0}, "sft.lora_r must be a whole number of at least 1, got 0"),
        ({"lora_targets": "q_proj"}, "sft.lora_targets must be a list such as"),
        ({"lora_targets": []}, "sft.lora_targets must be a list such as"),
        ({"lora_targets": None}, "sft.lora_targets must be a list such as"),
    ],
)
def test_a_wrong_field_gives_a_one_line_error(changes, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        SftSettings(**{"name": "x", **changes})
    assert "\n" not in str(caught.value)
