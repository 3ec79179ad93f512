"""Figures of the report: the easiest and hardest images of a scorer, and accuracy over the ratio."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.report.tables import SETTING, WHOLE_POOL
from prunetune.report.verdict import PER_CLASS

MOST_CLASSES = 10
MARGIN = 0.03  # The axis extends beyond the outermost marker by this fraction of the range of the data.
SINGLE_ROOM = 0.05  # If there is a single value, the axis extends by this fraction of max(1, value).
PIXELS = 160  # The longer side of a shown image has at most 160 pixels, since larger images only cost memory.
STYLES = (  # The markers and lines differ too, so that the curves can be told apart in grey print.
    *(("#000000", "o", "-"), ("#d55e00", "s", "--"), ("#0072b2", "^", "-."), ("#009e73", "D", ":")),
    *(("#cc79a7", "v", "--"), ("#e69f00", "P", "-."), ("#56b4e9", "X", ":")),
)
COUNTED = {"markerfacecolor": "none", "linestyle": "none"}  # A number per class is no point of a curve of fractions.


def extremes(pool: Pool, scores: Tensor, num: int = 5, title: str = "Easy and hard images") -> Figure:
    """Show the easiest and the hardest images of every class, from easy on the left to hard on the right.

    Args:
        pool: N images; at most 10 of its classes are shown, evenly spread over the class indices.
        scores: [N], higher means harder.
        num: images at each end; fewer for a class with less than 2 * num.
        title: above the picture.
    """
    if len(scores) != len(pool):
        raise InputError(f"expected a score for each of the {len(pool)} images of {pool.name}, got {len(scores)}")
    classes = shown_classes(pool)
    figure = Figure(figsize=(1.05 * (2 * num) + 1.9, 1.2 * len(classes) + 1.05), dpi=130)
    grid = figure.add_gridspec(
        *(len(classes), 2 * num + 1),
        width_ratios=[1] * num + [0.25] + [1] * num,
        **_margins(figure, left=1.45, right=0.15, bottom=0.5, top=0.75),
        **{"wspace": 0.08, "hspace": 0.26},
    )
    for row, label in enumerate(classes):
        axes = [figure.add_subplot(grid[row, column]) for column in [*range(num), *range(num + 1, 2 * num + 1)]]
        _show_class(axes, pool, scores, label, num)
    figure.suptitle(title, fontsize=12, y=1 - 0.2 / figure.get_figheight())
    _head_columns(figure, num)
    figure.text(0.5, 0.12 / figure.get_figheight(), _note(pool, classes), ha="center", fontsize=8, color="#444444")
    return figure


def shown_classes(pool: Pool) -> list[int]:
    """Return the classes of the picture: all that have images, or 10 of them, evenly spread."""
    present = pool.class_counts.nonzero().flatten().tolist()
    if len(present) <= MOST_CLASSES:
        return present
    places = np.linspace(0, len(present) - 1, MOST_CLASSES).round().astype(int)
    return [present[place] for place in places]


def ends(pool: Pool, scores: Tensor, label: int, num: int) -> tuple[list[int], list[int]]:
    """Return the positions of the easiest and of the hardest images of a class, easiest first, without overlap."""
    members = (pool.labels == label).nonzero().flatten()
    ordered = members[scores[members].argsort(stable=True)].tolist()
    num_hard = min(num, len(ordered) // 2)
    return ordered[: min(num, len(ordered) - num_hard)], ordered[len(ordered) - num_hard :]


def accuracy_curves(summary: pd.DataFrame) -> Figure:
    """Draw mean accuracy over the ratio: a panel per setting, a curve per method, a horizontal line for the whole pool.

    Args:
        summary: the frame of `tables.summary`, percent.
    """
    settings = list(summary.groupby(SETTING))
    figure = Figure(figsize=(6.4 * min(2, len(settings)), 4.2 * -(-len(settings) // 2)), dpi=130, layout="constrained")
    panels = figure.subplots(-(-len(settings) // 2), min(2, len(settings)), squeeze=False).flatten()
    for axes, (setting, part) in zip(panels, settings, strict=False):
        _draw_curves(axes, part)
        axes.set_title(", ".join(setting), fontsize=11)
    for axes in panels[len(settings) :]:
        axes.set_visible(False)
    return figure


def _draw_curves(axes: Axes, part: pd.DataFrame) -> None:
    whole = part["method"].str.startswith(WHOLE_POOL)
    for (method, rows), (color, marker, line) in zip(
        part[~whole].groupby("method", sort=False), cycle(STYLES), strict=False
    ):
        rows = rows.sort_values("ratio")
        style = {"color": color, "marker": marker, "linestyle": line, "capsize": 3, "markersize": 5, "linewidth": 1.4}
        is_counted = rows["column"].str.endswith(PER_CLASS)
        for index, (is_number, shown) in enumerate(rows.groupby(is_counted)):  # The fractions come first.
            own, label = COUNTED if is_number else {}, None if index else method
            axes.errorbar(shown["ratio"], shown["mean"], yerr=shown["std"].fillna(0), label=label, **(style | own))
    for row in part[whole].to_dict("records"):
        label = f"{row['method']} (ratio 1)"
        axes.axhline(row["mean"], color="#777777", linestyle=(0, (6, 2)), linewidth=1, label=label)
    _end_with_the_data(axes, part[~whole], part.loc[whole, "mean"])
    counted = part["column"].str.endswith(PER_CLASS).any()
    axes.set_xlabel("fraction of each class kept" + (" (hollow: a number per class)" if counted else ""))
    axes.set_ylabel("test accuracy, %  (mean ± std over seeds)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    last = sorted(range(len(labels)), key=lambda place: labels[place].startswith(WHOLE_POOL))
    axes.legend([handles[i] for i in last], [labels[i] for i in last], framealpha=0.85, edgecolor="none", fontsize=9)


def _end_with_the_data(axes: Axes, curves: pd.DataFrame, levels: pd.Series) -> None:
    """Draw both axes from the smallest to the largest value that is shown, with room for the markers."""
    spread = curves["std"].fillna(0)
    heights = pd.concat([curves["mean"] - spread, curves["mean"] + spread, levels]).dropna()
    ratios = sorted(curves.loc[curves["n"] > 0, "ratio"].unique())
    axes.set_xticks(ratios)
    for values, limit in ((ratios, axes.set_xlim), (heights, axes.set_ylim)):
        if len(values):
            low, high = min(values), max(values)
            room = MARGIN * (high - low) or SINGLE_ROOM * max(1.0, high)
            limit(low - room, high + room)


def _show_class(axes: list[Axes], pool: Pool, scores: Tensor, label: int, num: int) -> None:
    easy, hard = ends(pool, scores, label, num)
    places = dict(zip([*range(len(easy)), *range(2 * num - len(hard), 2 * num)], [*easy, *hard], strict=True))
    of_class = scores[pool.labels == label]
    cell = axes[0].get_position()
    style = {"ha": "right", "va": "center", "parse_math": False}  # A folder name may contain $.
    axes[0].figure.text(cell.x0 - 0.01, (cell.y0 + cell.y1) / 2, _folded(pool.classes[label]), **style)
    for column, panel in enumerate(axes):
        panel.set_axis_off()
        panel.set_anchor("S")
        if column in places:
            position = places[column]
            pixels = _small(pool.images.decode(position))
            panel.imshow(pixels, interpolation="nearest" if max(pixels.shape[:2]) <= 64 else "antialiased")
            place = f"percentile {percentile(scores[position], of_class):g}"
            panel.set_title(place, fontsize=8, y=0, va="top", pad=-4)


def percentile(score: Tensor, of_class: Tensor) -> float:
    """Return which percentage of a class's images is no harder than the one with this score, one decimal.

    Args:
        score: [], one of `of_class`.
        of_class: [M], the scores of the class; higher means harder.
    """
    return round(100 * float((of_class <= score).double().mean()), 1)


def _small(image: Tensor) -> np.ndarray:
    """Return [height, width, 3] uint8 of at most PIXELS on the longer side, from [3, height, width] uint8."""
    shrunk = Image.fromarray(image.permute(1, 2, 0).numpy())
    shrunk.thumbnail((PIXELS, PIXELS))
    return np.asarray(shrunk)


def _margins(figure: Figure, left: float, right: float, bottom: float, top: float) -> dict[str, float]:
    """Return gridspec margins as fractions, from inches."""
    width, height = figure.get_size_inches()
    return {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}


def _head_columns(figure: Figure, num: int) -> None:
    first = figure.axes[: 2 * num]
    y = 1 - 0.62 / figure.get_figheight()
    for head, group in (("easiest", first[:num]), ("hardest", first[num:])):
        x = (group[0].get_position().x0 + group[-1].get_position().x1) / 2
        figure.text(x, y, head, ha="center", fontsize=11, fontweight="bold")


def _note(pool: Pool, classes: list[int]) -> str:
    present = int((pool.class_counts > 0).sum())
    which = "" if len(classes) == present else f"; {len(classes)} of {present} classes, evenly spread"
    about = "Below each image: the percentage of its class that is no harder by the score (100: the hardest)"
    return f"{about}{which}."


def _folded(name: str) -> str:
    words = name.replace("_", " ")
    return words if len(words) <= 16 else "\n".join(words[i : i + 16] for i in range(0, min(len(words), 48), 16))
