"""Functions that several text scorers share: scores from an order of picks, and equal draws from groups."""

import torch
from torch import Tensor


def in_pick_order(order: Tensor) -> Tensor:
    """Return scores [N] float64 for samples picked in this order: N for the first pick, 1 for the last."""
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[order] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return scores


def equal_draws(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random order of [N] samples such that every prefix has equally many samples of each group.

    Each group is shuffled. Then the groups take turns: first one sample of each, then a second one, and so on, in a new
    random order in each round. A group that is used up is skipped. So for every budget small groups are whole, and the
    other groups have equal shares.

    Args:
        groups: [N] int64, the group of each sample.
        generator: the source of the random draws.
    """
    shuffled = torch.randperm(len(groups), generator=generator)
    by_group = shuffled[groups[shuffled].argsort(stable=True)]
    sizes = torch.bincount(groups)
    starts = sizes.cumsum(0) - sizes
    rounds = torch.empty_like(by_group)
    rounds[by_group] = torch.arange(len(groups)) - starts[groups[by_group]]  # The round of each sample.
    again = torch.randperm(len(groups), generator=generator)
    return again[rounds[again].argsort(stable=True)]
