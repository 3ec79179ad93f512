"""The commands about finished runs: their status, tables, figures and reports."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[
    Path, typer.Option("--results", metavar="FOLDER", help="Folder of the results (results_dir of the runs).")
]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="What to make. By default everything that has runs.")
]
Published = Annotated[
    Path | None,
    typer.Option("--paper", metavar="FOLDER", help="Folder of published numbers.", show_default="those of the package"),
]
Dirty = Annotated[bool, typer.Option("--allow-dirty", help="Also use runs of uncommitted code.")]
Dataset = Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="Only the runs of this data set.")]
RESULTS = Path("results")


def _out(folder: str) -> typer.models.OptionInfo:
    """Return the option `--out`. Its default is the given folder below --results."""
    return typer.Option("--out", metavar="FOLDER", help="Where to write.", show_default=f"<results>/{folder}")


def _sweeps() -> list[str]:
    """Return the names of all sweeps, for shell completion."""
    from importlib.resources import files

    names = [file.name for file in (files("prunetune.configs") / "sweep").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def status(
    sweep: Annotated[str, typer.Argument(help="A preset of the group sweep, such as main.", autocompletion=_sweeps)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The overrides with which the sweep was started."),
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Count the done, failed and missing runs of a sweep.

    To run what is not done, give the command of the sweep again. Finished runs are not repeated.
    """
    from prunetune.instruct.sweeps import TEXT_RUNS
    from prunetune.runs import status

    status.show(sweep, [*(overrides or []), f"results_dir={results}"], [TEXT_RUNS])


def collect(results: Results = RESULTS) -> None:
    """Collect all finished runs into results.csv, one row per run, sorted."""
    from prunetune.base.errors import InputError
    from prunetune.report import collect

    rows, skipped = collect.collect(results)
    for line in skipped:
        print(line, file=sys.stderr)
    if rows.empty:
        raise InputError(collect.no_runs(results))
    collect.write(rows, results / "results.csv")
    print(f"{results / 'results.csv'}: {len(rows)} runs")


def report(
    dataset: Dataset = None, results: Results = RESULTS, out: Annotated[Path | None, _out("report")] = None
) -> None:
    """Print the table of all finished runs. Write the table, two figures and one HTML page."""
    from prunetune.report import overview

    overview.report(results, dataset, out or results / "report")


def tables(
    names: Names = None,
    results: Results = RESULTS,
    paper: Published = None,
    out: Annotated[Path | None, _out("tables")] = None,
    allow_dirty: Dirty = False,
) -> None:
    """Write the paper's tables with our and the published numbers, as Markdown, CSV and LaTeX."""
    from prunetune.report import paper as published
    from prunetune.report import table_files

    table_files.make(names or [], results, paper or published.FOLDER, out or results / "tables", allow_dirty)


def figures(
    names: Names = None,
    results: Results = RESULTS,
    paper: Published = None,
    analysis: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder with the files of `analyse`.", show_default="<results>/analysis"),
    ] = None,
    out: Annotated[Path | None, _out("figures")] = None,
    allow_dirty: Dirty = False,
) -> None:
    """Draw the paper's figures as PNG and PDF, from finished runs and from the files of `analyse`."""
    from prunetune.report import figure_files
    from prunetune.report import paper as published

    inputs = figure_files.Inputs(results, paper or published.FOLDER, analysis or results / "analysis", allow_dirty)
    figure_files.make(names or [], inputs, out or results / "figures")


def analyse(
    dataset: Dataset = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAME", help="Only the runs of this backbone.")] = None,
    results: Results = RESULTS,
    out: Annotated[Path | None, _out("analysis")] = None,
) -> None:
    """Compare scores and subsets of finished runs: rank correlation, losses of easy and hard images, MMD.

    It needs no network and trains nothing. Scores that are no longer in the store are named in one line and left out.
    """
    from prunetune.report import analyses

    analyses.analyse(results, dataset, backbone, out or results / "analysis")


def wandb_report(
    results: Results = RESULTS,
    name: Annotated[str, typer.Option(help="Name of the run on W&B.")] = "report",
    wandb: Annotated[
        str, typer.Option(metavar="MODE", help="Mode of W&B: auto, online, offline or disabled.")
    ] = "auto",
) -> None:
    """Send the tables and figures below --results to W&B as one run."""
    from prunetune.report import wandb_report

    print(wandb_report.log_report(results, name, wandb))
