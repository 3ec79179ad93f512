"""The progress of a long stage: rows, rows a second, and the time that is left."""

import logging
import sys
import time

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Says now and then how far a stage is.

    Args:
        description: what is done, such as "scoring".
        total: the rows of the stage.
        done: the rows that an earlier call has finished.
    """

    def __init__(self, description: str, total: int, done: int = 0) -> None:
        self._description, self._total, self._done, self._before = description, total, done, done
        self._start = self._last = time.monotonic()
        self._between = 1.0 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        if done:
            log.info("%s: %d of %d rows were finished before", description, done, total)

    def add(self, rows: int) -> None:
        """Count finished rows, and write a line if the last one is old enough."""
        self._done += rows
        now = time.monotonic()
        if now - self._last >= self._between or (self._done == self._total and rows):
            self._last = now
            log.info("%s", self.line(now - self._start))

    def line(self, seconds: float) -> str:
        """Return the line after some seconds: "scoring: 5000 of 20000 rows, 250 rows/s, 1 min left"."""
        rate = (self._done - self._before) / max(seconds, 1e-9)
        left = "" if self._done >= self._total else f", {_words((self._total - self._done) / max(rate, 1e-9))} left"
        return f"{self._description}: {self._done} of {self._total} rows, {rate:.0f} rows/s{left}"


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
