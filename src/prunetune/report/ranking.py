"""Methods ranked over the settings that all of them have."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunetune.report import layout, statistics, tables
from prunetune.report.layout import Grid, Row, Section

BLOCK = ["dataset", "backbone", "ratio", "seed"]
# A data set and backbone with a smaller fraction of the methods is left out, since it belongs to another comparison.
COMPARED = 0.5
# A method with a smaller fraction of random's blocks is left out. Otherwise the blocks that it lacks would be lost.
COVERAGE = 0.9
HEADS = ["method", "mean rank", "above random", "95 % interval (bootstrap)", "p against random (Nemenyi)"]


def sections(runs: pd.DataFrame) -> list[Section]:
    """Return two rankings for each recipe: over data sets, ratios and seeds, and over data sets alone."""
    parts = []
    for recipe, block in runs.groupby("finetune"):
        compared, apart = comparisons(block)
        complete, left_out = blocks(compared)
        if complete.shape[1] < 2 or complete.empty:
            continue
        note = f" Left out, with less than nine tenths of random's blocks: {', '.join(left_out)}." if left_out else ""
        note += f" Left out, with less than half of the methods: {', '.join(apart)}." if apart else ""
        by_set = complete.groupby(level=["dataset", "backbone"]).mean()
        about = "blocks of data set, backbone, ratio and seed"
        parts.append(_section(f"{recipe}: {len(complete)} {about}", complete, recipe, note))
        if len(by_set) > 1:
            about = "blocks of data set and backbone (means over ratios and seeds)"
            parts.append(_section(f"{recipe}: {len(by_set)} {about}", by_set, recipe, note))
    return parts


def comparisons(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs on those data sets and backbones that have most of the methods, and the names of the others."""
    methods = runs.groupby(["dataset", "backbone"])["method"].nunique()
    apart = methods[methods < COMPARED * runs["method"].nunique()].index
    is_apart = pd.MultiIndex.from_frame(runs[["dataset", "backbone"]]).isin(apart)
    return runs[~is_apart], [f"{dataset} with {backbone}" for dataset, backbone in apart]


def blocks(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return percent by block and method for blocks that every method has, and the methods that were left out."""
    table = runs.pivot_table(index=BLOCK, columns="method", values="percent")
    if "random" not in table:
        return table.iloc[:0], []
    table = table[table["random"].notna()]
    covered = table.notna().mean()
    left_out = sorted(covered[covered < COVERAGE].index)
    return table.drop(columns=left_out).dropna(), left_out


def _section(title: str, table: pd.DataFrame, recipe: str, note: str) -> Section:
    found = statistics.ranking(table)
    pairs = statistics.nemenyi(found)["random"] if pd.notna(found.p_value) else found.ranks * np.nan
    rows = [_row(method, table, found, pairs, recipe) for method in found.ranks.sort_values(kind="stable").index]
    test = "Friedman: does not apply (fewer than three methods or two blocks, or all tied)."
    if pd.notna(found.p_value):
        test = f"Friedman: chi-square {found.statistic:.1f}, p {_p_text(found.p_value)}, {len(found.ranks)} methods."
    return Section(title, test + note, (Grid("", [HEADS, *map(_cells, rows)]),), tuple(rows))


def _row(method: str, table: pd.DataFrame, found: statistics.Ranking, pairs: pd.Series, recipe: str) -> Row:
    labels = {"finetune": recipe, "method": method, "mean_rank": found.ranks[method], "num_blocks": found.num_blocks}
    above = statistics.estimate([])
    if method != "random":
        above = statistics.bootstrap_difference(table[method], table["random"])
    gain = {"gain": above.mean, "gain_low": above.low, "gain_high": above.high, "p_nemenyi": pairs[method]}
    return labels | gain | {"p_friedman": found.p_value}


def _cells(row: Row) -> Sequence[str]:
    rank = f"{row['mean_rank']:.2f}"
    if row["method"] == "random":
        return ["random", rank, "-", "-", "-"]
    interval = layout.interval_text(row["gain_low"], row["gain_high"])
    p_value = tables.MISSING if pd.isna(row["p_nemenyi"]) else _p_text(row["p_nemenyi"])
    return [str(row["method"]), rank, layout.signed(row["gain"]), interval, p_value]


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
