"""Every configuration key of a text run, and its type. Values live in the YAML files; here all are missing."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

ROOT = "instruct"  # the root configuration of text runs


@dataclass
class SftConfig:
    """How a language model is fine-tuned on the pruned corpus (docs/method_notes.md, Instruction data)."""

    name: str = MISSING
    epochs: int = MISSING  # 0: the base model as it is
    batch_size: int = MISSING  # samples per optimiser step
    micro_batch_tokens: int = MISSING  # tokens per forward pass, padding included
    optimizer: str = MISSING  # sgd | adamw
    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING
    schedule: str = MISSING  # cosine
    clip_norm: float = MISSING  # 0: none
    loss_on: str = MISSING  # response | all
    lora_r: int = MISSING
    lora_alpha: float = MISSING
    lora_dropout: float = MISSING
    lora_targets: list[str] = MISSING
    checkpoint_every: int = MISSING  # optimiser steps


@dataclass
class EvaluationConfig:
    """What lm-evaluation-harness asks the fine-tuned model."""

    tasks: list[str] = MISSING
    num_fewshot: list[int] = MISSING  # the first one's accuracy is the run's
    tasks_folder: str | None = MISSING  # of tasks in the harness's format that are not its own
    batch_size: Any = MISSING  # auto: the harness finds the largest
    limit: int | None = MISSING  # questions per task, for a trial


@dataclass
class TextSearchConfig:
    """How sampler.gamma=auto is settled: by the accuracy on the tasks' validation questions."""

    grid: list[float] = MISSING


@dataclass
class TrajectoryConfig:
    """What text_scorer=s2l records of a fine-tuning on the whole corpus."""

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
