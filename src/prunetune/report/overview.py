"""The body of `prunetune report`: print the table of all finished runs, and write it, two figures and one HTML page."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from prunetune.base.errors import InputError, suggestion
from prunetune.base.verification import refuse_damage
from prunetune.config.parse import build_dataset
from prunetune.report import collect, figures, output, page, tables
from prunetune.runs.scores import read_scores

HEADINGS = {"accuracy.png": "Accuracy over the fraction kept", "easy_and_hard.png": "Easy and hard images"}


def report(results_dir: Path, dataset: str | None, out: Path) -> None:
    """Write the report of the runs below `results_dir` into the folder `out`, and print its table and paths.

    Raises:
        InputError: there are no finished runs, or they cannot be compared in one table.
    """
    results, skipped = collect.collect_images(results_dir)
    for line in skipped:
        print(line, file=sys.stderr)
    results = _chosen(results, dataset, results_dir)
    table = tables.summary(results)
    footer = tables.footer(results)
    drawn = {"accuracy.png": figures.accuracy_curves(table)}
    try:
        drawn["easy_and_hard.png"] = easy_and_hard(results, results_dir)
    except InputError as error:  # The table can be printed without the images.
        print(f"no picture of easy and hard images: {error}", file=sys.stderr)
    written = _write(out, table, results, drawn)
    print(tables.to_text(table, footer))
    print("\n".join(f"wrote {path}" for path in written))


def easy_and_hard(results: pd.DataFrame, results_dir: Path) -> Figure:
    """Draw the easiest and hardest images of the first run that scored its pool.

    Raises:
        InputError: no run has scores, or its data or scores are missing or no longer match.
    """
    scored = results[results["scores_path"].notna() & ~results["scorer"].isin(["random", "none"])]
    if scored.empty:
        raise InputError("no run has scores; run one with scorer=dlc")
    run = scored.iloc[0]
    made_with = json.loads((results_dir / run["run"] / "result.json").read_text(encoding="utf-8"))["config"]
    pool = build_dataset(made_with["dataset"]).pool("train")
    path = results_dir / run["scores_path"]
    if path.is_file():
        refuse_damage(path.parent)
    scores = read_scores(path, pool)
    title = f"{run['dataset']}: easy and hard images, by {run['scorer']} with {run['scoring_backbone']}"
    return figures.extremes(pool, scores, title=title)


def _chosen(results: pd.DataFrame, dataset: str | None, results_dir: Path) -> pd.DataFrame:
    if results.empty:
        raise InputError(collect.no_runs(results_dir))
    if dataset is None:
        return results
    known = sorted(results["dataset"].unique())
    if dataset not in known:
        raise InputError(f"no runs of {dataset!r}; there are runs of {', '.join(known)}.{suggestion(dataset, known)}")
    return results[results["dataset"] == dataset].reset_index(drop=True)


def _write(out: Path, table: pd.DataFrame, results: pd.DataFrame, drawn: Mapping[str, Figure]) -> list[Path]:
    output.write_text(out / "table.md", tables.to_markdown(table, tables.footer(results)))
    tables.to_csv(table, out / "table.csv")
    for name, figure in drawn.items():
        output.write_figure(out / name, figure)
    page.write(out / "report.html", table, results, {HEADINGS[name]: out / name for name in drawn})
    return [out / name for name in ("table.md", "table.csv", *drawn, "report.html")]
