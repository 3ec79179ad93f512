"""A large array of the store: memory-mapped, and verified block by block when a block is first read."""

import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prunetune.base import hashes
from prunetune.base.errors import InputError
from prunetune.base.verification import block_fault, damage_of, hashes_of, stamp_of

ATTEMPTS = 3  # An entry can be damaged again after it was made again. Then the disk does not work.


class Discards(Protocol):
    """A store, which can move a damaged entry out of the way."""

    def discard(self, entry: Path, fault: str) -> None:
        """Move a damaged entry away, and log it."""


class StoredArray:
    """An array in a file of a store entry. It stays on the disk, and indexing returns copies of its parts.

    If a block is damaged, the entry is discarded and made again, and the reader gets the right numbers. Several threads
    may read at the same time.
    """

    def __init__(self, store: Discards, find: Callable[[], Path], name: str) -> None:
        """Open the array.

        Args:
            store: the store that the entry is in.
            find: returns the folder of the entry, as `Store.entry` does. It is called again if a block is damaged, and
                must then make the entry again.
            name: the name of a `.npy` file; any other file is read as one row of bytes (uint8).

        Raises:
            InputError: the file is damaged, also after it was made again.
        """
        self._store, self._find, self._name = store, find, name
        self._lock = threading.Lock()
        self._file = self._open()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        return self._file.array.shape

    def __len__(self) -> int:
        return len(self._file.array)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return a copy of a part of the array, by any index that NumPy takes.

        Raises:
            InputError: the part is damaged, also after the entry was made again.
        """
        for _ in range(ATTEMPTS):
            file = self._file
            fault = file.fault(index)
            if fault is None:
                return np.array(file.array[index])
            with self._lock:
                if self._file is file:  # If not, another thread has already opened the new entry.
                    self._discard(file, fault)
                    self._file = self._open()
        raise self._damaged_again(fault)

    def _open(self) -> "_MappedFile":
        for _ in range(ATTEMPTS):
            entry = self._find()
            try:
                file = _MappedFile(entry / self._name)
                fault = file.open()
            except FileNotFoundError as error:  # Another process has discarded the entry just now.
                fault = str(error)
                continue
            if fault is None:
                return file
            self._discard(file, fault)
        raise self._damaged_again(fault)

    def _discard(self, file: "_MappedFile", fault: str) -> None:
        if file.is_current():  # If not, another process has already replaced the entry.
            self._store.discard(file.path.parent, fault)

    def _damaged_again(self, fault: str) -> InputError:
        return InputError(f"{self._name} is damaged again ({fault}) after it was made again; check the disk")


class _MappedFile:
    """A file as it was when it was opened, and which of its blocks are still to be verified."""

    def __init__(self, path: Path) -> None:
        self.path, self._stamp, self._hashes = path, stamp_of(path), hashes_of(path.parent, path.name)
        # A single block was verified when its entry was opened. Entries of older stores can have no hashes.
        self._pending = set(range(len(self._hashes))) if len(self._hashes) > 1 else set()

    def open(self) -> str | None:
        """Map the file, after its header is verified if it has one. Return what is wrong with it, or None."""
        fault = self._verify({0} & self._pending) if self.path.suffix == ".npy" else None
        if fault is None:
            self.array  # noqa: B018 - maps the file now
            fault = None if self.is_current() else "it was replaced"
        return fault

    @cached_property
    def array(self) -> np.ndarray:
        """The memory map of the whole array."""
        if self.path.suffix == ".npy":
            return np.load(self.path, mmap_mode="r")
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def fault(self, index: Any) -> str | None:
        """Verify the blocks that a part of the array touches. Return what is wrong with one of them, or None."""
        return self._verify(self._pending.intersection(self._blocks(index))) if self._pending else None

    def is_current(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return stamp_of(self.path) == self._stamp
        except OSError:
            return False

    def _verify(self, blocks: set[int]) -> str | None:
        if not blocks:
            return None
        try:
            for block in sorted(blocks):
                if fault := block_fault(self.path, block, self._hashes[block], self._stamp):
                    return fault
        except OSError as error:
            return damage_of(error, self.path.parent)
        if not self.is_current():  # The blocks that were verified are perhaps those of another file.
            return "it was replaced"
        self._pending -= blocks
        return None

    def _blocks(self, index: Any) -> Iterable[int]:
        """Return the blocks of the rows that an index touches. The index of the first axis alone counts."""
        array, first = self.array, index[0] if isinstance(index, tuple) and index else index
        if not array.ndim or not array.flags.c_contiguous or first is None or first is ...:
            return range(len(self._hashes))
        row = array.nbytes // max(1, len(array))  # The bytes of a row.
        if isinstance(first, slice):
            rows = range(len(array))[first]
            ends = (min(rows[0], rows[-1]), max(rows[0], rows[-1]) + 1) if rows else (0, 0)
            return _spanned(*(array.offset + end * row for end in ends))
        rows = np.arange(len(array))[first].reshape(-1)
        starts = array.offset + rows * row
        return {block for start in starts.tolist() for block in _spanned(start, start + row)}


def _spanned(start: int, end: int) -> range:
    """Return the blocks that hold bytes `start` to `end` of a file."""
    return range(start // hashes.BLOCK, -(-end // hashes.BLOCK))
