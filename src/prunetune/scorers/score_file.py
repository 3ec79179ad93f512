"""The file of scores that another tool has written: a sample_id and a score in each row.

A file that could be read in two ways is refused, since a wrong score selects wrong samples without any further sign.
"""

import csv
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError

log = logging.getLogger(__name__)
COLUMNS = ("sample_id", "score")
Row = tuple[Any, Any]  # A row consists of a sample_id and a score.
# Python's float() also accepts underscores, digits of other scripts and the words nan and inf.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
# Digits with a decimal comma, or with commas, apostrophes, underscores or spaces between groups of digits.
GROUPED = re.compile(r"[+-]?\d[\d.,'’_ \u00a0\u202f]*(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
PLAIN = "write numbers with a decimal point and without separators, as in 0.731 or 1500"


def read_score_file(path: Path) -> dict[str, float]:
    """Return the scores of a file by sample_id, in the order of its rows.

    The suffix tells the format: .jsonl (one JSON object in each line) or .parquet; any other file is read as CSV with a
    header. Further columns are ignored. An empty score is NaN.

    Raises:
        InputError: the file cannot be read, lacks a column or has it twice, names a sample twice, has a score that is
            no number or could be read as two numbers, or a row with more or fewer fields than the header.
    """
    read = READERS.get(path.suffix.lower(), _csv)
    try:
        return _numbers(path, read(path))
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{path} is a parquet file, and reading one needs pyarrow, which is not installed ({error}); "
            "run pip install pyarrow, or pass a csv or jsonl file"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"{path} is not a readable {path.suffix.lstrip('.') or 'csv'} file of scores ({error}); "
            "write a csv, jsonl or parquet file with sample_id and score"
        ) from None


def scores_of(path: Path, sample_ids: Sequence[str], rows: Sequence[int] | None = None) -> list[float]:
    """Return one finite score for each sample of a pool, from a file of scores.

    The sample_ids of the file are compared with those of the pool. If the file has row numbers instead, they are
    understood in two cases. If the sample_ids of the pool are numbers themselves, as in a corpus of text, they are
    compared as numbers, so that 7 means 000007. If the samples have rows, row number i is that of the sample of row i.
    Otherwise the row numbers must be 0 to N - 1. Row number i then is position i of the pool, which is sorted by
    sample_id: the column `position` of scores.csv and subset.csv.

    Args:
        path: the file.
        sample_ids: [N], in the order of the pool.
        rows: [N] the row of each sample in the user's file, from 0; None if the samples come from no such file.

    Raises:
        InputError: as `read_score_file`; or a sample has no score, or one that is not finite.
    """
    scores = read_score_file(path)
    places = list(sample_ids)
    if any(place not in scores for place in places) and scores and all(map(_is_row_number, scores)):
        scores, places = _by_row_number(path, scores, places, rows)
    missing = [sample_id for sample_id, place in zip(sample_ids, places, strict=True) if place not in scores]
    if missing:
        raise InputError(
            f"{path} has no score for {len(missing)} of {len(sample_ids)} samples, first: {missing[0]}; add them "
            "(scores.csv of a run with scorer=random lists every sample_id)"
        )
    values = [scores[place] for place in places]
    if bad := [sample_id for sample_id, value in zip(sample_ids, values, strict=True) if not math.isfinite(value)]:
        raise InputError(f"{path} has {len(bad)} scores that are not finite, first: that of {bad[0]}; repair them")
    return values


def _by_row_number(
    path: Path, scores: dict[str, float], sample_ids: list[str], rows: Sequence[int] | None
) -> tuple[dict[Any, float], list[Any]]:
    """Return the scores by row number, and the row number of each sample.

    Raises:
        InputError: two ids are the same number, or the numbers are not the positions of the pool.
    """
    by_number = {int(number): score for number, score in scores.items()}
    if len(by_number) < len(scores):
        raise InputError(f"{path}: two sample_ids are the same row number; give each sample one score")
    if all(map(_is_row_number, sample_ids)):
        return by_number, [int(sample_id) for sample_id in sample_ids]
    if rows is not None:
        return by_number, list(rows)
    last = len(sample_ids) - 1
    if by_number.keys() != set(range(last + 1)):
        raise InputError(
            f"{path} has {len(by_number)} row numbers from {min(by_number)} to {max(by_number)} as sample_ids, and the "
            f"pool has the positions 0 to {last}; number the samples as the column position of scores.csv does, or "
            f"write their sample_ids, such as {sample_ids[0]!r}"
        )
    log.warning(
        "%s has row numbers as sample_ids. They are read as positions in the pool, which is sorted by sample_id: "
        "0 is %s, %d is %s",
        *(path, sample_ids[0], last, sample_ids[-1]),
    )
    return by_number, list(range(last + 1))


def _is_row_number(sample_id: str) -> bool:
    return sample_id.isascii() and sample_id.isdigit() and len(sample_id) <= 18


def _numbers(path: Path, rows: Iterable[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for number, (sample_id, score) in enumerate(rows, 1):
        if not isinstance(sample_id, str | int) or isinstance(sample_id, bool) or sample_id == "":
            raise InputError(f"{path}: row {number} has no text or whole number as its sample_id, but {sample_id!r}")
        if str(sample_id) in scores:
            raise InputError(f"{path}: sample_id {str(sample_id)!r} occurs twice; give each sample one score")
        scores[str(sample_id)] = _number(path, number, score)
    return scores


def _number(path: Path, row: int, score: Any) -> float:
    """Return a score as a float; an empty one is NaN.

    Raises:
        InputError: it is no number, or could be read as two numbers.
    """
    text = score.strip() if isinstance(score, str) else score
    if text is None or text == "":
        return math.nan
    is_number = isinstance(text, Real | Decimal) and not isinstance(text, bool)
    if is_number or (isinstance(text, str) and (NUMBER.fullmatch(text) or NOT_FINITE.fullmatch(text))):
        try:
            return float(text)
        except OverflowError:  # The file holds a whole number of more than 308 digits.
            return math.inf
    if isinstance(text, str) and GROUPED.fullmatch(text):
        raise InputError(
            f"{path}: row {row} has the score {score!r}, with a decimal comma or separators between digits; {PLAIN}"
        )
    raise InputError(f"{path}: row {row} has no number as its score, but {score!r}; {PLAIN}")


def _csv(path: Path) -> Iterator[Row]:
    # Spreadsheet programs write a byte-order mark at the start of a file.
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        _check_separator(path, header)
        _check_columns(path, header)
        places = [header.index(column) for column in COLUMNS]
        for number, fields in enumerate((fields for fields in reader if fields), 1):
            _check_fields(path, number, fields, header)
            yield fields[places[0]], fields[places[1]]


def _check_separator(path: Path, header: list[str]) -> None:
    """Refuse columns that are separated by something else: in such files a comma is often a decimal comma."""
    if set(COLUMNS) <= set(header):
        return
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if set(COLUMNS) <= {column.strip(' "') for column in ",".join(header).split(separator)}:
            raise InputError(f"{path} has {name} between its columns; write commas between columns, and {PLAIN}")


def _check_fields(path: Path, number: int, fields: list[str], header: list[str]) -> None:
    """Refuse a row that does not fit the header: a comma inside a number makes a field of its own."""
    after = header.index("score") + 1
    is_split = len(fields) > after and after < len(header) and not header[after] and fields[after].strip()
    if len(fields) == len(header) and not is_split:
        return
    shown = ",".join(fields)[:80]
    hint = "write ids with commas in double quotes"
    if any(GROUPED.fullmatch(one) and GROUPED.fullmatch(next_one) for one, next_one in pairwise(fields)):
        hint = f"a comma inside a number separates two fields; {PLAIN}, and ids with commas in double quotes"
    wrong = "a value in a column without a name" if is_split else f"{len(fields)} fields and the header {len(header)}"
    raise InputError(f"{path}: row {number} ({shown}) has {wrong}; {hint}")


def _jsonl(path: Path) -> Iterator[Row]:
    # The lines are not split by splitlines(), which also splits at characters that JSON allows inside a string.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            pairs = json.loads(line, object_pairs_hook=list)
            is_object = isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs)
            _check_columns(path, [key for key, _ in pairs] if is_object else [], f" in line {number}")
            row = dict(pairs)
            yield row["sample_id"], row["score"]


def _parquet(path: Path) -> Iterator[Row]:
    import pandas  # The import takes half a second, and csv and jsonl files do not need it.

    table = pandas.read_parquet(path)
    _check_columns(path, list(map(str, table.columns)))
    columns = [table[column].astype(object) for column in COLUMNS]
    yield from zip(*(column.where(column.notna(), None).tolist() for column in columns), strict=True)


def _check_columns(path: Path, found: Sequence[str], where: str = "") -> None:
    if not set(COLUMNS) <= set(found):
        raise InputError(f"{path} needs the columns sample_id and score, has {', '.join(found) or 'none'}{where}")
    for column, times in Counter(name.strip().lower() for name in found).items():
        if column in COLUMNS and times > 1:
            raise InputError(f"{path} has {times} columns called {column}{where}; leave all but one out")


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {".jsonl": _jsonl, ".parquet": _parquet}
