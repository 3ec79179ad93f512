"""Hashes of files, to find bytes that a disk or a copy has changed.

The hash is XXH3 with 128 bits, written as 32 hexadecimal digits. It is fast, and it finds accidents but not attacks,
since it is not cryptographic. The library is imported at its first use, so that the command line starts without it.
"""

import json
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # A file is read in pieces of 1 MiB, so that a large file needs little memory.
BLOCK = 16 << 20  # Blocks of a file have 16 MiB. Stores depend on this number, since they keep a hash of each block.


def file_hash(path: Path) -> str:
    """Return the hash of a file's content.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    return _hash(path, 0, None)


def block_hash(path: Path, index: int) -> str:
    """Return the hash of a block of a file: of bytes index * BLOCK to (index + 1) * BLOCK, or to the end of the file.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    return _hash(path, index * BLOCK, BLOCK)


def block_hashes(path: Path) -> list[str]:
    """Return the hash of every block of a file. An empty file has one block.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    return [block_hash(path, index) for index in range(max(1, -(-path.stat().st_size // BLOCK)))]


def json_hash(value: Any) -> str:
    """Return the hash of a value as JSON. It does not depend on the order of keys."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def _hash(path: Path, start: int, length: int | None) -> str:
    import xxhash

    digest, left = xxhash.xxh3_128(), length
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while chunk := file.read(CHUNK if left is None else min(CHUNK, left)):
            digest.update(chunk)
            left = None if left is None else left - len(chunk)
    return digest.hexdigest()
