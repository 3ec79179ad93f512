"""Disks that fill up, writes that fail, and results folders that cannot be used."""

import ctypes
import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.drill.cases import WRONG, Case, Miss, Place, Skipped, Suite, decided, finished, refused
from scripts.drill.damage import command
from scripts.drill.faults import Counter, counting, fail_at, limit_files
from scripts.drill.processes import Before, Ended, run
from scripts.drill.tiny_runs import GRID, TEXT, TEXTURES, in_folder, no_leftovers, photo_run, photos, same_results

FULL, FAILING, PLACES = "file system of 3 MB that fills up", "write that fails", "results folder that cannot be used"
SIZE = 3 * 2**20
FREE = (0, 4, 12, 40, 100, 300, 1000)  # KiB that are free when the run starts.
POINTS = 6  # Changes of files, evenly spaced, at which a write fails.
BYTES = (0, 300, 3000, 30000)  # No file may grow beyond so many bytes.
KINDS = ("image", "grid", "text", "proxy")
NOBODY = 65534  # The user and the group that own nothing.
CAPABILITY_VERSION = 0x20080522  # Of the sets that capset(2) reads.
MAY_WRITE_ANYWHERE = 1 << 1 | 1 << 3  # CAP_DAC_OVERRIDE and CAP_FOWNER.


def commands(shared: Path, kind: str) -> list[str]:
    """Return the command line of a kind of run."""
    if kind == "proxy":
        return command("full", shared)
    return {"image": photo_run(shared / "photos"), "grid": ["grid", *GRID], "text": ["instruct", *TEXT]}[kind]


def suite(kind: str) -> Suite:
    """Return the cases of one kind of run on full disks."""

    def prepare(shared: Path) -> None:
        photos(shared / "photos")
        counter = Counter()
        words = [*commands(shared, kind), in_folder(shared / "calm")]
        finished(run(words, shared, counting(shared / "calm", counter)))
        (shared / "changes.json").write_text(json.dumps(counter.value))

    cases = [
        Case(FULL, f"{kind} run, {free} KiB free", lambda place, free=free: _on_a_small_disk(place, kind, free))
        for free in FREE
    ]
    for code in (errno.ENOSPC, errno.EROFS):
        for lasting in (True, False):
            for point in range(1, POINTS + 1):
                about = f"{kind} run, {errno.errorcode[code]} at change {point} of {POINTS}"

                def check(place: Place, point: int = point, code: int = code, lasting: bool = lasting) -> None:
                    total = json.loads((place.shared / "changes.json").read_text())
                    change = 1 + round((point - 1) / POINTS * total)
                    _once(place, kind, fail_at(place.results, change, code, lasting))

                cases.append(Case(FAILING, f"{about}{' and ever after' if lasting else ''}", check))
    cases += [
        Case(
            FAILING,
            f"{kind} run, no file over {size} bytes",
            lambda place, size=size: _once(place, kind, limit_files(size)),
        )
        for size in BYTES
    ]
    return Suite(f"full disk, {kind} runs", tuple(cases), prepare, needs_text=kind == "text")


def _once(place: Place, kind: str, fault: Before) -> None:
    """Run with the fault, then without it. The first run is refused or whole, the second whole."""
    words = [*commands(place.shared, kind), in_folder(place.results)]
    ended = run(words, place.folder, fault)
    if decided(ended):
        same_results(place.shared / "calm", place.results, ended)
    _no_partial_result(place.results, ended)
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


def _on_a_small_disk(place: Place, kind: str, free: int) -> None:
    with small_disk(place.folder / "disk") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(SIZE - free * 1024))
        inside = Place(place.shared, disk)
        words = [*commands(place.shared, kind), in_folder(inside.results)]
        ended = run(words, place.folder)
        if decided(ended):
            same_results(place.shared / "calm", inside.results, ended)
        filler.unlink()
        again = run(words, place.folder)
        finished(again)
        same_results(place.shared / "calm", inside.results, again)
        no_leftovers(inside.results, again)


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


def _as_an_ordinary_user() -> None:
    """Give up the rights by which root writes into the folders of others. Reading stays allowed."""
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.capget(header, sets)
    sets[0] &= ~MAY_WRITE_ANYWHERE
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _read_only(place: Place) -> None:
    """A results folder that this user may not write is refused."""
    place.results.mkdir(mode=0o555)
    if os.geteuid() == 0:
        os.chown(place.results, NOBODY, NOBODY)
    line = refused(run([*_words(), in_folder(place.results)], place.folder, _as_an_ordinary_user))
    if str(place.results) not in line:
        raise Miss(WRONG, f"the line does not name the folder: {line}", _words())


def _of_another_user(place: Place) -> None:
    """A finished run in the folder of another user is finished before anything is written."""
    if os.geteuid() != 0:
        raise Skipped("needs root, to give files to another user")
    words = [*_words(), in_folder(place.results)]
    finished(run(words, place.folder))
    for path in (place.results, *place.results.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    ended = run(words, place.folder, _as_an_ordinary_user)
    finished(ended)
    if "finished before" not in ended.err:
        raise Miss(WRONG, "the finished run of another user is not recognised", ended.words)


def _for_a_group(place: Place) -> None:
    """With umask 002 and the set-group-ID bit, a group can share everything."""
    place.results.mkdir(mode=0o2775)
    place.results.chmod(0o2775)
    ended = run([*_words(), in_folder(place.results)], place.folder, _group_may_write)
    finished(ended)
    for path in place.results.rglob("*"):
        mode = path.stat().st_mode
        needed = stat.S_IWGRP | (stat.S_ISGID if path.is_dir() else 0)
        if mode & needed != needed:
            raise Miss(WRONG, f"{path.relative_to(place.results)} has mode {stat.filemode(mode)}", ended.words)


def _group_may_write() -> None:
    os.umask(0o002)


def _words() -> list[str]:
    return ["run", *TEXTURES, "scorer=random"]


def _in_the_way(name: str, make: Callable[[Path], None]) -> Callable[[Place], None]:
    """Return a check: something is where a run writes. The run is refused, or its results are those without it."""

    def check(place: Place) -> None:
        [run_folder] = (place.shared / "calm" / "runs").rglob("result.json")
        path = place.results / name.replace("<run>", str(run_folder.parent.relative_to(place.shared / "calm")))
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        ended = run([*_words(), in_folder(place.results)], place.folder)
        if decided(ended):
            same_results(place.shared / "calm", place.results, ended)

    return check


def _given(*words: str) -> Callable[[Place], None]:
    """Return a check: these words are added to a run, and it is refused."""

    def check(place: Place) -> None:
        flags = [word for word in words if word.startswith("-")]  # Hydra takes them before the overrides only.
        overrides = [word for word in words if word not in flags]
        refused(run([*_words()[:1], *flags, *_words()[1:], in_folder(place.results), *overrides], place.folder))

    return check


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _write_text(path: Path) -> None:
    path.write_text("in the way")


def places() -> Suite:
    """Return the cases of results folders that cannot be used."""

    def prepare(shared: Path) -> None:
        finished(run([*_words(), in_folder(shared / "calm")], shared))

    checks: dict[str, Callable[[Place], None]] = {
        "read-only for this user": _read_only,
        "of another user, with the finished run": _of_another_user,
        "shared by a group": _for_a_group,
    }
    for name in ("", "store", "store/scores", "runs", "<run>", "<run>/.hydra"):
        checks[f"a file at <results>/{name}"] = _in_the_way(name, _write_text)
    for name in ("<run>/result.json", "<run>/subset.csv", "<run>/run.log", "<run>/failed.json"):
        checks[f"a folder at <results>/{name}"] = _in_the_way(name, Path.mkdir)
    for name in ("", "store", "runs", "<run>/result.json"):
        checks[f"a link to nowhere at <results>/{name}"] = _in_the_way(name, _link_to("/proc/nowhere"))
        checks[f"a link to itself at <results>/{name}"] = _in_the_way(name, lambda path: path.symlink_to(path))
    for name in ("", "store", "<run>/result.json", "<run>/run.log"):
        checks[f"a pipe at <results>/{name}"] = _in_the_way(name, os.mkfifo)
        checks[f"/dev/full at <results>/{name}"] = _in_the_way(name, _link_to("/dev/full"))
    long = "a" * 300
    for words in (
        ["results_dir=/proc/x"],
        ["results_dir=/sys/x"],
        ["results_dir=/dev/null"],
        ["results_dir=/dev/null/x"],
        ["results_dir=/dev/full"],
        [f"results_dir={long}"],
        [f"results_dir={'/'.join([long[:200]] * 30)}"],
        ["hydra.run.dir=/proc/x"],
        ["hydra.run.dir=/dev/null/x"],
        ["hydra.sweep.dir=/proc/x"],
        [f"hydra.run.dir={long}"],
        [f"tag={long}"],
        [f"dataset.name={long}"],
        ["-m", "seed=0,1", "hydra.sweep.dir=/proc/x"],
        ["-m", "seed=0,1", "results_dir=/proc/x"],
        ["hydra.job_logging.handlers.file.filename=/proc/x/run.log"],
    ):
        checks[" ".join(words).replace(long, "<300 letters>")[:100]] = _given(*words)
    cases = tuple(Case(PLACES, name, check) for name, check in checks.items())
    return Suite("places", cases, prepare)


SUITES = (*map(suite, KINDS), places())
