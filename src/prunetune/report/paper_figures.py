"""The paper's figures about accuracy, one function each. All runs of a figure share backbone and recipe.

Accuracies are shown in percentage points above random, paired by seed. So bars and curves start at 0, and the published
numbers of the ablations can be compared with ours. Error bars are the standard deviation over seeds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from prunetune.base.errors import InputError
from prunetune.report import paper, plotting, statistics
from prunetune.report.cells import Cell, Cells, gather, places, prepared
from prunetune.report.plotting import styled
from prunetune.report.statistics import Estimate
from prunetune.report.table_parts import mean_seconds

LABELS = {
    **{"dlc": "DLC", "herding": "Herding", "k_center": "k-Center", "contextual_diversity": "Context. Diversity"},
    **{"forgetting": "Forgetting", "least_confidence": "Least Confidence", "entropy": "Entropy", "margin": "Margin"},
    **{"grand": "GraNd", "el2n": "EL2N"},
}
PROXIES = ("", "_probe", "_released", "_released_probe")  # Of several versions of a scorer the first is drawn.
SAMPLERS = {"topk": "hard", "topk_easiest": "easy", "topk_flexible": "flexible", "flexrand": "FlexRand"}
PUBLISHED_SAMPLERS = {"topk": "topk_hard", "topk_easiest": "topk_easy", "topk_flexible": "topk_flexible"}
MASKINGS = {"dlc": "L1", "dlc_random": "random", "dlc_unmasked": "unmasked"}
MOST_RATIOS = 5  # The figure of the gamma sweep has at most 5 curves.
ABOVE_RANDOM = "accuracy above random, points"


@dataclass(frozen=True)
class Panel:
    """The data sets that one panel averages over: a single one, or all five of the paper."""

    datasets: tuple[str, ...]

    @property
    def title(self) -> str:
        """The title of the panel."""
        return self.datasets[0] if len(self.datasets) == 1 else f"mean of {len(self.datasets)} sets"

    @property
    def is_average(self) -> bool:
        """Whether the panel averages over the paper's data sets."""
        return len(self.datasets) > 1


@dataclass(frozen=True)
class Runs:
    """The runs of one backbone and recipe, sorted by cell."""

    backbone: str
    finetune: str
    frame: pd.DataFrame
    cells: Cells

    @classmethod
    def of(cls, results: pd.DataFrame) -> "Runs":
        """Sort collected runs.

        Raises:
            InputError: there are none, or they are of several backbones or recipes.
        """
        frame = prepared(results)
        settings = frame[["backbone", "finetune"]].drop_duplicates().to_numpy().tolist()
        if len(settings) != 1:
            found = "; ".join(", ".join(setting) for setting in settings) or "none"
            raise InputError(f"a figure needs the pruned runs of one backbone and recipe, got {found}")
        return cls(*settings[0], frame, gather(frame))

    @property
    def setting(self) -> str:
        """The backbone and recipe, for a title."""
        return f"{self.backbone}, {self.finetune.replace('_', ' ')}"

    def methods(self, panel: Panel) -> list[str]:
        """Return the methods that were run on all of a panel's data sets."""
        own = [{cell.method for cell in self.cells.percent if cell.dataset == name} for name in panel.datasets]
        return sorted(set.intersection(*own))

    def panels(self) -> list[Panel]:
        """Return a panel for each data set, and one for the mean of the paper's five if all of these were run."""
        names = sorted(self.frame["dataset"].unique())
        whole = [Panel(paper.DATASETS)] if set(paper.DATASETS) <= set(names) else []
        return [*(Panel((name,)) for name in names), *whole]

    def at(self, method: str, panel: Panel, ratios: Iterable[float]) -> list[Cell]:
        """Return the cells of a method that a panel averages."""
        return places(method, panel.datasets, [self.backbone], ratios)

    def ratios(self, methods: Iterable[str], panel: Panel) -> list[float]:
        """Return the ratios at which all of these methods were run on all of the panel's data sets."""
        every = sorted({cell.ratio for cell in self.cells.percent})
        return [
            ratio
            for ratio in every
            if all(len(self.cells.by_seed(self.at(method, panel, [ratio]))) for method in methods)
        ]

    def accuracy(self, method: str, panel: Panel, ratios: Sequence[float]) -> Estimate:
        """Return the mean accuracy in percent over these ratios; n = 0 if one is missing."""
        return statistics.estimate(self.cells.by_seed(self.at(method, panel, ratios)))

    def gap(self, method: str, panel: Panel, ratios: Sequence[float], other: str | None = None) -> Estimate:
        """Return how far a method is above random (or another method), paired by seed; n = 0 if a cell is missing."""
        cells = self.at(method, panel, ratios)
        if other is None:
            baseline = self.cells.random_by_seed(cells)
        else:
            baseline = self.cells.by_seed(self.at(other, panel, ratios))
        return statistics.paired_difference(self.cells.by_seed(cells), baseline)

    def compares(self, panel: Panel, ratios: Sequence[float]) -> bool:
        """Return whether published ablations are comparable: same backbone, recipe, data sets and ratios."""
        return (
            panel.is_average
            and self.backbone == paper.ABLATED
            and self.finetune in paper.RECIPES
            and tuple(ratios) == paper.RATIOS
        )


@styled
def accuracy_gap(results: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Draw points above random over the ratio, a panel per data set.

    Args:
        results: the frame of `collect`, one backbone and recipe.
        published: fig_main_accuracy; its DLC curve is drawn beside the data set of that name.
    """
    runs = Runs.of(results)
    shown = [(panel, chosen) for panel in runs.panels() if (chosen := _compared(runs, panel))]
    if not shown:
        raise InputError("no method was run beside random; run sweep=main")
    looks, points = _looks([chosen for _, chosen in shown]), []
    figure, axes = plotting.panels(len(shown))
    for (panel, chosen), place in zip(shown, axes.flat, strict=True):
        for name, method in chosen.items():
            ratios = runs.ratios([method, "random"], panel)
            gaps = [runs.gap(method, panel, [ratio]) for ratio in ratios]
            points += gaps
            plotting.line(place, ratios, gaps, looks[name], LABELS[name], name == "dlc")
        plotting.mark_ratios(place, [ratio for drawn in place.containers for ratio in drawn.lines[0].get_xdata()])
        _published_gap(place, panel, published)
        place.axhline(0, color="#333333", linewidth=0.8)
        place.set_title(panel.title + _marks_of(chosen))
        place.set_ylabel("above random, points")
    axes[-1, 0].set_xlabel("fraction of each class kept")
    parts = [f"Accuracy gap to random: {runs.setting}", plotting.seeds(points), _rule(shown)]
    return plotting.finish(figure, parts)


@styled
def time_accuracy(results: pd.DataFrame) -> Figure:
    """Draw accuracy over the seconds of selection (scoring, search of gamma and sampling; no decoding), log scale.

    A method's accuracy is its mean over the ratios at which all drawn methods were run; seconds are means of the same
    runs. Random takes no scoring and is a line.

    Args:
        results: the frame of `collect`, one backbone and recipe.
    """
    runs = Runs.of(results)
    shown = []
    for panel in runs.panels():
        chosen = {name: method for name, method in _compared(runs, panel).items() if _is_timed(runs, method)}
        ratios = runs.ratios([*chosen.values(), "random"], panel) if chosen else []
        if ratios:
            shown.append((panel, chosen, ratios))
    if not shown:
        raise InputError("no ratio at which methods with their seconds and random were run; run sweep=time")
    looks, points = _looks([chosen for _, chosen, _ in shown]), []
    figure, axes = plotting.panels(len(shown), height=1.7)
    for (panel, chosen, ratios), place in zip(shown, axes.flat, strict=True):
        for name, method in chosen.items():
            points.append(runs.accuracy(method, panel, ratios))
            seconds = [selection_seconds(runs, method, panel, ratios)]
            plotting.line(place, seconds, points[-1:], looks[name].alone(), LABELS[name], name == "dlc")
        base = runs.accuracy("random", panel, ratios)
        place.axhline(base.mean, color="#333333", linewidth=0.8, linestyle=(0, (5, 2)), label="random")
        place.set_title(panel.title + _marks_of(chosen))
        place.set_ylabel("test accuracy, %")
    _log_seconds(axes[:, 0])
    axes[-1, 0].set_xlabel("selection time, s (decoding apart)")
    parts = [f"Pruning time and accuracy: {runs.setting}", _over(shown), plotting.seeds(points), _rule(shown)]
    return plotting.finish(figure, parts)


def selection_seconds(runs: Runs, method: str, panel: Panel, ratios: Sequence[float]) -> float:
    """Return the mean seconds of scoring, gamma search and sampling."""
    frame = runs.frame
    mine = frame[(frame["method"] == method) & frame["dataset"].isin(panel.datasets) & frame["ratio"].isin(ratios)]
    return mean_seconds(mine, complete=True)["selection_seconds"]


def _is_timed(runs: Runs, method: str) -> bool:
    seconds = runs.frame.loc[runs.frame["method"] == method, "score_seconds"]
    return bool((seconds > 0).all())


@styled
def gamma_sweep(results: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Draw accuracy over FlexRand's gamma minus that at gamma 0.5 (stratified random), a line per ratio.

    Args:
        results: the frame of `collect`, one backbone and recipe; constant gammas have tags g<gamma>.
        published: gamma_sweep_resnet18; drawn for the same data set and ratio beside ResNet-18 only.
    """
    runs = Runs.of(results)
    shown = []
    for panel in runs.panels():
        gammas = _numbered(runs, panel, "g")
        per_gamma = {gamma: set(runs.ratios([method], panel)) for gamma, method in gammas.items()}
        others = set().union(*(found for gamma, found in per_gamma.items() if gamma != 0.5))
        ratios = sorted(per_gamma.get(0.5, set()) & others)
        if ratios:
            shown.append((panel, gammas, _spread_out(ratios)))
    if not shown:
        raise InputError("no runs at several gammas with 0.5 among them; run sweep=ablation_gamma")
    drawn = sorted({ratio for _, _, ratios in shown for ratio in ratios})
    looks = plotting.looks(f"ratio {ratio:g}" for ratio in drawn)
    figure, axes = plotting.panels(len(shown), height=1.6)
    points = []
    for (panel, gammas, ratios), place in zip(shown, axes.flat, strict=True):
        for ratio in ratios:
            gaps = {g: runs.gap(method, panel, [ratio], gammas[0.5]) for g, method in gammas.items()}
            gaps = {g: gap for g, gap in gaps.items() if gap.n}
            points += gaps.values()
            look, label = looks[f"ratio {ratio:g}"], f"ratio {ratio:g}"
            plotting.line(place, [*gaps], [*gaps.values()], look, label, main=False)
            _published_gammas(place, runs, panel, ratio, published)
        place.axhline(0, color="#333333", linewidth=0.8)
        place.set_title(panel.title)
        place.set_ylabel("points above gamma 0.5")
    axes[-1, 0].set_xlabel("gamma: easy fraction of FlexRand")
    parts = [f"DLC with FlexRand at a constant gamma: {runs.setting}", f"{plotting.seeds(points)}, paired"]
    return plotting.finish(figure, [*parts, "measured on test images: do not choose gamma by it"], columns=3)


@styled
def path_size(
    results: pd.DataFrame, ranks: pd.DataFrame | None = None, published: Mapping[str, pd.DataFrame] | None = None
) -> Figure:
    """Draw accuracy above random, and rank correlation with optimisation, over the number of masked networks.

    Args:
        results: the frame of `collect`, one backbone and recipe; path sizes have tags T<levels>.
        ranks: rank_correlation of the analysis, for a second column.
        published: ablation_path_size and ablation_sampling (its random row), drawn beside the mean of the five sets.
    """
    runs = Runs.of(results)
    shown = []
    for panel in runs.panels():
        sizes = _numbered(runs, panel, "T")
        ratios = runs.ratios([*sizes.values(), "random"], panel)
        if len(sizes) > 1 and ratios:
            shown.append((panel, sizes, ratios))
    if not shown:
        raise InputError("no runs at several path sizes (tags T1, T5, ...); run sweep=ablation_path")
    columns = 1 if ranks is None else 2
    figure, axes = plotting.panels(len(shown), columns)
    look, points = plotting.looks(["ours"])["ours"], []
    for (panel, sizes, ratios), row in zip(shown, axes, strict=True):
        gaps = [runs.gap(method, panel, ratios) for method in sizes.values()]
        points += gaps
        plotting.line(row[0], [*sizes], gaps, look, "ours", main=True)
        row[0].axhline(0, color="#333333", linewidth=0.8)
        row[0].set_title(panel.title)
        row[0].set_ylabel("above random, points")
        if ranks is not None:
            found = {size: rho for size in sizes if (rho := _rho(ranks, runs, panel, "dlc", f"T{size:g}")).n}
            plotting.line(row[1], [*found], [*found.values()], look, "ours", main=True)
            row[1].set_title(panel.title)
            row[1].set_ylabel("Spearman's rho")
        if published is not None and runs.compares(panel, ratios):
            _published_sizes(row, published)
    for place in axes[-1]:
        place.set_xlabel("path size T")
    parts = [f"Path size of DLC: {runs.setting}", _over(shown), plotting.seeds(points) + _classes(ranks)]
    return plotting.finish(figure, parts)


@styled
def masking(
    results: pd.DataFrame, ranks: pd.DataFrame | None = None, published: Mapping[str, pd.DataFrame] | None = None
) -> Figure:
    """Draw bars of L1, random and no masking: accuracy above random, and rank correlation with optimisation.

    Args:
        results: the frame of `collect`, one backbone and recipe.
        ranks: rank_correlation of the analysis, for a second panel.
        published: ablation_masking and ablation_sampling (its random row), drawn beside the mean of the five sets.
    """
    runs = Runs.of(results)
    shown = []
    for panel in runs.panels():
        names = _masked(runs, panel)
        ratios = runs.ratios([*names.values(), "random"], panel) if names else []
        if ratios:
            shown.append((panel, names, ratios))
    if not shown:
        raise InputError("no runs of dlc and dlc_random with one gamma; run sweep=ablation_masking")
    scorers = [scorer for scorer in MASKINGS if any(scorer in names for _, names, _ in shown)]
    figure, axes = plotting.panels(1 if ranks is None else 2, height=1.65)
    none = statistics.estimate([])
    gaps = {
        MASKINGS[scorer]: [
            runs.gap(names[scorer], panel, ratios) if scorer in names else none for panel, names, ratios in shown
        ]
        for scorer in scorers
    }
    heads = [panel.title for panel, _, _ in shown]
    plotting.bars(axes[0, 0], heads, gaps)
    axes[0, 0].set_ylabel("above random, points")
    if ranks is not None:
        rhos = {
            MASKINGS[scorer]: [
                _rho(ranks, runs, panel, scorer, _tag(names[scorer])) if scorer in names else none
                for panel, names, _ in shown
            ]
            for scorer in scorers
        }
        plotting.bars(axes[1, 0], heads, rhos)
        axes[1, 0].set_ylabel("Spearman's rho")
    for place, (panel, _, ratios) in enumerate(shown):
        if published is not None and runs.compares(panel, ratios):
            _published_maskings(axes[:, 0], place, scorers, published)
    points = [gap for series in gaps.values() for gap in series]
    parts = [f"Masking of DLC: {runs.setting}", _over(shown), plotting.seeds(points) + _classes(ranks)]
    return plotting.finish(figure, parts, columns=4)


@styled
def samplers(results: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Draw bars of the samplers under scores by masking and by optimisation, points above random.

    Args:
        results: the frame of `collect`, one backbone and recipe.
        published: ablation_sampling, drawn beside the mean of the five sets.
    """
    runs = Runs.of(results)
    shown = []
    for panel in runs.panels():
        methods = _sampled(runs, panel)
        ratios = runs.ratios([*methods.values(), "random"], panel) if len(methods) > 1 else []
        if ratios:
            shown.append((panel, methods, ratios))
    if not shown:
        raise InputError("no ratio at which dlc was run with two samplers and random; run sweep=ablation_sampler")
    figure, axes = plotting.panels(len(shown))
    none, points = statistics.estimate([]), []
    for (panel, methods, ratios), place in zip(shown, axes.flat, strict=True):
        scorers = list(dict.fromkeys(scorer for scorer, _ in methods))
        series = {
            ("masking (DLC)" if scorer == "dlc" else "optimisation"): [
                runs.gap(methods[scorer, sampler], panel, ratios) if (scorer, sampler) in methods else none
                for sampler in SAMPLERS
            ]
            for scorer in scorers
        }
        points += [gap for gaps in series.values() for gap in gaps]
        plotting.bars(place, [*SAMPLERS.values()], series)
        if published is not None and runs.compares(panel, ratios):
            _published_samplers(place, len(scorers), published)
        place.set_title(panel.title + (" (optimisation: linear probe)" if scorers[-1].endswith("_probe") else ""))
        place.set_ylabel("above random, points")
    parts = [f"Samplers: {runs.setting}", _over(shown), plotting.seeds(points)]
    return plotting.finish(figure, [*parts, "flexible: the end chosen on held-out images; X: not run"])


def _compared(runs: Runs, panel: Panel) -> dict[str, str]:
    """Return the main comparison's methods by published name, DLC first; nothing without random."""
    there = set(runs.methods(panel))
    if "random" not in there:
        return {}
    found = {"dlc": _flexrand(there, "dlc")}
    for name in paper.PUBLISHED_SCORERS[1:]:
        found[name] = next((method for end in PROXIES if (method := f"{name}{end}-topk") in there), None)
    return {name: method for name, method in found.items() if method is not None}


def _looks(chosen: Iterable[Mapping[str, str]]) -> dict[str, plotting.Look]:
    """Return a look for every published name that is drawn. It is the same in all panels."""
    drawn = {name for methods in chosen for name in methods}
    return plotting.looks(name for name in paper.PUBLISHED_SCORERS if name in drawn)


def _marks_of(chosen: Mapping[str, str]) -> str:
    """Return the note about drawn versions for the title of a panel."""
    scorers = [method.partition("-")[0] for method in chosen.values()]
    probe = " (linear-probe proxy)" if any(scorer.endswith("_probe") for scorer in scorers) else ""
    return probe + (" (released variants)" if any("_released" in scorer for scorer in scorers) else "")


def _rule(shown: Iterable[tuple]) -> str:
    """Return how gamma of the drawn DLC was chosen, for a title."""
    methods = {chosen["dlc"] for _, chosen, *_ in shown if "dlc" in chosen}
    gammas = {re.sub(r".*\((?:gamma |g)(.*)\)", r"\1", method) if "(" in method else "" for method in methods}
    texts = [f"constant at {gamma}" if gamma else "chosen on held-out images" for gamma in sorted(gammas)]
    return f"DLC: FlexRand, gamma {' or '.join(texts)}" if texts else ""


def _flexrand(there: Iterable[str], scorer: str) -> str | None:
    """Return a scorer's FlexRand row: with gamma chosen on validation if there, else a constant one, 0.25 first."""
    plain = f"{scorer}-flexrand"
    constant = [method for method in there if re.fullmatch(rf"{re.escape(plain)} \((?:gamma |g)[\d.]+\)", method)]
    found = [plain] if plain in there else sorted(constant, key=lambda method: ("0.25)" not in method, method))
    return found[0] if found else None


def _masked(runs: Runs, panel: Panel) -> dict[str, str]:
    """Return the FlexRand rows of L1, random and no masking that share their gamma, by scorer."""
    there = set(runs.methods(panel))
    rows = {
        scorer: {m[len(plain) :]: m for m in there if m == plain or m.startswith(f"{plain} (g")}
        for scorer in MASKINGS
        for plain in [f"{scorer}-flexrand"]
    }
    shared = rows["dlc"].keys() & rows["dlc_random"].keys()
    suffix = min(shared, default=None)  # The empty suffix, a choice by validation, comes first.
    return {scorer: own[suffix] for scorer, own in rows.items() if suffix in own}


def _tag(method: str) -> str:
    """Return the tag behind a row's name."""
    variant = method.partition(" (")[2].removesuffix(")")
    return "default" if not variant or variant.startswith("gamma ") else variant


def _numbered(runs: Runs, panel: Panel, letter: str) -> dict[float, str]:
    """Return the dlc-flexrand rows of tags like T5 or g0.25, by number."""
    pattern = rf"dlc-flexrand \({letter}([\d.]+)\)"
    found = {float(match.group(1)): match.string for m in runs.methods(panel) if (match := re.fullmatch(pattern, m))}
    return dict(sorted(found.items()))


def _sampled(runs: Runs, panel: Panel) -> dict[tuple[str, str], str]:
    """Return the rows of DLC and of learning complexity by optimisation, by scorer and sampler."""
    there = set(runs.methods(panel))
    slow = next((s for s in ("lc_optimisation", "lc_optimisation_probe") if f"{s}-topk" in there), "lc_optimisation")
    methods = {}
    for scorer in ("dlc", slow):
        for sampler in SAMPLERS:
            method = _flexrand(there, scorer) if sampler == "flexrand" else f"{scorer}-{sampler}"
            if method in there:
                methods[scorer, sampler] = method
    return methods


def _rho(ranks: pd.DataFrame, runs: Runs, panel: Panel, scorer: str, tag: str) -> Estimate:
    """Return the within-class rank correlation with optimisation, with std over classes; for five sets their mean."""
    mine = ranks[(ranks["backbone"] == runs.backbone) & (ranks["first"] == scorer) & (ranks["tag"] == tag)]
    mine = mine[mine["dataset"].isin(panel.datasets) & mine["second"].str.startswith("lc_optimisation")]
    # The reference of the fully fine-tuned proxy is preferred.
    mine = mine.sort_values("second").drop_duplicates("dataset")
    if set(mine["dataset"]) != set(panel.datasets):
        return statistics.estimate([])
    std = float(mine["class_std"].iloc[0]) if len(mine) == 1 else np.nan
    return Estimate(float(mine["class_mean"].mean()), std, len(mine), np.nan, np.nan)


def _over(shown: Sequence[tuple]) -> str:
    """Return what accuracies are averaged over, for a title. It is listed per panel if panels differ."""
    texts = {panel.title: plotting.listed(ratios) for panel, _, ratios in shown}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _classes(ranks: pd.DataFrame | None) -> str:
    return "" if ranks is None else "; Spearman ± std over classes"


def _spread_out(ratios: Sequence[float]) -> list[float]:
    if len(ratios) <= MOST_RATIOS:
        return list(ratios)
    return [ratios[place] for place in np.linspace(0, len(ratios) - 1, MOST_RATIOS).round().astype(int)]


def _log_seconds(column: Sequence[Axes]) -> None:
    """Give the panels of a column the same logarithmic axis, with labels at 1, 2 and 5 if it is short."""
    points = [value for axes in column for line in axes.containers for value in line.lines[0].get_xdata()]
    low, high = min(points) / 1.6, max(points) * 1.6
    for axes in column:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _published_gap(axes: Axes, panel: Panel, published: pd.DataFrame | None) -> None:
    if published is None:
        return
    name = "average" if panel.is_average else panel.datasets[0]
    mine = published[(published["dataset"] == name) & (published["method"] == paper.OURS)].sort_values("ratio")
    if len(mine):
        plotting.published(axes, mine["ratio"], mine["gap_vs_random_pct"], "DLC, published (4 backbones)")


def _published_gammas(axes: Axes, runs: Runs, panel: Panel, ratio: float, published: pd.DataFrame | None) -> None:
    if published is None or panel.is_average or runs.backbone != paper.ABLATED:
        return
    mine = published[(published["dataset"] == panel.datasets[0]) & np.isclose(published["ratio"], ratio)]
    middle = mine.loc[np.isclose(mine["gamma"], 0.5), "accuracy_pct"]
    if len(middle):
        mine = mine.sort_values("gamma")
        plotting.published(axes, mine["gamma"], mine["accuracy_pct"] - middle.iloc[0], "published, same ratios")


def _published_random(published: Mapping[str, pd.DataFrame]) -> float:
    table = published["ablation_sampling"]
    return float(table.loc[table["sampler"] == "random", "accuracy_pct_dlc"].iloc[0])


def _published_sizes(row: Sequence[Axes], published: Mapping[str, pd.DataFrame]) -> None:
    table = published["ablation_path_size"].sort_values("levels")
    plotting.published(row[0], table["levels"], table["accuracy_pct"] - _published_random(published))
    for place in row[1:]:
        plotting.published(place, table["levels"], table["spearman_rho"])


def _published_maskings(
    rows: Sequence[Axes], place: int, scorers: Sequence[str], published: Mapping[str, pd.DataFrame]
) -> None:
    means = published["ablation_masking"].groupby("masking")[["accuracy_pct", "spearman_rho"]].mean()
    keys = [MASKINGS[scorer].lower() for scorer in scorers]
    centres = [place + (bar - (len(scorers) - 1) / 2) * 0.8 / len(scorers) for bar in range(len(scorers))]
    found = [(centre, key) for centre, key in zip(centres, keys, strict=True) if key in means.index]
    base = _published_random(published)
    for axes, column, zero in zip(rows, ("accuracy_pct", "spearman_rho"), (base, 0.0), strict=False):
        _marks(axes, [centre for centre, _ in found], [means.loc[key, column] - zero for _, key in found])


def _published_samplers(axes: Axes, num_series: int, published: pd.DataFrame) -> None:
    table = published.set_index("sampler")
    for bar, column in enumerate(["accuracy_pct_dlc", "accuracy_pct_lc_optimisation"][:num_series]):
        values = [table.loc[PUBLISHED_SAMPLERS.get(s, s), column] - table.loc["random", column] for s in SAMPLERS]
        centres = np.arange(len(SAMPLERS)) + (bar - (num_series - 1) / 2) * 0.8 / num_series
        _marks(axes, centres, values)


def _marks(axes: Axes, xs: Iterable[float], ys: Iterable[float]) -> None:
    axes.plot([*xs], [*ys], linestyle="none", marker="_", markersize=9, color="#999999", zorder=4, label="published")
