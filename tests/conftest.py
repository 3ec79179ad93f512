"""Shared fixtures. Tests use no network, and real data only if PRUNETUNE_REAL_DATA names a folder."""

import os
import socket
from pathlib import Path

import pytest
import torch

# The tests of tracking and of the command line turn it on where they need it.
os.environ.setdefault("WANDB_MODE", "disabled")
torch.set_num_threads(1)  # Tensors are small, so a second thread would mostly wait.
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
