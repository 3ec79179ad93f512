"""The contract of a scorer: one number per sample, an image or a text, independent of ratio and sampler."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool

if TYPE_CHECKING:  # A scorer of tensors needs no network.
    from prunetune.networks.maskable import Maskable

# The variant "fixed" is the correct method. The other variants reproduce published code.
VARIANTS = ("fixed", "deepcore", "released")


class Scorer(ABC):
    """Computes [N] scores. Subclasses are frozen dataclasses of hyperparameters that learn nothing.

    A scorer asks its signals for what it reads. Most scorers read something that only images have, or only texts. A
    scorer that reads nothing serves both.

    name: the default label. higher_means: "harder", "picked earlier" or "nothing". own_sampler: what `sampler=auto`
    takes: the selection rule of the publication of the score, if it has one of its own. version: raised when scores
    change. uses_seed: whether they depend on the seed. reads_proxy: whether every setting of the scorer reads the
    proxy. reads: which of "network", "sources" and "trajectory" scores of text depend on beside the samples; it
    decides what the key of stored text scores contains. The key of image scores always contains the network. in_runs:
    values that a run's configuration has instead of `name` or a default, such as {"fraction": "${ratio}"}.

    The defaults of the fields and of these class variables (except higher_means) must be literals, since
    `prunetune.config` reads them from the source of the class.
    """

    name: ClassVar[str]
    higher_means: ClassVar[str]
    version: ClassVar[int]
    own_sampler: ClassVar[str] = "topk"
    reads_proxy: ClassVar[bool] = False
    in_runs: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[tuple[str, ...]] = ("network",)

    def __post_init__(self) -> None:
        """Check the types of the settings. A subclass checks its ranges first and then calls this method."""
        checks.fields("scorer", self)

    @property
    def uses_seed(self) -> bool:
        """Whether the scores depend on the seed."""
        return False

    @property
    def uses_proxy(self) -> bool:
        """Whether the scores depend on how the proxy is trained."""
        return self.reads_proxy or getattr(self, "features", None) == "finetuned"

    @property
    def needs_labels(self) -> bool:
        """Whether the scores mean nothing without labels. Without labels, all samples count as one class."""
        return self.uses_proxy

    @property
    def reads_images(self) -> bool:
        """Whether it runs networks over images itself, or reads their layers, instead of asking for features."""
        return False

    def masks(self, network: Any) -> Maskable | None:
        """Return the weights of a network that the scorer masks; None if it masks none.

        network: an image network (`Network`), or the `TextSignals` of a language model.

        Raises:
            InputError: too small a part of the network can be masked.
        """
        return None

    def check_network(self, network: Any) -> None:
        """Refuse a network that cannot give what the scorer reads. It is called before any pass over the samples.

        network: an image network (`Network`), or the `TextSignals` of a language model.

        Raises:
            InputError: the network lacks something that the scorer needs.
        """
        self.masks(network)

    @abstractmethod
    def score(self, pool: Pool, signals: Any, generator: torch.Generator) -> Tensor:
        """Return [N] float64 CPU, finite, in pool order.

        Args:
            pool: N samples: images, or texts, whose labels are all 0.
            signals: data that can be computed from the pool: `Signals` for images, `TextSignals` for text.
            generator: source of the scorer's random draws. It depends on the seed only if `uses_seed` is true.
        """

    def weights(self, pool: Pool, signals: Any, subset: Tensor) -> Tensor | None:
        """Return how much each kept image counts in training, [M] float64; None where all count alike.

        Weights are at least 0, and an image of weight 0 is dropped. Text runs ask for no weights.

        Args:
            pool: N images.
            signals: `Signals` of the pool.
            subset: [M] int64 positions that are kept, ascending.
        """
        return None

    def key(self) -> dict[str, Any]:
        """Return what stored scores depend on beside the samples, the network and the seed."""
        settings = dataclasses.asdict(self)  # type: ignore[call-overload]  # Every subclass is a dataclass.
        return {"scorer": type(self).__name__, "version": self.version, **settings}
