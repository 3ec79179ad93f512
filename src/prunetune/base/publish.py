"""Files and folders that appear complete or not at all: they are written beside their place, then renamed.

This module does not import torch, since the command line itself imports this module.
"""

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class TakenError(Exception):
    """The folder exists already and has content."""


@contextmanager
def new_file(path: Path, synced: bool = False) -> Iterator[Path]:
    """Yield a path to write to, and rename that file to `path` when the block ends without an error.

    An older file at `path` stays unchanged until then. Missing folders are created.

    Args:
        path: the place of the file.
        synced: wait until the content is on the disk, so that a power cut leaves no empty file.

    Raises:
        OSError: the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
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

    A process that is killed inside the block leaves a hidden folder with its own id beside `place`. The next process
    that makes a folder there removes it.

    Args:
        place: where the folder goes; an empty folder in this place is replaced.
        synced: wait until the files of the folder are on the disk, so that a power cut leaves no empty ones.

    Raises:
        TakenError: `place` has content already, such as that of a process that was faster.
        OSError: the disk is full or not writable.
    """
    _remove_leftovers(place.parent)
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


def aside(place: Path) -> Path:
    """Return a hidden path beside a place that names this process and that no other call returns."""
    return place.with_name(f".partial-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people: sorted keys, two spaces, a final newline."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_leftovers(folder: Path) -> None:
    """Delete the unfinished folders of processes of this machine that were killed."""
    here = f".partial-{socket.gethostname()}"
    for partial in folder.glob(f"{here}-*"):
        # One host's name may begin with another's (node, node-2), so the name is compared exactly below.
        made_by, pid, _ = partial.name.rsplit("-", 2)
        if made_by == here and pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)
