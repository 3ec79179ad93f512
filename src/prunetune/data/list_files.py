"""Read text files that list images or labels. A file that could block or fill the memory is refused at once."""

import gzip
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from prunetune.base.disk import special_kind
from prunetune.base.errors import InputError

LONGEST_LINE = 2**16  # In bytes. The longest path of Linux has 4096.
GZIP = b"\x1f\x8b"  # Every gzip file begins with these bytes.


def read_text(path: Path) -> str:
    """Return the text of a list file, UTF-8 with or without a byte-order mark. A gzip file is unpacked.

    Raises:
        InputError: it is a folder, a pipe or a device, cannot be read, is not UTF-8, or has a line of more than
            `LONGEST_LINE` bytes.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"the list {path} is not UTF-8 text; save it as UTF-8, one image per line") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a list file; see `read_text`."""
    try:
        kind = "a folder" if path.is_dir() else special_kind(path)
        if kind is not None:
            raise InputError(f"the list {path} cannot be read (it is {kind}); pass a text file with one image per line")
        with path.open("rb") as file:
            is_gzip = file.read(2) == GZIP
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            return b"".join(_lines(path, file))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the list {path} is not a readable .gz file ({error}); get it again") from None
    except OSError as error:
        raise InputError(f"the list {path} cannot be read ({error.strerror}); check its path") from None


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE and b"\r" not in line:  # Some programs end lines with a carriage return alone.
            raise InputError(
                f"the list {path} has a line of more than {LONGEST_LINE} bytes, line {number}; "
                "pass a text file with one image per line"
            )
        yield line
