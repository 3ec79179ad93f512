"""Carry the cases out, some at the same time, each in an empty folder."""

import hashlib
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scripts.drill import processes
from scripts.drill.cases import RIGHT, Case, Place, Suite, Verdict, judged


@dataclass(frozen=True)
class Drill:
    """The cases to try, with their suites. work: a folder for everything. keeps: whether misses keep their folders."""

    pairs: Sequence[tuple[Suite, Case]]
    work: Path
    keeps: bool

    @property
    def suites(self) -> list[Suite]:
        """The suites of the cases, each once."""
        return list({suite.name: suite for suite, _ in self.pairs}.values())

    def shared(self, suite: Suite) -> Path:
        """Return the folder of what a suite prepares."""
        return self.work / suite.name

    def prepare(self, number: int) -> None:
        """Prepare one suite."""
        suite = self.suites[number]
        self.shared(suite).mkdir()
        suite.prepare(self.shared(suite))

    def attempt(self, number: int) -> Verdict:
        """Try one case. Its folder is removed, unless it is a miss that is kept."""
        suite, case = self.pairs[number]
        name, mark = "_".join(re.findall(r"\w+", case.title))[:80], hashlib.sha256(case.title.encode()).hexdigest()[:6]
        place = Place(self.shared(suite), self.work / f"{name}_{mark}")
        place.folder.mkdir()
        verdict = judged(case, place)
        if verdict.outcome == RIGHT or not self.keeps:
            shutil.rmtree(place.folder, ignore_errors=True)
        words = tuple(word.replace(str(self.work), "WORK") for word in verdict.words)
        return replace(verdict, detail=verdict.detail.replace(str(self.work), "WORK"), words=words)

    def verdicts(self, workers: int) -> Iterator[Verdict]:
        """Prepare all suites, and then yield the verdicts in the order of the cases."""
        processes.warm_up(any(suite.needs_text for suite in self.suites))
        list(_in_parallel(self.prepare, len(self.suites), workers))
        yield from _in_parallel(self.attempt, len(self.pairs), workers)


def _in_parallel(function: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    """Yield function(0), function(1) ... The workers are forks of this process and call the function that it holds."""
    global _held
    _held = function
    with ProcessPoolExecutor(min(workers, count), multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_call, range(count))


_held: Callable[[int], Any]


def _call(number: int) -> Any:
    return _held(number)
