"""CAL: images whose prediction differs from those of their nearest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import class_members
from prunetune.selection.neighbours import nearest
from prunetune.signals.contract import Signals

NUMBERS_AT_ONCE = 2**22  # A chunk [n, k, C] in float64 has at most this many numbers (32 MiB).


@dataclass(frozen=True)
class CAL(Scorer):
    """Mean divergence KL(p_j, p_i) of the predictions of an image's nearest neighbours j in its class from its own.

    Source: Margatina et al. 2021 (arXiv 2109.03764): contrastive active learning, 10 neighbours in the feature space of
    the model itself; here within the class, with the proxy's last epoch. The most contrastive are kept.
    Direction: larger is harder.
    Cost: the proxy; exact neighbours, O(n^2 D) for a class of n.

    variant "deepcore" (DeepCore at commit 74ec709): (KL(p_j, p_i) + KL(p_i, p_j)) / 2, neighbours in pretrained
    features, and it keeps the LOWEST: the score is the negative mean. In its code a probability of exactly 0 gives NaN;
    here logarithms are computed from the logits and are always finite.

    variant: "fixed" or "deepcore". neighbours: how many, at most all others of the class; an image that is alone in
    its class scores 0. features: "finetuned" (the proxy's, last epoch) or "pretrained".
    """

    variant: str = "fixed"
    neighbours: int = 10
    features: str = "finetuned"

    name: ClassVar[str] = "cal"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, ("fixed", "deepcore"))
        checks.choice("scorer.features", self.features, ("finetuned", "pretrained"))
        checks.whole_number("scorer.neighbours", self.neighbours)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()
        scores = torch.zeros(len(pool), dtype=torch.float64)
        for members in class_members(pool.labels):
            if self.features == "finetuned":
                features = proxy.features(proxy.num_epochs, members)
            else:
                features = signals.features()[members]
            # [n, k]. These are positions in `members`.
            indices = nearest(features, self.neighbours, exact=True).indices
            divergences = mean_divergence(
                proxy.snapshot(proxy.num_epochs, members), indices, is_symmetric=self.variant == "deepcore"
            )
            scores[members] = -divergences if self.variant == "deepcore" else divergences
        return scores


def mean_divergence(logits: Tensor, neighbours: Tensor, is_symmetric: bool = False) -> Tensor:
    """Return the mean of KL(p_j, p_i) over the neighbours j of every image i, with p = softmax(logits).

    Args:
        logits: [n, C].
        neighbours: [n, k] int64 row indices of the neighbours; if k = 0 the mean is 0.
        is_symmetric: whether (KL(p_j, p_i) + KL(p_i, p_j)) / 2 is used instead.

    Returns:
        [n] float64, >= 0.
    """
    if neighbours.shape[1] == 0:
        return torch.zeros(len(logits), dtype=torch.float64)
    means = []
    size = max(1, NUMBERS_AT_ONCE // (neighbours.shape[1] * logits.shape[1]))
    for own, others in zip(logits.split(size), neighbours.split(size), strict=True):
        log_p = own.double().log_softmax(1).unsqueeze(1)  # [B, 1, C]
        log_q = logits[others].double().log_softmax(2)  # [B, k, C]. These belong to the neighbours.
        shares = (log_q.exp() - log_p.exp()) / 2 if is_symmetric else log_q.exp()
        # Rounding can give about -1e-17 for equal predictions, so the mean is raised to 0.
        means.append((shares * (log_q - log_p)).sum(2).mean(1).clamp_min(0))
    return torch.cat(means)
