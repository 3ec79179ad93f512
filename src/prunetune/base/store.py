"""A content-addressed store of what is expensive: computed once, shared by every run and every process.

An entry is a folder `<root>/<kind>/<prefix>-<16 hex>/` with `key.json` (what it was made from), its product and
`meta.json` (seconds, device, versions, and a hash of every file). It is written beside its place and renamed into it,
so that it is either absent or whole. No lock is needed: if two processes write the same entry, the second one finds it
and reads it.

Every entry is verified when it is opened (see `verification`), and a large array when a part of it is first read (see
`stored_array`). An entry that a broken disk, an interrupted copy or an editor has changed is named in the log, moved to
`<root>/damaged/` and made again. An entry of an older store, which has no hashes, is used and gets them.
"""

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base.disk import ANOTHER_RESULTS_DIR, explained
from prunetune.base.errors import InputError
from prunetune.base.publish import TakenError, follow_umask, new_folder, remove, write_json
from prunetune.base.verification import HASHES, SIZES, add_hashes, fault_of, key_digest, sealed

log = logging.getLogger(__name__)
Key = dict[str, Any]
DAMAGED = "damaged"  # The folder below the root that keeps damaged entries.
MOST_DAMAGED = 10  # Of these, the oldest are removed.
LONG = 600  # The log names the cost of an entry that takes more seconds than this to make again.
_told: set[Path] = set()  # The stores of which the log has said that they have entries without hashes.


@dataclass(frozen=True)
class Store:
    """The store below one folder. fix: what the user can do if it cannot be written, in the words of the door."""

    root: Path
    fix: str = ANOTHER_RESULTS_DIR

    def entry(
        self,
        kind: str,
        prefix: str,
        key: Key,
        make: Callable[[Path], dict[str, Any]],
        mapped: Collection[str] = (),
    ) -> Path:
        """Return the entry's folder, after `make(folder)` has filled it if it was not there or was damaged.

        Args:
            kind: the folder below the root: images, features, masked, proxies, parts, scores and others.
            prefix: a readable part of the name; only the hash of `key` identifies the entry.
            key: everything that the product depends on, as plain JSON values.
            make: writes the product into the given folder and returns the content of `meta.json`.
            mapped: patterns of the names of files that the caller opens as a `StoredArray`, which verifies large ones.
                All other files are verified here.

        Raises:
            InputError: the store's disk is full or not writable, or the entry may not be read.
        """
        place = self.place(kind, prefix, key)
        if self.is_sound(place, mapped):
            return place
        try:
            with explained(f"the store {self.root}", self.fix), new_folder(place, synced=True) as partial:
                meta = make(partial)
                follow_umask(partial)
                write_json(partial / "key.json", key)
                write_json(partial / "meta.json", sealed(partial, meta))
        except TakenError:
            pass  # Another process was faster, so its entry is read.
        except Exception:
            # The process that was faster may also have removed the unfinished work that both of them used.
            if not self.is_sound(place, mapped):
                raise
        return place

    def place(self, kind: str, prefix: str, key: Key) -> Path:
        """Return where the entry with this key is, or would be."""
        digest = key_digest(key)
        called_otherwise = sorted((self.root / kind).glob(f"*-{digest}"))
        name = f"{re.sub(r'[^A-Za-z0-9._+-]', '_', prefix)}-{digest}"
        return called_otherwise[0] if called_otherwise else self.root / kind / name

    def is_sound(self, entry: Path, mapped: Collection[str] = ()) -> bool:
        """Return whether an entry exists and is whole; a damaged one is discarded.

        Args:
            entry: the place of the entry.
            mapped: as for `entry`.

        Raises:
            InputError: the entry may not be read, or it is damaged and may not be moved.
        """
        before = _identity(entry)
        if before is None:
            return False
        fault = fault_of(entry, mapped)
        if fault is None:
            if add_hashes(entry) and self.root not in _told:
                _told.add(self.root)
                log.info("%s is from before the store kept hashes: such entries are used and get them now", entry)
            return True
        if _identity(entry) != before:  # Another process has replaced the entry meanwhile.
            return self.is_sound(entry, mapped)
        self.discard(entry, fault)
        return False

    def discard(self, entry: Path, fault: str) -> None:
        """Move a damaged entry to `<root>/damaged/`, and say so; a process that has it open keeps what it reads.

        Raises:
            InputError: the entry may not be moved.
        """
        cost = _cost(entry)
        try:
            done = self._set_aside(entry)
        except OSError as error:
            raise InputError(f"{entry} is damaged and cannot be removed ({error}); delete it and run again") from error
        log.warning("%s is damaged (%s), is %s and is made again%s", entry, fault, done, cost)

    def _set_aside(self, entry: Path) -> str:
        """Move an entry away, or remove it if it cannot be kept, and return what was done."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        kept = self.root / DAMAGED / f"{stamp}-{uuid.uuid4().hex[:8]}"
        place = kept / entry.relative_to(self.root)
        try:
            place.parent.mkdir(parents=True)
            os.rename(entry, place)
        except FileNotFoundError:
            shutil.rmtree(kept, ignore_errors=True)
            return "moved away by another process"
        except OSError:  # The disk is full, or part of the store is on another disk.
            shutil.rmtree(kept, ignore_errors=True)
            remove(entry)
            return "removed"
        for oldest in sorted(kept.parent.iterdir())[:-MOST_DAMAGED]:
            shutil.rmtree(oldest, ignore_errors=True)
        return f"moved to {kept}"


def read_meta(entry: Path) -> dict[str, Any]:
    """Return what an entry's `meta.json` says about how the entry was made."""
    meta = json.loads((entry / "meta.json").read_text())
    return {name: value for name, value in meta.items() if name not in (SIZES, HASHES)}


def _identity(entry: Path) -> tuple[int, int] | None:
    """Return device and inode of an entry's folder, or None if there is no entry."""
    try:
        stat = entry.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _cost(entry: Path) -> str:
    """Return what an entry cost when it was made, as words for the log, if that was much and is known."""
    try:
        seconds = float(read_meta(entry)["seconds"])
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return ""
    return f", which took {seconds / 60:.0f} minutes the first time" if seconds > LONG else ""


def write_stack(path: Path, arrays: Iterable[np.ndarray], shape: tuple[int, ...], dtype: type) -> None:
    """Write arrays [...] one after another as one `.npy` file of this shape [T, ...].

    It uses plain writes, since on a full disk a memory map kills the process instead of raising an error.
    """
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
