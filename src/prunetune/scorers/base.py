"""The contract of a scorer: one number per image, independent of ratio and sampler."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.signals.contract import Signals

VARIANTS = ("fixed", "deepcore", "released")  # the correct method, and what published code does instead


class Scorer(ABC):
    """Computes [N] scores. Subclasses are frozen dataclasses of hyperparameters that learn nothing.

    name: the default label. higher_means: "harder", "picked earlier" or "nothing". own_sampler: what
    `sampler=auto` takes. version: raised when scores change. uses_seed: whether they depend on the seed.
    """

    name: ClassVar[str]
    higher_means: ClassVar[str]
    version: ClassVar[int]
    own_sampler: ClassVar[str] = "topk"

    @property
    def uses_seed(self) -> bool:
        """Whether another seed gives other scores."""
        return False

    @property
    def uses_proxy(self) -> bool:
        """Whether the scores depend on how the proxy is trained."""
        return False

    @abstractmethod
    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        """Return [N] float64 CPU, finite, in pool order."""

    def weights(self, pool: Pool, signals: Signals, subset: Tensor) -> Tensor | None:
        """Return how much each kept image counts in training, [M] float64; None where all count alike.

        Weights are at least 0, and an image of weight 0 is dropped.

        Args:
            pool: N images.
            signals: of the pool.
            subset: [M] int64 positions that are kept, ascending.
        """
        return None

    def key(self) -> dict[str, Any]:
        """Return what stored scores depend on beside the data, the backbone and the seed."""
        return {"scorer": type(self).__name__, "version": self.version, **dataclasses.asdict(self)}
