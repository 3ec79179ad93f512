"""The processes of one Ray, and of no other that runs on the same machine."""

import os
import time
from collections.abc import Callable
from typing import Any

from prunetune.cluster import engine, shared
from prunetune.data.images.rule import DecodeRule


class DeadlyRule(DecodeRule):
    """Ends the process that decodes row 17, as a reader of images does that has a fault of its own."""

    def decode_bytes(self, content, place):
        if place == "17":
            os._exit(1)
        return super().decode_bytes(content, place)


def family(process: Any) -> list[Any]:
    """Return a process of psutil and all that it has started."""
    return [process, *process.children(recursive=True)]


def title(process: Any) -> str:
    """Return the command line of a process, which Ray replaces by what a worker does; "" if it has ended."""
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def at_work(name: str) -> list[Any]:
    """Return the workers of the Ray that this process has started that are at work on a function of this name."""
    import psutil

    return [one for one in family(psutil.Process(os.getpid())) if title(one).strip() == f"ray::{name}"]


def workers() -> list[Any]:
    """Return the workers of the Ray that this process has started."""
    import psutil

    found = [(title(one), one) for one in family(psutil.Process(os.getpid()))]
    return [one for text, one in found if text.startswith("ray::") and "Agent" not in text]


class Hasty:
    """A function of workers that is given up after two dead workers instead of six."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, *given: Any) -> Any:
        before = engine.RETRIES
        engine.RETRIES = shared.RETRIES = 1
        try:
            return self.function(*given)
        finally:
            engine.RETRIES = shared.RETRIES = before


class Slow:
    """A function of workers that waits before and after it works, so that a test can find who works on it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, *given: Any) -> Any:
        time.sleep(0.2)
        outcome = self.function(*given)
        time.sleep(0.2)
        return outcome
