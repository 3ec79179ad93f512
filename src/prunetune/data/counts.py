"""Whether a data set has the numbers that its name promises; tables compare rows by that name."""

from typing import TypeVar

from prunetune.base.errors import InputError

Numbers = TypeVar("Numbers")


def check_counts(name: str, expected: Numbers, found: Numbers, fix: str) -> None:
    """Refuse a data set whose numbers differ from those of the protocol.

    Args:
        name: the name of the data set.
        expected: the numbers of the protocol; `str` gives them in words.
        found: the same kind of numbers.
        fix: what can be done about it.

    Raises:
        InputError: the numbers differ.
    """
    if found != expected:
        raise InputError(f"{name} is incomplete or another edition: expected {expected}, found {found}; {fix}")
