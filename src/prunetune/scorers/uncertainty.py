"""Uncertainty of the trained proxy: least confidence, entropy and margin.

The released code and DeepCore compute confidence instead, and differ from the papers in which end they keep. In a
variant that keeps confident images, confident images score high, so that `topk` keeps what the source keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import VARIANTS, Scorer
from prunetune.scorers.published.uncertainty import (
    ADDED,
    largest_logit,
    largest_probability,
    negative_entropy,
    with_kept_end_high,
)
from prunetune.scorers.snapshot import snapshot_statistic
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class LeastConfidence(Scorer):
    """1 - the largest probability, after the proxy's last epoch.

    Source: Lewis and Gale 1994; in pruning after arXiv 2204.08499 (DeepCore).
    Cost: one training of the proxy.
    Direction: uncertain images score high, except in the variants below.

    variant "deepcore" reads the largest logit, not the probability. With its flag "balance" (`balanced`) it keeps small
    values, without it LARGE ones; in that case it also ranks the whole pool, while here each class is ranked.
    "released" keeps the largest probabilities, that is the most confident images.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.
    # Only the variant "deepcore" reads this flag. DeepCore names it "balance", and it reverses the direction.
    balanced: bool = True

    name: ClassVar[str] = "least_confidence"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_variant(self.variant, self.balanced)
        super().__post_init__()

    def values(self, logits: Tensor) -> Tensor:
        """Return the scores [B] of logits [B, C]; each image is treated by itself."""
        confidences = {"deepcore": largest_logit, "released": largest_probability}
        return _signed(self, logits, least_confidence, confidences)

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return _at_last_epoch(self, pool, signals)


@dataclass(frozen=True)
class Entropy(Scorer):
    """The entropy of the predicted classes, after the proxy's last epoch.

    Source: Shannon entropy; in pruning after arXiv 2204.08499 (DeepCore).
    Cost: one training of the proxy.
    Direction: uncertain images score high, except in the variants below.

    variant "deepcore" sums p ln(p + 1e-6) in float32. With its flag "balance" (`balanced`) it keeps uncertain images,
    without it the CONFIDENT ones of the whole pool. "released" adds 1e-10 and keeps confident images.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.
    # Only the variant "deepcore" reads this flag. DeepCore names it "balance", and it reverses the direction.
    balanced: bool = True

    name: ClassVar[str] = "entropy"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_variant(self.variant, self.balanced)
        super().__post_init__()

    def values(self, logits: Tensor) -> Tensor:
        """Return the scores [B] of logits [B, C]; each image is treated by itself."""
        confidences = {key: lambda logits, added=added: negative_entropy(logits, added) for key, added in ADDED.items()}
        return _signed(self, logits, entropy, confidences)

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return _at_last_epoch(self, pool, signals)


@dataclass(frozen=True)
class Margin(Scorer):
    """Minus the difference between the two largest probabilities, after the proxy's last epoch.

    Source: Scheffer et al. 2001; in pruning after arXiv 2204.08499 (DeepCore).
    Cost: one training of the proxy.
    Direction: uncertain images score high, except in the variants below.

    variant "deepcore" keeps small margins with its flag "balance" (`balanced`), without it the LARGE ones of the whole
    pool. "released" keeps the largest margins.
    """

    variant: str = "fixed"  # The value "fixed" is the correct method. "deepcore" and "released" follow published code.
    # Only the variant "deepcore" reads this flag. DeepCore names it "balance", and it reverses the direction.
    balanced: bool = True

    name: ClassVar[str] = "margin"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_variant(self.variant, self.balanced)
        super().__post_init__()

    def values(self, logits: Tensor) -> Tensor:
        """Return the scores [B] of logits [B, C]; each image is treated by itself."""
        single = {key: lambda logits: probability_margin(logits.softmax(dim=1)) for key in ("deepcore", "released")}
        return _signed(self, logits, lambda z: -probability_margin(z.double().softmax(dim=1)), single)

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        return _at_last_epoch(self, pool, signals)


def least_confidence(logits: Tensor) -> Tensor:
    """Return 1 - max p of logits [B, C] as the sum of the other probabilities, which never rounds to 0; [B] float64."""
    probabilities = logits.double().softmax(dim=1)
    return probabilities.scatter(1, probabilities.argmax(dim=1, keepdim=True), 0).sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return -sum p ln p of logits [B, C] in nats, [B] float64 in [0, ln C]; a probability of 0 adds 0."""
    return torch.special.entr(logits.double().softmax(dim=1)).sum(dim=1)


def probability_margin(probabilities: Tensor) -> Tensor:
    """Return the largest probability minus the next one, [B], of probabilities [B, C].

    Raises:
        InputError: there is only one class.
    """
    if probabilities.shape[1] < 2:
        raise InputError("margin compares two classes and the pool has one; use another scorer")
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def check_variant(variant: str, balanced: bool) -> None:
    """Raise an error for an unknown variant, and for a flag that only DeepCore has."""
    checks.choice("scorer.variant", variant, VARIANTS)
    if not isinstance(balanced, bool) or (not balanced and variant != "deepcore"):
        raise InputError(f"scorer.balanced=false goes with scorer.variant=deepcore only, got variant={variant}")


def _at_last_epoch(scorer: LeastConfidence | Entropy | Margin, pool: Pool, signals: Signals) -> Tensor:
    """Return the scores [N] float64 of the logits after the proxy's last epoch."""
    proxy = signals.proxy()
    return snapshot_statistic(proxy, lambda logits, _: scorer.values(logits), pool.labels, proxy.num_epochs)


def _signed(
    scorer: LeastConfidence | Entropy | Margin,
    logits: Tensor,
    uncertainty: Callable[[Tensor], Tensor],
    confidences: dict[str, Callable[[Tensor], Tensor]],
) -> Tensor:
    """Return [B]: the uncertainty, or for a variant the confidence, signed so that kept images score high."""
    if scorer.variant == "fixed":
        return uncertainty(logits)
    return with_kept_end_high(confidences[scorer.variant](logits), scorer.variant, scorer.balanced)
