"""Read and write failed.json, which says why the last attempt at a run failed, and when.

A killed process leaves no such file, and a finished run removes it. This module does not import torch, since the
command line imports it at once.
"""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prunetune.base.disk import special_kind
from prunetune.base.publish import new_file, write_json

NAME = "failed.json"


@dataclass(frozen=True)
class Failure:
    """Why a run or a job ended, in one line, and when (ISO 8601, local time with its offset)."""

    error: str
    time: str


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Write failed.json into a folder if the block raises an error, and raise the error again.

    A failed.json of an earlier attempt is removed first.
    """
    forget(folder)
    try:
        yield
    except Exception as error:
        note(folder, error)
        raise


def note(folder: Path, error: Exception) -> None:
    """Write failed.json, unless the folder holds a result, which then belongs to another run."""
    content = {
        "error": " ".join(f"{type(error).__name__}: {error}".split()),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "traceback": traceback.format_exception(error),
    }
    with suppress(OSError):  # The disk may be full. The user then sees the first error, which says so.
        if not (folder / "result.json").is_file():
            with new_file(folder / NAME) as partial:
                write_json(partial, content)


def forget(folder: Path) -> None:
    """Remove a folder's failed.json."""
    with suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)


def read(folder: Path) -> Failure | None:
    """Return why the last attempt failed, or None if it did not fail."""
    kind = special_kind(folder / NAME)
    if kind is not None:
        return Failure(f"{NAME} is {kind}", "unknown")
    try:
        content = json.loads((folder / NAME).read_text())
        return Failure(content["error"], content["time"])
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        return Failure(f"{NAME} is damaged", "unknown")
