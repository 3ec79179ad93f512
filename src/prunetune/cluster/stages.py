"""Stages: work that is cut into items, each of which leaves files and a record and is never done twice.

The record of an item, `<item>.json`, is written after its files and holds their hashes. So an item is finished if and
only if its record is there, and a driver or a worker that is killed costs the unfinished items only.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from prunetune.base.hashes import file_hash
from prunetune.base.publish import new_file
from prunetune.cluster.engine import run_tasks
from prunetune.cluster.progress import Progress

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
AT_ONCE = 256  # One task verifies this many items.
Facts = Mapping[str, Any]  # What a record says beside its files.
NO_FACTS: Facts = {}  # One object for all items, since most records hold nothing but files.
T = TypeVar("T")


@contextmanager
def named_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which gets its name `path` when the block ends without an error.

    Raises:
        OSError: the disk is full or not writable. The error names the file, also where the system does not.
    """
    try:
        with new_file(path) as partial, partial.open("wb") as file:
            yield file
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of the work of a stage: its name, and what the workers need to know. rows: for the progress line."""

    name: str
    rows: int
    work: Any = None


@dataclass(frozen=True)
class Stage:
    """A folder of finished items. folder: on a disk that all machines share."""

    folder: Path

    def file(self, name: str, suffix: str) -> Path:
        """Return the place of a file of an item."""
        return self.folder / f"{name}{suffix}"

    def finish(self, name: str, files: Sequence[Path], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record of an item whose files are written, and return it.

        Raises:
            OSError: the disk is full or not writable.
        """
        hashes = {path.name: [path.stat().st_size, file_hash(path)] for path in files}
        record = {**facts, "files": hashes}
        with named_file(self.file(name, ".json")) as file:
            file.write(json.dumps(record, indent=2, sort_keys=True).encode())
        return record

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the record of a finished item whose files have their sizes; None if it must be done."""
        try:
            record = self._read(name)
            sizes = {file: (self.folder / file).stat().st_size for file in record["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if all(sizes[file] == size for file, (size, _) in record["files"].items()) else None

    def _read(self, name: str) -> dict[str, Any]:
        return json.loads(self.file(name, ".json").read_text(encoding="utf-8"))

    def finished(self, names: Iterable[str]) -> dict[str, Facts]:
        """Return the facts of those items that are finished. Workers read the records and compare the hashes of files.

        An item whose files have changed is named in the log and counts as unfinished.
        """
        there = self._recorded()
        recorded = [name for name in names if name in there]
        chunks = [recorded[start : start + AT_ONCE] for start in range(0, len(recorded), AT_ONCE)]
        found: dict[str, Facts] = {}
        for chunk, (sound, damaged) in run_tasks(_compared, chunks, self) if chunks else ():
            # The names are those of the items, not their copies in `sound`, so that the driver holds each name once.
            found |= {name: sound[name] or NO_FACTS for name in chunk if name in sound}
            for name in damaged:
                log.warning("%s is damaged (its hash has changed) and is made again", self.file(name, ""))
                self.file(name, ".json").unlink(missing_ok=True)
        return found

    def _recorded(self) -> set[str]:
        """Return the names of the items that have a record."""
        if not self.folder.is_dir():
            return set()
        with os.scandir(self.folder) as entries:
            return {entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")}

    def run(
        self, items: Sequence[Item], function: Callable[..., Any], *shared: Any, what: str, memory: int | None = None
    ) -> dict[str, Facts]:
        """Do the unfinished items in the workers, and return the facts of all of them, in the order of the items.

        Args:
            items: the work.
            function: maps (item, stage, *shared) to the record that `finish` returns.
            shared: see `engine.run_tasks`.
            what: what is done, for the progress line.
            memory: bytes that one task needs.

        Raises:
            InputError: see `engine.run_tasks`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self.finished(item.name for item in items)
        todo = [item for item in items if item.name not in found]
        progress = Progress(what, sum(item.rows for item in items), sum(i.rows for i in items if i.name in found))
        for item, record in run_tasks(function, todo, self, *shared, memory=memory):
            found[item.name] = facts_of(record)
            progress.add(item.rows)
        return {item.name: found[item.name] for item in items}

    def write_manifest(self, names: Iterable[str]) -> None:
        """Write the sizes and hashes of the files of finished items into one file, line by line."""
        with new_file(self.folder / MANIFEST) as partial, partial.open("w", encoding="utf-8") as file:
            file.write("{")
            separator = "\n"
            for name in names:
                for path, (size, mark) in self._read(name)["files"].items():
                    file.write(f"{separator}  {json.dumps(path)}: {json.dumps({'bytes': size, 'xxh3': mark})}")
                    separator = ",\n"
            file.write("\n}\n")


def facts_of(record: Mapping[str, Any]) -> Facts:
    """Return what a record says beside its files; the driver keeps no more, since it can have millions of records."""
    return {key: value for key, value in record.items() if key != "files"} or NO_FACTS


def _compared(names: Sequence[str], stage: Stage) -> tuple[dict[str, Facts], list[str]]:
    """Return the facts of the finished items, and the items of which a file has another hash than its record says."""
    sound, damaged = {}, []
    for name in names:
        record = stage.record(name)
        if record is not None and _is_sound(stage, record["files"]):
            sound[name] = facts_of(record)
        elif record is not None:
            damaged.append(name)
    return sound, damaged


def _is_sound(stage: Stage, files: Mapping[str, Sequence[Any]]) -> bool:
    try:
        return all(file_hash(stage.folder / file) == mark for file, (_, mark) in files.items())
    except OSError:
        return False


def bundled(items: Iterable[T], rows: Callable[[T], int], most: int, count: int | None = None) -> Iterator[list[T]]:
    """Yield items that one task takes, in their order: at most `most` rows and `count` items, but at least one item."""
    chosen: list[T] = []
    total = 0
    for item in items:
        if chosen and (total + rows(item) > most or len(chosen) == count):
            yield chosen
            chosen, total = [], 0
        chosen.append(item)
        total += rows(item)
    if chosen:
        yield chosen


def sliced(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of pieces of at most `most` rows."""
    for start in range(0, rows, most):
        yield start, min(most, rows - start)
