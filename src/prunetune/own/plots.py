"""The two pictures of the reports, as coordinates for SVG: the learning curve, and the map of the samples."""

import math
from typing import Any

import torch
from torch import Tensor

from prunetune.own.advice import Advice
from prunetune.own.estimate import Estimate
from prunetune.own.subset import Subset

MOST_POINTS = 3000  # Points on the map. Of more samples that many are drawn evenly.
MAP = (640, 420)  # Width and height of the map.
CURVE = (420, 300)  # Width and height of the curve, small, so that its text can be read on a telephone.
LEFT, RIGHT, TOP, BOTTOM = 48, 20, 12, 44  # The margins of the curve.
ASIDE = 2.5  # The two series are moved apart by this much, so that their intervals can be told apart.
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)  # The distances of the lines of the grid.


def curve_plot(advice: Advice) -> dict[str, Any]:
    """Return the accuracy by fraction kept, for the method and for random samples, and the power law."""
    curve, law = advice.curve, advice.law
    rows = range(len(curve.fractions))
    series = {
        "chosen": (f"{advice.scorer}", [curve.reached(row) for row in rows], -ASIDE),
        "drawn": ("random samples", [curve.reached_by_random(row) for row in rows], ASIDE),
    }
    bottom, top, step = _range([each for _, estimates, _ in series.values() for each in estimates])

    def x(fraction: float) -> float:
        return LEFT + fraction * (CURVE[0] - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return TOP + (top - accuracy) / (top - bottom) * (CURVE[1] - TOP - BOTTOM)

    counts = torch.linspace(curve.counts[0], curve.counts[-1], 60).tolist()
    fitted = [(count / curve.counts[-1], 1 - law.error(count)) for count in counts]
    return {
        "size": CURVE,
        "x_ticks": [(x(percent / 100), f"{percent}%") for percent in (0, 20, 40, 60, 80, 100)],
        "y_ticks": [(y(each), f"{each:.0%}") for each in _grid(bottom, top, step)],
        "series": [
            {
                "kind": kind,
                "name": name,
                "line": _line([(x(f) + aside, y(e.mean)) for f, e in zip(curve.fractions, estimates, strict=True)]),
                "bars": [
                    (x(f) + aside, y(e.mean), y(min(e.high, top)), y(max(e.low, bottom)))
                    for f, e in zip(curve.fractions, estimates, strict=True)
                ],
            }
            for kind, (name, estimates, aside) in series.items()
        ],
        "law": _line([(x(fraction), y(accuracy)) for fraction, accuracy in fitted if bottom <= accuracy <= top]),
    }


def _range(estimates: list[Estimate]) -> tuple[float, float, float]:
    """Return the lowest and the highest accuracy that is shown, and the distance of the lines of the grid."""
    low, high = max(min(each.low for each in estimates), 0), min(max(each.high for each in estimates), 1)
    step = next((step for step in STEPS if (high - low) / step <= 6), STEPS[-1])
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return bottom, max(top, bottom + step), step


def _grid(bottom: float, top: float, step: float) -> list[float]:
    return [bottom + number * step for number in range(round((top - bottom) / step) + 1)]


def _line(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def map_plot(subset: Subset, features: Tensor) -> dict[str, Any]:
    """Return the points of the map: the two directions in which the features [N, D] vary most."""
    count = len(features)
    rows = torch.linspace(0, count - 1, min(count, MOST_POINTS)).round().long().unique()
    centred = features[rows] - features.mean(dim=0)
    _, _, directions = torch.pca_lowrank(centred, q=min(4, *centred.shape), center=False)
    flat = centred @ directions[:, :2]  # [P, 2]
    if flat.shape[1] < 2:
        flat = torch.cat([flat, torch.zeros(len(flat), 1)], dim=1)
    low, high = flat.amin(dim=0), flat.amax(dim=0)
    placed = (flat - low) / (high - low).clamp_min(1e-12) * torch.tensor([MAP[0] - 20.0, MAP[1] - 20.0]) + 10
    kept = set(subset.kept.tolist())
    points = [
        {
            "x": round(x, 1),
            "y": round(y, 1),
            "kept": row in kept,
            "label": int(subset.pool.labels[row]),
            "name": subset.data.names[row],
        }
        for row, (x, y) in zip(rows.tolist(), placed.tolist(), strict=True)
    ]
    share = float((flat.var(dim=0).sum() / centred.var(dim=0).sum().clamp_min(1e-12)).clamp(0, 1))
    return {"size": MAP, "points": sorted(points, key=lambda point: point["kept"]), "share": share, "of": count}
