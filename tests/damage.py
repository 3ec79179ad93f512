"""Ways to damage the files of a store, with sizes and headers unchanged."""

import shutil
from collections.abc import Callable
from pathlib import Path

PAGE = 4096  # The bytes that a disk or the memory loses at once.


def flip_a_bit(content: bytes) -> bytes:
    """Change one bit in the last part of a file, where arrays have their numbers."""
    place = len(content) * 3 // 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def zero_a_page(content: bytes) -> bytes:
    """Replace the last page of a file by zeros, or the last half of a small file."""
    lost = min(PAGE, len(content) // 2)
    return content[:-lost] + bytes(lost)


def replace_the_body(content: bytes) -> bytes:
    """Replace all bytes after the header of an array by other ones that are as plausible."""
    header = 128 if content.startswith(b"\x93NUMPY") else 0
    return content[:header] + bytes(byte ^ 1 for byte in content[header:])


def damage(file: Path, how: Callable[[bytes], bytes]) -> None:
    """Damage a file, and check that this changes it."""
    whole = file.read_bytes()
    damaged = how(whole)
    assert damaged != whole
    assert len(damaged) == len(whole)
    file.write_bytes(damaged)


def exchange(entry: Path, other: Path) -> None:
    """Put the files of another entry into the place of an entry."""
    assert entry.name != other.name
    shutil.rmtree(entry)
    shutil.copytree(other, entry)


def entries(store: Path, kind: str) -> list[Path]:
    """Return the entries of a kind, which lie one level deeper for views."""
    return sorted(file.parent for file in (store / kind).rglob("key.json"))
