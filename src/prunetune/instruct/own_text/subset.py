"""The outcome of pruning text: the kept rows as the user has them, and what became of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from prunetune.instruct.corpus.encoding import OVER_LONG, Encoded
from prunetune.instruct.extra import needed
from prunetune.own.subset import Subset

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TextSubset(Subset):
    """The kept part of a user's text.

    It has the fields and properties of `Subset`: `positions` are the kept rows, counted from 0 as in the file, and
    `scores` has one entry for each row, NaN for a row that was dropped. encoded: the N candidates in tokens. rows: the
    user's rows, unchanged. ids: the id of each row. all_scores: [N] float64 by the name of the scorer, in the order of
    the pool. name: what the data are called. form: the columns that were read, as `Form.name`. columns: maps names that
    prunetune knows to the user's columns. costs: what scoring cost, by scorer.
    """

    encoded: Encoded
    rows: Sequence[Mapping[str, Any]]
    ids: Sequence[str]
    all_scores: Mapping[str, Tensor]
    name: str = "rows"
    form: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept_rows(self) -> Iterator[dict[str, Any]]:
        """The kept rows, unchanged, in the order of the file."""
        return (dict(self.rows[row]) for row in self.positions.tolist())

    @property
    def report(self) -> dict[str, int]:
        """How many rows became what; see `corpus.encoding.Report`."""
        return dict(vars(self.encoded.report))

    @cached_property
    def score_column(self) -> str:
        """The name of the score beside the columns of the user's rows: score, unless they have such a column."""
        taken = any("score" in row for row in self.rows)
        return "prunetune_score" if taken else "score"

    def described(self) -> Iterator[dict[str, Any]]:
        """Yield a line about each row of the data, in their order.

        The keys are row (from 0), id, the name of each scorer, tokens, kept, reason, stratum and duplicate_group. A row
        that was dropped has None for what is not known.
        """
        position_of = {row: position for position, row in enumerate(self.encoded.rows)}
        for row, sample_id in enumerate(self.ids):
            position = position_of.get(row)
            line = {"row": row, "id": sample_id, **dict.fromkeys(self.all_scores)}
            if position is None:
                unknown = {"stratum": None, "duplicate_group": None}
                yield {**line, "tokens": None, "kept": False, "reason": self.encoded.outcomes[row], **unknown}
                continue
            yield {
                **line,
                **{name: float(scores[position]) for name, scores in self.all_scores.items()},
                "tokens": int(self.encoded.lengths[position]),
                "kept": position in self._kept_set,
                "reason": self.reason(position),
                "stratum": self.pool.classes[int(self.pool.labels[position])] if self.data.is_labelled else None,
                "duplicate_group": self.duplicates.group_of.get(position),
            }

    def reason(self, position: int) -> str:
        """Return why the candidate at this position of the pool is kept or not, and whether it was cut."""
        copies = self.duplicates.copies
        own = super().reason(position)
        if position in copies:
            own = f"near-duplicate of row {self.encoded.rows[copies[position]]}"
        is_cut = self.encoded.outcomes.get(self.encoded.rows[position]) == OVER_LONG
        return f"{own}, {OVER_LONG}" if is_cut else own

    def to_frame(self) -> pd.DataFrame:
        """Return a line about each row as a data frame, with the columns of all.parquet."""
        import pandas as pd

        return pd.DataFrame(list(self.described()))

    def to_jsonl(self, path: str | Path) -> None:
        """Write the kept rows, unchanged, with their score, one JSON object a line, as kept.jsonl."""
        from prunetune.instruct.own_text.files import write_kept

        write_kept(self, Path(path))

    def to_folder(self, folder: str | Path, form: str = "") -> Path:
        """Write the files of --out into a new folder, and return it.

        Raises:
            InputError: the folder has content.
        """
        from prunetune.base.disk import explained
        from prunetune.base.errors import InputError
        from prunetune.base.publish import TakenError, new_folder
        from prunetune.instruct.own_text.files import write_files

        folder = Path(folder)
        try:
            with explained(folder, "give another folder"), new_folder(folder) as partial:
                write_files(self, partial)
        except TakenError:
            raise InputError(f"{folder} has content already; give a new or empty folder") from None
        return folder

    def as_hf(self) -> Any:
        """Return the kept rows, unchanged, as a `datasets.Dataset`."""
        datasets = needed("datasets")
        source = self.data.source
        if isinstance(source, datasets.Dataset):
            return source.select(self.positions.tolist())
        return datasets.Dataset.from_list(list(self.kept_rows))
