"""Learning complexity of text: response losses on networks with fewer and fewer weights, or with fewer units."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.model.weight_masking import TextMaskPath
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class DLC(Scorer):
    """The mean response-token loss, averaged over networks with 0, 20 and 36 % of each layer's weights at zero.

    Source: arXiv 2402.05356 (text); layerwise, smallest absolute values first.
    Differs from the released code, unless schedule is "released": absolute counts 0, .2, .36 instead of 0, .2, .2, and
    the output head is left as it is, so that an embedding that shares its weights is too. Either way weights are
    masked that are stored as such; the released code loads them in 8 bits, where masking is unlikely to act.
    Cost: `levels` forward passes, of "released" two, as its later networks are all the same.

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

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.masked_losses(self._path())  # [T, N]
        signals.keep("losses", losses)
        return losses.mean(dim=0)

    def _path(self) -> TextMaskPath:
        return TextMaskPath(self.schedule, self.levels, self.step, self.mask_lm_head)


@dataclass(frozen=True, kw_only=True)
class LCDropout(Scorer):
    """1 - the mean of 1 / perplexity of the response over networks with dropout.

    Source: arXiv 2402.05356v1, whose score is the mean itself, high = easy: a learning path of dropout rates .1 to .9.
    It gives neither the number of networks nor where the dropout acts: here nine, and see `with_dropout`.
    Cost: one forward pass per rate.

    rates: of the networks, each in [0, 1).
    """

    rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    name: ClassVar[str] = "lc_dropout"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    own_sampler: ClassVar[str] = "flexrand"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(self.rates))
        is_good = [isinstance(rate, int | float) and 0 <= rate < 1 for rate in self.rates]
        if not self.rates or not all(is_good) or len(set(self.rates)) < len(self.rates):
            raise InputError(f"text_scorer.rates must be different numbers in [0, 1), got {list(self.rates)}")

    @property
    def uses_seed(self) -> bool:
        """Which units are dropped is drawn."""
        return True

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.dropout_losses(self.rates, generator.initial_seed())  # [T, N]
        signals.keep("losses", losses)
        return 1 - torch.exp(-losses).mean(dim=0)
