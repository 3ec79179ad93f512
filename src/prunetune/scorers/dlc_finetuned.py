"""DLC of a fine-tuned model: the mean loss of an image over masked copies of the proxy, judged by its own head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from prunetune.data.pool import Pool
from prunetune.networks.masking import MaskPath
from prunetune.scorers.base import Scorer
from prunetune.scorers.dlc import learning_complexity
from prunetune.signals.contract import Signals
from prunetune.signals.label_odds import label_losses
from prunetune.signals.proxy import ProbeProxy

if TYPE_CHECKING:  # A scorer that is given tensors needs no network.
    from prunetune.networks.backbone import Network
    from prunetune.networks.maskable import Maskable

ROWS = 4096  # Logits of at most this many images are held in memory at once.


@dataclass(frozen=True)
class DLCFinetuned(Scorer):
    """Mean cross-entropy over T masked copies of the proxy after its last epoch; the head is not masked.

    Source: arXiv 2402.05356, an ablation in its authors' unpublished copy: masks on the fully fine-tuned model, and its
    own head instead of class means. It needs a training.
    Direction: larger is harder.
    Cost: one training of the proxy and T forward passes over the pool. With a linear-probe proxy the masked network is
    the pretrained one, and the passes are those of DLC.
    """

    # With "compound" each level masks the share `step` of the unmasked weights, and with "linear" of all weights.
    schedule: str = "compound"
    levels: int = 5  # This is T, the number of masked networks. Each one needs one forward pass over the pool.
    step: float = 0.2  # The schedule "compound" with 5 levels masks 0, 20, 36, 48.8 and 59 % of the weights.
    include_unmasked: bool = True
    # With "l1" the smallest weights are masked first. With "random" the order is drawn from the seed.
    masking: str = "l1"
    # The value null takes the default of the backbone. The others are "conv2d", "linear" and "all".
    mask_modules: str | None = None

    name: ClassVar[str] = "dlc_finetuned"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "flexrand"
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._path(self.mask_modules or "all")
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """True for random masks, because only they depend on the seed."""
        return self.masking == "random"

    def masks(self, network: Network) -> Maskable | None:
        modules = self.mask_modules or network.mask_modules
        return network.maskable(modules) if self._path(modules).masks_any else None

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()
        path, seed = self._path(self.mask_modules or signals.mask_modules), generator.initial_seed()
        if isinstance(proxy, ProbeProxy):
            levels = signals.masked_features(path, seed if self.uses_seed else 0)
        else:
            levels = signals.masked_features_of(proxy.model(proxy.num_epochs)[0], path, seed)
        weight, bias = proxy.head(proxy.num_epochs)
        losses = torch.stack([head_losses(features, weight, bias, pool.labels) for features in levels])  # [T, N]
        signals.keep("losses", losses)
        return learning_complexity(losses)

    def key(self) -> dict[str, Any]:
        """Return what stored scores depend on; an option of earlier versions keeps older scores valid."""
        return {**super().key(), "scope": "global"}

    def _path(self, modules: str) -> MaskPath:
        return MaskPath(self.schedule, self.levels, self.step, self.include_unmasked, self.masking, modules)


def head_losses(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Return each image's cross-entropy under a linear head, [N] float64 nats.

    Args:
        features: [N, D] float32.
        weight: [C, D] weights of the head.
        bias: [C] biases of the head.
        labels: [N] int64.
    """
    losses = []
    for rows, row_labels in zip(features.split(ROWS), labels.split(ROWS), strict=True):
        logits = torch.addmm(bias, rows, weight.T)  # [B, C]
        losses.append(label_losses(logits.unsqueeze(0), row_labels)[0])
    return torch.cat(losses)
