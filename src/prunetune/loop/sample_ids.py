"""The ids of the samples of a training, and the row in which the statistics of each are kept."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError


class SampleIds:
    """N different ids in the order in which scores are returned.

    Args:
        ids: the ids, texts or whole numbers; or their count N, and then the ids are 0 to N - 1.

    Raises:
        InputError: an id occurs twice or is neither a text nor a whole number, or there is none.
    """

    def __init__(self, ids: int | Iterable[str | int]) -> None:
        count = checks.plain(ids)
        if not isinstance(ids, Iterable):
            checks.whole_number("ids", count, what="the ids of all samples or their number", otherwise=" or a list")
        self._all = _as_list(ids) if isinstance(ids, Iterable) else range(count)
        self._rows = {_checked(sample_id): row for row, sample_id in enumerate(self._all)}
        if not self._rows:
            raise InputError("ids is empty; pass the ids of all training samples, or their number")
        if len(self._rows) < len(self._all):
            twice = next(sample_id for row, sample_id in enumerate(self._all) if self._rows[sample_id] != row)
            more = len(self._all) - len(self._rows)
            raise InputError(f"ids must differ, but {more} are repetitions, first: {twice!r}; give each sample its own")

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, row: int) -> str | int:
        return self._all[row]

    def rows(self, ids: Any) -> Tensor:
        """Return the rows of a batch of ids, [B] int64.

        Args:
            ids: [B] ids: a list, an array or a tensor.

        Raises:
            InputError: an id is unknown.
        """
        given = _as_list(ids)
        rows = [self._row(sample_id) for sample_id in given]
        unknown = [sample_id for sample_id, row in zip(given, rows, strict=True) if row is None]
        if unknown:
            raise InputError(
                f"the Recorder does not know {len(unknown)} of {len(given)} ids of the batch, first: {unknown[0]!r}; "
                f"it was made with {len(self)} ids, first: {self._all[0]!r}; make it with the ids of all samples"
            )
        return torch.tensor(rows, dtype=torch.int64)

    def digest(self) -> str:
        """Return a text that is the same for the same ids in the same order only."""
        text = "\x1f".join(f"{type(sample_id).__name__}:{sample_id}" for sample_id in self._all)
        return hashlib.sha256(text.encode()).hexdigest()

    def _row(self, sample_id: Any) -> int | None:
        return self._rows.get(sample_id) if _is_id(sample_id) else None


def _as_list(ids: Any) -> list[Any]:
    """Return ids as Python values."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids  # A tensor, an array or a column of a table.
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"ids must be a list with one id for each sample, got {values!r}")
    return [value.item() if isinstance(value, Tensor) else checks.plain(value) for value in values]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or checks.is_whole_number(value, least=None)


def _checked(sample_id: Any) -> str | int:
    if not _is_id(sample_id):
        raise InputError(f"an id must be a text or a whole number, got {sample_id!r}")
    return sample_id
