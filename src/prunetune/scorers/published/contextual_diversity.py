"""Contextual Diversity: the picks of DeepCore and of the released code."""

import torch
from torch import Tensor


def published_picks(probabilities: Tensor, first: int, count: int) -> Tensor:
    """Return DeepCore's picks, [count] int64; argmax returns the first NaN before any number, as there.

    Source: DeepCore at commit 74ec709. The released code picks in the same way.

    Args:
        probabilities: [n, C] float32.
        first: the first pick.
        count: number of picks, at most n.
    """
    # [n]. An entry becomes NaN where a probability is exactly 0.
    nearest = torch.full((len(probabilities),), torch.inf)
    order = torch.empty(count, dtype=torch.int64)
    order[0] = first
    for i in range(1, count):
        nearest = torch.minimum(nearest, _published_divergences(probabilities, probabilities[order[i - 1]]))
        nearest[order[:i]] = -1
        order[i] = nearest.argmax()
    return order


def _published_divergences(probabilities: Tensor, centre: Tensor) -> Tensor:
    """Return [n] float32 symmetric divergences of probabilities [n, C] from a centre [C]; exact zeros give NaN."""
    forth = 0.5 * centre * torch.log(centre / probabilities)
    back = 0.5 * probabilities * torch.log(probabilities / centre)
    return (forth + back).sum(dim=1)
