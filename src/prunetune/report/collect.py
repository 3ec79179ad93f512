"""Every finished run as one row."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from prunetune.errors import InputError

NAMES = ("dataset", "backbone", "scoring_backbone", "finetune", "scorer", "sampler", "tag")
TEXT = (
    *NAMES,
    "selection_rule",
    "budgets",
    "precision",
    "recipe",
    "device",
    "commit",
    "dataset_fingerprint",
    "scores_path",
    "run",
)
INTEGERS = (
    *("seed", "num_classes", "num_pool", "num_kept", "num_test", "images_per_epoch", "views"),
    *("peak_memory_bytes", "score_peak_memory_bytes"),
)
COLUMNS = (
    *NAMES,
    *("ratio", "seed", "accuracy", "best_accuracy", "worst_class_accuracy"),
    *("gamma", "selection_rule", "budgets", "precision", "views", "recipe"),
    *("num_classes", "num_pool", "num_kept", "num_test", "images_per_epoch"),
    *("decode_seconds", "score_seconds", "search_seconds", "sample_seconds", "finetune_seconds"),
    *("peak_memory_bytes", "score_peak_memory_bytes"),
    *("device", "commit", "dataset_fingerprint", "scores_path", "run"),
)
IDENTITY = (*NAMES, "ratio", "seed")  # what tells one run from another; also the order of the rows


def collect(results_dir: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read every `result.json` below `runs`.

    Returns:
        A frame with COLUMNS, one row per run, sorted by IDENTITY (accuracies as fractions, what does not apply is
        missing); and one line for each result.json that was skipped because it could not be read or repeats another.
    """
    rows, skipped = [], []
    for path in sorted((results_dir / "runs").rglob("result.json")):
        try:
            rows.append(_row(json.loads(path.read_text(encoding="utf-8")), path.parent.relative_to(results_dir)))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            skipped.append(f"skipped {path}: not a finished run's result ({reason}); remove it and run again")
    frame = _typed(pd.DataFrame(rows, columns=list(COLUMNS))).sort_values([*IDENTITY, "run"], kind="stable")
    repeated = frame.duplicated(list(IDENTITY))
    skipped += [f"skipped {results_dir / run}: the same run as another folder's" for run in frame["run"][repeated]]
    return frame[~repeated].reset_index(drop=True), skipped


def write(results: pd.DataFrame, path: Path) -> None:
    """Write the rows as CSV, numbers in full, an empty field for what is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results.to_csv(path, index=False, lineterminator="\n")


def read(path: Path) -> pd.DataFrame:
    """Read back what `write` wrote."""
    if not path.is_file():
        raise InputError(f"{path} is not there; run scripts/collect.py first")
    text = dict.fromkeys(TEXT, str)
    return _typed(pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""]))


def _row(result: Any, run: Path) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise ValueError("no JSON object")
    lacking = [key for key in (*IDENTITY, "accuracy") if result.get(key) is None]
    if lacking:
        raise ValueError(f"no {', '.join(lacking)}")
    numbers = [key for key in ("ratio", "seed", "accuracy") if not isinstance(result[key], int | float)]
    if numbers:
        raise ValueError(f"{', '.join(numbers)} must be numbers")
    config = result.get("config") or {}
    finetune, budgets = config.get("finetune") or {}, (config.get("sampler") or {}).get("budgets", "proportional")
    return {
        **result,
        "budgets": budgets,
        "views": finetune.get("views"),
        "recipe": _digest(finetune),
        "run": run.as_posix(),
    }


def _digest(finetune: dict[str, Any]) -> str:
    """Return eight letters that are the same for runs which train in the same way."""
    return hashlib.sha256(json.dumps(finetune, sort_keys=True).encode()).hexdigest()[:8]


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = {name: "Int64" if name in INTEGERS else "float64" for name in COLUMNS if name not in TEXT}
    return frame.astype(kinds).astype(dict.fromkeys(TEXT, object))
