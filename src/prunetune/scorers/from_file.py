"""Scores that another tool computed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.score_file import read_score_file, scores_of


@dataclass(frozen=True)
class FromFile(Scorer):
    """Scores of images or text, read from a csv, jsonl or parquet file with sample_id and score.

    Source: the file. It can hold scores of methods that are not part of this package, such as LESS (arXiv 2402.04333)
    and Deita (2312.15685).
    Direction: larger must mean harder.
    Cost: unknown.

    path: of the file; its stem is the name of the scorer in a run, unless scorer.name is set. A sample_id of the file
    is that of a sample, or its row number. Of text, this is the number of the row in the corpus, from 0, as in the
    column row of subset.csv; rows that were dropped may have scores too. Of images, it is the position in the pool as
    in scores.csv and subset.csv, or, if the sample_ids are numbers themselves, that number. Numbers have a decimal
    point; a decimal comma is refused.
    """

    path: str = ""

    name: ClassVar[str] = "from_file"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"name": None}
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path or not self._file.is_file():
            raise InputError(
                f"scorer.path must be a csv, jsonl or parquet file with the columns sample_id and score, "
                f"got {self.path!r}; pass scorer.path=<file>"
            )

    def score(self, pool: Pool, signals: Any, generator: torch.Generator) -> Tensor:
        rows = getattr(signals, "rows", None)  # Only the samples of a corpus of text have them.
        return torch.tensor(scores_of(self._file, pool.sample_ids, rows), dtype=torch.float64)

    @property
    def suffix(self) -> str:
        """The end of the file's name, which tells its format."""
        return self._file.suffix

    def key(self) -> dict[str, Any]:
        """Return a key with the content of the file instead of its path.

        Raises:
            InputError: the file is wrong. It is read here too, since the store may hold scores that an earlier version
                of this package has misread from the same file.
        """
        read_score_file(self._file)
        content = hashlib.sha256(self._file.read_bytes()).hexdigest()
        return {"scorer": "FromFile", "version": self.version, "content": content}

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()
