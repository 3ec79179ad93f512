"""The most memory that a step or the whole process has held."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_highest = 0  # This is the peak in bytes before the last reset of the counter.


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes: the GPU's where one is used."""
    return max(_highest, _counter())


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Measure a step: yield a function that returns the most memory held since the step began, in bytes.

    Only Linux can reset its counter. On other systems the function returns the peak of the whole process.
    """
    global _highest
    _highest = peak_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _CLEAR.write_text("5")
    except OSError:
        pass
    yield _counter


def _counter() -> int:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
