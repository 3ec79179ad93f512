"""Functions that the paper's figures share: sizes, styles that differ in grey print, panels, bars, and saving."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunetune.report.output import write_figure
from prunetune.report.statistics import Estimate

WIDTH = 3.3  # The width in inches of one column of the paper.
STYLE = {
    **{"font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "figure.titlesize": 7.5, "legend.fontsize": 6.5},
    **{"xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "hatch.linewidth": 0.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True},
    **{"grid.alpha": 0.3, "grid.linewidth": 0.4, "lines.linewidth": 1.0, "lines.markersize": 3.2},
    **{"errorbar.capsize": 1.5, "legend.frameon": False, "pdf.fonttype": 42, "savefig.dpi": 200},
}
styled = matplotlib.rc_context(STYLE)
LOOKS = (  # Colour, marker and line style. The first look is for the main method of the figure.
    *(("#000000", "o", "-"), ("#d55e00", "s", "--"), ("#0072b2", "^", "-."), ("#009e73", "D", ":")),
    *(("#cc79a7", "v", "--"), ("#e69f00", "P", "-."), ("#56b4e9", "X", ":"), ("#777777", "<", "--")),
    *(("#8c510a", ">", "-."), ("#5e3c99", "h", ":"), ("#a6761d", "*", "--")),
)
FILLS = (("#333333", ""), ("#ffffff", "////"), ("#bbbbbb", ""), ("#ffffff", "...."))  # Face colour and hatch of bars.
PUBLISHED = {"color": "#999999", "linewidth": 0.8, "linestyle": (0, (1, 1)), "marker": ".", "markersize": 2.5}
TITLE_LETTERS = 56  # At most 56 characters fit into one line of a title.
PAGE_DPI = 100  # Resolution of figures wider than a column.
MOST_UPRIGHT = 4  # If there are more than 4 bars, their names are rotated.
MOST_LISTED = 5  # If there are more than 5 ratios, the title gives only their range.
LINE = 0.13  # Height in inches of one line of a title or legend.


@dataclass(frozen=True)
class Look:
    """How one line is drawn."""

    color: str
    marker: str
    line: str

    def alone(self) -> "Look":
        """Return the same marker without a line."""
        return Look(self.color, self.marker, "none")

    def style(self, is_main: bool = False) -> dict:
        """Return the arguments of `Axes.errorbar`; the main line is thicker and on top."""
        style = {"color": self.color, "marker": self.marker, "linestyle": self.line, "elinewidth": 0.6}
        return {**style, **({"linewidth": 1.6, "zorder": 5} if is_main else {})}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each name. With more names than looks, looks are used again."""
    return {name: Look(*LOOKS[place % len(LOOKS)]) for place, name in enumerate(names)}


def panels(rows: int, columns: int = 1, height: float = 1.5) -> tuple[Figure, np.ndarray]:
    """Return a figure of column width and its axes [rows, columns]. `finish` adds the title and the legend.

    Args:
        rows: panels below each other.
        columns: panels beside each other.
        height: of one row, inches.
    """
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, hspace=0.03, wspace=0.03)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure: Figure, title: Sequence[str], columns: int = 2) -> Figure:
    """Add a title above the panels and one legend for all of them below, and make room for both.

    Args:
        figure: of `panels`, drawn.
        title: parts that each begin a line; long ones are wrapped.
        columns: of the legend.
    """
    lines = [line for part in title if part for line in textwrap.wrap(part, TITLE_LETTERS)]
    figure.suptitle("\n".join(lines))
    shown: dict[str, object] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if shown:
        options = {"columnspacing": 1.0, "handlelength": 2.4, "handletextpad": 0.5, "labelspacing": 0.3}
        figure.legend([*shown.values()], [*shown], loc="outside lower center", ncols=columns, **options)
    figure.set_figheight(figure.get_figheight() + LINE * (len(lines) + -(-len(shown) // columns)) + 0.1)
    return figure


def line(axes: Axes, xs: Sequence[float], points: Sequence[Estimate], look: Look, label: str, main: bool) -> None:
    """Draw means over x with their std over seeds."""
    means, stds = [point.mean for point in points], [point.std for point in points]  # NaN draws no bar.
    axes.errorbar(xs, means, yerr=stds, label=label, **look.style(main))


def published(axes: Axes, xs: Sequence[float], ys: Sequence[float], label: str = "published") -> None:
    """Draw a published curve, thin and grey."""
    axes.plot(xs, ys, label=label, zorder=1.5, **PUBLISHED)


def mark_ratios(axes: Axes, ratios: Iterable[float]) -> None:
    """Put the ticks of the ratio axis at the ratios, if there are few of them."""
    values = sorted(set(ratios))
    if len(values) <= 2:
        axes.set_xticks(values, [f"{value:g}" for value in values])


def bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[Estimate]]) -> None:
    """Draw bars from 0 with their std, one bar per group and series. X marks a bar without runs."""
    width = 0.8 / max(1, len(series))
    for place, (name, points) in enumerate(series.items()):
        centres = np.arange(len(groups)) + (place - (len(series) - 1) / 2) * width
        face, hatch = FILLS[place % len(FILLS)]
        means, stds = [point.mean for point in points], [point.std for point in points]
        axes.bar(
            *(centres, means, 0.92 * width),
            **{"yerr": stds, "label": name, "color": face, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.6},
            error_kw={"elinewidth": 0.7, "ecolor": "#d55e00"},
        )
        for centre, mean in zip(centres, means, strict=True):
            if np.isnan(mean):
                axes.text(centre, 0, "X", ha="center", va="bottom", fontsize=6)
    crowded = len(groups) > MOST_UPRIGHT
    slant = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(groups)), groups, **slant)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.axhline(0, color="#333333", linewidth=0.6)


def seeds(points: Iterable[Estimate]) -> str:
    """Return the number of seeds behind the points, for a title."""
    counts = sorted({point.n for point in points if point.n})
    if not counts:
        return "no seeds"
    if counts == [1]:
        return "one seed"
    return f"mean ± std over {counts[0]} seeds" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds, ± std"


def listed(ratios: Iterable[float]) -> str:
    """Return ratios for a title."""
    values = [f"{ratio:g}" for ratio in ratios]
    if len(values) > MOST_LISTED:
        return f"mean over {len(values)} ratios, {values[0]} to {values[-1]}"
    return f"ratio {values[0]}" if len(values) == 1 else f"mean over ratios {', '.join(values)}"


@styled
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.pdf`. Equal numbers give equal bytes. Wide figures have a lower resolution."""
    written = [folder / f"{name}.png", folder / f"{name}.pdf"]
    write_figure(written[0], figure, dpi=STYLE["savefig.dpi"] if figure.get_figwidth() <= WIDTH else PAGE_DPI)
    write_figure(written[1], figure, metadata={"CreationDate": None})
    return written
