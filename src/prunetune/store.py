"""A content-addressed store of what is expensive: computed once, shared by every run and every process.

An entry is a folder `<root>/<kind>/<prefix>-<16 hex>/` with `key.json` (what it was made from), its product and
`meta.json` (seconds, device, versions). It is written beside its place and renamed into it, so that it is either
absent or whole, and no lock is needed: of two writers the second finds the place taken and reads the first one's.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.errors import InputError

Key = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The store below one folder."""

    root: Path

    def entry(self, kind: str, prefix: str, key: Key, make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the entry's folder, after `make(folder)` has filled it if it was not there.

        Args:
            kind: images, features, masked, views, losses or scores.
            prefix: words for people; the hash of `key` decides.
            key: everything that the product depends on, as plain JSON values.
            make: writes the product into the folder it gets and returns what `meta.json` shall say.

        Raises:
            InputError: the store's disk is full or not writable.
        """
        place = self.place(kind, prefix, key)
        if place.is_dir():
            return place
        partial = self._partial(place.parent)
        try:
            meta = make(partial)
            write_json(partial / "key.json", key)
            write_json(partial / "meta.json", meta)
            _publish(partial, place)
        except OSError as error:
            raise InputError(
                f"the store {self.root} could not be written ({error}); free some space or pass results_dir=<folder>"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return place

    def place(self, kind: str, prefix: str, key: Key) -> Path:
        """Return where the entry with this key is, or would be."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        called_otherwise = sorted((self.root / kind).glob(f"*-{digest}"))
        name = f"{re.sub(r'[^A-Za-z0-9._+-]', '_', prefix)}-{digest}"
        return called_otherwise[0] if called_otherwise else self.root / kind / name

    def _partial(self, folder: Path) -> Path:
        _remove_leftovers(folder)
        partial = folder / f".partial-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"the store {self.root} could not be written ({error}); pass results_dir=<folder>"
            ) from error
        return partial


def read_meta(entry: Path) -> dict[str, Any]:
    """Return an entry's `meta.json`."""
    return json.loads((entry / "meta.json").read_text())


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people: sorted keys, two spaces, a final newline."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_stack(path: Path, arrays: Iterable[np.ndarray], shape: tuple[int, ...], dtype: type) -> None:
    """Write arrays [...] one after another as one `.npy` file of this shape [T, ...].

    By plain writes: on a full disk a memory map kills the process instead of raising an error.
    """
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array, dtype=dtype).tobytes())


def _publish(partial: Path, place: Path) -> None:
    for path in partial.iterdir():  # a power cut after the rename must not leave an empty product
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        os.rename(partial, place)
    except OSError:
        if not place.is_dir():  # anything but "somebody else was first"
            raise


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed processes of this machine left half-written."""
    here = f".partial-{socket.gethostname()}"
    for partial in folder.glob(f"{here}-*"):
        made_by, pid, _ = partial.name.rsplit("-", 2)  # a host's name may begin with another's: node, node-2
        if made_by == here and pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
