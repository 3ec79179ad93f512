"""The page of the command line, from the command `prunetune` itself and from the root configurations."""

import re
from pathlib import Path
from typing import Any

import typer

from prunetune import cli
from scripts.assets.doc_text import escaped, page, table

CONFIGS = Path(__file__).parents[2] / "configs"
# Markup of rich in help texts.
MARKUP = re.compile(r"\[/?(?:bold|italic|dim|red|green|yellow|blue|cyan|magenta)[^\]]*\]")


def commands_page() -> str:
    """Return the page of all commands, their arguments and options, and the keys of a run."""
    group = typer.main.get_command(cli.app)
    commands = [part for name in group.commands for part in _command(f"prunetune {name}", group.commands[name])]
    return page(
        "Command line",
        "`prunetune --help` lists the commands, and each has a `--help` of its own. `python -m prunetune` is the same\n"
        "command. `python run.py ...` in a checkout is `prunetune run ...`.",
        "Words after `prunetune run`, `grid` and `instruct` are read by [Hydra](https://hydra.cc): `key=value` sets a "
        "key,\n`group=choice` takes a file of a group, and `-m` in front runs every combination of values that commas "
        "separate.",
        *commands,
        "## Keys of an image run",
        "These are the defaults of `prunetune run`, with a comment on each key.",
        _yaml("config.yaml"),
        "## Keys of a grid",
        "A grid has all keys of an image run, and lists in place of method, ratio and seed.",
        _yaml("grid.yaml"),
        "## Keys of a text run",
        _yaml("instruct.yaml"),
    )


def _yaml(name: str) -> str:
    text = (CONFIGS / name).read_text(encoding="utf-8").partition("\nhydra:")[0]
    return f"```yaml\n{text.rstrip()}\n```"


def _command(name: str, command: Any) -> list[str]:
    """Return the parts of the page about one command, or about its subcommands."""
    if hasattr(command, "commands"):
        below = [part for word in command.commands for part in _command(f"{name} {word}", command.commands[word])]
        return [f"## {name}", _help(command), *(re.sub(r"^## ", "### ", part) for part in below)]
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    parts = [f"## {name}", _help(command)]
    return [*parts, table(["word", "meaning", "default"], rows)] if rows else parts


def _help(command: Any) -> str:
    return escaped(MARKUP.sub("", command.help or "")).strip()


def _row(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        words = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        value = f" {parameter.metavar}" if parameter.metavar else ""
        words = ", ".join(f"`{option}{value}`" for option in parameter.opts)
    return [words, escaped(parameter.help or ""), escaped(_default(parameter))]


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    shown = parameter.default
    return "" if shown is None or shown is False or shown == () else str(shown)
