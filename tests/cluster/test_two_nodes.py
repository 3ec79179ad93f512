"""Two Ray nodes on one host, one of which is killed: the run goes on to the same subset."""

import threading
import time

import pytest

from cluster_inputs import shards
from prunetune.api import RayEngine, prune

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]
SETTINGS = {"scorer": "dlc", "backbone": "micro", "duplicates": "all"}


@pytest.fixture
def two_nodes(monkeypatch):
    """Return two nodes of one CPU each; the driver is connected to the first one."""
    # The nodes have the address of this machine, which the guard against outside addresses does not know.
    monkeypatch.setattr("prunetune.cluster.engine._check_answers", lambda address: None)
    ray = pytest.importorskip("ray", reason="ray is not installed; pip install -e '.[cluster]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    node = {"num_cpus": 1, "object_store_memory": 150_000_000, "include_dashboard": False}
    try:
        cluster.add_node(**node)
        second = cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_that_is_killed_costs_its_batches_only(two_nodes, tmp_path):
    cluster, second = two_nodes
    data = shards(tmp_path / "data", rows=1200, files=24)
    folder = tmp_path / "store/cluster"
    done_before = {}

    def kill_second():
        while len(done := list(folder.glob("passes-*/*-*.json"))) < 4:
            time.sleep(0.02)
        done_before.update({path: path.stat().st_mtime_ns for path in done})
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_second, daemon=True)
    killer.start()
    engine = RayEngine(cluster.address)
    chosen = prune(data, 0.2, engine=engine, store=tmp_path / "store", **SETTINGS)
    killer.join(60)
    assert 4 <= len(done_before) < 24
    assert {path: path.stat().st_mtime_ns for path in done_before} == done_before
    assert chosen.positions.equal(prune(data, 0.2, store=tmp_path / "here", **SETTINGS).positions)
