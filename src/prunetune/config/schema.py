"""Every configuration key of an image run or a grid, and its type.

Values live in the YAML files; here all are missing.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class FinetuneConfig:
    """How the pruned set is trained on (docs/method_notes.md, Fine-tuning)."""

    name: str = MISSING
    trained: str = MISSING  # head | all
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    milestones: list[int] = MISSING  # after these epochs the learning rate is multiplied by decay
    decay: float = MISSING
    views: int = MISSING  # augmented views of a frozen backbone, one an epoch, cycled; 0: the evaluation view
    evaluate_every: int = MISSING  # epochs between two looks at the test set; the last epoch is always evaluated


@dataclass
class ProxyConfig:
    """How the proxy is trained that scores from training dynamics read (docs/method_notes.md, Baselines)."""

    name: str = MISSING
    trained: str = MISSING  # head | all
    initial: str = MISSING  # pretrained | random
    augment: bool = MISSING
    record: str = MISSING  # epoch_end | online
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    milestones: list[int] = MISSING
    decay: float = MISSING


@dataclass
class GammaSearchConfig:
    """How sampler.gamma=auto, sampler.beta=auto and sampler=topk_flexible are settled, never on test."""

    grid: list[float] = MISSING
    betas: list[float] = MISSING
    repeats: int = MISSING
    held_out: float = MISSING
    views: int = MISSING


@dataclass
class ImagesConfig:
    """How decoded images are kept."""

    short_side: int | None = MISSING  # null: as they are; 256 takes less disk and is a deviation


@dataclass
class Config:
    """One image run."""

    dataset: Any = MISSING
    backbone: Any = MISSING
    scoring_backbone: Any = None
    scorer: Any = MISSING
    sampler: Any = MISSING
    finetune: FinetuneConfig = MISSING
    proxy: ProxyConfig = MISSING
    pipeline: str = MISSING
    ratio: float = MISSING
    seed: int = MISSING
    until: str = MISSING
    gamma_search: GammaSearchConfig = MISSING
    images: ImagesConfig = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    wandb: str = MISSING
    tag: str = MISSING
    results_dir: str = MISSING


@dataclass
class GridConfig(Config):
    """Many runs of one (dataset, backbone) in one job."""

    scoring_backbone: Any = MISSING  # merged after the group's choice, which None would undo
    methods: list[str] = MISSING
    ratios: list[float] = MISSING
    seeds: list[int] = MISSING
