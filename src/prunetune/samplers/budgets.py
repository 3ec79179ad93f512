"""Class budgets: how many images each class keeps."""

import torch
from torch import Tensor

from prunetune.base.errors import InputError

BUDGETS = ("proportional", "equal", "drop")
ROUNDINGS = ("half_even", "largest_remainder")


def class_budgets(
    labels: Tensor,
    ratio: float,
    min_per_class: int = 1,
    rounding: str = "half_even",
    budgets: str = "proportional",
    recall: Tensor | None = None,
) -> dict[int, int]:
    """Return how many images each class keeps, for the classes that occur in labels [N].

    Source: docs/method_notes.md, Class budgets. The product n * ratio is a Python float (a float32 product rounds
    otherwise, e.g. for n = 45, ratio = 0.7), rounded half to even, then at least min_per_class and at most n. The other
    two rules distribute the same total.

    Args:
        labels: [N] int64.
        ratio: fraction of images that is kept.
        min_per_class: the least that a class keeps; a smaller class keeps all its images.
        rounding: "half_even" or "largest_remainder".
        budgets: "proportional" to the size of the class, "equal" or "drop".
        recall: [C] float64 in [0, 1] on held-out images, for "drop".

    Raises:
        InputError: budgets are "drop" without a recall for every class.
    """
    sizes = {int(label): int(count) for label, count in enumerate(torch.bincount(labels)) if count}
    return size_budgets(sizes, ratio, min_per_class, rounding, budgets, recall)


def size_budgets(
    sizes: dict[int, int],
    ratio: float,
    min_per_class: int = 1,
    rounding: str = "half_even",
    budgets: str = "proportional",
    recall: Tensor | None = None,
) -> dict[int, int]:
    """Return the same as `class_budgets`, of the number of images of each class that has any, by ascending label."""
    if rounding == "largest_remainder":
        shares = {label: size * ratio for label, size in sizes.items()}
        proportional = whole_shares(sizes, shares, round(sum(sizes.values()) * ratio), min_per_class)
    else:
        proportional = {label: min(size, max(round(size * ratio), min_per_class)) for label, size in sizes.items()}
    total = sum(proportional.values())
    if budgets == "equal":
        return equal_budgets(sizes, total)
    if budgets == "drop":
        check_recall(recall, max(sizes) + 1)
        return whole_shares(sizes, drop_shares(sizes, total, recall), total, min_per_class)
    return proportional


def same_budgets(labels: Tensor, number: int) -> dict[int, int]:
    """Return this number for each class that occurs in labels [N] int64, or its size where the class has fewer."""
    return {label: min(size, number) for label, size in enumerate(torch.bincount(labels).tolist()) if size}


def check_recall(recall: Tensor | None, num_classes: int) -> None:
    """Raise an error unless recall has one number in [0, 1] for every class."""
    fits = recall is not None and recall.ndim == 1 and len(recall) >= num_classes
    if not fits or not bool(((recall >= 0) & (recall <= 1)).all()):
        raise InputError(f"budgets by recall need {num_classes} numbers in [0, 1], one for each class, got {recall}")


def whole_shares(sizes: dict[int, int], shares: dict[int, float], total: int, least: int) -> dict[int, int]:
    """Return shares as whole numbers that meet a total: floors, then the largest remainders, ties to the lower class.

    Classes below `least` (or their size) are raised to it, and the largest budgets are lowered by as much. If all are
    at their least, the total grows.

    Args:
        sizes: images of each class.
        shares: one share for each class, at most its size. The shares sum to the total.
        total: sum of the budgets.
        least: the least that a class keeps.
    """
    budgets = {label: int(shares[label]) for label in sizes}
    by_remainder = sorted(sizes, key=lambda label: (budgets[label] - shares[label], label))
    for label in by_remainder[: max(total - sum(budgets.values()), 0)]:
        budgets[label] += 1
    floor = {label: min(size, least) for label, size in sizes.items()}
    budgets = {label: min(max(budget, floor[label]), sizes[label]) for label, budget in budgets.items()}
    while sum(budgets.values()) > total:
        payers = [label for label in budgets if budgets[label] > floor[label]]
        if not payers:
            break
        budgets[max(payers, key=lambda label: (budgets[label], -label))] -= 1
    return budgets


def equal_budgets(sizes: dict[int, int], total: int) -> dict[int, int]:
    """Return the same number for every class, at most its size; other classes get what a class cannot use.

    Budgets of classes that are not kept whole differ by at most one; lower classes get the larger ones.

    Args:
        sizes: images of each class.
        total: sum of the budgets, at most the sum of the sizes.
    """
    budgets: dict[int, int] = {}
    open_classes, rest = sorted(sizes, key=lambda label: (sizes[label], label)), total
    while open_classes and sizes[open_classes[0]] <= rest // len(open_classes):
        label = open_classes.pop(0)
        budgets[label] = sizes[label]
        rest -= sizes[label]
    for rank, label in enumerate(sorted(open_classes)):
        budgets[label] = rest // len(open_classes) + (rank < rest % len(open_classes))
    return {label: budgets[label] for label in sizes}


def drop_shares(sizes: dict[int, int], total: int, recall: Tensor) -> dict[int, float]:
    """Return what each class keeps by DRoP, not yet whole: its density is proportional to 1 - recall.

    Source: arXiv 2404.05579: d_c = d (1 - r_c) / Z with Z such that the total is met.

    Args:
        sizes: images of each class.
        total: sum of the shares, at most the sum of the sizes.
        recall: [C] float64 recall of each class on held-out images.
    """
    return difficulty_shares(sizes, total, 1.0 - recall.double())


def difficulty_shares(sizes: dict[int, int], total: int, difficulty: Tensor) -> dict[int, float]:
    """Return what each class keeps, not yet whole, if its density is proportional to its difficulty.

    A class whose density would exceed 1 is kept whole, and the others get what it cannot use in the same way. If only
    classes of difficulty 0 remain, the rest is distributed by size.

    Args:
        sizes: images of each class.
        total: sum of the shares, at most the sum of the sizes.
        difficulty: [C] float64 of at least 0.
    """
    difficulties = {label: float(difficulty[label]) for label in sizes}
    shares: dict[int, float] = {}
    open_classes, rest = set(sizes), float(total)
    while open_classes:
        weights = {label: sizes[label] * difficulties[label] for label in open_classes}
        if sum(weights.values()) <= 0:
            weights = {label: float(sizes[label]) for label in open_classes}
        scale = rest / sum(weights[label] for label in sorted(open_classes))
        full = {label for label in open_classes if scale * weights[label] >= sizes[label]}
        if not full:
            return shares | {label: scale * weights[label] for label in open_classes}
        shares |= {label: float(sizes[label]) for label in full}
        rest -= sum(sizes[label] for label in full)
        open_classes -= full
    return shares
