"""Write the files of a report, each as a whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from prunetune.base.disk import explained
from prunetune.base.publish import new_file

if TYPE_CHECKING:  # Tables are written without loading matplotlib.
    from matplotlib.figure import Figure

ANOTHER_OUT = "pass --out FOLDER"


def write_text(path: Path, text: str, fix: str = ANOTHER_OUT) -> None:
    """Write a text in UTF-8. Missing folders are created.

    Raises:
        InputError: the disk is full or not writable. Its message ends with `fix`.
    """
    with explained(path, fix), new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Path, frame: pd.DataFrame, fix: str = ANOTHER_OUT, **options: Any) -> None:
    """Write a frame as CSV, without its index. options: of `DataFrame.to_csv`. Errors as above."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n", **options), fix)


def write_figure(path: Path, figure: "Figure", **options: Any) -> None:
    """Write a figure as the type of file that the suffix says. options: those of `Figure.savefig`. Errors as above."""
    with explained(path, ANOTHER_OUT), new_file(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), **options)
