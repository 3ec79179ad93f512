"""Every configuration key of an image run or a grid, and its type.

The default values are in the YAML files, so nearly every field is MISSING here.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

NO_DATASET = {"subpool": None}  # The chosen data set is merged into this, so that every one has the key, also a user's.


@dataclass
class FinetuneConfig:
    """How to fine-tune on the pruned set (docs/method_notes.md, Fine-tuning)."""

    name: str = MISSING
    trained: str = MISSING  # head | all | logistic_regression. With the last one all keys below are null.
    epochs: int | None = MISSING
    batch_size: int | None = MISSING
    last_batch: str | None = MISSING  # balanced | keep | drop
    learning_rate: float | None = MISSING
    momentum: float | None = MISSING
    nesterov: bool | None = MISSING
    weight_decay: float | None = MISSING
    milestones: list[int] | None = MISSING  # The learning rate is multiplied by decay after these epochs.
    decay: float | None = MISSING
    views: int | None = MISSING  # Augmented views per image (frozen backbone). 0: train on the evaluation view.
    evaluate_every: int | None = MISSING  # Test every so many epochs. The last epoch is always tested.


@dataclass
class ProxyConfig:
    """How to train the proxy network that EL2N, forgetting and others read (docs/method_notes.md, Baselines)."""

    name: str = MISSING
    trained: str = MISSING  # head | all
    initial: str = MISSING  # pretrained | random
    augment: bool = MISSING
    record: str = MISSING  # epoch_end | online
    epochs: int = MISSING
    batch_size: int = MISSING
    last_batch: str = MISSING  # balanced | keep | drop
    learning_rate: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    milestones: list[int] = MISSING
    decay: float = MISSING


@dataclass
class GammaSearchConfig:
    """How to choose for sampler.gamma=auto, sampler.beta=auto and sampler=topk_flexible, without the test set."""

    grid: list[float] = MISSING
    betas: list[float] = MISSING
    repeats: int = MISSING
    held_out: float = MISSING
    keeps: str = MISSING  # number | fraction
    views: int = MISSING


@dataclass
class ImagesConfig:
    """How decoded images are stored."""

    short_side: int | None = MISSING  # null keeps their size. 256 saves disk space but deviates from the paper.


@dataclass
class Config:
    """One image run."""

    dataset: Any = field(default_factory=lambda: dict(NO_DATASET))
    backbone: Any = MISSING
    scoring_backbone: Any = None
    scorer: Any = MISSING
    sampler: Any = MISSING
    finetune: FinetuneConfig = MISSING
    proxy: ProxyConfig = MISSING
    pipeline: str = MISSING
    ratio: Any = MISSING  # float, or a text such as 4_per_class
    seed: int = MISSING
    until: str = MISSING
    gamma_search: GammaSearchConfig = MISSING
    images: ImagesConfig = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    engine: str = MISSING  # local | ray
    ray_address: str | None = MISSING
    wandb: str = MISSING
    tag: str = MISSING
    results_dir: str = MISSING


@dataclass
class GridConfig(Config):
    """Many runs of one (dataset, backbone) in one job."""

    # MISSING: the defaults of `Config` would overwrite the chosen groups.
    dataset: Any = MISSING
    scoring_backbone: Any = MISSING
    methods: list[str] = MISSING
    ratios: list[Any] = MISSING
    seeds: list[int] = MISSING
