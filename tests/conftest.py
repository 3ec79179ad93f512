"""Shared fixtures. Tests use no network, and real data only if PRUNETUNE_REAL_DATA names a folder."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from budget import over_budget

STARTED = pytest.StashKey[float]()
SAID = "said"
# The tests of tracking and of the command line turn it on where they need it.
os.environ.setdefault("WANDB_MODE", "disabled")
torch.set_num_threads(1)  # Tensors are small, so a second thread would mostly wait.
LOCAL = {"127.0.0.1", "::1", "localhost"}


def pytest_addoption(parser):
    parser.addoption("--budget", type=float, metavar="MINUTES", help="say so at the end if the run took longer")


def pytest_configure(config):
    config.stash[STARTED] = time.monotonic()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    yield  # The reports of pytest itself come first, so that these lines stand at the end.
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, line in report.user_properties:
            if name == SAID:
                terminalreporter.write_line(line, bold=True)
    minutes = config.getoption("budget")
    line = over_budget(time.monotonic() - config.stash[STARTED], minutes) if minutes else None
    if line:  # Workers of pytest-xdist have no terminal, so the line is printed only once.
        terminalreporter.write_line(line, yellow=True, bold=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise OSError(f"a test tried to reach {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def say(record_property) -> Callable[[str], None]:
    """Return a function that takes a line, which is printed after all tests, also if the test passes."""
    return lambda line: record_property(SAID, line)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder with real data/ and weights/."""
    folder = os.environ.get("PRUNETUNE_REAL_DATA")
    if not folder:
        pytest.skip("PRUNETUNE_REAL_DATA names no folder with real data/ and weights/")
    return Path(folder)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of its own, and a function that sets its size in KiB."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*words):
        return subprocess.run(["mount", *words, str(place)], capture_output=True, check=False).returncode == 0

    if shutil.which("mount") is None or not mount("-t", "tmpfs", "-o", "size=48k", "tmpfs"):
        pytest.skip("mounting a small file system needs root")
    yield place, lambda kib: mount("-o", f"remount,size={kib}k")
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # Arrays of the run may still be mapped.
