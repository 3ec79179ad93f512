"""Every configuration key of a text run, and its type.

The default values are in the YAML files, so every field is MISSING here.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

ROOT = "instruct"  # The name of the root configuration of text runs.


@dataclass
class SftConfig:
    """How to fine-tune a language model on the pruned corpus (docs/method_notes.md, Instruction data)."""

    name: str = MISSING
    epochs: int = MISSING  # With 0 the model is not fine-tuned.
    batch_size: int = MISSING  # Samples per optimiser step.
    micro_batch_tokens: int = MISSING  # Tokens per forward pass, with padding.
    optimizer: str = MISSING  # sgd | adamw
    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING
    schedule: str = MISSING  # cosine
    clip_norm: float = MISSING  # With 0 gradients are not clipped.
    loss_on: str = MISSING  # response | all
    lora_r: int = MISSING
    lora_alpha: float = MISSING
    lora_dropout: float = MISSING
    lora_targets: list[str] = MISSING
    checkpoint_every: int = MISSING  # Number of optimiser steps between two checkpoints.


@dataclass
class EvaluationConfig:
    """How lm-evaluation-harness evaluates the fine-tuned model."""

    tasks: list[str] = MISSING
    num_fewshot: list[int] = MISSING  # The accuracy of the run is that of the first number.
    tasks_folder: str | None = MISSING  # A folder with further tasks in the format of the harness.
    batch_size: Any = MISSING  # With auto the harness finds the largest size that fits into memory.
    limit: int | None = MISSING  # The number of questions per task is limited only in trials.


@dataclass
class TextSearchConfig:
    """How to choose gamma for sampler.gamma=auto: by the accuracy on the validation questions of the tasks."""

    grid: list[float] = MISSING


@dataclass
class TrajectoryConfig:
    """How text_scorer=s2l records a fine-tuning on the whole corpus."""

    checkpoints: int = MISSING


@dataclass
class InstructConfig:
    """One text run."""

    corpus: Any = MISSING
    llm: Any = MISSING
    scoring_llm: Any = None
    text_scorer: Any = MISSING
    sampler: Any = MISSING
    sft: SftConfig = MISSING
    pipeline: str = MISSING
    ratio: float = MISSING
    seed: int = MISSING
    until: str = MISSING
    strata: str = MISSING  # none | source | length
    held_out: float = MISSING
    gamma_search: TextSearchConfig = MISSING
    trajectory: TrajectoryConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    max_tokens: int = MISSING
    device: str = MISSING
    wandb: str = MISSING
    tag: str = MISSING
    results_dir: str = MISSING
