"""One function per table of the paper, which shows our runs beside the published numbers.

Functions in IMAGE_TABLES read the frame of `cells.prepared`, and those in TEXT_TABLES the collected rows of text runs.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from prunetune.report import cells, layout, paper
from prunetune.report import ranking as rankings
from prunetune.report import table_parts as parts
from prunetune.report.ablation_tables import ablation_gamma, ablation_masking, ablation_path, ablation_sampler
from prunetune.report.cells import places
from prunetune.report.instruction_tables import instruction, v1_llm
from prunetune.report.layout import Section, Table
from prunetune.report.time_table import time
from prunetune.report.v1_tables import v1_depths, v1_paradigms

RATIO_BLOCKS = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (0.7, 0.8, 0.9))
TRANSFER_RATIOS = (0.3, 0.6, 0.9)
TRANSFER_BACKBONES = ("resnet50", "vit_small", "vit_base")


def main(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare the methods of the main figure, by ratio."""
    chosen = parts.main_methods(runs[~runs["backbone"].str.endswith(parts.WEAKLY) & ~parts.is_v1(runs)])
    published = sources.read("fig_main_accuracy").set_index(["method", "dataset", "ratio"])["accuracy_pct"]
    sections = _mean_over_backbones(chosen, paper.BACKBONES, published, [(ratio,) for ratio in paper.RATIOS])
    caption = (
        "Main comparison (main figure of arXiv 2402.05356 v2), by fraction of each class kept. The figure does not "
        "state its backbone; its numbers fit a mean over the four fully supervised backbones, so they stand beside "
        "that mean only."
    )
    return parts.build("main", "Main comparison", caption, chosen, [*sections, *parts.setting_sections(chosen)])


def weakly(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare the same methods with weakly pretrained backbones, by block of ratios."""
    chosen = parts.main_methods(runs[runs["backbone"].str.endswith(parts.WEAKLY) & ~parts.is_v1(runs)])
    source = sources.read("slides_weak_pretraining")
    published = source.set_index(["method", "dataset", "ratio_min"])["accuracy_pct"]
    backbones = [f"{name}{parts.WEAKLY}" for name in paper.BACKBONES]
    sections = _mean_over_backbones(chosen, backbones, published, RATIO_BLOCKS)
    caption = (
        "Weakly pretrained backbones (ICLR 2025 slides, on the pretraining data): means over blocks of three ratios. "
        "The slides state no backbones; the mean over the four weakly pretrained ones is set beside them."
    )
    return parts.build(
        "weakly", "Weakly pretrained backbones", caption, chosen, [*sections, *parts.setting_sections(chosen)]
    )


def transfer(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare subsets scored by another network with those scored by the one that is fine-tuned."""
    elsewhere = runs[(runs["scoring_backbone"] != runs["backbone"]) & ~parts.is_v1(runs)]
    pairs = set(elsewhere[["scorer", "sampler"]].itertuples(index=False, name=None))
    is_named = pd.Series(list(zip(runs["scorer"], runs["sampler"], strict=True)), index=runs.index).isin(pairs)
    chosen = runs[cells.is_of(runs, elsewhere) & (is_named | cells.is_random(runs))]
    chosen = chosen[chosen["tag"] == "default"]
    caption = (
        "Small networks that score for large ones (ICLR 2025 slides). Rows name the network that scored where it is "
        "not the one that is fine-tuned. The slides do not state their ratios; 0.3, 0.6 and 0.9 are taken for them."
    )
    sections = [*_transfer_published(chosen, sources), *parts.setting_sections(chosen, mean=True)]
    return parts.build("transfer", "Scored by another network", caption, chosen, sections)


def ranking(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Rank the methods of the main comparison over data sets, backbones, ratios and seeds."""
    chosen = parts.main_methods(runs[~parts.is_v1(runs)])
    caption = (
        "Mean ranks (1 is best) over the blocks that every method has, percentage points above random with a paired "
        "bootstrap interval over blocks, and Friedman's and Nemenyi's tests. Ratios and seeds of one data set are not "
        "independent: the second ranking has one block for each data set and backbone."
    )
    return parts.build("ranking", "Ranking over data sets", caption, chosen, rankings.sections(chosen))


def _mean_over_backbones(
    runs: pd.DataFrame, backbones: Sequence[str], published: pd.Series, blocks: Sequence[tuple[float, ...]]
) -> list[Section]:
    """Return a section per published data set, and their average: means over the backbones, beside the published."""
    sections = []
    for recipe, block in runs.groupby("finetune"):
        if not parts.touches_paper(block, backbones):
            continue
        found = cells.gather(block)
        methods = parts.rows_beside(block, published.index.get_level_values("method").unique())
        for name, datasets in {**{name: [name] for name in paper.DATASETS}, "average": paper.DATASETS}.items():
            if name != "average" and name not in set(block["dataset"]):
                continue
            rows = []
            for method in methods:
                for ratios in blocks:
                    labels = {"dataset": name, "backbone": "mean", "finetune": recipe, "method": method}
                    labels["column"] = f"{ratios[0]:g}" if len(ratios) == 1 else f"{ratios[0]:g}-{ratios[-1]:g}"
                    theirs = parts.lookup(published, (parts.published_row(method), name, ratios[0]))
                    entry = found.entry(places(method, datasets, backbones, ratios), theirs, recipe in paper.RECIPES)
                    random = parts.lookup(published, ("random", name, ratios[0]))
                    above = {"published_gain": theirs - random if method != "random" else np.nan}
                    rows.append(labels | entry | above)
            sections.append(layout.section(f"{name}, mean over {', '.join(backbones)}, {recipe}", "", rows))
    return sections


def _transfer_published(runs: pd.DataFrame, sources: parts.Sources) -> list[Section]:
    source = sources.read("slides_transfer").set_index(["scored_by", "fine_tuned_backbone", "dataset"])["accuracy_pct"]
    names = {"random": "random", "dlc-flexrand": "dlc_own_backbone"}
    names["dlc-flexrand (scored by resnet18)"] = "dlc_resnet18"
    sections = []
    for recipe, block in runs.groupby("finetune"):
        if not parts.touches_paper(block, TRANSFER_BACKBONES):
            continue
        found, comparable = cells.gather(block), recipe in paper.RECIPES
        for backbone in (*TRANSFER_BACKBONES, "average"):
            over = TRANSFER_BACKBONES if backbone == "average" else (backbone,)
            columns = {name: (name,) for name in paper.DATASETS} if backbone != "average" else {}
            rows = []
            for method, row in names.items():
                for column, datasets in {**columns, "average": paper.DATASETS}.items():
                    where = places(method, datasets, over, TRANSFER_RATIOS)
                    labels = {"dataset": column, "backbone": backbone, "finetune": recipe, "method": method}
                    entry = found.entry(where, parts.lookup(source, (row, backbone, column)), comparable)
                    rows.append(labels | {"column": column} | entry)
            title = f"fine-tuned: {backbone if backbone != 'average' else ', '.join(over)}, {recipe}"
            sections.append(layout.section(title, "Means over ratios 0.3, 0.6, 0.9.", rows))
    return sections


Tables = dict[str, Callable[[pd.DataFrame, parts.Sources], Table]]
IMAGE_TABLES: Tables = {
    function.__name__: function
    for function in (
        *(main, weakly, transfer, time, ablation_path, ablation_masking, ablation_sampler, ablation_gamma),
        *(v1_depths, v1_paradigms, ranking),
    )
}
TEXT_TABLES: Tables = {function.__name__: function for function in (instruction, v1_llm)}
TABLES = IMAGE_TABLES | TEXT_TABLES
