"""The longest responses."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.instruct.scorers.base import TextScorer
from prunetune.instruct.scorers.signals import TextSignals


@dataclass(frozen=True, kw_only=True)
class Longest(TextScorer):
    """The number of response tokens.

    Source: arXiv 2402.04833.
    Cost: none, the tokens are there.
    """

    name: ClassVar[str] = "longest"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def score(self, signals: TextSignals, generator: torch.Generator) -> Tensor:
        return signals.encoded.response_lengths.double()

    def signals_key(self, signals: TextSignals) -> dict[str, Any]:
        """The tokens alone; no model is read."""
        return {"corpus": signals.encoded.fingerprint}
