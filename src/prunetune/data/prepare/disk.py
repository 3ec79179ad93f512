"""Folders that appear whole or not at all, and one line for a full or read-only disk."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunetune.base.errors import InputError
from prunetune.base.store import is_alive

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def explained(folder: Path, fix: str) -> Iterator[None]:
    """Turn a full or read-only disk inside the block into an InputError that names the folder and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise InputError(f"the disk of {folder} is full; free some space or {fix}") from error
        if error.errno in FORBIDDEN:
            raise InputError(
                f"{error.filename or folder} cannot be used ({error.strerror}); allow it or {fix}"
            ) from error
        raise


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

    A process killed inside the block leaves a hidden folder with its own id, never `folder`; the next
    call removes it.

    Raises:
        InputError: `folder` exists and is not empty, or the disk is full or not writable.
    """
    with explained(folder.parent, "pass --root or --downloads on another disk"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        partial = folder.with_name(f"{_prefix(folder)}{os.getpid()}")
        partial.mkdir()
        try:
            yield partial
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)  # an empty folder in its place is replaced, as POSIX has it
    except OSError as error:
        if folder.exists():
            raise InputError(f"{folder} exists already; delete it or choose another folder") from error
        raise


def _prefix(folder: Path) -> str:
    return f".{folder.name}.partial-{socket.gethostname()}-"


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed processes of this machine left half-made for the same folder."""
    prefix = _prefix(folder)
    for leftover in folder.parent.iterdir():
        owner = leftover.name.removeprefix(prefix)
        if leftover.name.startswith(prefix) and owner.isdigit() and not is_alive(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, without a second copy where the disk can do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in FULL or isinstance(error, FileExistsError):
            raise
        shutil.copyfile(source, target)  # another disk, or one without hard links
