"""The table of selection time and accuracy."""

import numpy as np
import pandas as pd

from prunetune.report import cells, layout, paper
from prunetune.report import table_parts as parts
from prunetune.report.cells import Cell, places
from prunetune.report.layout import Row, Section, Table


def time(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare methods by the seconds of selection and by accuracy."""
    chosen = parts.main_methods(runs[~runs["backbone"].str.endswith(parts.WEAKLY) & ~parts.is_v1(runs)])
    source = sources.read("fig1_time_accuracy").set_index("method")
    sections = []
    for recipe, block in chosen.groupby("finetune"):
        if parts.touches_paper(block, paper.BACKBONES):
            where = [Cell("", *place[1:]) for place in places("", paper.DATASETS, paper.BACKBONES, paper.RATIOS)]
            title = f"mean over the published data sets, backbones and ratios, {recipe}"
            sections.append(_time_section(title, block, where, source, recipe in paper.RECIPES))
    for (dataset, backbone, recipe), block in cells.settings(chosen):
        where = places("", [dataset], [backbone], sorted(block["ratio"].unique()))
        title = f"{dataset}, {backbone}, {recipe}, mean over ratios {parts.listed(block['ratio'].unique())}"
        sections.append(_time_section(title, block, where, source.iloc[:0], False))
    caption = (
        "Seconds of selection (scoring, search for gamma, sampling; decoding apart) against accuracy (Fig. 1 of v2). "
        "`x dlc`: selection time as a multiple of that of the first dlc row, whose published value is 35 for most "
        "baselines; with the search it includes probes that the published time has not."
    )
    return parts.build("time", "Selection time and accuracy", caption, chosen, sections)


def _time_section(
    title: str, block: pd.DataFrame, where: list[Cell], source: pd.DataFrame, comparable: bool
) -> Section:
    found = cells.gather(block)
    rows = []
    for method in parts.rows_beside(block, list(source.index)):
        at = [cell.of(method) for cell in where]
        row = parts.published_row(method)
        theirs = source.loc[row] if row in source.index else pd.Series(dtype="float64")
        labels = {"dataset": "", "backbone": "", "finetune": "", "method": method, "column": "mean"}
        entry = found.entry(at, theirs.get("accuracy_pct", np.nan), comparable)
        spent = parts.mean_seconds(block[block["method"] == method], complete=entry["n"] > 0)
        rows.append(labels | entry | spent | {"published_seconds": theirs.get("selection_seconds", np.nan)})
    _add_multiples(rows, source)
    note = parts.sizes_note(block) if block["dataset"].nunique() == 1 else parts.devices_note(block)
    return Section(title, note, (layout.Grid("", _time_cells(rows)),), tuple(rows))


def _add_multiples(rows: list[Row], source: pd.DataFrame) -> None:
    """Add the time of each method as a multiple of the time of dlc: ours, ours with decoding, published."""
    dlc = next((row for row in rows if str(row["method"]).startswith("dlc-flexrand") and row["n"]), None)
    own = np.nan if dlc is None else dlc["selection_seconds"]
    decoded = np.nan if dlc is None else own + dlc["decode_seconds"]
    published = source["selection_seconds"].get(paper.OURS, np.nan) if len(source) else np.nan
    for row in rows:
        row["times_dlc"] = row["selection_seconds"] / own
        row["times_dlc_decoding"] = (row["selection_seconds"] + row["decode_seconds"]) / decoded
        row["published_times_dlc"] = row["published_seconds"] / published


def _time_cells(rows: list[Row]) -> list[list[str]]:
    most = layout.most_seeds(rows)
    heads = ["method", "accuracy", "score s", "search s", "sample s", "selection s", "x dlc", "decode s"]
    heads.append("x dlc with decoding")
    with_paper = any(pd.notna(row["published"]) for row in rows)
    lines = [[*heads, *(["published accuracy", "published s", "published x dlc"] if with_paper else [])]]
    keys = ("score_seconds", "search_seconds", "sample_seconds", "selection_seconds")
    for row in rows:
        cells_ = [parts.seconds_text(row[key]) for key in keys]
        cells_ += [
            parts.seconds_text(row["times_dlc"]),
            parts.seconds_text(row["decode_seconds"]),
            parts.seconds_text(row["times_dlc_decoding"]),
        ]
        if with_paper:
            cells_ += [layout.published_text(row["published"]), parts.seconds_text(row["published_seconds"], "-")]
            cells_.append(parts.seconds_text(row["published_times_dlc"], "-"))
        lines.append([str(row["method"]), layout.accuracy_text(row, most), *cells_])
    return lines
