"""Memory, CPU time and disk traffic of a process and of all processes below it, such as the workers of Ray."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass
class Usage:
    """What one process has used so far: peak of resident memory in bytes, CPU seconds, bytes written to disks."""

    name: str
    peak_bytes: int = 0
    cpu_seconds: float = 0.0
    written_bytes: int = 0


@dataclass
class Family:
    """Looks at this process and its descendants once a second while the block runs.

    A worker is a process that Ray calls `ray::...`. Resident memory includes pages that processes share and pages of
    mapped files, so that peaks are upper bounds.
    """

    found: dict[tuple[int, float], Usage] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Family":
        self.look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            self.look()

    def look(self) -> None:
        """Read the counters of all processes that live now."""
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.Error, OSError, ValueError):  # The process has ended meanwhile.
                usage = self.found.setdefault((process.pid, process.create_time()), Usage(""))
                usage.name = " ".join(process.cmdline()) or process.name()
                times = process.cpu_times()
                usage.cpu_seconds = times.user + times.system
                usage.written_bytes = process.io_counters().write_bytes
                usage.peak_bytes = max(usage.peak_bytes, _peak(process.pid))

    def workers(self) -> list[Usage]:
        """Return the workers of Ray, also those that have ended."""
        return [usage for usage in self.found.values() if usage.name.startswith("ray::")]

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far."""
        return sum(usage.cpu_seconds for usage in self.found.values())

    def written_bytes(self) -> int:
        """Return what all processes have sent to disks so far."""
        return sum(usage.written_bytes for usage in self.found.values())


def _peak(pid: int) -> int:
    """Return the highest resident memory of a process, which Linux counts."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
