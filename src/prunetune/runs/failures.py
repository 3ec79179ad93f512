"""What a failed run leaves in its folder: failed.json with the error in one line and the time.

A killed process leaves nothing, and a finished run has none: what is there says why the last attempt ended.
Imports no torch, since the command itself uses it.
"""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prunetune.base.publish import new_file, write_json

NAME = "failed.json"


@dataclass(frozen=True)
class Failure:
    """Why a run or a job ended, in one line, and when (ISO 8601, local time with its offset)."""

    error: str
    time: str


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Write failed.json into a folder if the block raises, which it still does; an older one goes at its start."""
    forget(folder)
    try:
        yield
    except Exception as error:
        note(folder, error)
        raise


def note(folder: Path, error: Exception) -> None:
    """Write failed.json, unless the folder holds the result of another run."""
    if (folder / "result.json").is_file():
        return
    content = {
        "error": " ".join(f"{type(error).__name__}: {error}".split()),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "traceback": traceback.format_exception(error),
    }
    with suppress(OSError):  # a full disk is told by the error itself
        with new_file(folder / NAME) as partial:
            write_json(partial, content)


def forget(folder: Path) -> None:
    """Remove a folder's failed.json."""
    with suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)


def read(folder: Path) -> Failure | None:
    """Return how the last attempt ended, None where none has failed."""
    try:
        content = json.loads((folder / NAME).read_text())
        return Failure(content["error"], content["time"])
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        return Failure(f"{NAME} is damaged", "unknown")
