"""Hashes of files, to find bytes that a disk or a copy has changed.

The hash is XXH3 with 128 bits. It is fast, and it finds accidents but not attacks, since it is not cryptographic.
The library is imported at its first use, so that the command line starts without it.
"""

from pathlib import Path

CHUNK = 1 << 20  # A file is read in pieces of 1 MiB, so that a large file needs little memory.


def file_hash(path: Path) -> str:
    """Return the hash of a file's content, as 32 hexadecimal digits.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
