"""A content-addressed store of what is expensive: computed once, shared by every run and every process.

An entry is a folder `<root>/<kind>/<prefix>-<16 hex>/` with `key.json` (what it was made from), its product and
`meta.json` (seconds, device, versions). It is written beside its place and renamed into it, so that it is either
absent or whole. No lock is needed: if two processes write the same entry, the second one finds it and reads it.
An entry that a broken disk or an interrupted copy has damaged is detected when it is opened; the log names it, and it
is made again.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base.disk import ANOTHER_RESULTS_DIR, explained
from prunetune.base.errors import InputError
from prunetune.base.publish import TakenError, follow_umask, new_folder, remove, write_json

log = logging.getLogger(__name__)
Key = dict[str, Any]
SIZES = "file_bytes"  # In meta.json, this key maps the name of every file of the entry to its size.


@dataclass(frozen=True)
class Store:
    """The store below one folder. fix: what the user can do if it cannot be written, in the words of the door."""

    root: Path
    fix: str = ANOTHER_RESULTS_DIR

    def entry(self, kind: str, prefix: str, key: Key, make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the entry's folder, after `make(folder)` has filled it if it was not there or was damaged.

        Args:
            kind: the folder below the root: images, features, masked, proxies, parts, scores and others.
            prefix: a readable part of the name; only the hash of `key` identifies the entry.
            key: everything that the product depends on, as plain JSON values.
            make: writes the product into the given folder and returns the content of `meta.json`.

        Raises:
            InputError: the store's disk is full or not writable.
        """
        place = self.place(kind, prefix, key)
        if is_sound(place):
            return place
        try:
            with explained(f"the store {self.root}", self.fix), new_folder(place, synced=True) as partial:
                meta = make(partial)
                follow_umask(partial)
                write_json(partial / "key.json", key)
                write_json(partial / "meta.json", {**meta, SIZES: _sizes(partial)})
        except TakenError:
            pass  # Another process was faster, so its entry is read.
        return place

    def place(self, kind: str, prefix: str, key: Key) -> Path:
        """Return where the entry with this key is, or would be."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        called_otherwise = sorted((self.root / kind).glob(f"*-{digest}"))
        name = f"{re.sub(r'[^A-Za-z0-9._+-]', '_', prefix)}-{digest}"
        return called_otherwise[0] if called_otherwise else self.root / kind / name


def read_meta(entry: Path) -> dict[str, Any]:
    """Return what an entry's `meta.json` says about how the entry was made."""
    meta = json.loads((entry / "meta.json").read_text())
    meta.pop(SIZES, None)
    return meta


def is_sound(entry: Path) -> bool:
    """Return whether an entry exists and is whole; a damaged one is logged in one line and removed.

    This checks the names and sizes of the files, the JSON and the headers of the arrays, but not every byte.
    """
    if not entry.is_dir():
        return False
    fault = _fault(entry)
    if fault is None:
        return True
    discard(entry, fault)
    return False


def discard(entry: Path, fault: str) -> None:
    """Remove a damaged entry, and say so; a process that has it open keeps what it reads."""
    log.warning("%s is damaged (%s) and is made again", entry, fault)
    try:
        remove(entry)
    except OSError as error:
        raise InputError(f"{entry} is damaged and cannot be removed ({error}); delete it and run again") from error


def _fault(entry: Path) -> str | None:
    try:
        json.loads((entry / "key.json").read_text())
        sizes = json.loads((entry / "meta.json").read_text()).get(SIZES, {})  # Older stores record no sizes.
    except (OSError, ValueError, AttributeError) as error:
        return f"key.json or meta.json: {error}"
    for name, size in sizes.items():
        file = entry / name
        if not file.is_file():
            return f"{name} is gone"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    for array in sorted(entry.glob("*.npy")):
        try:
            np.load(array, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            return f"{array.name}: {' '.join(str(error).split())}"
    return None


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def write_stack(path: Path, arrays: Iterable[np.ndarray], shape: tuple[int, ...], dtype: type) -> None:
    """Write arrays [...] one after another as one `.npy` file of this shape [T, ...].

    It uses plain writes, since on a full disk a memory map kills the process instead of raising an error.
    """
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
