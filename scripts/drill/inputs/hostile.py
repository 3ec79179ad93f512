"""What all hostile inputs share: an input is made in the folder of its case, a command reads it, and is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.drill.cases import WRONG, Case, Miss, Place, decided, finished, refused
from scripts.drill.processes import Ended, run
from scripts.drill.tiny_runs import in_folder, no_leftovers, run_folders, same_choice, sane

REFUSED, ACCEPTED, EITHER, SAME = "refused", "accepted", "either", "same"


@dataclass(frozen=True)
class Hostile:
    """One input.

    expected: refused (one line), accepted, either of both, or same: accepted with the results of the plain input.
    words: makes the input in a folder and returns the command line after `prunetune`, without results_dir.
    """

    name: str
    expected: str
    words: Callable[[Path], list[str]]


def cases(kind: str, inputs: list[Hostile], num_sampled: int = 0) -> tuple[Case, ...]:
    """Return a case for each input. num_sampled: how many of them, evenly spaced, belong to make test."""
    step = len(inputs) / num_sampled if num_sampled else 0
    sampled = {int(number * step) for number in range(num_sampled)}
    return tuple(
        Case(kind, one.name, lambda place, one=one: check(place, one), number in sampled)
        for number, one in enumerate(inputs)
    )


def check(place: Place, one: Hostile) -> None:
    """Give the command, and compare its end with what is expected."""
    words = _into(place.results, one.words(place.folder))
    before = set(place.folder.iterdir())
    ended = run(words, place.folder)
    if one.expected == REFUSED:
        refused(ended)
        _nothing_finished(place, ended)
    elif one.expected == EITHER:
        decided(ended)
    else:
        finished(ended)
    sane(place.results, ended)
    if one.expected == SAME:
        same_choice(place.shared / "calm", place.results, ended)
    no_leftovers(place.results, ended)
    new = set(place.folder.iterdir()) - before - {place.folder / name for name in ("results", "home", "data")}
    if new and "results_dir" not in one.name:
        raise Miss(WRONG, f"wrote {sorted(path.name for path in new)} beside the results", ended.words)


def _into(results: Path, words: list[str]) -> list[str]:
    """Put results_dir before the first override, so that an input can still change it."""
    first = next((place for place, word in enumerate(words) if "=" in word and word[0] != "-"), None)
    return words if first is None else [*words[:first], in_folder(results), *words[first:]]


def _nothing_finished(place: Place, ended: Ended) -> None:
    """Refuse a finished run, or a prepared data set, of a refused command. Jobs of a sweep are independent."""
    finished_runs = run_folders(place.results) if "-m" not in ended.words else []
    if finished_runs or (place.folder / "data").exists() and any((place.folder / "data").iterdir()):
        raise Miss(WRONG, "refused, and left a finished result", ended.words)
