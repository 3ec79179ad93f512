"""Write and read the files of a finished run: result.json and three CSV files.

Each file is written under another name and then renamed, so that it is never incomplete. result.json is written last,
with hashes of the others: a run is finished if it is there and the others are as they were written.
"""

import csv
import json
import logging
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from prunetune.base.disk import ANOTHER_RESULTS_DIR, explained, not_usable, special_kind
from prunetune.base.errors import InputError
from prunetune.base.hashes import file_hash
from prunetune.base.log_file import SHOWN_ONLY
from prunetune.base.peak_memory import peak_memory
from prunetune.base.publish import new_file, require_writable, write_json
from prunetune.config.identity import differences
from prunetune.data.pool import Pool
from prunetune.runs import failures
from prunetune.training.recipe import FinetuneResult

log = logging.getLogger(__name__)
# Two runs of the same configuration on the CPU of the same machine differ only in these keys of result.json.
VOLATILE = frozenset(
    ["decode_seconds", "score_seconds", "search_seconds", "sample_seconds", "finetune_seconds"]
    + ["probes_together", "peak_memory_bytes", "score_peak_memory_bytes", "device", "commit", "versions", "file_hashes"]
)
HASHES = "file_hashes"  # In result.json, this key maps the names of the run's CSV files to their hashes.
CSV_FILES = ("subset.csv", "predictions.csv", "history.csv")
PACKAGES = ("prunetune", "torch", "torchvision", "timm", "numpy", "hydra-core")


class DamagedError(InputError):
    """A result.json that is incomplete, or that a run did not write."""


def is_finished(out_dir: Path, record: Mapping[str, Any], listing: Callable[[], str | None]) -> bool:
    """Return whether the folder holds the result of this configuration, with files that nobody has changed.

    A damaged result, and a file that was deleted or changed since the run, give a warning, and the run is not finished.

    Args:
        out_dir: the run's folder.
        record: what identifies the run that is asked for, as `config.identity.recorded` gives it.
        listing: returns the hash of the data set's present list of samples, None if the data are no longer there.

    Raises:
        InputError: the folder holds the result of another configuration, the list of samples has changed, or
            result.json may not be read.
    """
    file = out_dir / "result.json"
    try:
        result = read_result(out_dir)
    except DamagedError as error:
        log.warning("%s and is made again", error)
        return False
    if result is None:
        return False
    check_configuration(out_dir, result, record)
    samples_now = listing()
    if samples_now not in (None, result.get("dataset_listing")):
        raise InputError(
            f"{out_dir} holds a result of other data: files of the data set were added, removed, moved or changed "
            "since; pass tag=<name> to use another folder, or delete that folder"
        )
    change = changed_file(out_dir, result)
    if change is not None:
        log.warning("%s since the run has finished, so the run is done again", change)
        return False
    log.info("finished before: %s (the contents of images and weights are not compared)", file, extra=SHOWN_ONLY)
    return True


def read_result(out_dir: Path) -> dict[str, Any] | None:
    """Return the result in a run's folder, or None if the run is not finished.

    Raises:
        DamagedError: result.json is incomplete, or a run did not write it.
        InputError: it may not be read.
    """
    file = out_dir / "result.json"
    kind = special_kind(file)
    if kind is not None:
        raise DamagedError(f"{file} is {kind}")
    try:
        result = json.loads(file.read_text())
        if not isinstance(result["config"], dict) or not isinstance(result.get(HASHES, {}), dict):
            raise TypeError("no configuration, or no hashes")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(not_usable(error, ANOTHER_RESULTS_DIR, file)) from error
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{file} is damaged") from None
    return result


def changed_file(out_dir: Path, result: Mapping[str, Any]) -> str | None:
    """Return which CSV file of a finished run was deleted or changed, as the start of a sentence, or None.

    A result of an earlier version has no hashes. Of such a run only the absence of a file can be noticed.

    Args:
        out_dir: the run's folder.
        result: the contents of the result.json in it.

    Raises:
        InputError: a file may not be read.
    """
    expected = CSV_FILES if result.get("kind") != "text" else ("subset.csv", "history.csv")
    hashes = {**dict.fromkeys(expected), **(result.get(HASHES) or {})}
    for name, written in hashes.items():
        file = out_dir / name
        if not file.is_file():
            return f"{file} was deleted"
        if written is not None and _hash(file) != written:
            return f"{file} was changed"
    return None


def _hash(file: Path) -> str:
    try:
        return file_hash(file)
    except OSError as error:
        raise InputError(not_usable(error, ANOTHER_RESULTS_DIR, file)) from error


def claim(out_dir: Path) -> None:
    """Make a run's folder, and refuse one that cannot be written before anything is computed.

    Raises:
        InputError: the folder may not be written, or the disk is full.
    """
    with explained(out_dir):
        require_writable(out_dir)


def check_configuration(out_dir: Path, result: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a result of another configuration. Data and weights are not compared.

    Args:
        out_dir: the run's folder.
        result: the contents of the result.json in it.
        now: what identifies the run that is asked for, as `config.identity.recorded` gives it.

    Raises:
        InputError: they are not the same run.
    """
    now = json.loads(json.dumps(now))  # Both sides must have the types that JSON can hold, such as lists for tuples.
    changes = [f"{key}: {old!r} there, {new!r} now" for key, old, new in differences(result["config"], now)]
    if changes:
        raise InputError(
            f"{out_dir} holds the result of another configuration ({'; '.join(changes[:3])}); "
            "pass tag=<name> to use another folder, or delete that folder"
        )


def write_subset(
    path: Path,
    pool: Pool,
    subset: Tensor,
    weights: Tensor | None = None,
    fix: str = ANOTHER_RESULTS_DIR,
    file_rows: Sequence[int] | None = None,
) -> None:
    """Write a subset.csv: position, sample_id, label, weight (17 significant digits), positions ascending.

    Args:
        path: the file.
        pool: N samples.
        subset: [M] int64 positions that are kept, ascending.
        weights: [M]; None gives every sample weight 1.
        fix: the end of the message about a full disk.
        file_rows: [N] the number of each sample in the user's file, from 0, which becomes the column `row`. A position
            is no such number where rows were dropped. None leaves the column out.

    Raises:
        InputError: the disk is full or not writable. Its message ends with `fix`.
    """
    columns: tuple[str, ...] = ("position", "sample_id", "label", "weight")
    rows = [(*row, f"{weight:.17g}") for *row, weight in subset_rows(pool, subset, weights)]
    if file_rows is not None:
        columns = (*columns, "row")
        rows = [(*row, file_rows[row[0]]) for row in rows]
    write_csv(path, columns, rows, fix)


def subset_rows(pool: Pool, subset: Tensor, weights: Tensor | None = None) -> list[tuple[int, str, int, float]]:
    """Return the rows of subset.csv for an ascending subset [M] and weights [M]. None gives every image weight 1."""
    values = [1] * len(subset) if weights is None else weights.tolist()
    return [
        (position, pool.sample_ids[position], int(pool.labels[position]), weight)
        for position, weight in zip(subset.tolist(), values, strict=True)
    ]


def write_result(
    out_dir: Path,
    result: dict[str, Any],
    pool: Pool,
    test: Pool,
    subset: Tensor,
    outcome: FinetuneResult,
    weights: Tensor | None = None,
) -> None:
    """Write a finished run: subset.csv, predictions.csv, history.csv, and then result.json."""
    write_subset(out_dir / "subset.csv", pool, subset, weights)
    rows = zip(test.sample_ids, test.labels.tolist(), outcome.predictions.tolist(), strict=True)
    write_csv(out_dir / "predictions.csv", ("sample_id", "label", "prediction"), rows)
    history = (tuple(asdict(epoch).values()) for epoch in outcome.history)
    write_csv(out_dir / "history.csv", ("epoch", "learning_rate", "train_loss", "test_accuracy"), history)
    publish(out_dir, result)


def publish(out_dir: Path, result: dict[str, Any]) -> None:
    """Write result.json, which marks a run as finished, with the hashes of the CSV files that are in the folder."""
    file = out_dir / "result.json"
    with explained(file), new_file(file) as partial:
        hashes = {name: file_hash(out_dir / name) for name in CSV_FILES if (out_dir / name).is_file()}
        write_json(partial, {**result, HASHES: hashes})
    failures.forget(out_dir)


def accuracies(test: Pool, outcome: FinetuneResult) -> dict[str, Any]:
    """Return the accuracy keys of result.json as fractions. The accuracy of a class without test images is None."""
    correct = (outcome.predictions == test.labels).double()
    per_class = [
        correct[test.labels == label].mean().item() if count else None for label, count in enumerate(test.class_counts)
    ]
    return {
        "accuracy": correct.mean().item(),
        "best_accuracy": max(epoch.test_accuracy for epoch in outcome.history if epoch.test_accuracy is not None),
        "worst_class_accuracy": min(accuracy for accuracy in per_class if accuracy is not None),
        "per_class_accuracy": per_class,
        "classes": list(test.classes),
    }


def provenance(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the commit, the versions of the used and the given packages, and the peak memory of this process."""
    return {"commit": commit(), "versions": versions(packages), "peak_memory_bytes": peak_memory()}


@cache
def commit() -> str:
    """Return the commit of the checkout that this code runs from, or `unknown` outside git.

    `-dirty` is appended if files outside the folder results differ from the commit. The answer is cached.
    """
    here = Path(__file__).resolve()
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        suffix = "-dirty" if _git(here.parent, "status", "--porcelain", "--", ":/", ":(top,exclude)results") else ""
        return _git(here.parent, "rev-parse", "HEAD") + suffix
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in (*PACKAGES, *packages)}}


@cache
def _version(name: str) -> str:
    return version(name)


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], fix: str = ANOTHER_RESULTS_DIR
) -> None:
    """Write a CSV file and rename it into place. None becomes an empty field.

    Raises:
        InputError: the disk is full or not writable. Its message ends with `fix`.
    """
    with explained(path, fix), new_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
