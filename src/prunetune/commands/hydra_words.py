"""Command lines that belong to Hydra: every word reaches it as it was typed."""

import typer
from typer.core import TyperCommand


class Untouched(TyperCommand):
    """A command that reads none of its words: not `--help`, no option, and no `--`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Leave all words to the command, in `ctx.args`."""
        ctx.args = list(args)
        return ctx.args


def start(program: str, words: list[str]) -> None:
    """Hand the words to Hydra."""
    from prunetune.hydra_entry import start

    start(program, words)
