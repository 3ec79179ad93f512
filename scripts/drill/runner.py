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
        return self.work / _plain(suite.name)

    def prepare(self, number: int) -> Verdict:
        """Prepare one suite, and return whether that went right."""
        suite, shared = self.suites[number], self.shared(self.suites[number])
        shared.mkdir()
        preparation = Case(suite.name, "preparation", lambda place: suite.prepare(place.shared))
        return judged(preparation, Place(shared, shared))

    def attempt(self, number: int) -> Verdict:
        """Try one case. Its folder is removed, unless it is a miss that is kept."""
        suite, case = self.pairs[number]
        mark = hashlib.sha256(case.title.encode()).hexdigest()[:6]
        place = Place(self.shared(suite), self.work / f"{_plain(case.title)[:80]}_{mark}")
        place.folder.mkdir()
        verdict = judged(case, place)
        if verdict.outcome == RIGHT or not self.keeps:
            shutil.rmtree(place.folder, ignore_errors=True)
        return self._relative(verdict)

    def verdicts(self, workers: int) -> Iterator[Verdict]:
        """Prepare all suites, and then yield the verdicts in the order of the cases.

        Without its preparation no case of a suite can be tried, so that they all are as wrong as it.
        """
        processes.warm_up(any(suite.needs_text for suite in self.suites))
        prepared = {one.kind: one for one in _in_parallel(self.prepare, len(self.suites), workers)}
        pairs = [(case, prepared[suite.name]) for suite, case in self.pairs]
        able = [number for number, (_, preparation) in enumerate(pairs) if preparation.outcome == RIGHT]
        tried = iter(_in_parallel(lambda number: self.attempt(able[number]), len(able), workers))
        for case, preparation in pairs:
            if preparation.outcome == RIGHT:
                yield next(tried)
            else:
                yield self._relative(replace(preparation, kind=case.kind, name=case.name))

    def _relative(self, verdict: Verdict) -> Verdict:
        """Return a verdict without the name of the work folder, which is another one each time."""
        words = tuple(word.replace(str(self.work), "WORK") for word in verdict.words)
        return replace(verdict, detail=verdict.detail.replace(str(self.work), "WORK"), words=words)


def _plain(title: str) -> str:
    """Return a title as the name of a folder that needs no quotes in an override."""
    return "_".join(re.findall(r"\w+", title, re.ASCII))


def _in_parallel(function: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    """Yield function(0), function(1) ... The workers are forks of this process and call the function that it holds."""
    global _held
    _held = function
    with ProcessPoolExecutor(max(1, min(workers, count)), multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_call, range(count))


_held: Callable[[int], Any]


def _call(number: int) -> Any:
    return _held(number)
