"""Perplexity under the unchanged language model."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class Perplexity(Scorer):
    """The samples with the lowest, middle or highest perplexity first; which is best depends on the corpus.

    Source: arXiv 2405.20541.
    Differs from it: it reads whole texts of pretraining, which is tokens="all".
    Cost: one forward pass.

    keep: low | mid | high. mid ranks samples by their distance from the middle of the ranking of the whole corpus, so
    that a budget of M keeps the M central samples. If there are strata, each stratum keeps its samples nearest to that
    middle. tokens: "response", or "all" for all tokens but the first.
    """

    keep: str = "mid"
    tokens: str = "response"

    name: ClassVar[str] = "perplexity"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"name": "perplexity_mid"}

    def __post_init__(self) -> None:
        checks.choice("text_scorer.keep", self.keep, ("low", "mid", "high"))
        checks.choice("text_scorer.tokens", self.tokens, ("response", "all"))
        super().__post_init__()

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        losses = signals.response_losses() if self.tokens == "response" else signals.token_losses()
        signals.keep("losses", losses)
        if self.keep == "mid":
            return -distance_from_middle(losses)
        return losses if self.keep == "high" else -losses


def distance_from_middle(losses: Tensor) -> Tensor:
    """Return how far each of [N] losses is from the middle of their ranking, in ranks, [N] float64."""
    ranks = torch.empty(len(losses), dtype=torch.float64)
    ranks[losses.argsort(stable=True)] = torch.arange(len(losses), dtype=torch.float64)
    return (ranks - (len(losses) - 1) / 2).abs()
