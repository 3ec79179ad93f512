"""Things that are no ordinary file, in the place of one."""

import os
from collections.abc import Callable
from pathlib import Path

MEGABYTE = 2**20
Make = Callable[[Path], None]  # Makes something at a path.


def holding(content: bytes | str) -> Make:
    """Return what writes a file with this content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path: _written(path, data)


def link_to(target: str) -> Make:
    """Return what makes a symbolic link to a target."""
    return lambda path: path.symlink_to(target)


ODD: dict[str, Make] = {
    "a pipe": os.mkfifo,
    "a link to /dev/zero": link_to("/dev/zero"),
    "a link to /dev/null": link_to("/dev/null"),
    "a link to /dev/full": link_to("/dev/full"),
    "a link to /dev/stdin": link_to("/dev/stdin"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": link_to("/proc/nowhere"),
    "a folder": Path.mkdir,
    "an empty file": holding(b""),
    "one line of a megabyte": holding(b"a" * MEGABYTE),
    "random bytes": holding(bytes(range(256)) * 8),
    "zeros": holding(bytes(5000)),
    "a web page": holding("<!doctype html>\n<html><body>404 not found</body></html>\n"),
}


def _written(path: Path, data: bytes) -> None:
    path.write_bytes(data)
