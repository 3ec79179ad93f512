"""Confidence, which DeepCore and the released code compute instead of uncertainty."""

import numpy as np
import torch
from torch import Tensor

# The source adds this number to a probability before it takes the logarithm.
ADDED = {"deepcore": 1e-6, "released": 1e-10}


def with_kept_end_high(confidences: Tensor, variant: str, balanced: bool) -> Tensor:
    """Return confidences [N] as scores, signed so that the images that the source keeps score high.

    With its flag "balance" DeepCore keeps uncertain images. Without it, and in the released code, the most confident
    images are kept.
    """
    return -confidences if variant == "deepcore" and balanced else confidences


def largest_logit(logits: Tensor) -> Tensor:
    """Return the largest of logits [B, C], [B], which DeepCore calls confidence."""
    return logits.amax(dim=1)


def largest_probability(logits: Tensor) -> Tensor:
    """Return the largest probability of logits [B, C], [B] float32. Values near 1 can tie, as in the released code."""
    return logits.softmax(dim=1).amax(dim=1)


def negative_entropy(logits: Tensor, added: float) -> Tensor:
    """Return sum p ln(p + added) of logits [B, C], [B] float32.

    The function uses NumPy like the sources. torch rounds sums differently, and rounding decides the order of
    confident images.
    """
    probabilities = logits.softmax(dim=1).numpy()
    return torch.from_numpy((probabilities * np.log(probabilities + added)).sum(axis=1))
