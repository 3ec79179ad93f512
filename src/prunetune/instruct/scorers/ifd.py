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
    GPT-2). The defaults are those of Cherry's code: the response alone follows its heading, such as "### Response:",
    and the token that ends it does not count. Superfiltering's code gives the response alone, which is
    heading=false, and its prompts have no headings, which is corpus.template=none.
    Differs from their code: response tokens are found in one tokenisation of the whole sample, so that both losses are
    means over the same tokens. Samples of 1 and above are ranked instead of dropped. The template of a corpus has a
    line break after the heading, Cherry's has none. Without BOS and heading, a response begins with EOS;
    Superfiltering leaves its first token out. Both read one turn. Here every answer of a chat is read with all that
    precedes it and with nothing but the heading that the chat template writes, and the means are over the tokens of
    all answers.
    Cost: two forward passes, the second over the responses alone.

    ratio_of: losses | perplexities. heading: whether the response alone follows its heading. end: whether the token
    that ends a response, such as EOS, counts too.
    """

    ratio_of: str = "losses"
    heading: bool = True
    end: bool = False

    name: ClassVar[str] = "ifd"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 2
    in_runs: ClassVar[dict[str, Any]] = {"name": "ifd_loss"}

    def __post_init__(self) -> None:
        checks.choice("text_scorer.ratio_of", self.ratio_of, ("losses", "perplexities"))
        super().__post_init__()

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        prompted, direct = signals.answer_losses(self.end), signals.direct_losses(self.heading, self.end)
        signals.keep("losses", torch.stack([prompted, direct]))
        ratios = prompted / direct if self.ratio_of == "losses" else torch.exp(prompted - direct)
        return below_one_first(ratios)


def below_one_first(ratios: Tensor) -> Tensor:
    """Return scores for [N] ratios >= 0. A ratio below 1 is its own score; others, and 0 / 0, score below all these."""
    ratios = ratios.nan_to_num(nan=1.0, posinf=LARGEST).clamp_max(LARGEST)
    return torch.where(ratios < 1, ratios, -ratios)
