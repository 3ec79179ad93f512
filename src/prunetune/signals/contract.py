"""What a scorer or sampler may ask about images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError

if TYPE_CHECKING:  # A scorer that is given tensors needs neither networks nor proxies.
    from prunetune.data.pool import Pool
    from prunetune.networks.backbone import Network
    from prunetune.networks.masking import MaskPath
    from prunetune.signals.proxy import Proxy, ProxyRecipe


@dataclass(frozen=True)
class FeatureKind:
    """Which features are meant.

    transform "training_on_train": images of the train split pass the training transform anew at every level, as in
    the released code. pooling "token_collapse": the released code's single number per image for token networks.
    """

    transform: str = "evaluation"
    pooling: str = "backbone"

    def __post_init__(self) -> None:
        checks.choice("scorer.transform", self.transform, ("evaluation", "training_on_train"))
        checks.choice("scorer.pooling", self.pooling, ("backbone", "token_collapse"))


PLAIN = FeatureKind()


class Signals(ABC):
    """Features of the N images of one pool, computed when asked for and charged in `seconds`."""

    def __init__(self, pool: Pool | None) -> None:
        self.pool = pool
        self.products: dict[str, Tensor] = {}  # These tensors of a scorer are stored beside its scores.
        # Each value is the time in seconds that a signal cost when it was computed, in any run.
        self.charges: dict[str, float] = {}
        # Each value is the time in seconds that this process itself waited for a signal.
        self.spent: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds that the signals asked for so far cost when they were computed."""
        return sum(self.charges.values())

    @abstractmethod
    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        """Return [N, D] float32 CPU features of the unmasked network."""

    @abstractmethod
    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        """Yield T tensors [N, D] float32 CPU, one at a time: the features at each level of the path.

        `path.modules` must be conv2d, linear or all; `mask_modules` gives the choice of the backbone.
        """

    def seconds_of_features(self) -> float:
        """Return the seconds that `features()` cost when they were computed; 0 for tensors computed elsewhere."""
        return 0.0

    @abstractmethod
    def proxy(self, repeat: int = 0, until: int | None = None, logits_only: bool = False) -> Proxy:
        """Return one training of the run's proxy on this pool; it is trained when it is first asked for.

        Args:
            repeat: the number of the training; another number gives another head, order and crops.
            until: how many of the recipe's first epochs are needed; by default all. Only these are charged.
            logits_only: features and network of epoch `until` are not needed, so that any longer recording serves.
        """

    def images(self, positions: Tensor | None = None) -> Iterator[Tensor]:
        """Yield batches [B, 3, S, S] uint8 of the evaluation view, of all images or of some positions [n] int64.

        Raises:
            InputError: these signals came as tensors and have no images.
        """
        raise InputError("this scorer reads images; pass a folder or a data set instead of tensors")

    def per_image(
        self, key: dict[str, Any], function: Callable[[Iterator[Tensor], Tensor], Tensor], description: str
    ) -> Tensor:
        """Return the value of a function for each image, [N] float64 CPU.

        If there is a store, it keeps finished parts, so that an interrupted run continues from there.

        Args:
            key: all that the values depend on, except the images, the backbone and the proxy, as plain JSON values.
            function: batches as `images` yields them, and the positions [n] int64 of their rows, to [n] float64 CPU.
            description: what is computed, for the progress line.

        Raises:
            InputError: these signals came as tensors and have no images.
        """
        images = self.images()
        assert self.pool is not None  # Signals without a pool have no images either.
        return function(images, torch.arange(len(self.pool)))

    def layer_features(self) -> Iterator[Tensor]:
        """Yield features of four layers of growing depth, [N, D_l] float32 CPU each, one at a time.

        Raises:
            InputError: these signals have no network.
        """
        raise InputError("this scorer reads the layers of a network; pass a folder or a data set instead of tensors")

    def masked_features_of(
        self, network: Network, path: MaskPath, seed: int = 0, positions: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield T tensors [n, D] float32 CPU of another network of the same kind, such as a proxy's; none is stored.

        Args:
            network: the network, which is masked in place, level by level, and restored at the end.
            path: the masks; `path.modules` must be conv2d, linear or all.
            seed: the seed of random masks.
            positions: [n] int64, the images; by default all.

        Raises:
            InputError: these signals came as tensors and have no images.
        """
        raise InputError("this scorer reads images; pass a folder or a data set instead of tensors")

    def collapsed_features(self) -> Tensor:
        """Return the features after the proxy's last epoch with tokens collapsed, [N, 1] or [N, D] float32 CPU.

        For a token network this is the released code's single number per image, for others the features. Signals that
        came as tensors have no network: they return the proxy's features unchanged.
        """
        proxy = self.proxy()
        return proxy.features(proxy.num_epochs)

    def class_recall(self) -> Tensor:
        """Return the recall of each class on held-out pool images, [C] float64: linear probes on a part of the pool."""
        if self.pool is None:
            raise InputError("the recall of each class needs labels; pass pool=... beside the features")
        # This import loads the training code, which few samplers need.
        from prunetune.signals.class_recall import held_out_recall

        return held_out_recall(self.features(), self.pool.labels, len(self.pool.classes))

    @property
    def mask_modules(self) -> str:
        """The kind of modules that are masked by default, as the backbone sets it."""
        return "all"

    @property
    def device(self) -> str:
        """The device on which networks run; a proxy's network must be moved there."""
        return "cpu"

    @property
    def network(self) -> Network | None:
        """The pretrained network that made the features; None for features that came as tensors."""
        return None

    @property
    @abstractmethod
    def proxy_recipe(self) -> ProxyRecipe:
        """How `proxy` trains."""

    def keep(self, name: str, tensor: Tensor) -> None:
        """Store a tensor beside the scores, as `<name>.npy`."""
        self.products[name] = tensor
