"""Folders that appear whole or not at all, and one line for a full or read-only disk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunetune.base.disk import FULL, not_usable
from prunetune.base.errors import InputError
from prunetune.base.publish import TakenError, new_folder

OTHER_DISK = "pass --root or --downloads on another disk"


@contextmanager
def explained(folder: Path, fix: str) -> Iterator[None]:
    """Turn an error of the disk inside the block into an InputError that names the folder or file, and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise InputError(f"the disk of {folder} is full; free some space or {fix}") from error
        raise InputError(not_usable(error, fix, folder)) from error


def require_space(folder: Path, needed: int, what: str, fix: str) -> None:
    """Refuse to begin what would not fit: `needed` bytes on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{what} needs {needed / 1e9:.2f} GB, the disk of {folder} has {free / 1e9:.2f} GB free; "
            f"free some space or {fix}"
        )


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty neighbouring folder and rename it to `folder` when the block ends without an error.

    Raises:
        InputError: `folder` exists and is not empty, or the disk is full or not writable.
    """
    with explained(folder.parent, OTHER_DISK):
        try:
            with new_folder(folder) as partial:
                yield partial
        except TakenError as error:
            raise InputError(f"{error}; delete it or choose another folder") from error


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, without a second copy where the disk can do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in FULL or isinstance(error, FileExistsError):
            raise
        shutil.copyfile(source, target)  # The target is on another disk, or the disk supports no hard links.
