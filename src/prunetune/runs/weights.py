"""How much each kept image counts in training."""

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.samplers.base import Sampler
from prunetune.samplers.topk import TopK
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals


def weigh(scorer: Scorer, sampler: Sampler, ratio: float, signals: Signals, subset: Tensor) -> Tensor | None:
    """Return how much each kept image counts in training, [M] float64 >= 0; None where all count alike.

    A scorer's weights belong to its own picks: they are asked for where it gives an order of picks and the sampler
    takes the first of them (`topk`). The whole pool (ratio 1) is not weighted, so that it is one row for all methods.
    A published method may give 0 to what it drops.

    Raises:
        InputError: a weight is negative or no number, or all are 0.
    """
    if ratio == 1 or scorer.higher_means != "picked earlier" or not isinstance(sampler, TopK):
        return None
    weights = scorer.weights(signals.pool, signals, subset)
    if weights is None:
        return None
    if weights.dtype != torch.float64 or weights.shape != subset.shape:
        name = type(scorer).__name__
        raise TypeError(f"{name}.weights must return [M] float64, got {list(weights.shape)} {weights.dtype}")
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.any()):
        raise InputError(
            f"weights of {scorer.name} should be positive, got {weights.min():g} to {weights.max():g}; "
            "check the proxy's training or pass precision=fp32"
        )
    return weights
