"""Which column of a table holds the image, and which one the label."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prunetune.base.errors import InputError, suggestion
from prunetune.own.read.options import ReadOptions

# Usual names of columns, in small letters and without anything between words.
IMAGE_NAMES = frozenset(
    "image img picture photo path file filename filepath imagepath imgpath imagefile imgfile imagename imgname fname "
    "relativepath relpath sampleid imagefilename jpg png".split()
)
LABEL_NAMES = frozenset("label labels class classname category categoryname target targets y classlabel cls".split())
SPLIT_COLUMNS = frozenset("split splits subset set partition usage".split())


@dataclass(frozen=True)
class Columns:
    """The names of the columns: image, label (None: there are no labels), and what the user must know of the guess."""

    image: str
    label: str | None
    notes: tuple[str, ...] = ()


def choose_columns(names: Sequence[str], where: str, options: ReadOptions) -> Columns:
    """Return the columns that the user named or, of those not named, the only one with a usual name.

    Args:
        names: the names of all columns.
        where: what has these columns, such as "photos.csv".
        options: says which columns the user named.

    Raises:
        InputError: a named column is not there, two columns could be meant, or no column can hold the image.
    """
    rest = [name for name in names if name != options.image_column]
    label = _chosen("label", rest, LABEL_NAMES, where, options) if options.reads_labels else None
    rest = [name for name in names if name != label]
    image = _chosen("image", rest, IMAGE_NAMES, where, options)
    if image is None and len(rest) == 1:
        image = rest[0]
    if image is None:
        raise InputError(
            f"{where} has no column with a usual name for the image; it has {_listed(names)}; name it with "
            f"{options.words('image_column', '<name>')}"
        )
    return Columns(image, label, tuple(_notes(image, label, options)))


def usual(name: str, known: frozenset[str]) -> bool:
    """Return whether a column has one of the usual names."""
    return re.sub(r"[\W_]", "", str(name)).lower() in known


def _chosen(what: str, names: Sequence[str], known: frozenset[str], where: str, options: ReadOptions) -> str | None:
    given = options.image_column if what == "image" else options.label_column
    if given is not None:
        if given not in names:
            raise InputError(
                f"{where} has no column {given!r}; it has {_listed(names)}.{suggestion(given, map(str, names))}"
            )
        return given
    candidates = [name for name in names if usual(name, known)]
    if len(candidates) > 1:
        raise InputError(
            f"the columns {' and '.join(map(str, candidates))} of {where} could both be the {what}; name one with "
            f"{options.words(f'{what}_column', candidates[0])}"
        )
    return candidates[0] if candidates else None


def _notes(image: str, label: str | None, options: ReadOptions) -> list[str]:
    notes = []
    if options.image_column is None:
        notes.append(f"image column: {image}")
    if label is not None and options.label_column is None:
        notes.append(f"label column: {label}")
    return notes


def without_labels(names: Sequence[str], columns: Columns, options: ReadOptions) -> str:
    """Return a line that says that labels were looked for and not found, or an empty text.

    Args:
        names: the names of all columns.
        columns: those that were chosen.
        options: whether labels are wanted.
    """
    others = [name for name in names if name != columns.image]
    if columns.label is not None or not options.reads_labels or not others:
        return ""
    return (
        f"no label column among {_listed(others)}; the images are taken without labels "
        f"({options.words('label_column', '<name>')} names one)"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:8]))
    return f"{shown}, ..." if len(names) > 8 else shown or "none"
