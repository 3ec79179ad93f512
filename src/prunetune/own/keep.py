"""How much is kept: a fraction of each class, a number in all, or a number of each class.

Importing this module does not import torch, so that the command can say at once what it understood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunetune.base import checks
from prunetune.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = "a fraction such as 0.2 or 20%, or a number of {things} such as 500"


@dataclass(frozen=True)
class Keep:
    """How much is kept; exactly one of the three is set.

    fraction: of each class, in (0, 1]. count: in all, distributed over the classes by their size. per_class: of each
    class; a smaller class is kept whole. things, group: what samples and classes are called; group is "" if there
    are no classes.
    """

    fraction: float | None = None
    count: int | None = None
    per_class: int | None = None
    things: str = "images"
    group: str = "class"

    def __str__(self) -> str:
        each = f"of each {self.group}" if self.group else f"of the {self.things}"
        if self.fraction is not None:
            return f"keep {100 * self.fraction:g} % {each}"
        if self.count is not None:
            plural = {"class": "classes", "stratum": "strata"}.get(self.group)
            return f"keep {self.count} in all" + (f", distributed over the {plural} by their size" if plural else "")
        return f"keep {self.per_class} {each}"

    def budgets(self, labels: Tensor, rounding: str = "largest_remainder") -> dict[int, int]:
        """Return how many samples each class keeps, for the classes that occur in labels [N].

        A fraction keeps at least one of each class. A count keeps at least one of each class if it is as large as the
        number of classes.

        Raises:
            InputError: the count is larger than N.
        """
        sizes = {label: count for label, count in enumerate(labels.bincount().tolist()) if count}
        return self.size_budgets(sizes, rounding)

    def size_budgets(self, sizes: dict[int, int], rounding: str = "largest_remainder") -> dict[int, int]:
        """Return the same as `budgets`, of the number of samples of each class that has any, by ascending label.

        Raises:
            InputError: the count is larger than the number of all samples.
        """
        from prunetune.samplers.budgets import size_budgets, whole_shares

        total = sum(sizes.values())
        if self.fraction is not None:
            return size_budgets(sizes, self.fraction, rounding=rounding)
        if self.per_class is not None:
            return {label: min(size, self.per_class) for label, size in sizes.items()}
        if self.count > total:
            raise InputError(f"there are {total} candidates, so that {self.count} cannot be kept; keep fewer")
        shares = {label: size * self.count / total for label, size in sizes.items()}
        return whole_shares(sizes, shares, self.count, least=int(self.count >= len(sizes)))


def understood(
    keep: Any,
    ratio: Any = None,
    per_class: Any = None,
    words: tuple[str, str, str] | None = None,
    things: str = "images",
    group: str = "class",
) -> Keep:
    """Return what was asked for: exactly one of the three.

    A value with a % or a decimal point is a fraction in (0, 1]. A whole number is a count.

    Args:
        keep: a fraction or a count: a number, or a text such as "0.2", "20%" or "500".
        ratio: a fraction, the other name of `keep`.
        per_class: a count for each class.
        words: how the user writes these three; by default as in Python.
        things: what the samples are called, in the plural.
        group: what a class is called, "class" or "stratum"; "" if there are no classes.

    Raises:
        InputError: none or several are given, or the value is no such number.
    """
    names = words or ("keep", "ratio", "per_class")
    given = [name for name, value in zip(names, (keep, ratio, per_class), strict=True) if value is not None]
    if len(given) != 1:
        what = f"got {' and '.join(given)}" if given else "got none"
        raise InputError(
            f"exactly one of {', '.join(names)} says how much is kept, {what}; {names[0]} takes "
            f"{EXAMPLES.format(things=things)}"
        )
    if per_class is not None:
        return Keep(per_class=_count(per_class, names[2]), things=things, group=group)
    value, name = (keep, names[0]) if keep is not None else (ratio, names[1])
    is_fraction, number = _parsed(value, name, EXAMPLES.format(things=things))
    if not is_fraction and ratio is None:
        return Keep(count=_count(number, name), things=things, group=group)
    if not 0 < number <= 1:
        hint = ""
        if number > 1 and number == int(number) and name == names[0]:
            hint = f"; for a number of {things} write {number:g} without a decimal point"
        raise InputError(f"{name} as a fraction must be above 0 % and at most 100 %, got {_shown(value)}{hint}")
    return Keep(fraction=float(number), things=things, group=group)


def _parsed(value: Any, name: str, examples: str) -> tuple[bool, float | int]:
    """Return whether a value is a fraction, and the number."""
    number = checks.plain(value)
    if isinstance(number, str):
        text = number.strip()
        digits = text.removesuffix("%").rstrip()
        try:
            number = int(digits) if digits.lstrip("+-").isdecimal() else float(digits)
        except ValueError:
            comma = "; write a decimal point, not a comma" if "," in text else ""
            raise InputError(f"{name} must be {examples}, got {_shown(value)}{comma}") from None
        if text.endswith("%"):
            return True, number / 100
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise InputError(f"{name} must be {examples}, got {_shown(value)}")
    return isinstance(number, float), number


def _count(value: Any, name: str) -> int:
    number = checks.plain(value)
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    if not checks.is_whole_number(number, least=1):
        raise InputError(f"{name} must be a whole number of at least 1, got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
