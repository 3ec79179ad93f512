"""The weights of the kept images in training."""

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.samplers.base import Sampler
from prunetune.samplers.topk import TopK
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals


def weigh(scorer: Scorer, sampler: Sampler, ratio: float, signals: Signals, subset: Tensor) -> Tensor | None:
    """Return the weight of each kept image in training, [M] float64 >= 0, or None if all weigh the same.

    The weights of a scorer are valid only for its own picks. So they are used only if the scorer gives an order of
    picks and the sampler keeps the first of them (`topk`). The whole pool (ratio 1) is not weighted, so that all
    methods have the same result there. Some published methods give weight 0 to images that they drop.

    Raises:
        InputError: a weight is negative or not finite, or all weights are 0.
        TypeError: the scorer returned another shape or dtype, which is a bug of the scorer.
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
