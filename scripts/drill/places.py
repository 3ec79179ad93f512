"""Results folders that cannot be used: of other users, with something in the way, with names that are too long."""

import ctypes
import os
import stat
from collections.abc import Callable
from pathlib import Path

from scripts.drill.cases import WRONG, Case, Miss, Place, Skipped, Suite, decided, finished, refused
from scripts.drill.inputs.odd_files import link_to
from scripts.drill.processes import run
from scripts.drill.tiny_runs import TEXTURES, in_folder, same_results

KIND = "results folder that cannot be used"
NOBODY = 65534  # The user and the group that own nothing.
CAPABILITY_VERSION = 0x20080522  # Of the sets that capset(2) reads.
MAY_WRITE_ANYWHERE = 1 << 1 | 1 << 3  # CAP_DAC_OVERRIDE and CAP_FOWNER.
LONG = "a" * 300
WORDS = (  # Each is refused.
    ["results_dir=/proc/x"],
    ["results_dir=/sys/x"],
    ["results_dir=/dev/null"],
    ["results_dir=/dev/null/x"],
    ["results_dir=/dev/full"],
    [f"results_dir={LONG}"],
    [f"results_dir={'/'.join([LONG[:200]] * 30)}"],
    ["hydra.run.dir=/proc/x"],
    ["hydra.run.dir=/dev/null/x"],
    ["hydra.sweep.dir=/proc/x"],
    [f"hydra.run.dir={LONG}"],
    [f"tag={LONG}"],
    [f"dataset.name={LONG}"],
    ["-m", "seed=0,1", "hydra.sweep.dir=/proc/x"],
    ["-m", "seed=0,1", "results_dir=/proc/x"],
)
LOG = "hydra.job_logging.handlers.file.filename=/proc/x/run.log"
FILE_AT = ("", "store", "store/scores", "runs", "<run>", "<run>/.hydra")
FOLDER_AT = ("<run>/result.json", "<run>/subset.csv", "<run>/run.log", "<run>/failed.json")
LINK_AT = ("", "store", "runs", "<run>/result.json")
DEVICE_AT = ("", "store", "<run>/result.json", "<run>/run.log")


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


def _begun_read_only(place: Place) -> None:
    """The folder of a run that was begun, and everything else, may be read only. The run is refused."""
    words = [*_words(), in_folder(place.results)]
    finished(run([*words, "until=prune"], place.folder))
    for path in (place.results, *place.results.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
    line = refused(run(words, place.folder, _as_an_ordinary_user))
    if str(place.results) not in line:
        raise Miss(WRONG, f"the line does not name the folder: {line}", words)


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


def _unwritable_log(place: Place) -> None:
    """A log that cannot be written is said in one line. It is no result, so the run goes on."""
    ended = run([*_words(), in_folder(place.results), LOG], place.folder)
    finished(ended)
    if "run.log could not be written" not in ended.err:
        raise Miss(WRONG, "nothing says that the log was not written", ended.words)
    same_results(place.shared / "calm", place.results, ended)


def _write_text(path: Path) -> None:
    path.write_text("in the way")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def checks() -> dict[str, Callable[[Place], None]]:
    """Return the checks by the names of their cases."""
    found: dict[str, Callable[[Place], None]] = {
        "read-only for this user": _read_only,
        "read-only for this user, with a run that was begun": _begun_read_only,
        "of another user, with the finished run": _of_another_user,
        "shared by a group": _for_a_group,
        LOG: _unwritable_log,
    }
    for about, places, make in (
        ("a file", FILE_AT, _write_text),
        ("a folder", FOLDER_AT, Path.mkdir),
        ("a link to nowhere", LINK_AT, link_to("/proc/nowhere")),
        ("a link to itself", LINK_AT, _link_to_itself),
        ("a pipe", DEVICE_AT, os.mkfifo),
        ("a link to /dev/full", DEVICE_AT, link_to("/dev/full")),
    ):
        found |= {f"{about} at <results>/{name}": _in_the_way(name, make) for name in places}
    return found | {" ".join(words).replace(LONG, "<300 letters>")[:100]: _given(*words) for words in WORDS}


def prepare(shared: Path) -> None:
    """Run undisturbed."""
    finished(run([*_words(), in_folder(shared / "calm")], shared))


SUITE = Suite("places", tuple(Case(KIND, name, check) for name, check in checks().items()), prepare)
