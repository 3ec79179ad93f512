"""Distorting-based learning complexity (DLC): the mean loss of an image over masked copies of a pretrained network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.networks.masking import MaskPath
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import FeatureKind, Signals

if TYPE_CHECKING:  # A scorer that is given tensors needs no network.
    from prunetune.networks.backbone import Network
    from prunetune.networks.maskable import Maskable

SMALLEST_DISTANCE = 1e-6
ROWS = 4096  # Distances of at most this many images are held in memory at once.


@dataclass(frozen=True)
class DLC(Scorer):
    """Mean loss over T masked networks, with class means of pretrained features as the classifier.

    Source: arXiv 2402.05356 (ICLR 2025); details: docs/method_notes.md, Learning complexity. The published path is
    "2 %, ..., 98 %". The paper's ablation finds 5 networks as good as 50, so the default is 5, with the step rule of
    the released code.
    Direction: larger is harder.
    Cost: T forward passes over the pool, the first of which is the plain feature pass. No training.
    """

    # With "compound" each level masks the share `step` of the unmasked weights, and with "linear" of all weights.
    schedule: str = "compound"
    levels: int = 5  # This is T, the number of masked networks. Each one needs one forward pass over the pool.
    step: float = 0.2  # The schedule "compound" with 5 levels masks 0, 20, 36, 48.8 and 59 % of the weights.
    include_unmasked: bool = True
    # With "l1" the smallest weights are masked first. With "random" the order is drawn from the seed.
    masking: str = "l1"
    # Which layers are masked: "conv2d", "linear" or "all". None (null in a configuration) takes the backbone's default.
    mask_modules: str | None = None
    # The value "backbone" takes the pre-logits feature.
    # The value "token_collapse" takes one number per image of a ViT, as the released code does.
    pooling: str = "backbone"
    # The value is "evaluation" or "training_on_train".
    # "training_on_train" draws new crops of train images at every level, as the released code does.
    transform: str = "evaluation"

    name: ClassVar[str] = "dlc"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "flexrand"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.path(self.mask_modules or "all")
        self._kind()
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """True for random masks, because only they depend on the seed."""
        return self.masking == "random"

    def masks(self, network: Network) -> Maskable | None:
        modules = self.mask_modules or network.mask_modules
        return network.maskable(modules) if self.path(modules).masks_any else None

    def check_network(self, network: Network) -> None:
        super().check_network(network)
        if self.pooling == "token_collapse":
            network.check(network.forward_collapsed, "give one number for each image", "pass scorer.pooling=backbone")

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        path = self.path(self.mask_modules or signals.mask_modules)
        prototypes = class_means(signals.features(self._kind()), pool.labels, len(pool.classes))  # [C, D]
        levels = signals.masked_features(path, generator.initial_seed() if self.uses_seed else 0, self._kind())
        losses = torch.stack([prototype_losses(features, prototypes, pool.labels) for features in levels])  # [T, N]
        signals.keep("losses", losses)
        return learning_complexity(losses)

    def key(self) -> dict[str, Any]:
        """Return what stored scores depend on; two options of earlier versions keep older scores valid."""
        return {**super().key(), "scope": "global", "prototypes": "unmasked"}

    def path(self, modules: str) -> MaskPath:
        """Return the masks of a network whose layers of this kind are masked: "conv2d", "linear" or "all"."""
        return MaskPath(self.schedule, self.levels, self.step, self.include_unmasked, self.masking, modules)

    def _kind(self) -> FeatureKind:
        return FeatureKind(self.transform, self.pooling)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of each class, [C, D] float64 (NaN for a class without images), of features [N, D]."""
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    # Chunks avoid a float64 copy of all features.
    for rows, own in zip(features.split(ROWS), labels.split(ROWS), strict=True):
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
    column = present.cumsum(0) - 1  # [C]. This is the index of each class among the classes that have images.
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

    Args:
        losses: [T, N] cross-entropy in nats.

    Returns:
        [N] float64, >= 0. Higher means harder.
    """
    return losses.double().mean(dim=0)
