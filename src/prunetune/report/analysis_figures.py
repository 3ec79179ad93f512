"""The figures about scores and subsets, one function each. Their data are the CSV files of `prunetune analyse`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunetune.base.errors import InputError
from prunetune.report import plotting, statistics
from prunetune.report.plotting import styled
from prunetune.report.statistics import Estimate

TEXT = ("dataset", "backbone", "first", "second", "tag", "group", "method", "features")
SCORERS = {
    **{"dlc": "DLC, L1 masks", "dlc_random": "DLC, random masks", "dlc_unmasked": "no masking"},
    **{"lc_knn": "k nearest neighbours (v1)"},
}
SUBSETS = {
    **{"dlc-flexrand": "DLC, FlexRand", "random": "random", "dlc-topk": "DLC, hard", "dlc-topk_easiest": "DLC, easy"},
    **{"k_center-topk": "k-Center", "herding-topk": "Herding"},
}
GROUPS = ("easy", "hard")


def read(name: str, folder: Path) -> pd.DataFrame:
    """Read one CSV file of an analysis.

    Raises:
        InputError: the file does not exist.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path} is not there; run `prunetune analyse`, or pass --analysis=<its folder>")
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])


@styled
def loss_curves(by_masking: pd.DataFrame | None, by_epoch: pd.DataFrame | None) -> Figure:
    """Draw the scaled loss of the easiest and hardest images over masking ratio and over epochs, a row per data set.

    Args:
        by_masking: loss_by_masking, one backbone.
        by_epoch: loss_by_epoch, one backbone.
    """
    axes_of = {"masking_ratio": ("fraction of weights masked", by_masking), "epoch": ("epoch", by_epoch)}
    there = {key: value for key, value in axes_of.items() if value[1] is not None and len(value[1])}
    if not there:
        raise InputError("no losses of easy and hard images; run sweep=ablation_sampler, then `prunetune analyse`")
    backbone = _backbone([frame for _, frame in there.values()])
    datasets = sorted({name for _, frame in there.values() for name in frame["dataset"]})
    figure, axes = plotting.panels(len(datasets), len(there), height=1.45)
    looks = plotting.looks(GROUPS)
    for row, dataset in zip(axes, datasets, strict=True):
        for place, (column, (_, frame)) in zip(row, there.items(), strict=True):
            if dataset not in set(frame["dataset"]):
                place.set_axis_off()
                continue
            for group in GROUPS:
                mine = frame[(frame["dataset"] == dataset) & (frame["group"] == group)].sort_values(column)
                every = max(1, len(mine) // 8)  # A few markers make the curves differ even without colour.
                style = looks[group].style()
                style.pop("elinewidth")
                place.plot(mine[column], mine["loss"], label=group, markevery=every, **style)
            place.set_title(dataset)
            place.set_ylim(-0.04, 1.04)
        row[0].set_ylabel("scaled loss")
    for place, (label, _) in zip(axes[-1], there.values(), strict=True):
        place.set_xlabel(label)
    title = f"Easiest and hardest image of each class: {backbone}"
    note = "by learning complexity by optimisation; scaled to 0-1 within each class, mean over classes"
    return plotting.finish(figure, [title, note])


@styled
def rank_correlation(ranks: pd.DataFrame) -> Figure:
    """Draw bars of the within-class rank correlation with learning complexity by optimisation, per data set.

    Args:
        ranks: rank_correlation, one backbone. The fully fine-tuned reference is used if there is one.
    """
    mine = ranks[ranks["first"].isin(SCORERS) & ranks["second"].str.startswith("lc_optimisation")]
    mine = mine.assign(other=mine["tag"] != "default")
    mine = mine.sort_values(["second", "other", "tag"]).drop_duplicates(["dataset", "first"])
    if mine.empty:
        raise InputError(
            "no rank correlation of dlc with lc_optimisation; run sweep=ablation_sampler, then `prunetune analyse`"
        )
    datasets, none = sorted(mine["dataset"].unique()), statistics.estimate([])
    series = {}
    for scorer, label in SCORERS.items():
        rows = {row["dataset"]: row for row in mine[mine["first"] == scorer].to_dict("records")}
        if rows:
            series[label] = [_estimate(rows[name]) if name in rows else none for name in datasets]
    references = mine.groupby("dataset")["second"].agg(lambda names: " and ".join(sorted(set(names))))
    trained = {name: _trained(references[name]) for name in datasets}
    mixed = len(set(trained.values())) > 1
    heads = [f"{name}\n({trained[name]})" if mixed else name for name in datasets]
    by = "" if mixed else f" ({trained[datasets[0]]})"
    title = f"Within-class Spearman with learning complexity by optimisation{by}: {_backbone([mine])}"
    figure, axes = plotting.panels(1, height=1.9)
    plotting.bars(axes[0, 0], heads, series)
    axes[0, 0].set_ylabel("Spearman's rho")
    axes[0, 0].set_ylim(min(0, axes[0, 0].get_ylim()[0]), 1)
    return plotting.finish(figure, [title, "mean ± std over classes"])


@styled
def mmd(distances: pd.DataFrame) -> Figure:
    """Draw the distance of subsets from their pool relative to random: a row per data set, a column per features.

    The distance depends on the size of a subset, so it is divided by the mean distance of random at the same ratio.

    Args:
        distances: mmd, one backbone.
    """
    names = _subsets(distances)
    mine = distances[distances["method"].isin(names)]
    mine = mine.merge(_of_random(mine), on=["dataset", "features", "ratio"])
    if mine.empty:
        raise InputError(
            "no distances to the pool with those of random; run sweep=ablation_sampler, then `prunetune analyse`"
        )
    datasets = sorted(mine["dataset"].unique())
    columns = [name for name in ("pretrained", "finetuned") if name in set(mine["features"])]
    figure, axes = plotting.panels(len(datasets), len(columns))
    looks, points = plotting.looks(names), []
    for row, dataset in zip(axes, datasets, strict=True):
        for place, features in zip(row, columns, strict=True):
            panel = mine[(mine["dataset"] == dataset) & (mine["features"] == features)]
            if panel.empty:
                place.set_axis_off()
                continue
            for method, label in names.items():
                cells = panel[panel["method"] == method].assign(relative=lambda p: p["mmd"] / p["random"])
                found = {ratio: statistics.estimate(values) for ratio, values in cells.groupby("ratio")["relative"]}
                points += found.values()
                plotting.line(place, [*found], [*found.values()], looks[method], label, label.startswith("DLC, Flex"))
            _draw_blind(place, panel)
            plotting.mark_ratios(place, panel["ratio"])
            place.set_title(f"{dataset}, {features.replace('finetuned', 'fine-tuned')}")
        row[0].set_ylabel("MMD / MMD of random")
    for place in axes[-1]:
        place.set_xlabel("fraction kept")
    title = f"MMD of subset to pool (RBF, bandwidth 1/D) in pretrained or fine-tuned features: {_backbone([mine])}"
    return plotting.finish(figure, [title, plotting.seeds(points)])


def _of_random(distances: pd.DataFrame) -> pd.DataFrame:
    rows = distances[distances["method"] == "random"]
    return rows.groupby(["dataset", "features", "ratio"], as_index=False).agg(random=("mmd", "mean"))


def _subsets(distances: pd.DataFrame) -> dict[str, str]:
    """Return the methods to draw with their labels. A constant gamma is drawn only if there is no other."""
    there = set(distances["method"])
    names = {method: label for method, label in SUBSETS.items() if method in there}
    constant = sorted(method for method in there if method.startswith("dlc-flexrand (g"))
    if "dlc-flexrand" not in there and constant:
        best = min(constant, key=lambda method: ("0.25)" not in method, method))
        names = {best: f"DLC, FlexRand ({best.partition(' (')[2]}", **names}
    return names


def _draw_blind(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw the distance sqrt(1/M - 1/N) of every subset under a kernel for which no two images are similar.

    A curve close to it says nothing about a subset, since the bandwidth is then too small for the features.
    """
    sizes = panel.drop_duplicates("ratio").sort_values("ratio")
    blind = np.sqrt(1 / sizes["num_kept"] - 1 / sizes["num_pool"]) / sizes["random"]
    axes.plot(sizes["ratio"], blind, color="#777777", linewidth=0.8, linestyle=(0, (1, 1)), label="blind kernel")


def _estimate(row: dict) -> Estimate:
    return Estimate(row["class_mean"], row["class_std"], int(row["num_classes"]), np.nan, np.nan)


def _trained(reference: str) -> str:
    return {"lc_optimisation": "full fine-tune", "lc_optimisation_probe": "linear probe"}.get(reference, reference)


def _backbone(frames: Sequence[pd.DataFrame]) -> str:
    names = sorted({name for frame in frames for name in frame["backbone"]})
    if len(names) != 1:
        raise InputError(f"a figure needs the analysis of one backbone, got {', '.join(names)}")
    return names[0]
