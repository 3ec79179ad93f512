"""The figures of the study, wide enough for a README: 800 pixels on a page, twice as many in the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunetune.report.output import write_figure
from prunetune.report.plotting import LOOKS, STYLE, Look
from scripts.reproduce.study_names import NAMES, SETS, named
from scripts.reproduce.study_rows import ONE, ORACLE, PRIMARY_NAME, fraction, is_grid_gamma

SIZE = 8.0  # The width in inches, which is 800 pixels at 100 dots an inch.
DPI = 200
FONTS = {
    **{"font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "xtick.labelsize": 10, "ytick.labelsize": 10},
    **{"figure.titlesize": 12},
    **{"lines.linewidth": 2.0, "lines.markersize": 5, "axes.linewidth": 0.8},
}
drawn = matplotlib.rc_context({**STYLE, **FONTS})
SHOWN = {  # The lines of the main figure. Others are the best of the remaining methods.
    "herding": Look(*LOOKS[2]),
    "dlc_validation": Look(*LOOKS[1]),
    "dlc_easiest": Look(*LOOKS[4]),
    "facility_location": Look(*LOOKS[3]),
}
CLOSE = 1.3  # Labels of two budgets with a smaller ratio would overlap.
LEAST_GAP = 0.075  # The least distance of two labels, as a part of the height of the axes.


@drawn
def by_budget(differences: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the difference from random by budget, with its interval over sets as a band, for the linear probe."""
    figure = Figure(figsize=(SIZE, 4.4), layout="constrained")
    axes = figure.subplots()
    rows = _of_probe(differences)
    rows = rows[~rows["budget"].isin([PRIMARY_NAME, ONE])]
    lines = {method: _points(rows, method) for method in SHOWN if (rows["method"] == method).any()}
    for method, points in lines.items():
        look = SHOWN[method]
        axes.plot(points.index, points["difference"], color=look.color, marker=look.marker, linestyle=look.line)
        axes.fill_between(points.index, points["low"], points["high"], color=look.color, alpha=0.08, linewidth=0)
        for end in ("low", "high"):
            axes.plot(points.index, points[end], color=look.color, alpha=0.5, linewidth=0.7)
    _zero_line(axes, rows["budget"])
    _labels(axes, {m: float(points["difference"].iloc[0]) for m, points in lines.items()}, _first(lines))
    axes.set_xlabel("images kept of each class")
    axes.set_ylabel("points of accuracy above random images")
    sets = sorted(summary.loc[summary["judge"] == "linear_probe", "set"].unique())
    axes.set_title(f"Linear probe, mean over {len(sets)} sets; bands: 95 % interval over sets", loc="left")
    return figure


def _of_probe(differences: pd.DataFrame) -> pd.DataFrame:
    return differences[(differences["judge"] == "linear_probe") & (differences["reference"] == "random")]


def _points(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the rows of a method by the fraction that is kept, ascending."""
    mine = rows[rows["method"] == method]
    return mine.set_index(mine["budget"].map(fraction)).sort_index()


def _first(lines: Mapping[str, pd.DataFrame]) -> float:
    return min(float(points.index[0]) for points in lines.values()) if lines else 1.0


def _zero_line(axes: Axes, budgets: Sequence[str]) -> None:
    """Draw random as a line at zero, and put the ticks of a logarithmic axis at the budgets."""
    ticks = sorted({fraction(budget) for budget in budgets})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{100 * tick:g} %" if _has_room(tick, ticks) else "" for tick in ticks])
    axes.minorticks_off()
    axes.plot(ticks, [0.0] * len(ticks), color="#000000", linewidth=1.0)


def _has_room(tick: float, ticks: Sequence[float]) -> bool:
    """Whether the label of a tick does not run into that of the next one; the last tick always has its label."""
    return all(other / tick > CLOSE for other in ticks if other > tick)


def _labels(axes: Axes, heights: Mapping[str, float], left: float) -> None:
    """Write the names of the lines left of their first points, and move those apart that would overlap."""
    low, high = axes.get_ylim()
    heights = {**heights, "random": 0.0}
    places = apart([height for _, height in _ascending(heights)], LEAST_GAP * (high - low))
    axes.set_xlim(left / 4.2, None)  # The names stand in this space.
    axes.set_ylim(min([low, *places]), max([high, *places]))
    for (method, height), place in zip(_ascending(heights), places, strict=True):
        colour = SHOWN[method].color if method in SHOWN else "#000000"
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 2, "shrinkB": 4}
        options = {"ha": "right", "va": "center", "color": colour, "arrowprops": arrow}
        axes.annotate(NAMES[method], (left, height), (left / 1.18, place), **options)


def _ascending(heights: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(heights.items(), key=lambda item: item[1])


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Return ascending values that are moved as little as is simple, so that neighbours are at least `gap` apart."""
    groups: list[list[float]] = []  # Each group is a stack of labels around the mean of its values.
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group, gap) + gap * place for group in groups for place in range(len(group))]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)


@drawn
def all_methods(differences: pd.DataFrame) -> Figure:
    """Draw the mean difference from random at the primary budgets of every method, best first, with its intervals."""
    rows = _of_probe(differences)
    rows = rows[(rows["budget"] == PRIMARY_NAME) & ~rows["method"].map(is_grid_gamma)]
    rows = rows.sort_values("difference")
    figure = Figure(figsize=(SIZE, 1.3 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.itertuples()):
        colour = "#777777" if row.method == ORACLE else SHOWN[row.method].color if row.method in SHOWN else "#333333"
        axes.plot([row.simultaneous_low, row.simultaneous_high], [place, place], color=colour, linewidth=0.8)
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=3)
        axes.plot(row.difference, place, "o", color=colour, markersize=7)
    axes.axvline(0, color="#000000", linewidth=1.0)
    axes.set_yticks(range(len(rows)), [named(method) for method in rows["method"]])
    axes.set_xlabel("points above random images, 2 to 20 % kept")
    sets = int(rows["sets"].max()) if len(rows) else 0
    figure.suptitle(f"Linear probe, {sets} sets. Thick: 95 % interval over sets, thin: corrected for all methods")
    return figure


@drawn
def by_set(summary: pd.DataFrame) -> Figure:
    """Draw the difference from random by budget on every set, the mean over its networks."""
    rows = summary[(summary["judge"] == "linear_probe") & (summary["budget"] != ONE)]
    sets = sorted(rows["set"].unique())
    columns = 3
    lines = -(-len(sets) // columns) or 1
    figure = Figure(figsize=(SIZE, 2.5 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, name in zip(panels.flat, sets, strict=False):
        _one_set(axes, rows[rows["set"] == name])
        axes.set_title(SETS.get(name, name), loc="left")
    for axes in panels.flat[len(sets) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("points above random")
    shown = dict(zip(*reversed(panels.flat[0].get_legend_handles_labels()), strict=True))
    figure.legend([*shown.values()], [*shown], loc="outside lower center", ncols=2, fontsize=10)
    return figure


def _one_set(axes: Axes, rows: pd.DataFrame) -> None:
    for method, look in SHOWN.items():
        mine = rows[rows["method"] == method].groupby("budget")["difference"].mean()
        mine = mine.set_axis(mine.index.map(fraction)).sort_index()
        style = {"color": look.color, "marker": look.marker, "linestyle": look.line, "label": NAMES[method]}
        axes.plot(mine.index, mine, **style)
    axes.set_xscale("log")
    axes.set_xticks([0.02, 0.1, 0.5], ["2 %", "10 %", "50 %"])
    axes.minorticks_off()
    axes.axhline(0, color="#000000", linewidth=1.0)


@drawn
def write(folder: Path, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write the figures of the linear probe as PNG, and return their paths. Without its rows nothing is written."""
    if _of_probe(tables["differences"]).empty:
        return []
    figures = {
        "study-difference": by_budget(tables["differences"], tables["summary"]),
        "study-methods": all_methods(tables["differences"]),
        "study-sets": by_set(tables["summary"]),
    }
    for name, figure in figures.items():
        write_figure(folder / f"{name}.png", figure, dpi=DPI)
    return [folder / f"{name}.png" for name in figures]
