"""Shared fixtures: no network in the tests, and real data only where PRUNETUNE_REAL_DATA names it."""

import os
import socket
from pathlib import Path

import pytest
import torch

os.environ.setdefault("WANDB_MODE", "disabled")  # the tests of tracking and the CLI turn it on by themselves
torch.set_num_threads(1)  # small tensors: a second thread mostly waits, all the more on a busy machine
LOCAL = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise OSError(f"a test tried to reach {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


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
