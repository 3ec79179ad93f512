"""Disks that fill up, and writes that fail."""

import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.drill.cases import WRONG, Case, Miss, Place, Skipped, Suite, decided, finished
from scripts.drill.damage import command
from scripts.drill.faults import Counter, counting, fail_at, limit_files
from scripts.drill.processes import Before, Ended, run
from scripts.drill.tiny_runs import GRID, TEXT, in_folder, no_leftovers, photo_run, photos, same_results

FULL, FAILING = "file system of 3 MB that fills up", "write that fails"
SIZE = 3 * 2**20
FREE = (0, 4, 12, 40, 100, 300, 1000)  # KiB that are free when the run starts.
POINTS = 6  # Changes of files, evenly spaced, at which a write fails.
CODES = (errno.ENOSPC, errno.EROFS)
BYTES = (0, 300, 3000, 30000)  # No file may grow beyond so many bytes.
KINDS = ("image", "grid", "text", "proxy")


def commands(shared: Path, kind: str) -> list[str]:
    """Return the command line of a kind of run."""
    if kind == "proxy":
        return command("full", shared)
    return {"image": photo_run(shared / "photos"), "grid": ["grid", *GRID], "text": ["instruct", *TEXT]}[kind]


def prepare(shared: Path, kind: str) -> None:
    """Run undisturbed, and note the number of changes of files."""
    photos(shared / "photos")
    counter = Counter()
    words = [*commands(shared, kind), in_folder(shared / "calm")]
    finished(run(words, shared, counting(shared / "calm", counter)))
    (shared / "changes.json").write_text(json.dumps(counter.value))


def suite(kind: str) -> Suite:
    """Return the cases of one kind of run."""
    cases = [
        Case(FULL, f"{kind} run, {free} KiB free", lambda place, free=free: _on_a_small_disk(place, kind, free))
        for free in FREE
    ]
    cases += [
        Case(
            FAILING,
            f"{kind} run, {errno.errorcode[code]} at change {point} of {POINTS}{' and ever after' if lasting else ''}",
            lambda place, code=code, lasting=lasting, point=point: _at_change(place, kind, point, code, lasting),
        )
        for code in CODES
        for lasting in (True, False)
        for point in range(1, POINTS + 1)
    ]
    cases += [
        Case(
            FAILING,
            f"{kind} run, no file over {size} bytes",
            lambda place, size=size: _then_again(place, kind, limit_files(size)),
        )
        for size in BYTES
    ]
    return Suite(f"full disk, {kind} runs", tuple(cases), lambda shared: prepare(shared, kind), kind == "text")


def _at_change(place: Place, kind: str, point: int, code: int, lasting: bool) -> None:
    total = json.loads((place.shared / "changes.json").read_text())
    change = 1 + round((point - 1) / POINTS * total)
    _then_again(place, kind, fail_at(place.results, change, code, lasting))


def _on_a_small_disk(place: Place, kind: str, free: int) -> None:
    with small_disk(place.folder / "disk") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(SIZE - free * 1024))
        _then_again(Place(place.shared, disk), kind, None, filler.unlink)


def _then_again(place: Place, kind: str, fault: Before | None, repair: Callable[[], None] = lambda: None) -> None:
    """Run with the fault, then without it. The first run is refused or whole, the second whole."""
    words = [*commands(place.shared, kind), in_folder(place.results)]
    ended = run(words, place.folder, fault)
    if decided(ended):
        same_results(place.shared / "calm", place.results, ended)
    _no_partial_result(place.results, ended)
    repair()
    again = run(words, place.folder)
    finished(again)
    same_results(place.shared / "calm", place.results, again)
    no_leftovers(place.results, again)


def _no_partial_result(results: Path, ended: Ended) -> None:
    """Refuse a result.json that is not JSON."""
    for file in results.rglob("result.json"):
        try:
            json.loads(file.read_text())
        except ValueError:
            raise Miss(WRONG, "left half a result.json", ended.words) from None


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 3 MB.

    Raises:
        Skipped: this user may not mount.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "drill", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise Skipped("needs the right to mount a file system (root)") from None
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


SUITES = tuple(map(suite, KINDS))
