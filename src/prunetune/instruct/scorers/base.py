"""What several text scorers share: checks of their options, and scores of an order of picks."""

import torch
from torch import Tensor

from prunetune.base.errors import InputError, suggestion


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a scorer's option that is none of the allowed ones."""
    if value not in allowed:
        raise InputError(
            f"text_scorer.{key} must be one of {', '.join(allowed)}, got {value!r}.{suggestion(str(value), allowed)}"
        )


def check_count(key: str, value: int, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"text_scorer.{key} must be a whole number of at least {least}, got {value!r}")


def in_pick_order(order: Tensor) -> Tensor:
    """Return the scores of samples that are picked in this order, [N] float64: N for the first, 1 for the last."""
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[order] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return scores


def equal_draws(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Return an order of [N] samples whose every prefix has as many of each group as of any other, or the group whole.

    Each group is shuffled, and the groups take turns: their first samples, then their second, and so on, in a drawn
    order each time. So it is for any budget what equal draws are: small groups whole, the rest shared equally.

    Args:
        groups: [N] int64, the group of each sample.
        generator: of the draws.
    """
    shuffled = torch.randperm(len(groups), generator=generator)
    by_group = shuffled[groups[shuffled].argsort(stable=True)]
    sizes = torch.bincount(groups)
    starts = sizes.cumsum(0) - sizes
    rounds = torch.empty_like(by_group)
    rounds[by_group] = torch.arange(len(groups)) - starts[groups[by_group]]  # the turn at which each sample comes
    again = torch.randperm(len(groups), generator=generator)
    return again[rounds[again].argsort(stable=True)]
