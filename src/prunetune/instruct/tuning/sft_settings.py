"""The settings of fine-tuning a language model on the kept samples, which are the fields of configs/sft."""

import math
from dataclasses import dataclass
from typing import Any

from prunetune.base import checks
from prunetune.base.errors import InputError

CHOICES = {"optimizer": ("sgd", "adamw"), "schedule": ("cosine",), "loss_on": ("response", "all")}
COUNTS = {"epochs": 0, "batch_size": 1, "micro_batch_tokens": 1, "warmup_steps": 0, "lora_r": 1, "checkpoint_every": 1}
INTERVALS = {
    "learning_rate": "(0, 1000]",
    "momentum": "[0, 1)",
    "weight_decay": "[0, 1000]",
    "clip_norm": "[0, inf)",
    "lora_alpha": "(0, inf)",
    "lora_dropout": "[0, 1)",
}


@dataclass(frozen=True)
class SftSettings:
    """Epochs, batches, optimiser and adapter of a supervised fine-tuning.

    Source of the presets: docs/method_notes.md, Instruction data.

    epochs: 0 does not fine-tune. batch_size: samples per optimiser step, over all processes; the last, shorter batch of
    an epoch is kept. micro_batch_tokens: tokens per forward pass, with padding, to limit memory. warmup_steps: the
    published number, which is not reduced for trainings with fewer steps; their rate never reaches its peak. clip_norm:
    largest L2 norm of the gradient, 0 for no limit. loss_on: "response", or "all" tokens. lora_targets: the linear
    layers whose names end like this get an adapter. checkpoint_every: optimiser steps between two checkpoints.
    """

    name: str
    epochs: int = 3
    batch_size: int = 32
    micro_batch_tokens: int = 8192
    optimizer: str = "sgd"
    learning_rate: float = 7e-6
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "cosine"
    clip_norm: float = 1.0
    loss_on: str = "response"
    lora_r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            checks.choice(f"sft.{key}", getattr(self, key), known)
        for key, least in COUNTS.items():
            checks.whole_number(f"sft.{key}", getattr(self, key), least)
        for key, interval in INTERVALS.items():
            checks.number(f"sft.{key}", getattr(self, key), interval)
        object.__setattr__(self, "lora_targets", _names(self.lora_targets))
        checks.fields("sft", self)

    def rate(self, step: int, num_steps: int) -> float:
        """Return the learning rate of a step: a linear warm-up from 0, then half a cosine down to 0.

        The values are those of `get_cosine_schedule_with_warmup` in transformers, so the first step has rate 0.

        Args:
            step: number of the step, from 0 to `num_steps` - 1.
            num_steps: number of steps of the training. If it is at most `warmup_steps`, the rate only rises.
        """
        if step < self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def needed_steps(settings: SftSettings, num_examples: int) -> int:
    """Return the number of optimiser steps of a training on this many samples."""
    return settings.epochs * math.ceil(num_examples / settings.batch_size)


def _names(targets: Any) -> tuple[str, ...]:
    names = tuple(targets) if isinstance(targets, list | tuple) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"sft.lora_targets must be a list such as [q_proj, v_proj], got {targets!r}")
    return names
