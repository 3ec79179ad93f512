"""Distorting-based learning complexity (DLC): the mean loss of an image over masked copies of a pretrained network."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.networks.masking import MaskPath
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import FeatureKind, Signals

SMALLEST_DISTANCE = 1e-6
ROWS = 4096  # images whose distances are held at once


@dataclass(frozen=True)
class DLC(Scorer):
    """Mean loss over T masked networks, with class means of pretrained features as the classifier.

    Source: arXiv 2402.05356 (ICLR 2025); details: docs/method_notes.md, Learning complexity. The published
    path is "2 %, ..., 98 %", and its ablation finds 5 networks as good as 50: the default is 5 with the released step
    rule.
    Direction: larger is harder.
    Cost: T forward passes over the pool, the first of which is the plain feature pass. No training.
    """

    schedule: str = "compound"
    levels: int = 5
    step: float = 0.2
    include_unmasked: bool = True
    masking: str = "l1"
    scope: str = "global"
    mask_modules: str | None = None
    pooling: str = "backbone"
    transform: str = "evaluation"
    prototypes: str = "unmasked"

    name: ClassVar[str] = "dlc"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "flexrand"

    def __post_init__(self) -> None:
        if self.prototypes not in ("unmasked", "per_level"):
            raise InputError(f"scorer.prototypes must be unmasked or per_level, got {self.prototypes!r}")
        self._path(self.mask_modules or "all")
        self._kind()

    @property
    def uses_seed(self) -> bool:
        """Only a random mask depends on the seed."""
        return self.masking == "random"

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        path = self._path(self.mask_modules or signals.mask_modules)
        prototypes = class_means(signals.features(self._kind()), pool.labels, len(pool.classes))  # [C, D]
        rows = []
        for features in signals.masked_features(path, generator.initial_seed() if self.uses_seed else 0, self._kind()):
            if self.prototypes == "per_level":
                prototypes = class_means(features, pool.labels, len(pool.classes))
            rows.append(prototype_losses(features, prototypes, pool.labels))
        losses = torch.stack(rows)  # [T, N]
        signals.keep("losses", losses)
        return learning_complexity(losses)

    def _path(self, modules: str) -> MaskPath:
        return MaskPath(self.schedule, self.levels, self.step, self.include_unmasked, self.masking, self.scope, modules)

    def _kind(self) -> FeatureKind:
        return FeatureKind(self.transform, self.pooling)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of each class, [C, D] float64 (NaN for a class without images), of features [N, D]."""
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    for rows, own in zip(features.split(ROWS), labels.split(ROWS), strict=True):  # no float64 copy of all features
        sums.index_add_(0, own, rows.double())
    return sums / torch.bincount(labels, minlength=num_classes).unsqueeze(1)


def prototype_losses(features: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """Return each image's cross-entropy when the inverse distance to a prototype is the logit of its class.

    Source: arXiv 2402.05356 and its released code: logits 1 / max(||z - mu_c||, 1e-6), no temperature, no feature
    normalisation. Distances of 10 to 30 make the softmax nearly flat, so everything here is float64.

    Args:
        features: [N, D].
        prototypes: [C, D]; a row of NaN (a class without images) takes no part.
        labels: [N] int64.

    Returns:
        [N] float64 nats, >= 0.
    """
    present = ~prototypes.isnan().any(dim=1)  # [C]
    column = present.cumsum(0) - 1  # [C], where each class is found among the present ones
    centres = prototypes[present].double()
    losses = []
    for rows, row_labels in zip(features.split(ROWS), labels.split(ROWS), strict=True):
        distances = torch.cdist(rows.double(), centres)  # [B, C]
        logits = 1 / distances.clamp_min(SMALLEST_DISTANCE)
        losses.append(torch.nn.functional.cross_entropy(logits, column[row_labels], reduction="none"))
    return torch.cat(losses)


def learning_complexity(losses: Tensor) -> Tensor:
    """Average the loss of each image over the masked networks.

    Source: arXiv 2402.05356, the Monte Carlo form of the integral over the learning path.
    Differs from the released code: does not.

    Args:
        losses: [T, N] cross-entropy in nats.

    Returns:
        [N] float64, >= 0. Higher means harder.
    """
    return losses.double().mean(dim=0)
