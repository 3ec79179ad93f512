"""Scores that another tool computed."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals


@dataclass(frozen=True)
class FromFile(Scorer):
    """Scores read from a CSV file with the columns sample_id and score.

    Source: the file.
    Direction: larger must mean harder.
    Cost: none that is known here.

    path: of the file; its stem is what a run calls the scorer, unless scorer.name says another.
    """

    path: str = ""

    name: ClassVar[str] = "from_file"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"name": None}

    def __post_init__(self) -> None:
        if not self.path or not Path(self.path).expanduser().is_file():
            raise InputError(f"scorer.path must be a CSV file with the columns sample_id and score, got {self.path!r}")

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        scores = self._read()
        missing = [sample_id for sample_id in pool.sample_ids if sample_id not in scores]
        if missing:
            raise InputError(f"{self.path} has no score for {len(missing)} of {len(pool)} images, first: {missing[0]}")
        values = torch.tensor([scores[sample_id] for sample_id in pool.sample_ids], dtype=torch.float64)
        if not values.isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise InputError(f"{self.path} has {bad} scores that are not finite; repair them")
        return values

    def key(self) -> dict[str, Any]:
        content = hashlib.sha256(Path(self.path).expanduser().read_bytes()).hexdigest()
        return {"scorer": "FromFile", "version": self.version, "content": content}

    def _read(self) -> dict[str, float]:
        scores: dict[str, float] = {}
        try:
            with Path(self.path).expanduser().open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or []
                if not {"sample_id", "score"} <= set(columns):
                    found = ", ".join(columns) or "none"
                    raise InputError(f"{self.path} needs the columns sample_id and score, has {found}")
                for row in reader:
                    if row["sample_id"] in scores:
                        raise InputError(
                            f"{self.path}: sample_id {row['sample_id']!r} occurs twice; give each image one score"
                        )
                    scores[row["sample_id"]] = float(row["score"] or "nan")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path} is not a readable CSV file ({error})") from None
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}: row {len(scores) + 1} has no number as its score ({error})") from None
        return scores
