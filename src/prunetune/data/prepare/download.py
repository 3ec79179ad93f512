"""Downloads that continue after an interruption, try their mirrors in order and end with a checked file.

Mirrors listed in `sources.csv` hold the same bytes as the original, so one checksum fits all. Copies of the data
sets in other forms (parquet on the Hugging Face hub, re-packed zips) are left out: their bytes differ, hence nothing
published proves what is in them.
"""

import csv
import hashlib
import itertools
import logging
import math
import os
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import requests
import urllib3

from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.publish import write_text
from prunetune.data.prepare.disk import explained, require_space

log = logging.getLogger(__name__)
CHUNK_BYTES = 2**20
FRUITLESS_ATTEMPTS = 3  # After this many attempts in a row without new data, the next mirror is tried.
PAUSE_SECONDS = 1.0  # This is the pause after a break. It is doubled after each attempt that brought nothing.
TIMEOUT_SECONDS = (15, 60)  # The first limit holds for connecting, the second for the wait between two pieces.
WEB_PAGE = "answered with a web page instead of the file (a sign-in, licence, quota or virus-scan page)"
OTHER_DISK = "pass --downloads=<folder> on another disk"


@dataclass(frozen=True)
class Source:
    """One file to download: its mirrors in order and what is known about its content.

    num_bytes, md5 and sha256 are None where nobody published them; a file with neither checksum gets its SHA-256
    recorded in `<file>.sha256` at the first download and is compared with that later.
    """

    file_name: str
    urls: tuple[str, ...]
    num_bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None


class _Failed(Exception):
    """This mirror cannot give the file; the next one may."""


class _Broken(Exception):
    """The connection broke; the same mirror may continue from the last byte received."""


@cache
def _sources() -> dict[str, Source]:
    with (resources.files("prunetune.data.prepare") / "sources.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sources = {}
    for key, group in itertools.groupby(rows, key=lambda row: row["key"]):
        mirrors = list(group)
        first = mirrors[0]
        size = int(first["bytes"]) if first["bytes"] else None
        urls = tuple(row["url"] for row in mirrors)
        sources[key] = Source(first["file_name"], urls, size, first["md5"] or None, first["sha256"] or None)
    return sources


def source(key: str) -> Source:
    """Return the download with this key of `sources.csv`."""
    return _sources()[key]


def fetch(wanted: Source, folder: Path, by_hand: str) -> Path:
    """Return `folder/<file name>`, downloaded and checked unless it is there already.

    Args:
        wanted: what to download.
        folder: where finished files and the beginnings of unfinished ones (`.part`) are kept.
        by_hand: what a person can do when every mirror fails, as a sentence of the error message.

    Raises:
        InputError: all mirrors failed, or the disk is full.
    """
    path = folder / wanted.file_name
    with explained(folder, OTHER_DISK):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            verify(path, wanted, folder, f"delete {path} and run the command again")
            return path
        failures = []
        for url in wanted.urls:
            try:
                _download(url, wanted, path)
                return path
            except _Failed as failure:
                log.info("%s: %s", url, failure)
                failures.append(f"{url} {failure}")
    kept = _size(_part(path)) / 1e6
    again = f", or run the command again: it continues after {kept:.1f} MB" if kept else ""
    raise InputError(f"{wanted.file_name} could not be downloaded: {'; '.join(failures)}. {by_hand}{again}")


def verify(path: Path, wanted: Source, records: Path, fix: str) -> None:
    """Compare a file with the size and checksums that are known, or recorded in the folder `records`.

    Raises:
        InputError: the file is missing or is not the one that was published.
    """
    if not path.is_file():
        raise InputError(f"expected the archive {wanted.file_name} at {path}, found no file; check the path")
    problem = mismatch(path, wanted, records)
    if problem:
        raise InputError(f"{path} {problem}; {fix}")


def mismatch(path: Path, wanted: Source, records: Path) -> str:
    """Return what is wrong with a file, as the end of a sentence, or an empty string."""
    size = path.stat().st_size
    if wanted.num_bytes not in (None, size):
        return f"has {size} bytes, expected {wanted.num_bytes}"
    for name, expected in (("md5", wanted.md5), ("sha256", wanted.sha256)):
        if expected and (found := checksum(path, name)) != expected:
            return f"has {name} {found}, expected {expected}"
    if wanted.file_name.endswith(".zip") and not zipfile.is_zipfile(path):
        return "is not a zip archive"
    return "" if wanted.md5 or wanted.sha256 else _recorded_mismatch(path, records / f"{wanted.file_name}.sha256")


def _recorded_mismatch(path: Path, record: Path) -> str:
    """Compare a file without a published checksum with the first one seen, or record it now."""
    found = checksum(path, "sha256")
    if not record.is_file():
        write_text(record, f"{found}  {record.stem}\n")
        log.info("no checksum is published; recorded sha256 %s in %s", found, record)
        return ""
    first = record.read_text().split()[0]
    return "" if first == found else f"has sha256 {found}, the first one had {first} (delete {record} to accept it)"


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file; `algorithm` is a name of hashlib."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _download(url: str, wanted: Source, path: Path) -> None:
    part = _part(path)
    resumed = part.is_file()
    _complete(url, wanted, part)
    problem = mismatch(part, wanted, path.parent)
    if problem and resumed:
        # The old part may come from another edition of the file, so the download is repeated from the start.
        part.unlink()
        _complete(url, wanted, part)
        problem = mismatch(part, wanted, path.parent)
    if problem:
        part.unlink()
        raise _Failed(f"sent a file that {problem}")
    os.replace(part, path)


def _complete(url: str, wanted: Source, part: Path) -> None:
    """Append to the part file until it is whole; give up after some attempts in a row that brought nothing."""
    fruitless = 0
    while fruitless < FRUITLESS_ATTEMPTS:
        before = _size(part)
        try:
            return _append(url, wanted, part)
        except _Broken as error:
            reason = error
        fruitless = 0 if _size(part) > before else fruitless + 1
        log.info("the download of %s was interrupted at %.1f MB (%s)", wanted.file_name, _size(part) / 1e6, reason)
        if fruitless < FRUITLESS_ATTEMPTS:
            time.sleep(PAUSE_SECONDS * 2**fruitless)
    raise _Failed(f"was interrupted {FRUITLESS_ATTEMPTS} times ({reason})")


def _append(url: str, wanted: Source, part: Path) -> None:
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code == 416:
                # The part is complete already, or it is longer than the file.
                return _settle_unsatisfiable(response, have, part)
            _refuse_errors(response)
            start = _start(response, have)
            total = _total(response, start)
            if wanted.num_bytes and total and total != wanted.num_bytes:
                raise _Failed(f"offers {total} bytes, expected {wanted.num_bytes}")
            missing = (total or wanted.num_bytes or 0) - start
            require_space(part.parent, missing, wanted.file_name, OTHER_DISK)
            _write(response, part, start, missing)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Broken(_reason(error)) from error
    if total and _size(part) < total:
        raise _Broken(f"the server stopped at {_size(part)} of {total} bytes")


def _write(response: requests.Response, part: Path, start: int, missing: int) -> None:
    # The bytes are not decoded: a .tar.gz that a server labels "Content-Encoding: gzip" must not be unpacked here.
    chunks = response.raw.stream(CHUNK_BYTES, decode_content=False)
    first = next(chunks, b"")
    if start == 0 and first.lstrip()[:64].lower().startswith((b"<!doctype html", b"<html")):
        raise _Failed(WEB_PAGE)
    with part.open("ab" if start else "wb") as file:
        for chunk in _reported(itertools.chain([first], chunks), part.stem, missing):
            file.write(chunk)


def _reported(chunks: Iterator[bytes], name: str, num_bytes: int) -> Iterator[bytes]:
    if num_bytes <= CHUNK_BYTES:
        return chunks
    return iter(track(chunks, f"download {name}, MiB", math.ceil(num_bytes / CHUNK_BYTES)))


def _refuse_errors(response: requests.Response) -> None:
    if response.status_code in (429, 500, 502, 503, 504):
        raise _Broken(f"answered {response.status_code} {response.reason}")
    if response.status_code not in (200, 206):
        raise _Failed(f"answered {response.status_code} {response.reason}")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _Failed(WEB_PAGE)


def _settle_unsatisfiable(response: requests.Response, have: int, part: Path) -> None:
    if response.headers.get("Content-Range", "") != f"bytes */{have}":
        part.unlink()
        raise _Broken("the part that was downloaded before is not of this server's file")


def _start(response: requests.Response, have: int) -> int:
    """Return where the answer begins: at what we have, or at 0 if the server ignores Range."""
    if response.status_code == 200:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise _Failed("answered with another range than the requested one")
    return have


def _total(response: requests.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Exception) -> str:
    """Return the innermost cause in a few words: requests wraps urllib3, which wraps the socket's error."""
    text = str(error.args[0] if error.args else error)
    return text.rsplit(": ", 1)[-1][:160].rstrip(")'\"")
