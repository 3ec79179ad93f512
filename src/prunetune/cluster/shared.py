"""The folder that the workers of one call share: what they do, and how often each piece of work was begun."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunetune.base.leftovers import aside, remove_once
from prunetune.cluster.engine import RETRIES, died, kept
from prunetune.cluster.stages import Stage

SHARED = "shared"  # The file of this name tells the workers what they do.


@contextmanager
def shared_folder(stage: Stage, shared: tuple[Any, ...]) -> Iterator[Path]:
    """Write what all workers share into a new folder inside that of a stage, and remove it when the block ends.

    Each call has a folder of its own, so that equal commands can run at the same time. The folder of a command that is
    killed is removed by a later one, see `base.leftovers`.
    """
    remove_once(stage.folder)
    place = aside(stage.folder / SHARED)
    place.mkdir(parents=True)
    try:
        (place / SHARED).write_bytes(pickle.dumps(shared))
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@kept
def shared_work(place: str) -> tuple[Any, ...]:
    """Return what all workers share; each process reads it once for a run."""
    return pickle.loads((Path(place) / SHARED).read_bytes())


@contextmanager
def counted(place: str, name: str, described: Callable[[], str]) -> Iterator[None]:
    """Count the workers that die on a piece of work, and end the run when they are too many.

    Ray gives the work of a dead worker to another one. On GPUs it does so without a limit, because a machine can be
    lost at any time. So an image that crashes its decoder would kill one worker after another, and the user would not
    learn which image it is. A lost machine counts as one dead worker. It is unlikely that the same work meets
    RETRIES + 1 of them.

    Args:
        place: the shared folder. The size of a file in it is the number of workers that died.
        name: of the piece of work; other pieces have other names.
        described: returns what it is, for the message.

    Raises:
        InputError: RETRIES + 1 workers died.
    """
    file = Path(place) / f"{name}.begun"
    with file.open("ab") as begun:
        if begun.tell() > RETRIES:
            raise died(described())
        begun.truncate(begun.tell() + 1)  # Unlike a written byte, this needs no room on a full disk.
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
