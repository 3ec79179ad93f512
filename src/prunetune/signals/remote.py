"""Features of frozen networks that other processes compute, such as the workers of a cluster."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import Passes
from prunetune.networks.masking import MaskPath
from prunetune.signals.contract import FeatureKind


@dataclass(frozen=True, eq=False)
class Asked:
    """Features that are asked for.

    pool: the N images. network: pretrained and unmasked; it is copied and not changed. passes: how it is run.
    short_side: pixels to which decoded images are shrunk, None keeps them. kind: which features. key: everything that
    they depend on, as plain JSON values. path, seed: the masks of masked features.
    """

    pool: Pool
    network: Network
    passes: Passes
    short_side: int | None
    kind: FeatureKind
    key: dict[str, Any]
    path: MaskPath | None = None
    seed: int = 0


class RemotePasses(ABC):
    """Runs frozen networks over the images of a pool in other processes.

    Each batch of `passes.batch_size` images is that of a pass in this process, so that the features are equal to its
    features on the same kind of hardware, and otherwise differ from them by rounding only.
    """

    @abstractmethod
    def features(self, asked: Asked) -> Tensor:
        """Return [N, D] float32 CPU features of the unmasked network.

        Raises:
            InputError: an image cannot be read, or the other processes fail.
        """

    @abstractmethod
    def masked_features(self, asked: Asked) -> Iterator[Tensor]:
        """Yield the [N, D] float32 CPU features of each level of the path at which weights are masked, in order.

        Raises:
            InputError: an image cannot be read, or the other processes fail.
        """
