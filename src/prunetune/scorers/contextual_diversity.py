"""Contextual Diversity: farthest-first picks by the difference between the predictions of the proxy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import VARIANTS, Scorer
from prunetune.scorers.k_center import Metric, farthest_first, first_centre
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.scorers.published.contextual_diversity import published_picks
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class ContextualDiversity(Scorer):
    """Farthest-first order of each class by symmetric KL divergence between the proxy's predicted probabilities.

    Source: arXiv 2008.05723; the distance is (KL(p, q) + KL(q, p)) / 2, here from log-softmax in float64. The first
    image of each class is drawn, keyed by seed and class name.
    Differs: `deepcore` and `released` take logarithms of float32 probabilities without an epsilon: a probability of
    exactly 0 makes distances NaN, which their argmax returns first, so that from there on the smallest positions
    are picked. The order they pick in is reproduced; the scores are finite.
    Direction: larger is picked earlier.
    Cost: a proxy, its logits at the last epoch, then O(n * picks * C) time; 4 * n * C float64 of a class in memory.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.
    depth: float = 1.0  # This fraction of each class is ordered. It must be at least the largest ratio of any run.

    name: ClassVar[str] = "contextual_diversity"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, VARIANTS)
        check_depth(self.depth)
        super().__post_init__()

    @property
    def uses_seed(self) -> bool:
        """The first image of each class is drawn."""
        return True

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()

        def pick(members: Tensor, count: int) -> Tensor:
            first = first_centre(pool, members, generator.initial_seed())
            logits = proxy.snapshot(proxy.num_epochs, members)
            if self.variant == "fixed":
                return farthest_first(symmetric_divergences(logits), len(members), first, count)
            return published_picks(logits.softmax(dim=1), first, count)

        return pick_scores(pool.labels, self.depth, pick)


def symmetric_divergences(logits: Tensor) -> Metric:
    """Return a metric that gives (KL(p, q) + KL(q, p)) / 2 in nats, float64, for softmaxes of logits [n, C]."""
    # Logarithms computed from logits are finite even where the probability underflows to 0.
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    negative_entropies = (p * log_p).sum(dim=1)  # [n]

    def metric(rows: Tensor | slice, centres: Tensor) -> Tensor:
        crossed = p[rows] @ log_p[centres].T + log_p[rows] @ p[centres].T  # [rows, b]
        own = negative_entropies[rows].unsqueeze(1) + negative_entropies[centres]
        return ((own - crossed) / 2).clamp_min_(0)

    return metric
