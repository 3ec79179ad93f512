"""How a network is trained on the pruned set, and the result of that training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.training.batch_sizes import RULES, batch_sizes

# A momentum of 1 never forgets a gradient, and a decay above 1 would raise the learning rate.
INTERVALS = {"learning_rate": "(0, 1000]", "momentum": "[0, 1)", "weight_decay": "[0, 1000]", "decay": "(0, 1]"}


@dataclass(frozen=True)
class Recipe:
    """Epochs, batches and SGD, with the keys of configs/finetune. Source: docs/method_notes.md, Fine-tuning."""

    name: str
    trained: str = "head"
    epochs: int = 50
    batch_size: int = 128
    last_batch: str = "balanced"
    learning_rate: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-5
    milestones: tuple[int, ...] = (25, 37)
    decay: float = 0.1
    views: int = 50
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        checks.choice("finetune.trained", self.trained, ("head", "all"))
        checks.choice("finetune.last_batch", self.last_batch, RULES)
        for key, least in {"epochs": 1, "batch_size": 1, "views": 0, "evaluate_every": 1}.items():
            checks.whole_number(f"finetune.{key}", getattr(self, key), least)
        for key, interval in INTERVALS.items():
            checks.number(f"finetune.{key}", getattr(self, key), interval)
        checks.fields("finetune", self)
        for milestone in self.milestones:
            checks.whole_number("each of finetune.milestones", milestone)
        if self.nesterov and self.momentum == 0:
            raise InputError("finetune.nesterov needs a momentum above 0; pass finetune.nesterov=false")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1."""
        return self.learning_rate * self.decay ** sum(epoch > milestone for milestone in self.milestones)

    def batch_sizes(self, count: int, joins_single: bool = False) -> list[int]:
        """Return the sizes of the batches of `count` images, as `batch_sizes.batch_sizes` explains them."""
        return batch_sizes(count, self.batch_size, self.last_batch, joins_single)

    def evaluates(self, epoch: int) -> bool:
        """Return whether the test set is evaluated after this epoch, counted from 1."""
        return epoch % self.evaluate_every == 0 or epoch == self.epochs


@dataclass(frozen=True)
class LogisticRecipe:
    """Logistic regression on the evaluation view, fitted once (`logistic_regression.fit`). It has no epochs or batches.

    trained: the value of `finetune.trained` that chooses it.
    """

    name: str = "logistic_regression"
    trained: ClassVar[str] = "logistic_regression"
    views: ClassVar[int] = 0
    epochs: ClassVar[int] = 1  # It has no epochs. The 1 stands for the single row of history.csv.

    def __post_init__(self) -> None:
        checks.fields("finetune", self)


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv.

    learning_rate: None for a fit without one. test_accuracy: None where the test set was not evaluated.
    """

    epoch: int
    learning_rate: float | None
    train_loss: float
    test_accuracy: float | None


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a training, evaluated on the test set.

    predictions: [N'] int64 at the last epoch. seconds: this run's share. trained_together: probes in the batch. uses:
    [n] int64, how many times each of the given images was shown. classifier: how a logistic regression was fitted.
    """

    predictions: Tensor
    history: tuple[Epoch, ...]
    seconds: float
    trained_together: int = 1
    uses: Tensor | None = None
    classifier: Mapping[str, Any] | None = None


def check_loss(loss: float, epoch: int, recipe: Recipe) -> None:
    """Stop a run whose loss is not a finite number.

    Raises:
        InputError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"the training loss is {loss} in epoch {epoch}; lower finetune.learning_rate "
            f"(now {recipe.learning_rate:g}) or check the weights"
        )
