"""The files of `--out`: the kept rows, a line about every row, a report, and descriptions for trainers."""

import json
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.base.publish import write_json, write_text
from prunetune.instruct.extra import needed
from prunetune.instruct.own_text.subset import TextSubset
from prunetune.instruct.own_text.trainers import axolotl_text, llama_factory

KEPT, ALL, REPORT = "kept.jsonl", "all.parquet", "report.json"
LLAMA_FACTORY, AXOLOTL = "dataset_info.json", "axolotl.yaml"
WRITTEN = (KEPT, ALL, REPORT, LLAMA_FACTORY, AXOLOTL)


def write_files(subset: TextSubset, folder: Path) -> None:
    """Write the files of WRITTEN into a folder.

    kept.jsonl has the kept rows as the user has them, in their order, with the score. all.parquet has a line about each
    row (`TextSubset.described`). report.json says how many rows became what. dataset_info.json and axolotl.yaml
    describe kept.jsonl to LLaMA-Factory and Axolotl; they are left out for rows that these do not read.
    """
    write_kept(subset, folder / KEPT)
    write_all(subset, folder / ALL)
    write_json(folder / REPORT, report(subset))
    if (info := llama_factory(subset)) is not None:
        write_json(folder / LLAMA_FACTORY, info)
    if (text := axolotl_text(subset)) is not None:
        write_text(folder / AXOLOTL, text)


def write_kept(subset: TextSubset, path: Path) -> None:
    """Write the kept rows with their score, one JSON object a line."""
    scores = subset.scores
    lines = []
    for row, content in zip(subset.positions.tolist(), subset.kept_rows, strict=True):
        lines.append(_json({**content, subset.score_column: float(scores[row])}, row))
    write_text(path, "".join(lines))


def write_all(subset: TextSubset, path: Path) -> None:
    """Write a line about each row as a parquet file."""
    arrow = needed("pyarrow")
    lines = list(subset.described())
    whole, real, text = arrow.int64(), arrow.float64(), arrow.string()
    kinds = {"row": whole, "id": text, **dict.fromkeys(subset.all_scores, real), "tokens": whole, "kept": arrow.bool_()}
    kinds |= {"reason": text, "stratum": text, "duplicate_group": whole}
    needed("pyarrow.parquet").write_table(arrow.Table.from_pylist(lines, schema=arrow.schema(kinds)), path)


def report(subset: TextSubset) -> dict[str, Any]:
    """Return what became of the rows, by which method, and what it cost."""
    return {
        "corpus_report": subset.report,
        "form": subset.form,
        "method": subset.method,
        "num_rows": len(subset.rows),
        "num_candidates": len(subset.pool),
        "num_near_duplicates": len(subset.duplicates.copies),
        "num_kept": len(subset),
        "kept_tokens": int(subset.encoded.lengths[subset.kept].sum()),
        "strata": dict(zip(subset.pool.classes, subset.pool.class_counts.tolist(), strict=True))
        if subset.data.is_labelled
        else None,
        "dataset_fingerprint": subset.encoded.fingerprint,
        "scores": dict(subset.costs),
    }


def _json(row: Mapping[str, Any], number: int) -> str:
    """Return a row as a line of JSON. NaN, by which data frames mean nothing, becomes null."""
    try:
        line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"row {number + 1} cannot be written as JSON ({error}); leave its column out of the data, or use the "
            "positions of the subset in Python"
        ) from None
    try:
        line.encode()
    except UnicodeEncodeError:  # A column that is not read may hold half of a surrogate pair.
        line = json.dumps(_plain(row))
    return f"{line}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # An array or a number of NumPy.
        return _plain(value.tolist())
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float) and value != value:
        return None
    return value
