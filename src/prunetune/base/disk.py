"""Faults of the disk as one line: what could not be used, why, and the fix.

This module does not import torch, since the command line itself imports this module.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunetune.base.errors import InputError, shortened

ANOTHER_RESULTS_DIR = "pass results_dir=<folder>"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
KINDS = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}


@contextmanager
def explained(what: object, fix: str = ANOTHER_RESULTS_DIR) -> Iterator[None]:
    """Turn an error of the disk inside the block into an InputError.

    Args:
        what: the file or folder that the block writes.
        fix: what else the user can do, in the words of the door that was used.

    Raises:
        InputError: the disk is full or not writable, a name is too long, or the like.
    """
    try:
        yield
    except Exception as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise not_written(what, fault, fix) from error


def not_written(what: object, error: OSError, fix: str = ANOTHER_RESULTS_DIR) -> InputError:
    """Return the error that says that something could not be written."""
    return InputError(f"{_shown(what)} could not be written ({reason(error)}); {_remedy(error)} or {fix}")


def not_usable(error: OSError, fix: str, place: object = None) -> str:
    """Return the line for an error of the disk where nothing more is known than the error itself.

    Args:
        error: the error. If it names a file, the line names it too.
        fix: what else the user can do.
        place: what the line names if the error names no file.
    """
    named = place if error.filename is None else error.filename
    if named is not None:
        return f"{_shown(named)} cannot be used ({_words(error)}); {_remedy(error)} or {fix}"
    if error.errno in FULL:
        return f"{_words(error)}; {_remedy(error)} or {fix}"
    return f"{type(error).__name__}: {error}"


def special_kind(path: Path) -> str | None:
    """Return "a pipe", "a device" or "a socket" if a path leads to one, otherwise None.

    Opening a pipe waits for another program, and reading a device may never end, so files that others put in place are
    checked before they are opened.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return next((word for test, word in KINDS.items() if test(mode)), None)


def fault_of(error: BaseException) -> OSError | None:
    """Return an error as an error of the disk, or None if it is another one.

    The library safetensors has a class of its own, whose text ends in the number that the system gave to the error.
    """
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def fault_behind(error: BaseException) -> OSError | None:
    """Return the error of the disk that an exception is or was raised from, or None if it has another cause."""
    fault = fault_of(error)
    return fault if fault or error.__cause__ is None else fault_behind(error.__cause__)


@contextmanager
def one_line(fix: str = ANOTHER_RESULTS_DIR) -> Iterator[None]:
    """End the program with one line and exit code 1 if the block fails because of the disk.

    The front doors use it. A standard output that was redirected to a full disk counts too. Other errors are raised.

    fix: what else the user can do, in the words of the door.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except Exception as error:
        fault = None if isinstance(error, InputError) else fault_behind(error)  # The former says more.
        if fault is None:
            raise
        _give_up_output()
        sys.exit(f"error: {not_usable(fault, fix)}")


def _give_up_output() -> None:
    """Drop what standard output still holds if it cannot be written. Python would complain about it at the exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(error: OSError) -> str:
    """Return why, and which file: 'Permission denied: store/scores'."""
    return _words(error) if error.filename is None else f"{_words(error)}: {_shown(error.filename)}"


def _words(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def _remedy(error: OSError) -> str:
    if error.errno in FULL or error.errno is None:  # numpy reports a full disk without the number of the error.
        return "free some space"
    if error.errno in FORBIDDEN:
        return "change its permissions"
    if error.errno == errno.ENAMETOOLONG:
        return "shorten the name"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    return "check the path"


def _shown(what: object) -> str:
    return shortened(os.fsdecode(what) if isinstance(what, bytes | Path) else str(what))
