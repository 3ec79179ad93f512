"""One Slurm for all tests of this folder."""

from collections.abc import Iterator

import one_node
import pytest


@pytest.fixture(scope="session")
def slurm() -> Iterator[one_node.OneNode]:
    """Return a running Slurm, or skip the test if Slurm is not installed."""
    if missing := one_node.missing():
        pytest.skip(
            f"no Slurm here: {', '.join(missing)} not found; tests/slurm/install.sh installs it on Debian as root"
        )
    cluster = one_node.OneNode(one_node.new_folder())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(slurm: one_node.OneNode) -> Iterator[one_node.OneNode]:
    """Return Slurm with an empty queue, and empty the queue again after the test."""
    yield slurm
    slurm.clear()
