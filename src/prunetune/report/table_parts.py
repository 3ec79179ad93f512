"""Functions that the tables of the paper share: choosing runs, the rows of a setting, captions and footers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from prunetune.base.errors import InputError
from prunetune.report import cells, layout, paper, tables
from prunetune.report.cells import places
from prunetune.report.layout import Row, Section, Table

MEAN_OF_SHOWN = "mean"
HARD = "topk"
WEAKLY = "_weakly"
PRESETS = {"ranking": "main"}  # Maps a table to its sweep if the two have different names.
X_NOTE = "X: not run, or an average of which a cell is missing; -: not published, or no interval (one seed)."


class NoRuns(InputError):
    """A table for which there is no run to show."""


@dataclass(frozen=True)
class Sources:
    """The further inputs of a table: published numbers and rank correlations."""

    paper: Path = paper.FOLDER
    rank_correlation: pd.DataFrame = field(default_factory=pd.DataFrame)

    def read(self, name: str) -> pd.DataFrame:
        """Return one file of published numbers."""
        return paper.read(name, self.paper)


def build(name: str, title: str, caption: str, chosen: pd.DataFrame, sections: Sequence[Section]) -> Table:
    """Complete a table. The caption says how gamma was chosen and what is no reproduction; the footer lists the runs.

    Raises:
        NoRuns: nothing was chosen; the message names the sweep that makes the runs.
    """
    if chosen.empty or not sections:
        raise NoRuns(f"no runs for {name}; run `prunetune grid sweep={PRESETS.get(name, name)}`")
    rules = "; ".join(tables.selection_rules(chosen))
    about = f"{caption} Accuracy of the last epoch on test{'; ' + rules if rules else ''}."
    recipes = sorted(set(chosen["finetune"]) - {*paper.RECIPES, *paper.V1_RECIPES})
    if recipes:
        about += f" Recipe {', '.join(recipes)} is not the paper's: no difference to published numbers is formed."
    others = sorted(set(chosen["dataset"]) - set(paper.DATASETS))
    if others:
        about += f" {', '.join(others)}: not the paper's data, so no published number stands beside."
    footer = f"Made by `prunetune tables {name}`; {tables.provenance(chosen)}."
    return Table(name, title, f"{about} {X_NOTE}", tuple(sections), footer)


def is_v1(runs: pd.DataFrame) -> pd.Series:
    return runs["finetune"].isin(paper.V1_RECIPES)


def main_methods(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the published methods, their variants and random, scored by the network that is fine-tuned."""
    is_dlc = (runs["scorer"] == "dlc") & (runs["sampler"] == "flexrand") & runs["tag"].isin(["default", "g0.25"])
    is_released = (runs["scorer"] == "dlc_released") & runs["sampler"].str.startswith("flexrand")
    plain = runs["tag"] == "default"
    wanted = is_dlc | (plain & (is_baseline(runs) | is_released | cells.is_random(runs)))
    chosen = runs[wanted & (runs["scoring_backbone"] == runs["backbone"])]
    return chosen[chosen.groupby(tables.SETTING)["method"].transform("nunique") > 1]


def is_baseline(runs: pd.DataFrame) -> pd.Series:
    """Return whether each run is a published baseline, with any proxy. Other tables show DeepCore's variants."""
    known = {*paper.PUBLISHED_SCORERS} - {"dlc"}
    base = runs["scorer"].map(paper.base_scorer)
    return base.isin(known) & (runs["sampler"] == HARD) & ~runs["scorer"].str.contains("_deepcore")


def with_random(runs: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of an ablation and of random with the same settings, if the tuned backbone also scores."""
    own = runs[(runs["scoring_backbone"] == runs["backbone"]) & ~is_v1(runs)]
    return pd.concat([everything[cells.is_random(everything) & cells.is_of(everything, own)], own])


def published_row(method: str) -> str | None:
    """Return the published row that one of our rows is compared with."""
    return {("random" if pair[0] == "random" else "-".join(pair)): row for pair, row in paper.ROWS.items()}.get(method)


def rows_beside(block: pd.DataFrame, published: Sequence[str]) -> list[str]:
    """Return the rows of a section with published numbers: ours, and at least one for each published row."""
    mine = set(block["method"])
    beside = {published_row(method) for method in mine}
    lacking = {row for row in published if row not in beside}
    first = {row: pair for pair, row in reversed(paper.ROWS.items())}  # Each published row is mapped to its first pair.
    named = {"random" if row == "random" else "-".join(first[row]) for row in lacking}
    return cells.ordered(mine | named)


def setting_sections(runs: pd.DataFrame, mean: bool = False) -> list[Section]:
    """Return one section per data set and backbone: methods by ratio, and with `mean` also the mean over ratios."""
    sections = []
    for setting, block in cells.settings(runs):
        rows = setting_rows(setting, block, mean)
        sections.append(layout.section(", ".join(setting), sizes_note(block), rows))
    return sections


def setting_rows(setting: tuple[str, str, str], block: pd.DataFrame, mean: bool) -> list[Row]:
    dataset, backbone, recipe = setting
    found, ratios = cells.gather(block), sorted(block["ratio"].unique())
    columns = {f"{ratio:g}": [ratio] for ratio in ratios}
    if mean and len(ratios) > 1:
        columns[MEAN_OF_SHOWN] = ratios
    labels = {"dataset": dataset, "backbone": backbone, "finetune": recipe}
    return [
        labels | {"method": method, "column": column} | found.entry(places(method, [dataset], [backbone], averaged))
        for method in by_tag(block["method"].unique())
        for column, averaged in columns.items()
    ]


def by_tag(methods: Sequence[str]) -> list[str]:
    """Sort row names. Names of path sizes are sorted by their numbers."""

    def size(name: str) -> int:
        tag = name.rpartition("(T")[2].removesuffix(")")
        return int(tag) if "(T" in name and tag.isdigit() else -1

    return sorted(cells.ordered(methods), key=lambda name: (not name.startswith("random"), size(name)))


def sizes_note(block: pd.DataFrame) -> str:
    first = block.iloc[0]
    return (
        f"{first['num_pool']} images in {first['num_classes']} classes to prune, {first['num_test']} to test on. "
        + devices_note(block)
    )


def devices_note(block: pd.DataFrame) -> str:
    return f"Made on {', '.join(sorted(block['device'].fillna('unknown').unique()))}."


def touches_paper(block: pd.DataFrame, backbones: Sequence[str]) -> bool:
    return bool((block["dataset"].isin(paper.DATASETS) & block["backbone"].isin(backbones)).any())


def lookup(published: pd.Series, key: tuple) -> float:
    return float(published.get(key, np.nan))


def mean_seconds(runs: pd.DataFrame, complete: bool) -> dict[str, float]:
    """Return the mean seconds of each step of selection over runs. A step that a method does not have takes 0 s."""
    parts = {name: runs[f"{name}_seconds"].fillna(0).mean() for name in ("score", "search", "sample", "decode")}
    parts = {f"{name}_seconds": value if complete else np.nan for name, value in parts.items()}
    selection = parts["score_seconds"] + parts["search_seconds"] + parts["sample_seconds"]
    return parts | {"selection_seconds": selection}


def seconds_text(value: float, nothing: str = tables.MISSING) -> str:
    if pd.isna(value):
        return nothing
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
