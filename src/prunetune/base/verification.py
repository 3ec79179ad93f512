"""Whether the files of a store entry have the bytes that were written.

`meta.json` of an entry holds the size of every other file, the hashes of its blocks, and a hash of its own remaining
content. `key.json` must belong to the hash in the entry's name, so that an exchanged entry is detected too. A block is
read and hashed once per process, as long as the size, the time and the inode of its file stay the same.
"""

import errno
import json
import os
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base import hashes
from prunetune.base.errors import InputError
from prunetune.base.hashes import block_hash, block_hashes, json_hash
from prunetune.base.publish import new_file, write_json

SIZES = "file_bytes"  # In meta.json, this key maps the name of every other file of the entry to its size.
HASHES = "block_hashes"  # In meta.json, this key maps the name of every file to the hashes of its blocks.
# These errors say that the process may not read a file, or cannot now. The file itself can be right.
NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT)

Stamp = tuple[int, int, int, int]  # Device, inode, size in bytes, and the time of the last change in nanoseconds.
_verified: set[tuple[Stamp, int, str]] = set()  # The blocks that this process has verified: file, index and hash.


def key_digest(key: Any) -> str:
    """Return the 16 hexadecimal digits by which an entry with this key is found."""
    return sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def sealed(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `meta.json` for an entry whose other files are written: `meta`, sizes and hashes."""
    files = [path for path in _files(folder) if path.name != "meta.json"]
    content = {**meta, SIZES: {path.name: path.stat().st_size for path in files}}
    found = {path.name: block_hashes(path) for path in files}
    return {**content, HASHES: {**found, "meta.json": [json_hash(json.loads(json.dumps(content)))]}}


def add_hashes(entry: Path) -> bool:
    """Add hashes to a sound entry of an older store, if it can be written. Return whether the entry had none."""
    meta = json.loads((entry / "meta.json").read_text())
    if HASHES in meta:
        return False
    if os.access(entry, os.W_OK):
        with suppress(OSError), new_file(entry / "meta.json", synced=True) as partial:  # The disk may be full.
            write_json(partial, sealed(entry, meta))
    return True


def fault_of(entry: Path, mapped: Collection[str] = ()) -> str | None:
    """Return what is wrong with an entry, or None if nothing is.

    Args:
        entry: a folder of the store.
        mapped: patterns of the names of files that are opened as a `StoredArray`. Those of more than one block are
            left to it.

    Raises:
        InputError: the process may not read the entry.
    """
    try:
        texts = {name: (entry / name).read_text() for name in ("key.json", "meta.json")}
        key, meta = map(json.loads, texts.values())
        if key_digest(key) != entry.name[-16:]:
            return "key.json is that of another entry"
        if HASHES not in meta:
            return _names_fault(entry, set(meta[SIZES]) if SIZES in meta else None, meta) or _headers_fault(entry)
        return _names_fault(entry, set(meta[HASHES]) - {"meta.json"}, meta) or _hashes_fault(entry, meta, mapped)
    except OSError as error:
        return damage_of(error, entry)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        return f"key.json or meta.json: {_line(error)}"


def refuse_damage(entry: Path, mapped: Collection[str] = ()) -> None:
    """Refuse a damaged entry, for readers that cannot make it again. The arguments are those of `fault_of`.

    Raises:
        InputError: the entry is damaged, or the process may not read it.
    """
    if fault := fault_of(entry, mapped):
        raise InputError(f"{entry} is damaged ({fault}); run a method that needs it, which makes it again")


def block_fault(path: Path, index: int, expected: str, stamp: Stamp | None = None) -> str | None:
    """Return what is wrong with one block of a file, or None if it has the expected hash.

    stamp: that of the file, if the caller knows it.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    mark = (stamp or stamp_of(path), index, expected)
    if mark in _verified:
        return None
    if block_hash(path, index) != expected:
        start, end = (edge * hashes.BLOCK for edge in (index, index + 1))
        return f"{path.name} has changed between byte {start} and byte {min(end, mark[0][2])}"
    _verified.add(mark)
    return None


def damage_of(error: OSError, entry: Path) -> str:
    """Return an error in reading an entry as one line, if it means that the entry is damaged.

    Raises:
        InputError: the entry can be whole, but the process may not read it.
    """
    if error.errno in NOT_DAMAGE:
        raise InputError(f"{entry} cannot be read ({error}); ask its owner for access or pass results_dir=<folder>")
    return _line(error)


def hashes_of(entry: Path, name: str) -> list[str]:
    """Return the hashes of the blocks of a file of an entry; the list is empty in an older entry."""
    return json.loads((entry / "meta.json").read_text()).get(HASHES, {}).get(name, [])


def stamp_of(path: Path) -> Stamp:
    """Return device, inode, size and time of a file, which change when somebody writes to it or replaces it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _names_fault(entry: Path, names: set[str] | None, meta: dict[str, Any]) -> str | None:
    """Compare the names and sizes of an entry's files with those in meta.json. names: None in the oldest stores."""
    there = {path.name for path in _files(entry)} - {"meta.json"}
    for name in sorted((names or set()) - there):
        return f"{name} is gone"
    for name in sorted(there - names) if names is not None else ():
        return f"{name} does not belong to it"
    for name, size in meta.get(SIZES, {}).items():
        if (found := (entry / name).stat().st_size) != size:
            return f"{name} has {found} bytes instead of {size}"
    return None


def _hashes_fault(entry: Path, meta: dict[str, Any], mapped: Collection[str]) -> str | None:
    expected = meta[HASHES]
    if [json_hash({name: value for name, value in meta.items() if name != HASHES})] != expected["meta.json"]:
        return "meta.json has changed"
    for name, blocks in expected.items():
        if name == "meta.json" or (len(blocks) > 1 and any(fnmatchcase(name, pattern) for pattern in mapped)):
            continue
        for index, block in enumerate(blocks):
            if fault := block_fault(entry / name, index, block):
                return fault
    return None


def _headers_fault(entry: Path) -> str | None:
    """Look at the arrays of an entry without hashes: their headers state their size."""
    for array in sorted(entry.glob("*.npy")):
        try:
            np.load(array, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            return f"{array.name}: {_line(error)}"
    return None


def _files(entry: Path) -> list[Path]:
    """Return the files and folders of an entry. Hidden ones are not read, and network disks and desktops make some."""
    return sorted(path for path in entry.iterdir() if not path.name.startswith("."))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
