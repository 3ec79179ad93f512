"""What a user's data were understood to be: the candidates, and where each of them came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool


@dataclass(frozen=True, eq=False)
class OwnData:
    """The candidates of one `prune`, with the rows and names that the user knows them by.

    A pool sorts itself by sample_id. `rows` leads back to the user's own order, so that nothing that a user reads is in
    the order of the pool.

    pool: N candidates; their images, labels and classes. A pool without labels has one class, and `is_labelled` is
    False. rows: [N] int64, different numbers from 0: the row of each position of the pool in the user's data (the line
    of a table below its header, the index in a dataset, the place in the sorted paths of a folder). num_rows: the rows
    of the user's data, at least N; rows that are no candidates have a reason in `left_out`. names: N texts, each
    candidate as the user gave it: a path, or the row as a number. paths: N absolute paths of image files, None where
    there is no file. features: [N, D] float32 in the order of the pool if the user gave embeddings; the pool then has
    no images. left_out: maps each row, file or folder that is no candidate to the reason. others: images of the other
    splits, which are no candidates and in which duplicates of candidates are looked for. layout: "folders", "flat",
    "table", "list", "dataset", "arrays", "embeddings", "parquet", "webdataset" or "hugging_face". source: the object
    that the user gave; for data of Hugging Face the Dataset whose rows are the user's rows. notes: what a reader of the
    first lines must know, such as the columns that were guessed.
    """

    pool: Pool
    rows: Tensor
    num_rows: int
    names: tuple[str, ...]
    paths: tuple[Path | None, ...]
    layout: str
    is_labelled: bool = True
    features: Tensor | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    others: Pool | None = None
    source: Any = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.pool), len(self.rows), len(self.names), len(self.paths)}
        if self.features is not None:
            sizes.add(len(self.features))
        if len(sizes) > 1:
            raise ValueError(f"pool, rows, names, paths and features differ in length: {sorted(sizes)}")

    def take(self, positions: Tensor, left_out: Mapping[str, str]) -> "OwnData":
        """Return the data without some candidates.

        Args:
            positions: [n] int64, ascending, the positions in the pool that stay.
            left_out: maps the name of each candidate that goes to the reason.
        """
        if len(positions) == 0:
            raise InputError(f"none of the {len(self.pool)} images is left, first: {next(iter(left_out.items()))}")
        chosen = positions.tolist()
        return OwnData(
            pool=self.pool.take(positions),
            rows=self.rows[positions],
            num_rows=self.num_rows,
            names=tuple(self.names[position] for position in chosen),
            paths=tuple(self.paths[position] for position in chosen),
            layout=self.layout,
            is_labelled=self.is_labelled,
            features=None if self.features is None else self.features[positions],
            left_out={**self.left_out, **left_out},
            others=self.others,
            source=self.source,
            notes=self.notes,
        )

    def described(self) -> list[str]:
        """Return the lines that are shown before anything is computed: what was understood.

        What is left out is not repeated: the reader has logged it as a WARNING (`left_out_lines`).
        """
        pool = self.pool
        what = "rows" if self.layout == "embeddings" else "images"
        if self.is_labelled:
            order = torch.argsort(pool.class_counts, descending=True, stable=True).tolist()
            shown = [f"{pool.classes[label]} {int(pool.class_counts[label])}" for label in order[:5]]
            rest = ", ..." if len(order) > 5 else ""
            classes = "1 class" if len(pool.classes) == 1 else f"{len(pool.classes)} classes"
            lines = [f"{len(pool)} {what}, {classes}: {', '.join(shown)}{rest}"]
        else:
            lines = [f"{len(pool)} {what} without labels"]
        return [*lines, *self.notes]


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """Return one line for each reason: how many were left out, and the first three."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{len(names)} left out ({reason}): {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for reason, names in by_reason.items()
    ]
