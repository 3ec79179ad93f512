"""Scores that another tool computed."""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.instruct.extra import needed
from prunetune.instruct.scorers.base import TextScorer
from prunetune.instruct.scorers.signals import TextSignals

SUFFIXES = (".csv", ".jsonl", ".parquet")
COLUMNS = ("sample_id", "score")
Row = tuple[Any, Any]  # sample_id, score


@dataclass(frozen=True, kw_only=True)
class FromFile(TextScorer):
    """Scores read from a csv, jsonl or parquet file with sample_id and score; larger must mean harder.

    Source: the file; so enter LESS (arXiv 2402.04333), Deita (2312.15685) and others.
    Cost: none that is known here.
    """

    path: str = ""

    name: ClassVar[str] = "from_file"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"name": None}

    def __post_init__(self) -> None:
        if not self.path or not self._file().is_file() or self._file().suffix not in SUFFIXES:
            raise InputError(
                f"text_scorer.path must be a {', '.join(SUFFIXES)} file with sample_id and score, got {self.path!r}"
            )

    def score(self, signals: TextSignals, generator: torch.Generator) -> Tensor:
        scores, ids = self._read(), signals.pool.sample_ids
        missing = [sample_id for sample_id in ids if sample_id not in scores]
        if missing:
            raise InputError(f"{self.path} has no score for {len(missing)} of {len(ids)} samples, first: {missing[0]}")
        values = torch.tensor([scores[sample_id] for sample_id in ids], dtype=torch.float64)
        if not values.isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise InputError(f"{self.path} has {bad} scores that are not finite; repair them")
        return values

    def key(self) -> dict[str, Any]:
        """The file's content."""
        content = hashlib.sha256(self._file().read_bytes()).hexdigest()
        return {"scorer": "FromFile", "version": self.version, "suffix": self._file().suffix, "content": content}

    def signals_key(self, signals: TextSignals) -> dict[str, Any]:
        """The samples alone."""
        return {"corpus": signals.encoded.fingerprint}

    def _file(self) -> Path:
        return Path(self.path).expanduser()

    def _read(self) -> dict[str, float]:
        read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[self._file().suffix]
        try:
            return self._numbers(read(self._file()))
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"{self.path} needs sample_id and score in every row, {error} is missing") from None
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise InputError(f"{self.path} is not a readable file of scores ({error})") from None

    def _numbers(self, rows: Iterable[Row]) -> dict[str, float]:
        scores: dict[str, float] = {}
        for number, (sample_id, score) in enumerate(rows, 1):
            if str(sample_id) in scores:
                raise InputError(f"{self.path}: sample_id {sample_id!r} occurs twice; give each sample one score")
            try:
                scores[str(sample_id)] = float(score)
            except (TypeError, ValueError):
                raise InputError(f"{self.path}: row {number} has no number as its score, but {score!r}") from None
        return scores


def _csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [tuple(row[column] for column in COLUMNS) for row in csv.DictReader(file)]


def _jsonl(path: Path) -> list[Row]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [tuple(row[column] for column in COLUMNS) for row in lines]


def _parquet(path: Path) -> list[Row]:
    needed("pyarrow")  # pandas reads with it
    table = pandas.read_parquet(path)
    return list(zip(*(table[column].tolist() for column in COLUMNS), strict=True))
