"""The processes that share one text run: one, or as many as `accelerate launch` has started."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.base.store import Store, is_sound
from prunetune.instruct.extra import needed


@dataclass(frozen=True)
class Processes:
    """This process among `size` of them.

    rank: its number, 0 to size - 1. device: where it computes, such as "cpu", "cuda" or "cuda:1".
    """

    rank: int
    size: int
    device: str

    @classmethod
    def current(cls, device: str) -> "Processes":
        """Return this process; `device` is cpu or cuda, and each of several processes gets a GPU of its own.

        Raises:
            InputError: several were started and accelerate is not installed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls(0, 1, device)  # no process group is made, and accelerate is not even imported
        state = needed("accelerate").PartialState(cpu=device == "cpu")
        return cls(state.process_index, state.num_processes, str(state.device))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes what all have made."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            needed("accelerate").PartialState().wait_for_everyone()

    def share(self, count: int) -> range:
        """Return which of `count` batches are this process's: every `size`-th, so that long and short ones mix."""
        return range(self.rank, count, self.size)


def shared_entry(
    store: Store,
    processes: Processes,
    kind: str,
    prefix: str,
    key: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
) -> Path:
    """Return an entry of the store that all processes make together and the first one writes; see `Store.entry`.

    The other processes may return before it is written: call `processes.wait()` before they read it.
    """
    place = store.place(kind, prefix, key)
    if processes.is_main:
        is_sound(place)  # a damaged one is removed before the others look
    processes.wait()
    is_there = place.is_dir()
    processes.wait()  # all have looked before the first one writes
    if processes.is_main:
        return store.entry(kind, prefix, key, make)
    if not is_there:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch))
    return place
