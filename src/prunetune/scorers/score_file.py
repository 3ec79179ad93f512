"""The file of scores that another tool has written: a sample_id and a score in each row."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError

COLUMNS = ("sample_id", "score")
Row = tuple[Any, Any]  # A row consists of a sample_id and a score.


def read_score_file(path: Path) -> dict[str, float]:
    """Return the scores of a file by sample_id, in the order of its rows.

    The suffix tells the format: .jsonl (one JSON object in each line) or .parquet; any other file is read as CSV with a
    header. Further columns are ignored. An empty score is NaN.

    Raises:
        InputError: the file cannot be read, lacks a column, names a sample twice, or has a score that is no number.
    """
    read = READERS.get(path.suffix, _csv)
    try:
        return _numbers(path, read(path))
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{path} is a parquet file, and reading one needs pyarrow, which is not installed ({error}); "
            "run pip install pyarrow, or pass a csv or jsonl file"
        ) from None
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path} is not a readable {path.suffix.lstrip('.') or 'csv'} file of scores ({error}); "
            "write a csv, jsonl or parquet file with sample_id and score"
        ) from None


def _numbers(path: Path, rows: Iterable[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for number, (sample_id, score) in enumerate(rows, 1):
        if str(sample_id) in scores:
            raise InputError(f"{path}: sample_id {str(sample_id)!r} occurs twice; give each sample one score")
        try:
            scores[str(sample_id)] = float("nan" if score in (None, "") else score)
        except (TypeError, ValueError):
            raise InputError(f"{path}: the score in row {number} must be a number, got {score!r}") from None
    return scores


def _csv(path: Path) -> list[Row]:
    # Spreadsheet programs write a byte-order mark at the start of a file.
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or [])
        return [(row["sample_id"], row["score"]) for row in reader]


def _jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            _check_columns(path, list(row) if isinstance(row, dict) else [], f" in line {number}")
            rows.append((row["sample_id"], row["score"]))
    return rows


def _parquet(path: Path) -> list[Row]:
    import pandas  # The import takes half a second, and csv and jsonl files do not need it.

    table = pandas.read_parquet(path)
    _check_columns(path, list(map(str, table.columns)))
    return list(zip(*(table[column].tolist() for column in COLUMNS), strict=True))


def _check_columns(path: Path, found: Iterable[str], where: str = "") -> None:
    if not set(COLUMNS) <= set(found):
        raise InputError(f"{path} needs the columns sample_id and score, has {', '.join(found) or 'none'}{where}")


READERS: dict[str, Callable[[Path], list[Row]]] = {".jsonl": _jsonl, ".parquet": _parquet}
