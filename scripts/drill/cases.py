"""What a case of the drill is, and how the outcome of its commands is judged."""

import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.drill.processes import Ended

RIGHT, WRONG, TRACEBACK, HANG, SKIPPED = "right", "wrong", "traceback", "hang", "skipped"
MOST_LINES = 3  # More lines of error than these are as bad as a traceback.
MOST_LETTERS = 3000  # Of one line. Some lines list every known name.
LOGGED = re.compile(r"\d\d:\d\d:\d\d ")  # The beginning of a line that a run logs.
JOB = "Error executing job with overrides: "  # In a sweep Hydra tells with this line which job failed.
TRACES = ("Traceback (most recent call last)", "--- Logging error ---", "Unable to configure handler")


class Miss(Exception):
    """An outcome that is not right."""

    def __init__(self, outcome: str, detail: str, words: Sequence[str] = ()) -> None:
        """Keep what was wrong. words: the command line after `prunetune`."""
        super().__init__(detail)
        self.outcome, self.detail, self.words = outcome, detail, tuple(words)


class Skipped(Exception):
    """A case that this machine or this user cannot try. The message says what it needs."""


@dataclass(frozen=True)
class Place:
    """Where a case works. shared: what `Suite.prepare` has made, not to be changed. folder: an empty folder."""

    shared: Path
    folder: Path

    @property
    def results(self) -> Path:
        """The results folder of the case's runs."""
        return self.folder / "results"


@dataclass(frozen=True)
class Case:
    """One fault.

    kind: its row of the table. check: tries it, and raises Miss or Skipped. is_sampled: whether `make test` has it.
    """

    kind: str
    name: str
    check: Callable[[Place], None]
    is_sampled: bool = False

    @property
    def title(self) -> str:
        """What `--only` looks for."""
        return f"{self.kind}: {self.name}"


@dataclass(frozen=True)
class Suite:
    """Cases that share what was prepared. prepare: fills the shared folder; needs_text: whether text runs are used."""

    name: str
    cases: tuple[Case, ...]
    prepare: Callable[[Path], None]
    needs_text: bool = False


@dataclass(frozen=True)
class Verdict:
    """The judgement of a case. detail: why it is not right. words: the command line after `prunetune`."""

    kind: str
    name: str
    outcome: str
    detail: str = ""
    words: tuple[str, ...] = ()


def judged(case: Case, place: Place) -> Verdict:
    """Try a case and return the verdict. A fault of the drill itself counts as wrong, so that nobody overlooks it."""
    try:
        case.check(place)
    except Miss as miss:
        return Verdict(case.kind, case.name, miss.outcome, miss.detail, miss.words)
    except Skipped as reason:
        return Verdict(case.kind, case.name, SKIPPED, str(reason))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"the drill itself failed in {Path(where.filename).name}:{where.lineno}: {error!r}"
        return Verdict(case.kind, case.name, WRONG, detail)
    return Verdict(case.kind, case.name, RIGHT)


def errors(ended: Ended) -> list[str]:
    """Return the lines on standard error that a run did not log, and that do not name the job of a sweep."""
    lines = [line for line in ended.err.splitlines() if line.strip() and not LOGGED.match(line)]
    return [line for line in lines if not ("-m" in ended.words and line.startswith(JOB))]


def whole(ended: Ended) -> None:
    """Refuse a command that hung, crashed, or showed the user a traceback."""
    if ended.code is None:
        raise Miss(HANG, f"killed after {ended.seconds:.0f} s; {_last(ended)}", ended.words)
    if any(trace in ended.text for trace in TRACES):
        raise Miss(TRACEBACK, _last(ended), ended.words)
    if len(errors(ended)) > MOST_LINES:
        raise Miss(TRACEBACK, f"{len(errors(ended))} lines of error, the last: {_last(ended)}", ended.words)
    if ended.code < 0:
        raise Miss(WRONG, f"died of signal {-ended.code}; {_last(ended)}", ended.words)


def refused(ended: Ended) -> str:
    """Return the one line with which a command was refused."""
    whole(ended)
    if ended.code == 0:
        raise Miss(WRONG, f"accepted; {_last(ended)}", ended.words)
    lines = errors(ended)
    if ended.code != 1 or len(lines) != 1 or not lines[0].startswith("error: "):
        raise Miss(WRONG, f"exit code {ended.code} and {len(lines)} lines of error; {_last(ended)}", ended.words)
    if len(lines[0]) > MOST_LETTERS:
        raise Miss(WRONG, f"a line of {len(lines[0])} letters; {lines[0][:100]}", ended.words)
    return lines[0]


def finished(ended: Ended) -> None:
    """Refuse a command that did not end with exit code 0 and without a line that is no log line."""
    whole(ended)
    if ended.code != 0:
        raise Miss(WRONG, f"exit code {ended.code}; {_last(ended)}", ended.words)
    if lines := errors(ended):
        raise Miss(WRONG, f"a line that says nothing to the user: {lines[0][:200]}", ended.words)


def decided(ended: Ended) -> bool:
    """Return whether a command was accepted. It may be refused too, but in one line."""
    whole(ended)
    if ended.code == 0:
        finished(ended)
        return True
    refused(ended)
    return False


def named(ended: Ended, name: str) -> None:
    """Refuse a command that said nothing about the damage of what has this name."""
    lines = [line for line in ended.text.splitlines() if name in line and "damaged" in line]
    if not lines:
        raise Miss(WRONG, f"used {name} and did not say that it is damaged", ended.words)


def _last(ended: Ended) -> str:
    lines = [line for line in ended.text.splitlines() if line.strip()]
    return lines[-1][:240] if lines else "nothing was printed"
