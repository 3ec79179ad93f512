"""Instruction-following difficulty (IFD): how much the prompt helps to predict the response."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer

LARGEST = 1e300  # Infinite ratios are replaced by this number, since scores must be finite.


@dataclass(frozen=True, kw_only=True)
class IFD(Scorer):
    """Loss (or perplexity) of the response with its prompt, divided by that without it; the highest below 1 first.

    At 1 or above the prompt does not help, so prompt and response probably do not belong together. These samples come
    last, in ascending order.

    Source: arXiv 2308.12032 ("Cherry", ratio of losses) and 2402.00530 ("Superfiltering", ratio of perplexities, by
    GPT-2).
    Differs from their code: response tokens are found in one tokenisation of the whole sample, and the response without
    prompt begins with BOS (or EOS if there is none), so that both losses are means over the same tokens.
    Cost: two forward passes, the second over the responses alone.

    ratio_of: losses | perplexities.
    """

    ratio_of: str = "losses"

    name: ClassVar[str] = "ifd"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"name": "ifd_loss"}

    def __post_init__(self) -> None:
        checks.choice("text_scorer.ratio_of", self.ratio_of, ("losses", "perplexities"))
        super().__post_init__()

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        prompted, alone = signals.response_losses("prompted"), signals.unprompted_losses()
        signals.keep("losses", torch.stack([prompted, alone]))
        ratios = prompted / alone if self.ratio_of == "losses" else torch.exp(prompted - alone)
        return below_one_first(ratios)


def below_one_first(ratios: Tensor) -> Tensor:
    """Return scores for [N] ratios >= 0. A ratio below 1 is its own score; others, and 0 / 0, score below all these."""
    ratios = ratios.nan_to_num(nan=1.0, posinf=LARGEST).clamp_max(LARGEST)
    return torch.where(ratios < 1, ratios, -ratios)
