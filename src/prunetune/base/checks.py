"""Checks of settings that a user can set wrongly. An error is one line: what was expected and what was given.

The first argument of each check is the key as the user writes it, such as "scorer.levels". Every number has a largest
value, also where none is named: 1e23 images per batch or a learning rate of 1e30 is a slip of the pen, and it would
otherwise end in an overflow somewhere in a library.
"""

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any

from prunetune.base.errors import InputError, suggestion

MOST_COUNTED = 2**31 - 1  # Numbers of images, epochs and so on must fit into 32 bits, as some libraries require.
SEEDS = (-(2**63), 2**63 - 1)  # The result files are read back into columns of 64-bit numbers.
LARGEST = 1e9  # No setting that is a real number has a meaning beyond this value.
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def fields(group: str, settings: Any) -> None:
    """Refuse a field of a dataclass whose value does not have the type of its annotation.

    A whole number is also accepted as a real one, a list as a tuple, and a path as a text. A class calls this at the
    end of its `__post_init__`, after the checks of its ranges, whose messages say more.

    Args:
        group: the key of the settings, as the user writes it, such as "scorer".
        settings: an instance of a dataclass. Anything else passes, and so does a field whose annotation cannot be
            evaluated, as in a user's own class that imports a type for type checkers only.

    Raises:
        InputError: a field has a value of another type, or a number that no setting has.
    """
    for name, kind in _kinds(type(settings)).items():
        value = getattr(settings, name)
        if not _fits(value, kind):
            raise InputError(f"{group}.{name} must be {_described(kind)}, got {value!r}")


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
        least: the smallest number that is allowed; None for a seed, which may be any number of 64 bits.
        most: the largest number that is allowed; None for `MOST_COUNTED`.
        or_none: whether None (null on the command line) is allowed too.
        what: what the number is, such as "the number of masked networks".
        otherwise: what the key also takes in another place, such as " or auto".

    Raises:
        InputError: the value is not such a number.
    """
    low, high = (SEEDS[0] if least is None else least), most
    if high is None:
        high = SEEDS[1] if least is None else MOST_COUNTED
    if (or_none and value is None) or (is_whole_number(value, low) and value <= high):
        return
    numbers = "" if least is None else f" of at least {least}" if most is None else f" in {least}..{most}"
    if is_whole_number(value, None) and (value > high or least is None):
        numbers = f" in {low}..{high}"
    null = " or null" if or_none else ""
    raise InputError(f"{key} {_is(what)}must be a whole number{numbers}{null}{otherwise}, got {value!r}")


def number(key: str, value: Any, interval: str, or_none: bool = False, what: str = "", otherwise: str = "") -> None:
    """Refuse anything but a finite number in an interval; true and false are refused too.

    Args:
        key: the key, as the user writes it.
        value: the value that was given.
        interval: the allowed range, such as "(0, 1]"; a square bracket includes the end, and "inf" stands for
            `LARGEST`, where there is no natural limit.
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
    if high == "inf" and is_number(value) and value > LARGEST:
        bound += f" and at most {LARGEST:g}"
    null = " or null" if or_none else ""
    raise InputError(f"{key} {_is(what)}must be {bound}{null}{otherwise}, got {value!r}")


def is_whole_number(value: Any, least: int | None = 1) -> bool:
    """Return whether this is an int of at least `least` (None: any int), and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def is_number(value: Any) -> bool:
    """Return whether this is a finite int or float, and not true or false."""
    # math.isfinite() raises an error for an int of more than 308 digits.
    return is_whole_number(value, None) or (isinstance(value, float) and math.isfinite(value))


def are_numbers(values: Any, interval: str, count: int | None = None) -> bool:
    """Return whether this is a list of numbers that `number` accepts, `count` of them (None: at least one)."""
    if not isinstance(values, list | tuple) or not values or count not in (None, len(values)):
        return False
    return all(is_number(value) and _is_inside(value, interval) for value in values)


def plain(value: Any) -> Any:
    """Convert a number of another library, such as NumPy, to a Python number; return anything else unchanged."""
    if isinstance(value, bool | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _is_inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(", "))
    above = value >= low if interval[0] == "[" else value > low
    if high == math.inf:
        return above and value <= LARGEST
    return above and (value <= high if interval[-1] == "]" else value < high)


def _is(what: str) -> str:
    return f"is {what} and " if what else ""


@functools.cache
def _kinds(settings_class: type) -> dict[str, Any]:
    """Return the evaluated annotation of every field of a dataclass."""
    if not dataclasses.is_dataclass(settings_class):
        return {}
    try:
        hints = typing.get_type_hints(settings_class)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(settings_class)}


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if kind is int:
        return is_whole_number(value, SEEDS[0]) and value <= SEEDS[1]
    if kind is float:
        return is_number(value) and abs(value) <= LARGEST
    if kind is str:
        return isinstance(value, str | os.PathLike)
    # Any other annotation, such as a type variable, says nothing that could be checked here.
    return isinstance(value, origin or kind) if isinstance(origin or kind, type) else True


def _described(kind: Any) -> str:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, UnionType):
        return " or ".join(map(_described, arguments))
    if typing.get_origin(kind) is tuple:
        return f"a list of {PLURALS.get(arguments[0], 'values')}"
    return WORDS.get(kind) or f"a {getattr(typing.get_origin(kind) or kind, '__name__', kind)}"
