"""Collect every finished run as one row of a table. Text runs have additional columns."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from prunetune.base.disk import special_kind
from prunetune.base.errors import InputError
from prunetune.config.identity import sampler_today
from prunetune.report.output import write_csv

NAMES = ("dataset", "backbone", "scoring_backbone", "finetune", "scorer", "sampler", "tag")
TEXT = (
    *NAMES,
    "selection_rule",
    "budgets",
    "subpool",
    "precision",
    "recipe",
    "device",
    "commit",
    "dataset_fingerprint",
    "scores_path",
    "run",
    "kind",
    "num_fewshot",
)
INTEGERS = (
    *("seed", "num_classes", "num_pool", "num_kept", "num_test", "images_per_epoch", "views"),
    *("num_read", "peak_memory_bytes", "score_peak_memory_bytes", "per_class"),
)
IMAGE_RUN, TEXT_RUN = "image", "text"
MMLU_GROUPS = ("humanities", "social_sciences", "stem", "other")
FEWSHOT = "_5shot"  # The names of the columns for five worked examples end with this suffix.
MMLU_COLUMNS = tuple(f"mmlu_{group}" for group in MMLU_GROUPS)
TEXT_COLUMNS = (
    *("kind", "num_read", "num_fewshot", *MMLU_COLUMNS),
    *(f"{name}{FEWSHOT}" for name in ("accuracy", *MMLU_COLUMNS)),
    *("held_out_loss_before", "held_out_loss", "held_out_perplexity", "tokens_per_second"),
)
COLUMNS = (
    *NAMES,
    *("ratio", "seed", "accuracy", "best_accuracy", "worst_class_accuracy"),
    *("gamma", "selection_rule", "budgets", "precision", "views", "recipe"),
    *("subpool", "num_classes", "num_pool", "num_kept", "num_test", "images_per_epoch"),
    *("decode_seconds", "score_seconds", "search_seconds", "sample_seconds", "finetune_seconds"),
    *("peak_memory_bytes", "score_peak_memory_bytes"),
    *("device", "commit", "dataset_fingerprint", "scores_path", "run"),
    *TEXT_COLUMNS,  # An older results.csv does not have these last columns.
    "per_class",
)
IDENTITY = (*NAMES, "ratio", "seed")  # These columns identify a run and sort the rows.


def collect(results_dir: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read every `result.json` below `runs`.

    Returns:
        A frame with COLUMNS, one row per run, sorted by IDENTITY. Accuracies are fractions, and values that do not
        apply are missing. Also one line for each result.json that was skipped, since it cannot be read or repeats
        another one.
    """
    rows, skipped = [], []
    for path in sorted((results_dir / "runs").rglob("result.json")):
        try:
            if (kind := special_kind(path)) is not None:
                raise ValueError(f"it is {kind}")
            rows.append(_row(json.loads(path.read_text(encoding="utf-8")), path.parent.relative_to(results_dir)))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            skipped.append(f"skipped {path}: not a finished run's result ({reason}); remove it and run again")
    frame = _typed(pd.DataFrame(rows, columns=list(COLUMNS))).sort_values([*IDENTITY, "run"], kind="stable")
    repeated = frame.duplicated([*IDENTITY, "per_class"])  # Both keys come from the one setting `ratio`.
    skipped += [f"skipped {results_dir / run}: another folder holds the same run" for run in frame["run"][repeated]]
    return frame[~repeated].reset_index(drop=True), skipped


def no_runs(results_dir: Path) -> str:
    """Return the line that says that there are no finished runs."""
    return f"no finished runs below {results_dir / 'runs'}; run `prunetune run` first, or pass --results=<results_dir>"


def collect_images(results_dir: Path) -> tuple[pd.DataFrame, list[str]]:
    """Collect image runs only. Text runs are left out, and one line gives their number."""
    results, skipped = collect(results_dir)
    chosen = images(results)
    if others := len(results) - len(chosen):
        skipped = [*skipped, f"left out {others} text runs; `prunetune tables instruction v1_llm` is about those"]
    return chosen, skipped


def images(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of image runs."""
    return results[results["kind"] != TEXT_RUN].reset_index(drop=True)


def texts(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of text runs."""
    return results[results["kind"] == TEXT_RUN].reset_index(drop=True)


def write(results: pd.DataFrame, path: Path) -> None:
    """Write the rows as CSV. Numbers are not rounded, and a missing value is an empty field."""
    write_csv(path, results, "pass --results FOLDER")


def read(path: Path) -> pd.DataFrame:
    """Read a file that `write` has written, also one of an earlier version without text runs."""
    if not path.is_file():
        raise InputError(f"{path} is not there; run `prunetune collect` first")
    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    frame = _typed(frame.reindex(columns=list(COLUMNS)))
    return frame.assign(kind=frame["kind"].fillna(IMAGE_RUN))


def _row(result: Any, run: Path) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise ValueError("no JSON object")
    is_text = result.get("kind") == TEXT_RUN
    lacking = [key for key in (*IDENTITY, "accuracy") if result.get(key) is None]
    if lacking:
        raise ValueError(f"no {', '.join(lacking)}")
    numbers = [key for key in ("ratio", "seed", "accuracy") if not isinstance(result[key], int | float)]
    if numbers:
        raise ValueError(f"{', '.join(numbers)} must be numbers")
    config = result.get("config") or {}
    training = config.get("sft" if is_text else "finetune") or {}
    return {
        **result,
        "sampler": sampler_today(result["sampler"], config.get("sampler")),
        "subpool": _subpool(result.get("subpool")),
        "budgets": (config.get("sampler") or {}).get("budgets", "proportional"),
        "views": training.get("views"),
        "recipe": _digest(training),
        "run": run.as_posix(),
        "kind": TEXT_RUN if is_text else IMAGE_RUN,
        "num_read": (result.get("corpus_report") or {}).get("read"),
        "num_fewshot": " ".join(map(str, result.get("num_fewshot") or [])) or None,
    }


def _subpool(drawn: Any) -> str | None:
    """Return a sub-pool as its override names it, such as "0.8,3"; None for a run on the whole pool."""
    return f"{drawn.get('fraction')},{drawn.get('seed')}" if isinstance(drawn, dict) else None


def _digest(training: dict[str, Any]) -> str:
    """Return eight letters that are equal for runs with the same training settings."""
    if training.get("last_batch") == "keep":  # Runs from before this option kept a shorter last batch too.
        training = {key: value for key, value in training.items() if key != "last_batch"}
    return hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:8]


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = {name: "Int64" if name in INTEGERS else "float64" for name in COLUMNS if name not in TEXT}
    typed = frame.astype(kinds).astype(dict.fromkeys(TEXT, object))
    return typed.where(typed.notna())  # A missing name becomes NaN, as pandas reads it.
