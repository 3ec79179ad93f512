"""The files of `--out`: what is kept, and a line about every sample."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base.publish import write_text
from prunetune.own.export import export
from prunetune.own.subset import Subset
from prunetune.own.suspects import Suspects
from prunetune.runs.records import write_csv

COLUMNS = ("row", "name", "path", "class", "score", "percentile", "kept", "weight", "reason", "duplicate_group")
SUSPECT = "suspect_label"


def write_files(subset: Subset, folder: Path, form: str | None = None, suspects: Suspects | None = None) -> None:
    """Write kept.txt, kept.csv and all.csv into a folder, and with a form the kept images, as `own.export` says.

    kept.txt has the name of each kept sample as the user gave it, one a line. The tables have the columns of COLUMNS:
    the row in the user's data, the name, the absolute path, the class, the score, the percentage of the class whose
    score is not larger, whether the sample is kept and with which weight, the reason, and the number of its group of
    duplicates; and suspect_label, the class that a sample with a suspect label looks like. all.csv ends with what was
    no candidate.
    """
    lines = _with_suspects(list(described(subset)), subset, suspects)
    kept = [line for line in lines if line["kept"]]
    write_text(folder / "kept.txt", "".join(f"{line['name']}\n" for line in kept))
    for name, chosen in (("kept.csv", kept), ("all.csv", [*lines, *_left_out(subset)])):
        columns = (*COLUMNS, SUSPECT)
        write_csv(folder / name, columns, ([as_field(line.get(column)) for column in columns] for line in chosen))
    if form is not None:
        export(subset, folder, form)


def described(subset: Subset) -> Iterator[dict[str, Any]]:
    """Yield a line about each candidate, in the order of the user's rows; the keys are those of COLUMNS.

    A score and a percentile are NaN for a duplicate that was set aside. None stands where there is nothing to say.
    """
    data, pool = subset.data, subset.pool
    weights = _weights(subset)
    percentiles = class_percentiles(subset.pool_scores, pool.labels)
    for position in data.rows.argsort().tolist():
        weight = float(weights[position])
        yield {
            "row": int(data.rows[position]),
            "name": data.names[position],
            "path": None if data.paths[position] is None else str(data.paths[position]),
            "class": pool.classes[int(pool.labels[position])] if data.is_labelled else None,
            "score": float(subset.pool_scores[position]),
            "percentile": float(percentiles[position]),
            "kept": weight > 0,
            "weight": weight,
            "reason": subset.reason(position),
            "duplicate_group": subset.duplicates.group_of.get(position),
        }


def _with_suspects(lines: list[dict[str, Any]], subset: Subset, suspects: Suspects | None) -> list[dict[str, Any]]:
    """Add to each line with a suspect label the class that is suggested."""
    at = subset.data.rows.argsort().tolist()  # The position in the pool that each line is about.
    suggestions = {} if suspects is None else suspects.suggestions()
    for position, line in zip(at, lines, strict=True):
        if position in suggestions:
            line[SUSPECT] = subset.pool.classes[suggestions[position]]
    return lines


def class_percentiles(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the percentage of the class whose score is not larger, [N] float64; NaN where the score is NaN.

    Args:
        scores: [N] float64; NaN for samples without a score.
        labels: [N] int64.
    """
    percentiles = torch.full_like(scores, torch.nan)
    for label in labels.unique().tolist():
        members = torch.nonzero((labels == label) & ~scores.isnan()).flatten()
        ordered = scores[members].sort().values
        percentiles[members] = 100 * torch.searchsorted(ordered, scores[members], right=True).double() / len(members)
    return percentiles


def _weights(subset: Subset) -> Tensor:
    """Return the weight of each candidate, [N] float64; 0 for those that are not kept."""
    weights = torch.zeros(len(subset.pool), dtype=torch.float64)
    weights[subset.kept] = 1.0 if subset.pool_weights is None else subset.pool_weights
    return weights


def _left_out(subset: Subset) -> Iterator[dict[str, Any]]:
    """Yield a line about each row or file that was no candidate."""
    for name, reason in subset.data.left_out.items():
        yield {**dict.fromkeys(COLUMNS), "name": name, "kept": False, "weight": 0.0, "reason": f"left out: {reason}"}


def as_field(value: Any) -> Any:
    """Return a value as it stands in the tables: an empty field for None and NaN, 1 and 0 for true and false."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return "" if value != value else f"{value:.17g}"
    return value
