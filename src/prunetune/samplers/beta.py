"""Beta sampling: DUAL's draw, which moves from hard to easier images as fewer are kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.samplers.base import Sampler, hardest_first

CONCENTRATION = 15.0  # The parameters of the Beta density satisfy a + b - 1 = 15.
NUM_ANCHORS = 10  # The mean probability of the images with the highest scores determines the position of the density.
EDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Beta(Sampler):
    """A draw without replacement, weighted by the DUAL score times a Beta density of the label's mean probability.

    Source: arXiv 2502.06905. b = 15 (1 - mu) (1 - r^c) and a = 16 - b, with mu the mean probability of the ten highest
    scores and r = 1 - ratio the fraction that is dropped. Differs: each class is drawn from by itself, with a mu of
    its own; probabilities are kept 1e-6 away from 0 and 1.
    Reads: the probabilities of the proxy, over the same first epochs as DUAL.
    Cost: one training of the proxy, which DUAL shares.

    power: c; with a larger c the density moves to easier images only at smaller ratios. epochs: how many of the
    proxy's first epochs are averaged; of a shorter proxy all.
    """

    name: ClassVar[str] = "beta"
    reads_hardness: ClassVar[bool] = True
    needs: ClassVar[str] = "probabilities"

    power: float = 4.0
    epochs: int = 30

    def __post_init__(self) -> None:
        checks.number("sampler.power", self.power, "(0, inf)")
        checks.whole_number("sampler.epochs", self.epochs)
        super().__post_init__()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        if bool((scores < 0).any()):
            raise InputError(f"sampler=beta needs scores of at least 0, got {scores.min():g}; pass scorer=dual")
        return draw_weighted(beta_log_weights(scores, needed, 1 - ratio, self.power), budget, generator)


def beta_log_weights(scores: Tensor, probabilities: Tensor, dropped: float, power: float) -> Tensor:
    """Return ln(score * BetaPDF(p; a, b)) up to a constant, [n] float64; -infinity for a score of 0.

    Args:
        scores: [n] float64, at least 0.
        probabilities: [n] float64 means of the label's probability.
        dropped: r, the fraction that is not kept.
        power: the exponent c.
    """
    probabilities = probabilities.double().clamp(EDGE, 1 - EDGE)
    mu = float(probabilities[hardest_first(scores)[:NUM_ANCHORS]].mean())
    b = CONCENTRATION * (1 - mu) * (1 - dropped**power)
    a = CONCENTRATION + 1 - b
    return scores.log() + (a - 1) * probabilities.log() + (b - 1) * torch.log1p(-probabilities)


def draw_weighted(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` indices drawn one after another, each in proportion to the remaining weights.

    All indices are drawn at once: the largest values of log weight + Gumbel noise have the distribution of such a draw
    (Efraimidis and Spirakis 2006).
    Weights of 0 come last, the smaller index first.

    Args:
        log_weights: [n] float64.
        count: number of draws, at most n.
        generator: source of the noise.
    """
    noise = torch.rand(len(log_weights), generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return hardest_first(log_weights - (-noise.log()).clamp_min(1e-300).log())[:count]
