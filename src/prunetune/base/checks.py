"""Checks of settings that a user can set wrongly. An error is one line: what was expected and what was given.

The first argument of each check is the key as the user writes it, such as "scorer.levels".
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from prunetune.base.errors import InputError, suggestion


def choice(key: str, value: Any, allowed: Sequence[str], otherwise: str = "") -> None:
    """Refuse a value that is not one of the allowed words.

    Args:
        key: the key, as the user writes it.
        value: the value that was given.
        allowed: the words that the key takes.
        otherwise: what the key also takes in another place, such as " or (in a run) auto".

    Raises:
        InputError: the value is not one of these words.
    """
    if value not in tuple(allowed):
        close = suggestion(str(value), allowed)
        words = f"{'one of ' if len(allowed) > 1 else ''}{', '.join(allowed)}"
        raise InputError(f"{key} must be {words}{otherwise}, got {value!r}{close and '.'}{close}")


def whole_number(
    key: str,
    value: Any,
    least: int | None = 1,
    most: int | None = None,
    or_none: bool = False,
    what: str = "",
    otherwise: str = "",
) -> None:
    """Refuse anything but a whole number in a range; true and false are refused too.

    Args:
        key: the key, as the user writes it.
        value: the value that was given.
        least: the smallest number that is allowed; None for no limit.
        most: the largest number that is allowed; None for no limit.
        or_none: whether None (null on the command line) is allowed too.
        what: what the number is, such as "the number of masked networks".
        otherwise: what the key also takes in another place, such as " or auto".

    Raises:
        InputError: the value is not such a number.
    """
    if (or_none and value is None) or (is_whole_number(value, least) and (most is None or value <= most)):
        return
    numbers = "" if least is None else f" of at least {least}" if most is None else f" in {least}..{most}"
    null = " or null" if or_none else ""
    raise InputError(f"{key} {_is(what)}must be a whole number{numbers}{null}{otherwise}, got {value!r}")


def number(key: str, value: Any, interval: str, or_none: bool = False, what: str = "", otherwise: str = "") -> None:
    """Refuse anything but a finite number in an interval; true and false are refused too.

    Args:
        key: the key, as the user writes it.
        value: the value that was given.
        interval: the allowed range, such as "(0, 1]"; a square bracket includes the end, and "inf" is no upper limit.
        or_none: whether None (null on the command line) is allowed too.
        what: what the number is, such as "the fraction kept".
        otherwise: what the key also takes in another place, such as " or (in a run) auto".

    Raises:
        InputError: the value is not such a number.
    """
    if (or_none and value is None) or (is_number(value) and _is_inside(value, interval)):
        return
    low, high = interval[1:-1].split(", ")
    bound = f"in {interval}" if high != "inf" else f"a number {'of at least' if interval[0] == '[' else 'above'} {low}"
    null = " or null" if or_none else ""
    raise InputError(f"{key} {_is(what)}must be {bound}{null}{otherwise}, got {value!r}")


def is_whole_number(value: Any, least: int | None = 1) -> bool:
    """Return whether this is an int of at least `least` (None: any int), and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def is_number(value: Any) -> bool:
    """Return whether this is a finite int or float, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> Any:
    """Convert a number of another library, such as NumPy, to a Python number; return anything else unchanged."""
    if isinstance(value, bool | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _is_inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(", "))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _is(what: str) -> str:
    return f"is {what} and " if what else ""
