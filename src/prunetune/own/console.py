"""What the commands on a user's own data share: messages on standard error, the store, and the printed paths."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from prunetune.base.store import Store

log = logging.getLogger(__name__)


@contextmanager
def told() -> Iterator[None]:
    """Show the messages of the package on standard error, as plain lines."""
    package, handler = logging.getLogger("prunetune"), logging.StreamHandler(sys.stderr)
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def open_store(folder: Path | None) -> Store:
    """Return the store in a folder, by default in the user's cache folder, and say where it is."""
    folder = folder or user_cache_path("prunetune", appauthor=False)
    log.info("features and scores are kept in %s", folder)
    return Store(folder, "give --store another folder")


def print_paths(folder: Path, names: Sequence[str]) -> None:
    """Print the paths of those files that are there, one a line."""
    for name in names:
        if (folder / name).is_file():
            print(folder / name)
