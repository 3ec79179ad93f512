"""The command line `prunetune`: its commands, and its error messages.

A command imports what it needs only when it is called, so that help and shell completion answer quickly.
"""

import sys

import typer

from prunetune.base import disk
from prunetune.base.errors import InputError
from prunetune.commands import hydra_words, listing, prepare, prune, prune_text, results

OWN, RUNS, DATA, RESULTS, ABOUT = "Your own data", "Runs", "Data", "Results", "About"
PROGRAM = "prunetune"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # A bug shows Python's own traceback, as it does under run.py.
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Score a training set with a pretrained network, keep a fraction of each class, and fine-tune on it.",
)


@app.command(cls=hydra_words.Untouched, rich_help_panel=RUNS)
def run(context: typer.Context) -> None:
    """Start one image run, as in `prunetune run dataset=dtd scorer=dlc ratio=0.1`. The arguments are Hydra's."""
    hydra_words.start(f"{PROGRAM} run", context.args)


@app.command(cls=hydra_words.Untouched, rich_help_panel=RUNS)
def grid(context: typer.Context) -> None:
    """Start many image runs in one job, by methods, ratios and seeds. The arguments are Hydra's."""
    hydra_words.start(f"{PROGRAM} grid", ["--config-name", "grid", *context.args])


@app.command(cls=hydra_words.Untouched, rich_help_panel=RUNS)
def instruct(context: typer.Context) -> None:
    """Start one text run: prune instructions and fine-tune a language model. The arguments are Hydra's."""
    hydra_words.start(f"{PROGRAM} instruct", ["--config-name", "instruct", *context.args])


app.command(rich_help_panel=OWN)(prune.prune)
app.command("prune-text", rich_help_panel=OWN)(prune_text.prune_text)
app.command(rich_help_panel=OWN)(prune.advise)
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
    """Run the command line. Bad input or a fault of the disk prints one line on standard error; the exit code is 1."""
    try:
        with disk.one_line("pass another folder"):
            app()
    except InputError as error:
        sys.exit(f"error: {error}")
