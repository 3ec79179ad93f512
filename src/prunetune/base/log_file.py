"""The log file of a run, which Hydra's configuration names.

The file is opened at its first line. A disk that refuses the file ends the file and not the run, since the file is no
result: what the run prints is the same.
"""

import errno
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from prunetune.base.disk import reason, special_kind

log = logging.getLogger(__name__)
# A line with these extras is shown and not written, since a run that is finished changes nothing in its folder.
SHOWN_ONLY = {"is_shown_only": True}


class LogFile(logging.FileHandler):
    """A log file that says once that it cannot be written, and then ends with its last whole line."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self._is_over, self._size = False, 0

    def _open(self) -> TextIO:
        kind = special_kind(Path(self.baseFilename))
        if kind is not None:
            raise OSError(errno.EINVAL, f"it is {kind}")
        stream = super()._open()
        self._size = stream.tell()  # An earlier attempt at the run may have written lines.
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, unless the line is only shown or an earlier line could not be written."""
        if self._is_over or getattr(record, "is_shown_only", False):
            return
        try:
            super().emit(record)
            if self.stream is not None:
                self._size = self.stream.tell()
        except OSError as error:  # The file cannot be opened.
            self._end(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  This is the name in the logging module.
        """End the file if the disk is at fault. Other errors, which are bugs, are shown as usual."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._end(error)
        else:
            super().handleError(record)

    def _end(self, error: OSError) -> None:
        self._is_over = True
        if self.stream is not None:
            with suppress(OSError):  # Closing writes what is left, which fails again.
                self.stream.close()
            self.stream = None
            with suppress(OSError):
                os.truncate(self.baseFilename, self._size) if self._size else os.unlink(self.baseFilename)
        fault = f"{self.baseFilename} could not be written ({reason(error)})"
        log.warning("%s; from here on its lines are only shown", fault)
