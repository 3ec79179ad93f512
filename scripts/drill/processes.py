"""Commands in processes of their own: forked from one process that has imported everything, watched, and killed.

A fork is what a fresh start would be, since nothing has been computed before it. It takes milliseconds instead of the
seconds that the imports of torch and transformers take. Linux is needed.
"""

import importlib
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

IMAGES = ("prunetune.cli", "prunetune.config.cells", "prunetune.runs.grid", "prunetune.runs.image_run", "pandas")
TEXT = ("prunetune.instruct.text_run", "transformers", "peft", "lm_eval.models.huggingface", "datasets")
LIMIT = 60.0  # A command that takes more seconds hangs.
MOST_MEMORY = 6 * 2**30  # Bytes that a command may allocate, so that a hostile input does not take the machine down.
Before = Callable[[], None]  # Called in the new process just before the command.


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    words: the command line after `prunetune`. code: its exit code, minus a signal's number if a signal ended it, None
    if it hung and was killed. out, err: what it printed.
    """

    words: tuple[str, ...]
    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """Everything that it printed."""
        return self.out + self.err


@dataclass
class Child:
    """A running command. pid: its process. pipes: the ends of its standard output and its standard error to read."""

    words: tuple[str, ...]
    pid: int
    pipes: tuple[int, int]
    started: float = field(default_factory=time.monotonic)

    def wait(self, limit: float = LIMIT) -> Ended:
        """Return how it ended. It is killed when it has run for `limit` seconds."""
        read: dict[int, bytearray] = {pipe: bytearray() for pipe in self.pipes}
        is_open, status, hangs = set(self.pipes), None, False
        while status is None or is_open:
            for pipe in select.select(list(is_open), [], [], 0.02)[0]:
                if chunk := os.read(pipe, 2**16):
                    read[pipe] += chunk
                else:
                    is_open.discard(pipe)
            if status is None:
                status = self._status()
            elif not select.select(list(is_open), [], [], 0)[0]:
                break  # A process that the command has started may keep the pipes open.
            if status is None and time.monotonic() - self.started > limit:
                hangs, status = True, self._killed()
        for pipe in self.pipes:
            os.close(pipe)
        out, err = (read[pipe].decode(errors="replace") for pipe in self.pipes)
        code = None if hangs else os.waitstatus_to_exitcode(status)
        return Ended(self.words, code, out, err, time.monotonic() - self.started)

    def kill_after(self, seconds: float) -> Ended:
        """Send SIGKILL after so many seconds, and return how the command ended, which may have been before."""
        time.sleep(max(0.0, self.started + seconds - time.monotonic()))
        os.kill(self.pid, signal.SIGKILL)  # A process that has ended is not reaped yet, so this is always its id.
        return self.wait()

    def _status(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return status if pid else None

    def _killed(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return os.waitpid(self.pid, 0)[1]


def warm_up(with_text: bool) -> None:
    """Import everything that commands need. It must be called before the first command, and starts no thread."""
    os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    for module in (*IMAGES, *(TEXT if with_text else ())):
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)


def run(words: list[str], folder: Path, before: Before | None = None, limit: float = LIMIT) -> Ended:
    """Run `prunetune <words>` in a folder and return how it ended."""
    return start(words, folder, before).wait(limit)


def start(words: list[str], folder: Path, before: Before | None = None) -> Child:
    """Start `prunetune <words>` in a folder.

    Args:
        words: the command line.
        folder: the working directory; its `home` is the home folder of the process.
        before: called in the new process before the command.
    """
    outs, errors = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(words, folder, before, outs[1], errors[1])
    os.close(outs[1])
    os.close(errors[1])
    return Child(tuple(words), pid, (outs[0], errors[0]))


def _become(words: list[str], folder: Path, before: Before | None, out: int, error: int) -> None:
    """Turn this process into the command. It never returns."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(error, 2)
        # Python's own objects may belong to a test runner or to the parent's terminal.
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        (folder / "home").mkdir(exist_ok=True)
        os.chdir(folder)
        os.environ["HOME"] = str(folder / "home")
        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        if before is not None:
            before()
        code = _command(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _command(words: list[str]) -> int:
    """Give the words to the command line and return the exit code that Python would end with."""
    from prunetune import cli

    sys.argv = ["prunetune", *words]
    try:
        cli.main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
