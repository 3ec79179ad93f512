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
from prunetune.scorers.score_file import read_score_file


@dataclass(frozen=True)
class FromFile(Scorer):
    """Scores of images or text, read from a csv, jsonl or parquet file with sample_id and score.

    Source: the file. It can hold scores of methods that are not part of this package, such as LESS (arXiv 2402.04333)
    and Deita (2312.15685).
    Direction: larger must mean harder.
    Cost: unknown.

    path: of the file; its stem is the name of the scorer in a run, unless scorer.name is set.
    """

    path: str = ""

    name: ClassVar[str] = "from_file"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"name": None}
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.path or not self._file.is_file():
            raise InputError(
                f"scorer.path must be a csv, jsonl or parquet file with the columns sample_id and score, "
                f"got {self.path!r}; pass scorer.path=<file>"
            )

    def score(self, pool: Pool, signals: Any, generator: torch.Generator) -> Tensor:
        scores = read_score_file(self._file)
        missing = [sample_id for sample_id in pool.sample_ids if sample_id not in scores]
        if missing:
            raise InputError(
                f"{self.path} has no score for {len(missing)} of {len(pool)} samples, first: {missing[0]}; add them"
            )
        values = torch.tensor([scores[sample_id] for sample_id in pool.sample_ids], dtype=torch.float64)
        if not values.isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise InputError(f"{self.path} has {bad} scores that are not finite; repair them")
        return values

    @property
    def suffix(self) -> str:
        """The end of the file's name, which tells its format."""
        return self._file.suffix

    def key(self) -> dict[str, Any]:
        """Return a key with the content of the file instead of its path."""
        content = hashlib.sha256(self._file.read_bytes()).hexdigest()
        return {"scorer": "FromFile", "version": self.version, "content": content}

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()
