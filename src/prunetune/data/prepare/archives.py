"""Extraction of tar and zip archives that trusts neither the names nor the kinds of their members."""

import bz2
import gzip
import io
import lzma
import math
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.data.prepare.disk import explained, require_space

CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
MOST_BYTES = 2**30  # Of one member. The largest of a published set has 31 MB.
MOST_HEADER_BYTES = 2**20  # Of a header that holds a long name or other facts about the next member.
HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# Maps the first bytes of a compressed tar to the function that unpacks it.
UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"\x5d\0\0\x80": lzma.open}
CHUNK_BYTES = 2**20
OTHER_DISK = "pass --root or --downloads on another disk"
Member = tuple[str, Callable[[], IO[bytes]]]


def extract(archive: Path, folder: Path, place: Callable[[str], str | None]) -> int:
    """Write the chosen members below a folder and return their number.

    Every member is looked at, chosen or not: one with an absolute name, a `..`, a link, a device or more than
    `MOST_BYTES` makes the whole archive refused. A compressed tar is read to its end, where its checksum is, and the
    checksums of the chosen members of a zip are compared too; a tar without compression has none. Owners and
    permissions are not taken over. Call it inside `disk.staging`, so that a broken extraction leaves nothing behind.

    Args:
        archive: a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file; the content decides, not the name.
        folder: where to write; must exist.
        place: gets a member's relative POSIX path and returns its target path, relative to `folder`, or None.

    Raises:
        InputError: the archive is unreadable or unsafe, or the disk is full.
    """
    written = 0
    with explained(folder.parent, OTHER_DISK), _readable(archive):
        require_space(folder, _chosen_bytes(archive, place), archive.name, OTHER_DISK)
        for name, opened in _members(archive):
            target = place(name)
            if target is not None:
                _write(opened, folder / _safe(target, archive))
                written += 1
    return written


def member_names(archive: Path) -> list[str]:
    """Return the relative POSIX paths of all files in an archive, after the same checks as `extract`."""
    with _readable(archive):
        return [name for name, _ in _members(archive)]


def inside(top: str) -> Callable[[str], str | None]:
    """Return a `place` that drops the archive's top folder and takes everything in it except hidden files."""

    def place(name: str) -> str | None:
        first, *rest = PurePosixPath(name).parts
        if first != top or not rest or any(part.startswith(".") for part in rest):
            return None
        return "/".join(rest)

    return place


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        if error.filename != str(archive):
            raise
        raise InputError(f"expected an archive at {archive}, found no file; check the path") from error
    except CORRUPT as error:
        raise InputError(_unreadable(archive, error)) from error
    except OSError as error:
        if error.errno is not None:  # The gzip module reports a bad checksum as an OSError without a number.
            raise
        raise InputError(_unreadable(archive, error)) from error


def _unreadable(archive: Path, error: Exception) -> str:
    return f"{archive} is not a readable tar or zip archive ({error}); delete it and download it again"


def _is_zip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"PK" and zipfile.is_zipfile(archive)


def _chosen_bytes(archive: Path, place: Callable[[str], str | None]) -> int:
    """Return how much a zip will write; the size of a compressed tar is unknown before it is read, so 0."""
    if not _is_zip(archive):
        return 0
    with zipfile.ZipFile(archive) as file:
        return sum(member.file_size for member in file.infolist() if place(member.filename) is not None)


def _members(archive: Path) -> Iterator[Member]:
    return _zip_members(archive) if _is_zip(archive) else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for member in track(file.infolist(), f"reading {archive.name}, members", len(file.infolist())):
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{archive} is refused: {member.filename!r} is a link or a device, not a file")
            is_folder = member.filename.endswith("/")
            name = _safe(member.filename, archive, is_folder)
            _check_size(archive, name, member.file_size)
            if not is_folder:
                yield name, lambda member=member: file.open(member)


def _tar_members(archive: Path) -> Iterator[Member]:
    with _unpacked(archive) as content:
        # The archive is read in one pass, in the order of its members.
        with tarfile.open(fileobj=content, mode="r|", tarinfo=_header_type(archive)) as file:
            yield from _members_of(file, archive)
        while content.read(CHUNK_BYTES):  # The checksum comes after the end of the tar.
            pass


def _members_of(file: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for member in file:
        if not member.isfile() and not member.isdir():
            raise InputError(f"{archive} is refused: {member.name!r} is a link or a device, not a file")
        name = _safe(member.name, archive, member.isdir())
        _check_size(archive, name, member.size)  # A pax header may have given another size than the member's own one.
        if member.isfile():
            yield name, lambda member=member: file.extractfile(member)


@contextmanager
def _unpacked(archive: Path) -> Iterator[IO[bytes]]:
    """Open the content of a tar that may be compressed. Reading it to its end compares its checksum.

    The stream mode of tarfile unpacks by itself, but it ignores the checksum of gzip.
    """
    with archive.open("rb") as file:
        start = file.peek(6)[:6]
        num_chunks = math.ceil(archive.stat().st_size / CHUNK_BYTES)
        chunks = track(iter(lambda: file.read(CHUNK_BYTES), b""), f"reading {archive.name}, MiB", num_chunks)
        reported = io.BufferedReader(_Chunks(chunks), CHUNK_BYTES)
        unpack = next((unpack for magic, unpack in UNPACKERS.items() if start.startswith(magic)), None)
        yield reported if unpack is None else unpack(reported)


class _Chunks(io.RawIOBase):
    """A stream that reads chunks of bytes one after another."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _header_type(archive: Path) -> type[tarfile.TarInfo]:
    class Header(tarfile.TarInfo):
        """A header whose size is checked before tarfile reads so many bytes of a long name into memory."""

        @classmethod
        def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
            header = super().frombuf(buf, encoding, errors)
            most = MOST_HEADER_BYTES if header.type in HEADERS else MOST_BYTES
            _check_size(archive, header.name, header.size, most)
            return header

    return Header


def _check_size(archive: Path, name: str, size: int, most: int = MOST_BYTES) -> None:
    if not 0 <= size <= most:
        raise InputError(f"{archive} is refused: {name!r} has {size} bytes, and a member may have {most}")


def _safe(name: str, archive: Path, is_folder: bool = False) -> str:
    path = PurePosixPath(name)
    if not path.parts and not is_folder:
        raise InputError(f"{archive} is refused: a file in it has no name")
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise InputError(f"{archive} is refused: {name!r} would be written outside the folder it is extracted to")
    return str(path)


def _write(opened: Callable[[], IO[bytes]], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK_BYTES)
