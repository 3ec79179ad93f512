"""The table of the drill: a row for each kind of fault, and what was not right with the command that repeats it."""

import csv
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.drill.cases import HANG, RIGHT, SKIPPED, TRACEBACK, WRONG, Verdict

OUTCOMES = (RIGHT, WRONG, TRACEBACK, HANG)
COLUMNS = ("kind of fault", "tried", *OUTCOMES)


@dataclass(frozen=True)
class Report:
    """What a drill found. kinds: the rows in their order. commit: of the code. seconds: how long it took."""

    verdicts: Sequence[Verdict]
    kinds: Sequence[str]
    commit: str
    seconds: float

    @property
    def misses(self) -> list[Verdict]:
        """The cases that are not right."""
        return [verdict for verdict in self.verdicts if verdict.outcome not in (RIGHT, SKIPPED)]

    @property
    def rows(self) -> list[list[str | int]]:
        """One row for each kind, and their sum."""
        rows = [self._row(kind, [one for one in self.verdicts if one.kind == kind]) for kind in self.kinds]
        return [*rows, self._row("all", self.verdicts)]

    def markdown(self) -> str:
        """Return the page: the table, what was skipped, and every miss."""
        lines = ["# The drill", "", *self.table()]
        if self.misses:
            lines += [
                "",
                "## What is not right",
                "",
                "WORK is an empty folder; what a case leaves there can be looked at.",
                "",
            ]
            lines += [line for verdict in self.misses for line in miss_lines(verdict)]
        return "\n".join(lines) + "\n"

    def table(self) -> list[str]:
        """Return the lines of the table and what was skipped."""
        lines = [
            "`make drill` tries these faults on small runs. Right is one clear line and exit code 1, or the result of",
            "a run without the fault; if something stored was damaged, a line must name it. A hang takes 60 seconds.",
            f"Code of commit {self.commit}, Python {platform.python_version()}, {self.seconds / 60:.0f} minutes.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|---|{'---:|' * (len(COLUMNS) - 1)}",
            *(f"| {' | '.join(map(str, row))} |" for row in self.rows),
        ]
        skipped = [verdict for verdict in self.verdicts if verdict.outcome == SKIPPED]
        if skipped:
            lines += ["", f"Skipped: {len(skipped)}.", ""]
            lines += [f"- {verdict.kind}: {verdict.name}: {verdict.detail}" for verdict in skipped]
        return lines

    def write(self, folder: Path) -> None:
        """Write drill.csv and drill.md."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "drill.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, *self.rows])
        (folder / "drill.md").write_text(self.markdown())

    @staticmethod
    def _row(kind: str, verdicts: Sequence[Verdict]) -> list[str | int]:
        counts = [sum(one.outcome == outcome for one in verdicts) for outcome in OUTCOMES]
        return [kind, sum(counts), *counts]


def miss_lines(verdict: Verdict) -> list[str]:
    """Return what was wrong with a case, and how to repeat it: the whole case, and its command alone."""
    lines = [f"- {verdict.outcome}: {verdict.kind}: {verdict.name}: {verdict.detail}"]
    lines.append(
        f"  repeat: `python -m scripts.drill --keep WORK --only {shlex.quote(f'{verdict.kind}: {verdict.name}')}`"
    )
    if verdict.words:
        lines.append(f"  command: `prunetune {shlex.join(verdict.words)}`")
    return lines
