"""The processes that share one text run. It is one process, unless `accelerate launch` has started several."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.base.publish import scratch_folder
from prunetune.base.store import Store
from prunetune.instruct.extra import needed


@dataclass(frozen=True)
class Processes:
    """This process as one of several.

    rank: its number, 0 to size - 1. size: the number of processes. device: its device, such as "cpu", "cuda" or
    "cuda:1".
    """

    rank: int
    size: int
    device: str

    @classmethod
    def current(cls, device: str) -> "Processes":
        """Return this process. device: cpu or cuda. With cuda, each of several processes gets another GPU.

        Raises:
            InputError: several processes were started, and accelerate is not installed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls(0, 1, device)  # A single process needs no process group and no accelerate.
        state = needed("accelerate").PartialState(cpu=device == "cpu")
        return cls(state.process_index, state.num_processes, str(state.device))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the common results."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has called this method."""
        if self.size > 1:
            needed("accelerate").PartialState().wait_for_everyone()

    def share(self, count: int) -> range:
        """Return the numbers of this process's batches: every `size`-th, so that each gets long and short ones."""
        return range(self.rank, count, self.size)


def shared_entry(
    store: Store,
    processes: Processes,
    kind: str,
    prefix: str,
    key: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
) -> Path:
    """Return a store entry that all processes compute together and the first one writes. See `Store.entry`.

    The other processes may return before it is written. Call `processes.wait()` before they read it.
    """
    place = store.place(kind, prefix, key)
    if processes.is_main:
        store.is_sound(place)  # This call discards a damaged entry before the other processes look.
    processes.wait()
    is_there = place.is_dir()
    processes.wait()  # All processes must have looked before the first one writes.
    if processes.is_main:
        return store.entry(kind, prefix, key, make)
    if not is_there:
        with scratch_folder() as scratch:
            make(scratch)
    return place
