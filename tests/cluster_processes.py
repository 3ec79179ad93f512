"""The processes of one Ray, and of no other that runs on the same machine."""

import os
from typing import Any

from prunetune.cluster import engine, shared
from prunetune.data.images.rule import DecodeRule


class DeadlyRule(DecodeRule):
    """Ends the process that decodes row 17, as a reader of images does that has a fault of its own.

    Where it arrives, two processes end the run instead of six, so that a test need not wait for them.
    """

    def __setstate__(self, state):
        self.__dict__.update(state)
        engine.RETRIES = shared.RETRIES = 1

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


def workers() -> list[Any]:
    """Return the workers of the Ray that this process has started, those first that are at work."""
    import psutil

    found = [(title(one), one) for one in family(psutil.Process(os.getpid()))]
    found = [(text, one) for text, one in found if text.startswith("ray::") and "Agent" not in text]
    return [one for _, one in sorted(found, key=lambda pair: pair[0].startswith("ray::IDLE"))]
