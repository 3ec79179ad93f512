"""`prunetune list`: print the choices of a run from the catalogue as a table."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prunetune.config.catalogue import Entry


class Kind(StrEnum):
    """What can be listed. It repeats `catalogue.KINDS`, since importing the catalogue would slow down `--help`."""

    SCORERS = "scorers"
    SAMPLERS = "samplers"
    METHODS = "methods"
    BACKBONES = "backbones"
    DATASETS = "datasets"
    TEXT_SCORERS = "text_scorers"
    TEXT_METHODS = "text_methods"
    CORPORA = "corpora"
    LLMS = "llms"


WIDTH = 160  # Characters per line if the output is not a terminal. At this width no name is split over two lines.


def show(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    search: Annotated[
        str | None, typer.Option("--search", "-s", metavar="WORD", help="Show only entries that contain this word.")
    ] = None,
) -> None:
    """List the choices of one kind, with a description, the cost and the source of each."""
    from prunetune.base.errors import InputError
    from prunetune.config.catalogue import entries
    from prunetune.instruct import registration  # noqa: F401  adds what text runs can name

    found = list(entries(kind, search or "").values())
    if not found:
        raise InputError(f"none of the {kind} mentions {search!r}; `prunetune list {kind}` lists them all")
    _print_table(kind, found)


def _print_table(kind: Kind, found: Sequence["Entry"]) -> None:
    """Print the entries as a table without empty columns."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = [(entry.name, entry.about, entry.cost, entry.source or _weights(entry)) for entry in found]
    columns = ["name", "about", "cost", "source"]
    kept = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, title=f"{len(found)} {kind}", title_justify="left")
    for number in kept:
        table.add_column(columns[number], no_wrap=number == 0, style="bold" if number == 0 else None)
    for row in rows:
        table.add_row(*(escape(row[number]) for number in kept))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def _weights(entry: "Entry") -> str:
    """Return where the weights of a network come from: a web page, or the name of the model in its library."""
    return str(entry.settings.get("published_at") or entry.settings.get("model") or "").replace("???", "")
