"""Uncertainty: what DeepCore and the released code number instead of it, their confidence."""

import numpy as np
import torch
from torch import Tensor

ADDED = {"deepcore": 1e-6, "released": 1e-10}  # to a probability before its logarithm


def with_kept_end_high(confidences: Tensor, variant: str, balanced: bool) -> Tensor:
    """Return confidences [N] as scores: the end that the source keeps is high.

    DeepCore keeps the uncertain end where its flag balance is set; without it, and in the released code, the most
    confident images are kept.
    """
    return -confidences if variant == "deepcore" and balanced else confidences


def largest_logit(logits: Tensor) -> Tensor:
    """Return the largest of logits [B, C], [B]: what DeepCore calls confidence."""
    return logits.amax(dim=1)


def largest_probability(logits: Tensor) -> Tensor:
    """Return the largest probability of logits [B, C], [B] float32: near 1 it has ties, as in the released code."""
    return logits.softmax(dim=1).amax(dim=1)


def negative_entropy(logits: Tensor, added: float) -> Tensor:
    """Return sum p ln(p + added) of logits [B, C], [B] float32.

    By NumPy, as the sources do it: its sums round otherwise than torch's, and the confident end is all rounding.
    """
    probabilities = logits.softmax(dim=1).numpy()
    return torch.from_numpy((probabilities * np.log(probabilities + added)).sum(axis=1))
