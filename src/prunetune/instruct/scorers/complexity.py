"""Learning complexity of text: response losses of networks with masked weights or with dropped units."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.model.layers import enough_linear, enough_maskable
from prunetune.instruct.model.weight_masking import TextMaskPath
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.networks.maskable import Maskable
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class DLC(Scorer):
    """The mean response-token loss, averaged over networks with 0, 20 and 36 % of each layer's weights set to zero.

    Layers are the linear layers, and in a mixture of experts the matrices of each expert; its routers are not masked.
    Counts are rounded level by level: of 4096 weights 0, 819 and 1474 are zero, not round(0.36 * 4096) = 1475.

    Source: arXiv 2402.05356 (text); layerwise, smallest absolute values first.
    Differs from the released code, unless schedule is "released": it masks 0, 20 and 36 % instead of 0, 20 and 20 %,
    and it does not mask the output head or an embedding that shares its weights. With both schedules the weights are
    masked in bf16 or fp32; the released code loads them in 8 bits, where masking probably has no effect.
    Cost: `levels` forward passes; two for "released", since its later networks are all equal.

    schedule, levels, step, mask_lm_head: see `TextMaskPath`.
    """

    schedule: str = "compound"
    levels: int = 3
    step: float = 0.2
    mask_lm_head: bool = False

    name: ClassVar[str] = "dlc"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "flexrand"

    def __post_init__(self) -> None:
        self._path()
        super().__post_init__()

    def masks(self, network: TextSignals) -> Maskable:
        return enough_maskable(network.skeleton, network.title, self.mask_lm_head)

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.masked_losses(self._path())  # [T, N]
        signals.keep("losses", losses)
        return losses.mean(dim=0)

    def _path(self) -> TextMaskPath:
        return TextMaskPath(self.schedule, self.levels, self.step, self.mask_lm_head)


@dataclass(frozen=True, kw_only=True)
class LCDropout(Scorer):
    """One minus the mean of 1 / perplexity of the response over networks with dropout.

    Source: arXiv 2402.05356v1, where the score is the mean itself and large means easy, for dropout rates .1 to .9. It
    does not give the number of networks or where the dropout acts; here there are nine networks, see `with_dropout`.
    The paper keeps the easiest samples, as the sampler `topk_easiest` does. A mixture of experts is refused, since
    the units of its experts cannot be dropped.
    Cost: one forward pass per rate.

    rates: the dropout rate of each network, in [0, 1).
    """

    rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    name: ClassVar[str] = "lc_dropout"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "topk_easiest"

    def __post_init__(self) -> None:
        if not checks.are_numbers(self.rates, "[0, 1)") or len(set(self.rates)) < len(self.rates):
            given = list(self.rates) if isinstance(self.rates, tuple) else self.rates
            raise InputError(f"text_scorer.rates must be different numbers in [0, 1), got {given}")
        object.__setattr__(self, "rates", tuple(self.rates))
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """True, since the dropped units are drawn at random."""
        return True

    def check_network(self, network: TextSignals) -> None:
        enough_linear(network.skeleton, network.title)

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.dropout_losses(self.rates, generator.initial_seed())  # [T, N]
        signals.keep("losses", losses)
        return 1 - torch.exp(-losses).mean(dim=0)
