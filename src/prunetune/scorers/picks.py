"""Pick orders: scorers that choose sets return the order in which a greedy run picks the images of each class.

One run serves every ratio, since the picks for any class budget are a prefix of the order.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from prunetune.base import checks

# A pick function maps members [n] int64 and a count to [count] int64 indices into the members, first pick first.
Pick = Callable[[Tensor, int], Tensor]


def pick_scores(labels: Tensor, depth: float, pick: Pick) -> Tensor:
    """Return (n - rank) / n for the images that are picked in a class of n, and 0 for the others.

    Args:
        labels: [N] int64.
        depth: fraction of each class that is ordered, in (0, 1]; at least one image.
        pick: orders `count` of the members [n] of one class.

    Returns:
        [N] float64 in [0, 1]; the first pick of every class has 1.
    """
    scores = torch.zeros(len(labels), dtype=torch.float64)
    for members in class_members(labels):
        size = len(members)
        order = pick(members, num_picks(size, depth))
        scores[members[order]] = (size - torch.arange(len(order), dtype=torch.float64)) / size
    return scores


def num_picks(size: int, depth: float) -> int:
    """Return how many images of a class of `size` are ordered, enough for any ratio up to `depth`."""
    return size if depth == 1 else min(size, math.floor(size * depth) + 1)


def class_members(labels: Tensor) -> list[Tensor]:
    """Return the positions of each class that occurs in labels [N], ascending int64, classes ascending."""
    order = labels.argsort(stable=True)
    return list(order.split(torch.bincount(labels)[labels.unique()].tolist()))


def check_depth(depth: float) -> None:
    """Raise an error if the depth is outside (0, 1]."""
    checks.number("scorer.depth", depth, "(0, 1]", what="the fraction of each class that is ordered")
