"""Progress of a long step: a bar on a terminal, one changing line in a notebook, a line now and then in a job log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_CHANGES = 0.5


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield the items and report how far along they are; `total` is their number."""
    if sys.stderr.isatty():
        yield from _bar(items, description, total)
    elif _is_notebook():
        yield from _changing_line(items, description, total)
    else:
        yield from _lines(items, description, total)


def _bar(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total=total, console=Console(stderr=True), transient=True)


def _is_notebook() -> bool:
    """Return whether standard error is shown below a cell of a notebook."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def _changing_line(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Write one line again and again. It needs no widget, and a notebook shows no lines of the log by default."""
    last, width = -SECONDS_BETWEEN_CHANGES, 0
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > SECONDS_BETWEEN_CHANGES:
            last, line = time.monotonic(), f"{description}: {done} of {total}"
            width = max(width, len(line))
            print(f"\r{line:<{width}}", end="", file=sys.stderr, flush=True)
    print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)


def _lines(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            log.info("%s: %d of %d", description, done, total)
