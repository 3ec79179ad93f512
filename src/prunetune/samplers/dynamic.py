"""Samplers that choose anew during training; the compute is that of a subset of the same ratio."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.samplers.amount import check_ratio
from prunetune.samplers.base import Sampler, check_shapes
from prunetune.samplers.budgets import class_budgets
from prunetune.signals.contract import Signals
from prunetune.training.sample_order import SampleOrder


@dataclass(frozen=True, kw_only=True)
class DynamicSampler(Sampler):
    """Keeps the whole pool and determines the order in which a training shows it; reads no score.

    An epoch shows M images, the sum of the class budgets at the ratio, so that a training of E epochs shows M * E like
    one on a subset, under the same learning rates. Which images were shown is known afterwards: a run's subset.csv
    lists them, with the number of uses as weight, and is written with the result. With until=prune there is none.

    min_per_class and rounding only count here: they say how many images an epoch shows. budgets can only be
    proportional, since images are drawn from the whole pool.
    """

    reads_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.budgets != "proportional":
            raise InputError(
                f"{type(self).__name__} draws from the whole pool, not from its classes; "
                f"sampler.budgets must be proportional, got {self.budgets}"
            )
        super().__post_init__()

    def select(
        self, scores: Tensor, labels: Tensor, ratio: float, generator: torch.Generator, signals: Signals | None = None
    ) -> Tensor:
        """Return all positions, [N] int64."""
        check_ratio(ratio)
        check_shapes(scores, labels)
        return torch.arange(len(labels))

    def check_budgets(self) -> None:
        raise InputError(
            f"{type(self).__name__} shows a fraction of the whole pool in each epoch, not a number of images of each "
            "class; pass ratio=<fraction>"
        )

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        return torch.arange(len(scores))

    @abstractmethod
    def sample_order(self, labels: Tensor, ratio: float, epochs: int) -> SampleOrder:
        """Return the order in which training shows the images of a pool with labels [N]."""

    def images_per_epoch(self, labels: Tensor, ratio: float) -> int:
        """Return M, the number of images that an epoch shows."""
        return sum(class_budgets(labels, ratio, self.min_per_class, self.rounding).values())
