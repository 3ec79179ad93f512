"""Eight processes on one store and one results folder at the same time, three of them killed."""

import os
import random
from collections.abc import Callable
from pathlib import Path

from scripts.drill.cases import WRONG, Case, Miss, Place, Suite, finished
from scripts.drill.faults import Counter, counting, kill_at
from scripts.drill.kills import KILLED
from scripts.drill.processes import LIMIT, run, start
from scripts.drill.tiny_runs import GRID, TEXT, TEXTURES, in_folder, no_leftovers, photo_run, photos, same_results

KIND = "8 processes at once, 3 killed"
NUM_PROCESSES, NUM_KILLED, ROUNDS = 8, 3, 2
SCORERS = ("herding", "dlc", "random", "moderate", "k_center", "typiclust", "facility_location", "lc_knn")


def _image(words: Callable[[int], list[str]]) -> Callable[[Path], list[list[str]]]:
    return lambda shared: [["run", *TEXTURES, *words(number)] for number in range(NUM_PROCESSES)]


SCENES: dict[str, Callable[[Path], list[list[str]]]] = {
    "one image run": lambda shared: [photo_run(shared / "photos")] * NUM_PROCESSES,
    "ratios of one score": _image(lambda number: [f"ratio=0.{number + 1}"]),
    "methods that share features": _image(lambda number: [f"method={SCORERS[number]}"]),
    "one proxy": _image(lambda number: ["scorer=el2n", "proxy=linear_probe", "proxy.epochs=6", f"seed={number}"]),
    "one grid": lambda shared: [["grid", *GRID]] * NUM_PROCESSES,
    "one text run": lambda shared: [["instruct", *TEXT]] * NUM_PROCESSES,
    "ratios of one text score": lambda shared: [["instruct", *TEXT, f"ratio=0.{number + 1}"] for number in range(8)],
}


def prepare(shared: Path, scene: str) -> None:
    """Run the commands of a scene one after another, and note how many changes of files each makes."""
    photos(shared / "photos")
    counts = []
    for words in SCENES[scene](shared):
        counter = Counter()
        finished(run([*words, in_folder(shared / "calm")], shared, counting(shared / "calm", counter)))
        counts.append(counter.value)
    (shared / "counts.txt").write_text("\n".join(map(str, counts)))


def check(place: Place, scene: str, seed: int) -> None:
    """Start eight commands at once, kill three, look at the five, give the three again, and compare all results."""
    draws = random.Random(f"{scene} {seed}")
    commands = [[*words, in_folder(place.results)] for words in SCENES[scene](place.shared)]
    counts = list(map(int, (place.shared / "counts.txt").read_text().split()))
    victims = draws.sample(range(NUM_PROCESSES), NUM_KILLED)
    before = {number: kill_at(place.results, 1 + int(draws.random() * counts[number])) for number in victims}
    limit = LIMIT * NUM_PROCESSES / (os.cpu_count() or 1)  # They share the cores.
    children = [start(words, place.folder, before.get(number)) for number, words in enumerate(commands)]
    outcomes = [child.wait(limit) for child in children]
    for number, ended in enumerate(outcomes):
        if number not in victims or ended.code not in KILLED:  # A victim finds work done, so it may end before.
            finished(ended)
    if not any(outcomes[number].code in KILLED for number in victims):
        raise Miss(WRONG, "the drill killed no process", commands[0])
    for number in victims:
        again = run(commands[number], place.folder)
        finished(again)
    same_results(place.shared / "calm", place.results, again)
    no_leftovers(place.results, again)


def suite(scene: str) -> Suite:
    """Return the rounds of one scene."""
    cases = [
        Case(KIND, f"{scene}, round {seed}", lambda place, seed=seed: check(place, scene, seed))
        for seed in range(1, ROUNDS + 1)
    ]
    return Suite(f"together, {scene}", tuple(cases), lambda shared: prepare(shared, scene), "text" in scene)


SUITES = tuple(map(suite, SCENES))
