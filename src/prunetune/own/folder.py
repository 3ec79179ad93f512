"""The folder `--out`: it appears whole or not at all, and a folder that something else has written is never touched."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunetune.base.disk import explained
from prunetune.base.errors import InputError
from prunetune.base.publish import aside, remove, write_json
from prunetune.own.data import OwnData

RECORD = "prune.json"  # This file marks a folder as ours. It says what was asked for and which files were written.


@dataclass(frozen=True)
class OutFolder:
    """The folder that the files of one pruning go to.

    path: the folder. asked: everything that the files depend on, beside the data, as JSON values. option: how the user
    names the folder, such as "--out". command: prune, prune-text or advise; none replaces the files of another. facts:
    what the record says beside, such as the engine; the files do not depend on it.
    """

    path: Path
    asked: Mapping[str, Any]
    option: str = "--out"
    command: str = "prune"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def check(self, data_root: Path | None) -> None:
        """Refuse a folder that may not be written, before anything is computed.

        Args:
            data_root: the folder or file of the data; None if they are in memory.

        Raises:
            InputError: the path is a file, the folder holds what was not written by us, or it contains the data.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.option} must be a folder, and {self.path} is a file; give another path")
        if data_root is not None and data_root.resolve().is_relative_to(self.path.resolve()):
            raise InputError(f"{self.option}={self.path} holds the data themselves; give a folder that does not")
        if not self.path.is_dir():
            return
        record = _record_of(self.path, self.command)
        present = {path.relative_to(self.path).as_posix() for path in self._files()}
        strange = sorted(present - {RECORD} - set(record["files"] if record else ()))
        if strange:
            others = f" and {len(strange) - 1} more" if strange[1:] else ""
            raise InputError(
                f"{self.option}={self.path} holds {strange[0]}{others}, which `prunetune {self.command}` has not "
                "written; give a new or empty folder"
            )

    def is_finished(self, data_mark: str) -> bool:
        """Return whether the folder holds the files of the same command on the same data, unchanged.

        data_mark: a hash that changes when the data do, such as `mark` returns.
        """
        record = _record_of(self.path, self.command)
        if record is None or record["asked"] != json.loads(json.dumps(self.asked)) or record["data"] != data_mark:
            return False
        return all(_size(self.path / name) == size for name, size in record["files"].items())

    def has_same(self, facts: Mapping[str, Any], names: tuple[str, ...]) -> bool:
        """Return whether the folder holds the files of the same command, unchanged, and its record the same facts.

        Args:
            facts: what the record should say.
            names: the facts that are compared.
        """
        record = _record_of(self.path, self.command)
        if record is None or any(record["facts"].get(name) != facts[name] for name in names):
            return False
        return self.is_finished(record["data"])

    def write(self, data_mark: str, fill: Callable[[Path], None]) -> None:
        """Let `fill(folder)` write the files, and put them into place at once; data_mark: as for `is_finished`.

        Raises:
            InputError: the disk is full or not writable. The folder is then what it was before.
        """
        partial = aside(self.path)
        try:
            with explained(self.path, f"give {self.option} another folder"):
                partial.mkdir(parents=True)
                fill(partial)
                sizes = {path.relative_to(partial).as_posix(): _size(path) for path in sorted(_walk(partial))}
                record = {"command": self.command, "asked": self.asked, "data": data_mark, "files": sizes}
                record = {**self.facts, **record}
                write_json(partial / RECORD, record)
                if self.path.is_dir():
                    remove(self.path)
                os.rename(partial, self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _files(self) -> list[Path]:
        return _walk(self.path)


def is_outcome(folder: Path) -> bool:
    """Return whether a folder was written by an earlier command: the file that marks such folders is in it."""
    return _record_of(folder) is not None


def _record_of(folder: Path, command: str | None = None) -> dict[str, Any] | None:
    """Return the record of a folder that a command, by default any of them, has written, or None."""
    if not (folder / RECORD).is_file():  # Reading a pipe of this name would wait for another program.
        return None
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = {"asked": record["asked"], "data": record["data"], "files": dict(record["files"]), "facts": record}
        return found if command in (None, record.get("command", "prune")) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def mark(data: OwnData) -> str:
    """Return a hash that changes when the candidates do: their names, labels, and the sizes and times of the files."""
    digest = hashlib.sha256(data.pool.listing.encode())
    if data.features is not None:
        digest.update(data.features.numpy().tobytes())
    elif None in data.paths:
        digest.update(data.pool.fingerprint.encode())
    else:
        for path in data.paths:
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _walk(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size  # The size of a link itself: the file it leads to is the user's.
    except OSError:
        return None
