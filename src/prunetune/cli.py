"""The command `prunetune`: what it offers, and how it says that something is wrong.

Each command imports what it needs when it is called, so that help and completion answer at once.
"""

import sys

import typer

from prunetune.base.errors import InputError
from prunetune.commands import hydra_words, listing, prepare, results

RUNS, DATA, RESULTS, ABOUT = "Runs", "Data", "Results", "About"
PROGRAM = "prunetune"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # a bug keeps Python's own traceback, as under run.py
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Score a training set with a pretrained network, keep a fraction of each class, fine-tune on what is left.",
)


@app.command(cls=hydra_words.Untouched, rich_help_panel=RUNS)
def run(context: typer.Context) -> None:
    """One image run: `prunetune run dataset=dtd scorer=dlc ratio=0.1`. Every word after `run` is Hydra's."""
    hydra_words.start(f"{PROGRAM} run", context.args)


@app.command(cls=hydra_words.Untouched, rich_help_panel=RUNS)
def grid(context: typer.Context) -> None:
    """Many image runs in one job: methods, ratios and seeds. Every word after `grid` is Hydra's."""
    hydra_words.start(f"{PROGRAM} grid", ["--config-name", "grid", *context.args])


@app.command(cls=hydra_words.Untouched, rich_help_panel=RUNS)
def instruct(context: typer.Context) -> None:
    """One text run: prune instructions, fine-tune a language model. Every word after `instruct` is Hydra's."""
    hydra_words.start(f"{PROGRAM} instruct", ["--config-name", "instruct", *context.args])


app.command(rich_help_panel=RUNS)(results.status)
app.add_typer(prepare.app, name="prepare", rich_help_panel=DATA)
app.command("list", rich_help_panel=DATA)(listing.show)
app.command(rich_help_panel=RESULTS)(results.collect)
app.command(rich_help_panel=RESULTS)(results.report)
app.command(rich_help_panel=RESULTS)(results.tables)
app.command(rich_help_panel=RESULTS)(results.figures)
app.command(rich_help_panel=RESULTS)(results.analyse)
app.command(rich_help_panel=RESULTS)(results.wandb_report)


@app.command(rich_help_panel=ABOUT)
def version() -> None:
    """Print the version of prunetune."""
    from importlib.metadata import version as version_of

    print(version_of(PROGRAM))


def main() -> None:
    """Carry out the command line; bad input is one line on standard error and exit code 1."""
    try:
        app()
    except InputError as error:
        sys.exit(f"error: {error}")
