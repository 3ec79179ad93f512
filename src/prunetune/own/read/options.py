"""How a user's data are read, and what is done with rows and files that cannot be read."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prunetune.base import checks, words
from prunetune.base.errors import InputError
from prunetune.base.words import Words
from prunetune.data.images.rule import DecodeRule

log = logging.getLogger(__name__)
OF_TABLES = ("split", "image_column", "label_column", "root")
OF_SOME = (*OF_TABLES, "hold_out")  # Only some forms of data have a use for these options.
# Maps each layout of `OwnData` to what such data are called, and to those of OF_SOME that they have a use for.
USES = {
    "folders": ("a folder of images without a list of labels", ("split", "hold_out")),
    "flat": ("a folder of images without a list of labels", ("split",)),
    "table": ("a table", OF_TABLES),
    "list": ("a list of images", ("root",)),
    "parquet": ("parquet files", OF_TABLES),
    "webdataset": ("tar archives", ("split", "label_column")),
    "hugging_face": ("a Hugging Face dataset", ("split", "image_column", "label_column")),
    "dataset": ("a dataset of torch", ("image_column", "label_column")),
    "arrays": ("arrays of images", ()),
    "embeddings": ("embeddings", ()),
}
LABELS_FROM = ("auto", "folders", "column", "none")
ON_ERROR = ("stop", "skip")
MOST_NAMED = 50  # One message names at most this many rows or files. A WARNING each names the others.


@dataclass(frozen=True)
class ReadOptions:
    """How data are read. None, or "auto": the reader finds out and says what it found.

    split: which splits are candidates, by their names, separated by commas, or "all". By default the training split if
    the data have splits. image_column, label_column: columns of a table, keys of items, or columns of a dataset. root:
    the folder that the paths of a table start from; by default the folder of the table. labels_from: "folders" takes
    each folder of DATA for a class, whatever its name; "column" takes each text of the label column for a class, as it
    is written; "none" reads no labels. max_pixels: an image with more pixels is refused. exif: turn an image as its
    EXIF orientation says. leave_out: a folder inside DATA that is not read, such as the one that is written to.
    hold_out: the fraction of each class of a folder that is set aside; the folder is then read as a run reads it with
    dataset=image_folder. None: nothing is set aside.
    on_error: "stop" refuses data of which a row or file cannot be read, "skip" leaves these out. words: how the door
    that was used writes its options.
    """

    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    root: Path | str | None = None
    labels_from: str = "auto"
    max_pixels: int = DecodeRule.max_pixels
    exif: bool = True
    leave_out: Path | None = None
    hold_out: float | None = None
    on_error: str = "stop"
    words: Words = field(default=words.python, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks.choice(self._key("labels_from"), self.labels_from, LABELS_FROM)
        checks.choice(self._key("on_error"), self.on_error, ON_ERROR)
        checks.whole_number(self._key("max_pixels"), self.max_pixels)
        if self.hold_out is not None:
            checks.number(self._key("hold_out"), self.hold_out, "(0, 1)")

    def _key(self, name: str) -> str:
        """Return the name of an option as the door writes it."""
        return words.command(name, "") if self.words is words.command else name

    @property
    def rule(self) -> DecodeRule:
        """How image files become pixels."""
        return DecodeRule(exif=self.exif, max_pixels=self.max_pixels)

    @property
    def reads_labels(self) -> bool:
        """Whether labels are wanted."""
        return self.labels_from != "none"

    def without_labels(self) -> str:
        """Return what the user types to score images without labels."""
        return self.words("labels_from", "none")


def check_used(options: ReadOptions, layout: str) -> None:
    """Refuse an option that the data have no use for: the user expects something else of it, or of the data.

    Args:
        options: how the data were read.
        layout: what the data are, as in `OwnData`.

    Raises:
        InputError: an option has no use. The message names it.
    """
    what, used = USES[layout]
    unused = [name for name in OF_SOME if name not in used and getattr(options, name) is not None]
    if options.labels_from == ("column" if layout in ("folders", "flat") else "folders"):
        unused.append("labels_from")
    if unused:
        option = options.words(unused[0], str(getattr(options, unused[0])))
        raise InputError(f"{option} is of no use for {what}; leave it out")


def leave_out(bad: Mapping[str, str], total: int, what: str, options: ReadOptions) -> None:
    """Refuse data with bad rows or files, unless they are to be left out.

    Args:
        bad: maps the name of each bad row or file to the reason.
        total: how many rows or files there are.
        what: what they are, in the plural: "rows" or "images".
        options: says what is done with them.

    Raises:
        InputError: there are bad ones and `options.on_error` is "stop"; it names them all.
    """
    if not bad or options.on_error == "skip":
        return
    more = ""
    if len(bad) > MOST_NAMED:
        more = f", and {len(bad) - MOST_NAMED} more, which the log names"
        for name, reason in list(bad.items())[MOST_NAMED:]:
            log.warning("cannot read %s (%s)", name, reason)
    raise InputError(
        f"{len(bad)} of {total} {what} cannot be read: {by_reason(dict(list(bad.items())[:MOST_NAMED]))}{more}; repair "
        f"or remove them, or leave them out with {options.words('on_error', 'skip')}"
    )


def by_reason(bad: Mapping[str, str]) -> str:
    """Return names with their reasons, each reason once: "a.jpg, b.jpg (no such file), c.jpg (it is a folder)"."""
    names: dict[str, list[str]] = {}
    for name, reason in bad.items():
        names.setdefault(reason, []).append(name)
    return ", ".join(f"{', '.join(same)} ({reason})" for reason, same in names.items())
