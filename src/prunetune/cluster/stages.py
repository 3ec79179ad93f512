"""Stages: work that is cut into items, each of which leaves files and a record and is never done twice.

The record of an item, `<item>.json`, is written after its files and holds their hashes. So an item is finished if and
only if its record is there, and a driver or a worker that is killed costs the unfinished items only.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.base.hashes import file_hash
from prunetune.base.publish import new_file, write_json
from prunetune.cluster.engine import run_tasks
from prunetune.cluster.progress import Progress

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
AT_ONCE = 256  # One task verifies this many items.


@dataclass(frozen=True)
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
        with new_file(self.file(name, ".json")) as partial:
            write_json(partial, record)
        return record

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the record of a finished item whose files have their sizes; None if it must be done."""
        try:
            record = json.loads(self.file(name, ".json").read_text(encoding="utf-8"))
            sizes = {file: (self.folder / file).stat().st_size for file in record["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if all(sizes[file] == size for file, (size, _) in record["files"].items()) else None

    def records(self, items: Sequence[Item], verified: bool = True) -> dict[str, dict[str, Any]]:
        """Return the records of those items that are finished; workers compare the hashes of their files.

        An item whose files have changed is named in the log and counts as unfinished.
        """
        found = {item.name: record for item in items if (record := self.record(item.name)) is not None}
        names = list(found)
        chunks = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)] if verified else []
        for _, damaged in run_tasks(_damaged, chunks, self, found) if chunks else ():
            for name in damaged:
                log.warning("%s is damaged (its hash has changed) and is made again", self.file(name, ""))
                self.file(name, ".json").unlink(missing_ok=True)
                del found[name]
        return found

    def run(
        self, items: Sequence[Item], function: Callable[..., Any], *shared: Any, what: str, memory: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Do the unfinished items in the workers, and return the records of all of them, in the order of the items.

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
        found = self.records(items)
        todo = [item for item in items if item.name not in found]
        progress = Progress(what, sum(item.rows for item in items), sum(i.rows for i in items if i.name in found))
        for item, record in run_tasks(function, todo, self, *shared, memory=memory):
            found[item.name] = record
            progress.add(item.rows)
        return {item.name: found[item.name] for item in items}

    def write_manifest(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the sizes and hashes of the files of all items into one file."""
        files = {file: facts for record in records.values() for file, facts in record["files"].items()}
        with new_file(self.folder / MANIFEST) as partial:
            write_json(partial, {file: {"bytes": size, "xxh3": mark} for file, (size, mark) in files.items()})


def _damaged(names: Sequence[str], stage: Stage, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the items of which a file has another hash than its record says."""
    return [name for name in names if not _is_sound(stage, records[name]["files"])]


def _is_sound(stage: Stage, files: Mapping[str, Sequence[Any]]) -> bool:
    try:
        return all(file_hash(stage.folder / file) == mark for file, (_, mark) in files.items())
    except OSError:
        return False


def sliced(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of pieces of at most `most` rows."""
    for start in range(0, rows, most):
        yield start, min(most, rows - start)
