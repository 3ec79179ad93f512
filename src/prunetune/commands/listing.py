"""`prunetune list`: what a run can name, as a table from the catalogue."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prunetune.config.catalogue import Entry


class Kind(StrEnum):
    """What can be listed: the kinds of `prunetune.config.catalogue`, whose import would cost every help a while."""

    SCORERS = "scorers"
    SAMPLERS = "samplers"
    METHODS = "methods"
    BACKBONES = "backbones"
    DATASETS = "datasets"
    TEXT_SCORERS = "text_scorers"
    TEXT_METHODS = "text_methods"
    CORPORA = "corpora"
    LLMS = "llms"


WIDTH = 160  # columns where the output is no terminal, so that a name never breaks


def show(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    search: Annotated[
        str | None, typer.Option("--search", "-s", metavar="WORD", help="Only what mentions this word.")
    ] = None,
) -> None:
    """List what a run can name: its name, one line about it, its cost and its source."""
    from prunetune.base.errors import InputError
    from prunetune.config.catalogue import entries
    from prunetune.instruct import registration  # noqa: F401  adds what text runs can name

    found = list(entries(kind, search or "").values())
    if not found:
        raise InputError(f"none of the {kind} mentions {search!r}; `prunetune list {kind}` lists them all")
    _print_table(kind, found)


def _print_table(kind: Kind, found: Sequence["Entry"]) -> None:
    """Print the entries; a column in which all are empty is left out."""
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
    """Return where the weights of a network come from: a page, or the name of its model in its library."""
    return str(entry.settings.get("published_at") or entry.settings.get("model") or "").replace("???", "")
