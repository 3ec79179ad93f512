"""A table of the paper as data: grids for reading, and long rows for computing. Written as Markdown and CSV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from prunetune.report.output import write_csv
from prunetune.report.rounding import bracketed
from prunetune.report.tables import MISSING, accuracy_text, markdown_rows, points, signed

NOTHING = "-"
REFERENCES = ("random", "base model")  # Rows whose names begin with these words are not compared with random.
LABELS = ("section", "dataset", "backbone", "finetune", "method", "column")
NUMBERS = (
    *("mean", "std", "n", "low", "high", "gain", "gain_low", "gain_high", "num_pairs"),
    *("published", "difference", "published_gain"),
)
ACCURACY = "Test accuracy in %, mean ± std over seeds"
GAIN = "Percentage points above random, paired by seed, with 95 % interval"
PUBLISHED = "Published accuracy in %"
DIFFERENCE = "Ours minus published, percentage points"
PUBLISHED_GAIN = "Published, percentage points above random"
Row = dict[str, object]


@dataclass(frozen=True)
class Grid:
    """Cells as text. The first row has the headings."""

    heading: str  # Empty if the title of the section is enough.
    cells: list[list[str]]


@dataclass(frozen=True)
class Section:
    """One setting, or one mean over settings."""

    title: str
    note: str
    grids: tuple[Grid, ...]
    rows: tuple[Row, ...]  # The keys are LABELS, NUMBERS and further ones. The numbers are not rounded.


@dataclass(frozen=True)
class Table:
    """One table of the paper with our numbers."""

    name: str
    title: str
    caption: str
    sections: tuple[Section, ...]
    footer: str

    @property
    def rows(self) -> pd.DataFrame:
        """Every number of the table: one row per cell, percent and percentage points, not rounded."""
        rows = [{"section": section.title, **row} for section in self.sections for row in section.rows]
        frame = pd.DataFrame(rows)
        first = [name for name in (*LABELS, *NUMBERS) if name in frame]
        return frame[[*first, *(name for name in frame if name not in first)]]


def to_markdown(table: Table) -> str:
    """Return the table as Markdown that also reads as plain text."""
    parts = [f"## {table.title}", table.caption]
    for section in table.sections:
        parts += [f"### {section.title}", *([section.note] if section.note else [])]
        for grid in section.grids:
            parts += [*([f"{grid.heading}:"] if grid.heading else []), "\n".join(markdown_rows(grid.cells))]
    return "\n\n".join([*parts, table.footer]) + "\n"


def to_csv(table: Table, path: Path) -> None:
    """Write `rows`, with up to four decimals."""
    write_csv(path, table.rows, float_format=lambda value: f"{round(value, 4) + 0.0:g}")


def section(title: str, note: str, rows: Sequence[Row], more: Sequence[Grid] = ()) -> Section:
    """Arrange rows as grids, one per quantity, with a row per method. If there is one column, all are in one grid."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    grids = _by_quantity(rows) if len(columns) > 1 else [Grid("", _one_column(rows, str(columns[0])))]
    return Section(title, note, (*grids, *more), tuple(rows))


def matrix(rows: Sequence[Row], show: Callable[[Row], str], down: str = "method", across: str = "column") -> list:
    """Return the cells of a grid with headings, in the order of the rows. X marks a missing row."""
    shown = {(row[down], row[across]): show(row) for row in rows}
    heads = list(dict.fromkeys(row[across] for row in rows))
    sides = dict.fromkeys(row[down] for row in rows)
    first = "method" if down == "method" else "ratio"
    return [
        [first, *map(str, heads)],
        *([str(side), *(shown.get((side, head), MISSING) for head in heads)] for side in sides),
    ]


def most_seeds(rows: Sequence[Row]) -> int:
    """Return the largest number of seeds of any cell."""
    return max((int(row["n"]) for row in rows), default=0)


def gain_text(row: Row, most: int) -> str:
    """Return the difference from random with its interval, or X if no seed has both."""
    if not row["num_pairs"]:
        return MISSING
    gain = points(row["gain"], row["gain_low"], row["gain_high"])
    return gain + ("" if row["num_pairs"] == most else f" (n={row['num_pairs']})")


def interval_text(low: float, high: float) -> str:
    """Return [low, high], or a dash if there is no interval, for example with one seed."""
    return NOTHING if pd.isna(low) else bracketed(low, high)


def published_text(value: float) -> str:
    """Return a published number as it was printed."""
    return NOTHING if pd.isna(value) else f"{value:.2f}"


def difference_text(row: Row) -> str:
    """Return ours minus published: X if ours is missing, a dash if nothing comparable was published."""
    if pd.notna(row["difference"]):
        return signed(row["difference"])
    return MISSING if pd.notna(row["published"]) and not row["n"] else NOTHING


def _by_quantity(rows: Sequence[Row]) -> list[Grid]:
    most = most_seeds(rows)
    grids = [Grid(_over(most), matrix(rows, lambda row: accuracy_text(row, most)))]
    compared = _with(rows, "gain")
    if compared:
        grids.append(Grid(GAIN, matrix(compared, lambda row: gain_text(row, most))))
    published = _with(rows, "published")
    if published:
        grids.append(Grid(PUBLISHED, matrix(published, lambda row: published_text(row["published"]))))
    if _with(rows, "difference"):
        grids.append(Grid(DIFFERENCE, matrix(published, difference_text)))
    gained = _with(rows, "published_gain")
    if gained:
        grids.append(Grid(PUBLISHED_GAIN, matrix(gained, lambda row: _published_gain(row["published_gain"]))))
    return grids


def _one_column(rows: Sequence[Row], column: str) -> list[list[str]]:
    heads = ["method", f"ours ({column})", "n", "95 % interval", "above random", "95 % interval"]
    published = any(pd.notna(row["published"]) for row in rows)
    cells = [[*heads, *(["published", "ours - published"] if published else [])]]
    for row in rows:
        numbers = [accuracy_text(row, int(row["n"])), str(row["n"]), interval_text(row["low"], row["high"])]
        above = [signed(row["gain"]), interval_text(row["gain_low"], row["gain_high"])]
        above = ["-", "-"] if str(row["method"]).startswith(REFERENCES) else above
        beside = [published_text(row["published"]), difference_text(row)] if published else []
        cells.append([str(row["method"]), *numbers, *above, *beside])
    return cells


def _with(rows: Sequence[Row], key: str) -> list[Row]:
    """Return the rows of those methods that have this number in at least one row."""
    named = {row["method"] for row in rows if pd.notna(row.get(key))}
    return [row for row in rows if row["method"] in named]


def _over(most: int) -> str:
    if most > 1:
        return f"{ACCURACY} (n = {most} where not given)"
    return "Test accuracy in %, one seed" if most else "Test accuracy in %"


def _published_gain(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:+z.2f}"
