"""The names of unfinished files and folders, and the removal of those that killed processes have left behind.

A name is `.partial-<host>-<process id>-<random part>`. It is a leftover if the process was one of this host and has
ended, or if nothing in it has changed for a week, whatever host made it: processes of other hosts cannot be seen.
"""

import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PREFIX = ".partial-"
WEEK, DAY = 7 * 86400, 86400  # seconds
LAST = "last_cleaned"  # The time of change of this file in a store says when the whole store was last searched.
NESTED = ("views", "passes", "training")  # These kinds of the store have folders in which processes write.
_done: set[Path] = set()  # The folders that this process has cleaned.


def aside(place: Path) -> Path:
    """Return a hidden path beside a place that names this host and process and that no other call returns."""
    return place.with_name(f"{PREFIX}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def remove_once(folder: Path) -> None:
    """Remove the leftovers that lie in a folder, not below it. Later calls of this process for it do nothing."""
    if folder not in _done:
        _done.add(folder)
        remove_from(folder)


def remove_from(folder: Path) -> None:
    """Remove the leftovers that lie in a folder, not below it. What cannot be read or removed stays."""
    for entry in _listed(folder):
        if entry.name.startswith(PREFIX) and _is_left(entry):
            _remove(entry)


def tidy(store: Path) -> None:
    """Remove the leftovers in the folders of a store in which processes write. These are few, so each run does this."""
    nested = (folder for kind in NESTED for folder in _folders(store / kind))
    for folder in (store, *_folders(store), *nested):
        remove_from(folder)


def sweep(store: Path, trees: Iterable[Path] = ()) -> None:
    """Remove the leftovers deep in a store and in folders of runs.

    Many folders are listed, so this does nothing if some process has done it within a day.

    Args:
        store: the root of the store.
        trees: folders that are searched as a whole.
    """
    mark = store / LAST
    with suppress(OSError):
        if time.time() - mark.stat().st_mtime < DAY:
            return
    try:
        store.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return  # A folder that cannot be written cannot be cleaned either.
    remove_from(store)
    for kind in _folders(store):
        # The complete entries of other kinds never change, so that their many folders need not be listed.
        _remove_below(kind) if kind.name in NESTED else remove_from(kind)
    for tree in trees:
        _remove_below(tree)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove_below(folder: Path) -> None:
    remove_from(folder)
    for inner in _folders(folder):
        _remove_below(inner)


def _is_left(entry: os.DirEntry[str]) -> bool:
    # The name of a host may hold hyphens, and may begin with the name of another host (node, node-2).
    host, pid = [*entry.name.removeprefix(PREFIX).rsplit("-", 2), ""][:2]
    if host == socket.gethostname() and pid.isdecimal():
        if not is_alive(int(pid)):
            return True
        if int(pid) == os.getpid():
            return False
    try:
        return time.time() - _last_change(entry) > WEEK
    except OSError:
        return False  # Its process has renamed it meanwhile.


def _last_change(entry: os.DirEntry[str]) -> float:
    """Return the latest time of change of a file, or of a folder and what lies in it, in seconds since 1970."""
    inside = _listed(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else []
    return max(os.lstat(path).st_mtime for path in (entry.path, *(inner.path for inner in inside)))


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(entry.path)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _folders(folder: Path) -> Iterator[Path]:
    for entry in _listed(folder):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield Path(entry.path)
