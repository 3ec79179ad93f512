"""Extraction of tar and zip archives that trusts neither the names nor the kinds of their members."""

import lzma
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
OTHER_DISK = "pass --root or --downloads on another disk"
Member = tuple[str, Callable[[], IO[bytes]]]


def extract(archive: Path, folder: Path, place: Callable[[str], str | None]) -> int:
    """Write the chosen members below a folder and return their number.

    Every member is looked at, chosen or not: one with an absolute name, a `..`, a link or a device makes the whole
    archive refused. Owners and permissions are not taken over. Call it inside `disk.staging`, so that a broken
    extraction leaves nothing behind.

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


def _chosen_bytes(archive: Path, place: Callable[[str], str | None]) -> int:
    """Return how much a zip will write; the size of a compressed tar is unknown before it is read, so 0."""
    if not zipfile.is_zipfile(archive):
        return 0
    with zipfile.ZipFile(archive) as file:
        return sum(member.file_size for member in file.infolist() if place(member.filename) is not None)


def _members(archive: Path) -> Iterator[Member]:
    return _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{archive} is refused: {member.filename!r} is a link or a device, not a file")
            name = _safe(member.filename, archive)
            if not member.is_dir():
                yield name, lambda member=member: file.open(member)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r|*") as file:  # The archive is read in one pass, in the order of its members.
        for member in file:
            if not member.isfile() and not member.isdir():
                raise InputError(f"{archive} is refused: {member.name!r} is a link or a device, not a file")
            name = _safe(member.name, archive)
            if member.isfile():
                yield name, lambda member=member: file.extractfile(member)


def _safe(name: str, archive: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise InputError(f"{archive} is refused: {name!r} would be written outside the folder it is extracted to")
    return str(path)


def _write(opened: Callable[[], IO[bytes]], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
