"""Labels as users give them: texts or whole numbers, one for each image. Anything else is refused in one line."""

import math
import numbers
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunetune.base.errors import InputError
from prunetune.own.read.options import ReadOptions

SEPARATORS = ("|", ";", ",")
FEWEST_IDS = 20  # With fewer rows than this, a label for each of them may be meant.


@dataclass(frozen=True)
class Labels:
    """Class indices of rows, and the names of the classes.

    indices: N numbers. classes: the names in index order; each has a row. notes: lines for the user.
    """

    indices: tuple[int, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def plain(label: Any) -> Any:
    """Return a label as a Python value: an array of one number becomes that number, a text loses the blanks around."""
    if hasattr(label, "item") and math.prod(getattr(label, "shape", ())) == 1:
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    return str(label).strip() if isinstance(label, str) else label


def is_empty(label: Any) -> bool:
    """Return whether a plain label says that there is none: None, NaN, pandas' missing values, or an empty text."""
    if isinstance(label, float):
        return math.isnan(label)
    return label is None or (isinstance(label, str) and label == "") or type(label).__name__ in ("NAType", "NaTType")


def read_labels(
    labels: Sequence[Any],
    place: Callable[[int], str],
    options: ReadOptions,
    names: Sequence[str] | None = None,
    are_names: bool = False,
) -> Labels:
    """Return the classes of labels, none of which is empty.

    Args:
        labels: N texts or whole numbers.
        place: returns the name of a row for messages.
        options: says how the user names the option to read no labels.
        names: the names of the classes if the labels are indices into them.
        are_names: each text is the name of one class, whatever its letters, such as the name of a folder.

    Raises:
        InputError: a label is a float, several labels, negative or of another type than the others; or every row has a
            label of its own.
    """
    values = [_single(plain(label), place, row, options) for row, label in enumerate(labels)]
    _check_one_kind(values, place)
    if values and isinstance(values[0], str):
        if options.labels_from != "column" and not are_names:
            _check_numbers(values, place, options)
            _check_separators(values, place, options)
        return _of_texts(values, place, options)
    _check_not_negative(values, place, options)
    if names is not None and max(values, default=0) < len(names):
        return _of_named(values, [str(name) for name in names], options)
    return _of_texts([str(value) for value in values], place, options)


def _single(value: Any, place: Callable[[int], str], row: int, options: ReadOptions) -> str | int:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float | numbers.Real):
        raise InputError(
            f"{place(row)} has the label {float(value)!r}, a number with a decimal point; classes must be texts or "
            "whole numbers: convert them (1, not 1.0) if they are, or score without labels with "
            f"{options.without_labels()}"
        )
    if isinstance(value, Mapping) or hasattr(value, "__len__"):
        raise InputError(
            f"{place(row)} has several labels in one field ({_short(value)}); give one text or whole number for each "
            f"image, or score without labels with {options.without_labels()}"
        )
    raise InputError(f"{place(row)} has a label of type {type(value).__name__}; classes must be texts or whole numbers")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_one_kind(values: Sequence[str | int], place: Callable[[int], str]) -> None:
    for row, value in enumerate(values):
        if type(value) is not type(values[0]):
            raise InputError(
                f"{place(0)} has the label {values[0]!r} and {place(row)} {value!r}; give texts only or whole "
                "numbers only"
            )


def _check_not_negative(values: Sequence[int], place: Callable[[int], str], options: ReadOptions) -> None:
    for row, value in enumerate(values):
        if value < 0:
            raise InputError(
                f"{place(row)} has the label {value}, which often means 'without a label'; whole numbers must be 0 or "
                f"more: leave such rows out, or score without labels with {options.without_labels()}"
            )


def _check_numbers(values: Sequence[str], place: Callable[[int], str], options: ReadOptions) -> None:
    """Refuse texts that are all numbers if some are negative or no whole numbers."""
    read = [_number(value) for value in values]
    if None in read:
        return
    for row, (value, number) in enumerate(zip(values, read, strict=True)):
        try:
            int(value)
        except ValueError:
            _single(number, place, row, options)
    _check_not_negative([int(value) for value in values], place, options)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_separators(values: Sequence[str], place: Callable[[int], str], options: ReadOptions) -> None:
    """Refuse texts that hold several labels, such as "cat|dog", "[0, 1]" or "0 1 0"."""
    distinct = sorted(set(values))
    several = {value for value in distinct if _is_listed(value)}
    for separator in SEPARATORS:
        joined = {value: [part.strip() for part in value.split(separator)] for value in distinct}
        parts = Counter(part for split in joined.values() for part in set(split))
        shared = {value for value, split in joined.items() if len(split) > 1 and any(parts[part] > 1 for part in split)}
        # A comma may belong to a name, as in "shark, great white". Labels in all combinations have few parts.
        if separator != "," or (len(shared) > 1 and len(parts) < len(distinct)):
            several |= shared
    for row, value in enumerate(values):
        if value in several:
            raise InputError(
                f"{place(row)} has several labels in one field ({_short(value)}); give one label for each image, score "
                f"without labels with {options.without_labels()}, or take each text for a class with "
                f"{options.words('labels_from', 'column')}"
            )


def _is_listed(value: str) -> bool:
    is_bracketed = value[:1] + value[-1:] in ("[]", "()", "{}")
    tokens = value.split()
    return is_bracketed or (len(tokens) > 1 and all(token.lstrip("-").isdigit() for token in tokens))


def _of_texts(values: Sequence[str], place: Callable[[int], str], options: ReadOptions) -> Labels:
    classes = sorted_names(set(values))
    if len(classes) == len(values) >= FEWEST_IDS:
        raise InputError(
            f"each of the {len(values)} rows has a label of its own, such as {values[0]!r} of {place(0)}, so that "
            "there "
            f"is nothing to choose within a class; name another column with {options.words('label_column', '<name>')}, "
            f"or score without labels with {options.without_labels()}"
        )
    index = {name: label for label, name in enumerate(classes)}
    return Labels(tuple(index[value] for value in values), classes, _alike(classes))


def _of_named(values: Sequence[int], names: Sequence[str], options: ReadOptions) -> Labels:
    """Return labels that are indices into names; names without a row are left out, and said to be."""
    present = sorted(set(values))
    if len({names[value] for value in present}) < len(present):
        twice = next(name for name, count in Counter(names[value] for value in present).items() if count > 1)
        raise InputError(f"the class name {twice!r} occurs twice; give each class a name of its own")
    absent = [name for label, name in enumerate(names) if label not in set(present)]
    index = {value: label for label, value in enumerate(present)}
    shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    notes = (f"classes without an image: {shown}",) if absent else ()
    return Labels(tuple(index[value] for value in values), tuple(names[value] for value in present), notes)


def _alike(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note on class names that differ only in capitals."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        spelt[name.casefold()].append(name)
    alike = [" and ".join(names) for names in spelt.values() if len(names) > 1]
    return (f"classes that differ only in capitals: {', '.join(alike[:3])}",) if alike else ()


def sorted_names(names: set[str]) -> tuple[str, ...]:
    """Return class names in index order: as text, or as numbers if all of them are (2 before 10)."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
