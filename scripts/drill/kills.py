"""Runs that are killed at many points and started again. They must end as runs that were not killed."""

import json
import random
import shutil
import signal
from pathlib import Path

from scripts.drill.cases import WRONG, Case, Miss, Place, Suite, finished
from scripts.drill.faults import Counter, counting, kill_at, kill_within
from scripts.drill.processes import Ended, run, start
from scripts.drill.tiny_runs import GRID, TEXT, in_folder, no_leftovers, photo_run, photos, same_results

KIND = "kill -9"
KINDS = ("image", "grid", "text")
NUM_BEFORE, NUM_WITHIN, NUM_TIMES = 9, 5, 6  # Points of each kind: before a change, within a write, at some time.
SAMPLED = ("before change 7 of 9", "within write 3 of 5")
BYTES = (0, 1, 100, 1000, 5000)  # After so many bytes of a file a write is cut off.
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


def commands(shared: Path) -> dict[str, list[str]]:
    """Return the command line of each kind of run."""
    return {"image": photo_run(shared / "photos"), "grid": ["grid", *GRID], "text": ["instruct", *TEXT]}


def prepare(shared: Path, kind: str) -> None:
    """Run one kind undisturbed, and note its seconds and its number of changes of files."""
    photos(shared / "photos")
    results, counter = shared / "calm", Counter()
    ended = run([*commands(shared)[kind], in_folder(results)], shared, counting(results, counter))
    finished(ended)
    facts = {"changes": counter.value, "seconds": ended.seconds}
    (shared / "facts.json").write_text(json.dumps(facts))


def suite(kind: str) -> Suite:
    """Return all points at which one kind of run is killed."""
    points = [f"before change {number} of {NUM_BEFORE}" for number in range(1, NUM_BEFORE + 1)]
    points += [f"within write {number} of {NUM_WITHIN}" for number in range(1, NUM_WITHIN + 1)]
    points += [f"at time {number} of {NUM_TIMES}" for number in range(1, NUM_TIMES + 1)]
    cases = [
        Case(KIND, f"{kind} run, {point}", lambda place, point=point: check(place, kind, point), point in SAMPLED)
        for point in points
    ]
    return Suite(f"kills of {kind} runs", tuple(cases), lambda shared: prepare(shared, kind), kind == "text")


def check(place: Place, kind: str, point: str) -> None:
    """Kill a run at a point, give the same command again, and compare with the undisturbed run."""
    words = [*commands(place.shared)[kind], in_folder(place.results)]
    facts = json.loads((place.shared / "facts.json").read_text())
    way, _, rest = point.rpartition(" of ")[0].rpartition(" ")
    number, total = int(rest), int(point.rpartition(" ")[2])
    killed = kill(place, words, way, number, total, facts)
    if killed.code not in KILLED:
        raise Miss(WRONG, f"the drill could not kill the run: exit code {killed.code}", words)
    again = run(words, place.folder)
    finished(again)
    same_results(place.shared / "calm", place.results, again)
    no_leftovers(place.results, again)


def kill(place: Place, words: list[str], way: str, number: int, total: int, facts: dict[str, float]) -> Ended:
    """Run a command that is killed at point `number` of `total` of its way."""
    change = 1 + round((number - 0.5) / total * (facts["changes"] - 1))
    if way == "before change":
        return run(words, place.folder, kill_at(place.results, change))
    if way == "within write":
        for size in BYTES[number - 1 :: -1]:  # A late file can be smaller than the bytes after which it is cut off.
            ended = run(words, place.folder, kill_within(place.results, change, size))
            if ended.code in KILLED:
                break
            shutil.rmtree(place.results, ignore_errors=True)
        return ended
    draws = random.Random(f"{words[0]} {number}")
    delay = draws.uniform((number - 1) / total, number / total) * facts["seconds"]
    for _ in range(5):
        child = start(words, place.folder)
        ended = child.kill_after(delay)
        if ended.code == -signal.SIGKILL:
            break
        delay *= 0.5  # The run was over, since the machine was faster than during the undisturbed run.
        shutil.rmtree(place.results, ignore_errors=True)
    return ended


SUITES = tuple(map(suite, KINDS))
