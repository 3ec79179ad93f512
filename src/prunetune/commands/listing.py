"""`prunetune list`: the scorers, samplers, methods, backbones or data sets that a run can name, as a table."""

from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    """What can be listed."""

    SCORERS = "scorers"
    SAMPLERS = "samplers"
    METHODS = "methods"
    BACKBONES = "backbones"
    DATASETS = "datasets"


WIDTH = 160  # columns where the output is no terminal, so that a name never breaks


def show(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    search: Annotated[
        str | None, typer.Option("--search", "-s", metavar="WORD", help="Only what mentions this word.")
    ] = None,
) -> None:
    """List what a run can name: its name, one line about it, its cost and its source."""
    from prunetune.base.errors import InputError
    from prunetune.commands.entries import entries

    known = entries(kind)
    found = [entry for entry in known if search is None or entry.mentions(search)]
    if not found:
        raise InputError(f"none of the {len(known)} {kind} mentions {search!r}; `prunetune list {kind}` lists them all")
    _print_table(kind, found)


def _print_table(kind: Kind, found: list) -> None:
    """Print the entries; a column in which all are empty is left out."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = [name for name in ("name", "about", "cost", "source") if any(getattr(entry, name) for entry in found)]
    table = Table(box=box.SIMPLE_HEAD, title=f"{len(found)} {kind}", title_justify="left")
    for name in columns:
        table.add_column(name, no_wrap=name == "name", style="bold" if name == "name" else None)
    for entry in found:
        table.add_row(*(escape(getattr(entry, name)) for name in columns))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)
