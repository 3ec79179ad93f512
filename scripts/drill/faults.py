"""Faults inside a command: it is killed, or a write fails, at its k-th change of a file.

Python reports changes of files to audit hooks before they happen. A hook cannot be removed, so it is set in the forked
process only. Libraries that write by themselves, as safetensors does, are met by limits of the kernel instead.
"""

import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.drill.processes import Before

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
MOVES = {"os.rename", "os.link", "os.symlink"}  # Their second argument is the path that changes.
REMOVALS = {"os.remove", "os.rmdir"}  # A full disk does not prevent them.
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Act = Callable[[int, str, str], None]  # The number of the change from 1, its event, and the path.


class Counter:
    """A number that a forked process counts up and its parent reads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        """The number."""
        return struct.unpack("q", self._memory[:])[0]

    @value.setter
    def value(self, number: int) -> None:
        self._memory[:] = struct.pack("q", number)


def on_changes(folder: Path, act: Act) -> None:
    """Call `act` before every change of a file or folder below `folder`, in this process from now on."""
    number, root = 0, str(folder)

    def note(event: str, path: Any, dir_fd: int = -1) -> None:
        nonlocal number
        text = _absolute(path, dir_fd)
        if text == root or text.startswith(f"{root}/"):
            number += 1
            act(number, event, text)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and flags & WRITES:
                note(event, path)
        elif event in CHANGES:
            dir_fd = arguments[-1] if event in (*REMOVALS, "os.mkdir") else -1
            note(event, arguments[1 if event in MOVES else 0], dir_fd)

    sync = os.fsync

    def fsync(file: Any) -> None:  # Python reports no event for it.
        descriptor = file if isinstance(file, int) else file.fileno()
        note("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(file)

    os.fsync = fsync
    sys.addaudithook(hook)


def counting(folder: Path, counter: Counter) -> Before:
    """Count the changes below a folder."""

    def act(number: int, event: str, path: str) -> None:
        counter.value = number

    return lambda: on_changes(folder, act)


def kill_at(folder: Path, number: int) -> Before:
    """Kill the command just before its change with this number."""

    def act(change: int, event: str, path: str) -> None:
        if change >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: on_changes(folder, act)


def kill_within(folder: Path, number: int, num_bytes: int) -> Before:
    """Kill the command in the middle of a write: from change `number` on, no file may grow beyond `num_bytes`.

    The kernel ends a process that writes more by the signal SIGXFSZ, at once and after the bytes before were written.
    """

    def act(change: int, event: str, path: str) -> None:
        if change >= number and event == "open" and not path.endswith(".log"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return lambda: on_changes(folder, act)


def kill_when(folder: Path, event: str, name: str, times: int = 1) -> Before:
    """Kill the command just before it does `event` to a file of this name for the `times`-th time."""
    seen = 0

    def act(change: int, happens: str, path: str) -> None:
        nonlocal seen
        seen += happens == event and Path(path).name.endswith(name)
        if seen >= times:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: on_changes(folder, act)


def fail_at(folder: Path, number: int, code: int, lasting: bool) -> Before:
    """Let change `number` fail with this errno, and with lasting=True all later changes but removals."""

    def act(change: int, event: str, path: str) -> None:
        if change == number or (lasting and change > number and event not in REMOVALS):
            raise OSError(code, os.strerror(code), path)

    return lambda: on_changes(folder, act)


def limit_files(num_bytes: int) -> Before:
    """Let every write beyond `num_bytes` of a file fail with EFBIG, also those of libraries that are not Python."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return limit


def _absolute(path: Any, dir_fd: int) -> str:
    text = os.fsdecode(path)
    if dir_fd >= 0 and not os.path.isabs(text):
        return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
    return os.path.abspath(text)
