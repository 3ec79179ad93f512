"""Pass command lines to Hydra unchanged."""

import typer
from typer.core import TyperCommand


class Untouched(TyperCommand):
    """A command that parses none of its arguments itself, not even `--help` or `--`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Put all arguments into `ctx.args`."""
        ctx.args = list(args)
        return ctx.args


def start(program: str, words: list[str]) -> None:
    """Start Hydra with these arguments. The import happens here, since Hydra is slow to import."""
    from prunetune.hydra_entry import start

    start(program, words)
