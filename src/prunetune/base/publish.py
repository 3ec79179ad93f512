"""Files and folders that appear complete or not at all: they are written beside their place, then renamed.

The name of an unfinished file or folder says which process of which host makes it. What a killed process leaves behind
is recognised by that name and removed. This module does not import torch, since the command line itself imports it.
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunetune.base.leftovers import aside, remove_once


class TakenError(Exception):
    """The folder exists already and has content."""


@contextmanager
def new_file(path: Path, synced: bool = False) -> Iterator[Path]:
    """Yield a path to write to, and rename that file to `path` when the block ends without an error.

    An older file at `path` stays unchanged until then. Missing folders are created. The mode of the file follows the
    umask, so that a group can share it.

    Args:
        path: the place of the file.
        synced: wait until the content is on the disk, so that a power cut leaves no empty file.

    Raises:
        OSError: the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_once(path.parent)
    partial = aside(path)
    try:
        yield partial
        if synced:
            _sync(partial)
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # The block above has already raised any error of the disk.
            partial.unlink(missing_ok=True)


@contextmanager
def new_folder(place: Path, synced: bool = False) -> Iterator[Path]:
    """Yield an empty folder, and rename it to `place` when the block ends without an error.

    A process that is killed inside the block leaves a hidden folder beside `place`, which another process removes (see
    `leftovers`).

    Args:
        place: where the folder goes; an empty folder in this place is replaced.
        synced: wait until the files of the folder are on the disk, so that a power cut leaves no empty ones.

    Raises:
        TakenError: `place` has content already, such as that of a process that was faster.
        OSError: the disk is full or not writable.
    """
    remove_once(place.parent)
    partial = aside(place)
    partial.mkdir(parents=True)
    try:
        yield partial
        if synced:
            for path in partial.iterdir():
                _sync(path)
        try:
            os.rename(partial, place)  # On POSIX systems a rename replaces an empty folder.
        except OSError as error:
            if place.exists():
                raise TakenError(f"{place} exists already") from error
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder in the system's folder for temporary files, and remove it when the block ends.

    Raises:
        OSError: there is no such folder, or it is full or not writable.
    """
    parent = Path(tempfile.gettempdir())
    remove_once(parent)
    folder = aside(parent / "scratch")
    folder.mkdir(mode=0o700)  # All users see this folder, and its content is private.
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(place: Path) -> None:
    """Remove a folder so that it is gone at once; a process that has it open keeps what it reads.

    Raises:
        OSError: the folder may not be changed.
    """
    gone = aside(place)
    try:
        os.rename(place, gone)
    except FileNotFoundError:
        return  # Another process has already removed the folder.
    shutil.rmtree(gone, ignore_errors=True)


def require_writable(folder: Path) -> None:
    """Make a folder, and write and remove a file in it, so that a fault shows before anything is computed.

    Raises:
        OSError: the folder cannot be made, or it is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_once(folder)
    attempt = aside(folder / "attempt")
    try:
        attempt.write_bytes(b"0")
    finally:
        with suppress(OSError):
            attempt.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give the files below a new folder the mode that the umask allows. Some libraries make private files.

    Raises:
        OSError: a mode may not be changed.
    """
    allowed = stat.S_IMODE(folder.stat().st_mode) & 0o666  # The folder itself was made with the mode of the umask.
    for path in folder.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != allowed:
            path.chmod(allowed)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people: sorted keys, two spaces, a final newline."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as a whole or not at all. Missing folders are created.

    Raises:
        OSError: the disk is full or not writable.
    """
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
