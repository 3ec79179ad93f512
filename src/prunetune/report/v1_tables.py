"""The tables of the first version of the paper: its method over depths and pretraining paradigms."""

from collections.abc import Iterable

import pandas as pd

from prunetune.report import cells, layout, paper
from prunetune.report import table_parts as parts
from prunetune.report.cells import places
from prunetune.report.layout import Section, Table

V1_DEPTHS = ("resnet18", "resnet50", "resnet101")
V1_PARADIGMS = {
    "resnet50_simclr": "self_simclr",
    "resnet50_in21k": "weakly_in21k_semantic_softmax",
    "resnet50_supcon": "hybrid_supcon",
}


def v1_depths(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare v1's method with its baselines over depths of ResNet."""
    chosen = _v1_runs(runs[~runs["backbone"].isin(V1_PARADIGMS)])
    published = sources.read("v1_table1_depths").set_index(["backbone", "method", "dataset"])
    sections = _v1_sections(chosen, published, dict(zip(V1_DEPTHS, V1_DEPTHS, strict=True)))
    caption = "v1's method, lc_knn with easy_diverse, over depths (Table 1 of v1): means over ratios."
    caption += _not_run(chosen, V1_DEPTHS)
    return parts.build("v1_depths", "v1: depths", caption, chosen, sections)


def v1_paradigms(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare v1's method with its baselines over pretraining paradigms of ResNet-50."""
    chosen = _v1_runs(runs[~runs["backbone"].isin(V1_DEPTHS)])
    published = sources.read("v1_table4_pretraining").set_index(["pretraining", "method", "dataset"])
    sections = _v1_sections(chosen, published, V1_PARADIGMS)
    caption = "v1's method over pretraining paradigms of ResNet-50 (Tables 2 and 4 of v1): means over ratios."
    caption += _not_run(chosen, V1_PARADIGMS)
    return parts.build("v1_paradigms", "v1: pretraining paradigms", caption, chosen, sections)


def _not_run(runs: pd.DataFrame, backbones: Iterable[str]) -> str:
    """Return a note on the backbones of the published table that have no runs."""
    lacking = [name for name in backbones if name not in set(runs["backbone"])]
    return f" Not run of the published backbones: {', '.join(lacking)}." if lacking else ""


def _v1_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of every setting in which v1's method was run, with the methods of v1's tables."""
    own = runs[(runs["scoring_backbone"] == runs["backbone"]) & (runs["tag"] == "default")]
    is_ours = (own["scorer"] == "lc_knn") & (own["sampler"] == "easy_diverse")
    return own[cells.is_of(own, own[is_ours]) & (is_ours | parts.is_baseline(own) | cells.is_random(own))]


def _v1_sections(runs: pd.DataFrame, published: pd.DataFrame, names: dict[str, str]) -> list[Section]:
    """Return a section per backbone: methods by data set, means over ratios, with the average over data sets."""
    sections = []
    for (backbone, recipe), block in runs.groupby(["backbone", "finetune"]):
        is_paper = backbone in names and bool(block["dataset"].isin(paper.V1_DATASETS).any())
        theirs = published.loc[names[backbone]] if is_paper else published.iloc[:0].droplevel(0)
        here = block[block["dataset"].isin(paper.V1_DATASETS)] if is_paper else block
        sections.append(_v1_section(f"{backbone}, {recipe}", here, theirs, is_paper, recipe in paper.V1_RECIPES))
        if is_paper and len(here) < len(block):
            other = block.drop(here.index)
            sections.append(_v1_section(f"{backbone}, {recipe}, other sets", other, theirs.iloc[:0], False, False))
    return sections


def _v1_section(title: str, block: pd.DataFrame, theirs: pd.DataFrame, is_paper: bool, comparable: bool) -> Section:
    found, backbone = cells.gather(block), block["backbone"].iloc[0]
    datasets = list(paper.V1_DATASETS) if is_paper else sorted(block["dataset"].unique())
    ratios = list(paper.RATIOS) if is_paper else sorted(block["ratio"].unique())
    columns = {name: [name] for name in datasets} | ({"average": datasets} if len(datasets) > 1 else {})
    methods = parts.rows_beside(block, list(theirs.index.get_level_values("method").unique()))
    accuracy = theirs["accuracy_pct"] if len(theirs) else pd.Series(dtype="float64")
    rows = []
    for method in methods:
        for column, over in columns.items():
            labels = {"dataset": column, "backbone": backbone, "finetune": block["finetune"].iloc[0]}
            published = parts.lookup(accuracy, (parts.published_row(method), column))
            entry = found.entry(places(method, over, [backbone], ratios), published, comparable)
            rows.append(labels | {"method": method, "column": column} | entry)
    note = f"Means over ratios {parts.listed(ratios)}."
    return layout.section(title, note, rows, [_minutes(block, methods, theirs)])


def _minutes(block: pd.DataFrame, methods: list[str], theirs: pd.DataFrame) -> layout.Grid:
    """Return the minutes of selection, averaged over all runs that exist."""
    published = theirs["selection_minutes"] if len(theirs) else pd.Series(dtype="float64")
    lines = [["method", "ours", "published"]]
    for method in methods:
        spent = parts.mean_seconds(block[block["method"] == method], complete=method in set(block["method"]))
        minutes = parts.lookup(published, (parts.published_row(method), "average"))
        lines.append([method, parts.seconds_text(spent["selection_seconds"] / 60), layout.published_text(minutes)])
    return layout.Grid("Minutes of selection, mean over runs, without decoding", lines)
