"""The command on a real Ray: what it writes, and which addresses it uses."""

import contextlib
import csv
import ipaddress
import json
import threading
import time

import pytest

from cluster_inputs import shards
from cluster_processes import family, workers
from prunetune import RayEngine
from prunetune.api import prune
from prunetune.base.errors import InputError
from prunetune.cli import app
from prunetune.cluster.engine import started

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


def command(*words: object) -> None:
    """Run the command in this process."""
    app([str(word) for word in words], standalone_mode=False)


def test_an_address_without_a_cluster_is_refused_at_once(s3, tmp_path):
    data = shards(tmp_path / "data", rows=12, files=1)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"there is no Ray cluster at 127\.0\.0\.1:1 \(.*refused\); check it"):
        prune(data, 0.5, "random", engine=RayEngine("127.0.0.1:1"))
    assert time.monotonic() - start < 60  # Ray itself tries for minutes.


@contextlib.contextmanager
def watched(look):
    """Yield a set that gets all that `look` returns, again and again, while the block runs."""
    found, is_over = set(), threading.Event()

    def watch():
        while not is_over.wait(0.1):
            found.update(look())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        is_over.set()
        watcher.join()


@pytest.fixture(scope="module")
def addresses(s3):
    """Start Ray for this file; return the names of its processes, each with an address, from before Ray starts on."""
    with watched(_addresses) as found, started(num_cpus=2):
        yield found


def _addresses():
    """Return all addresses on which a process listens, or with which it talks."""
    import psutil

    found = set()
    for process in family(psutil.Process()):
        with contextlib.suppress(psutil.Error):  # The process has ended meanwhile.
            ends = [end for one in process.net_connections("inet") for end in (one.laddr, one.raddr) if end]
            found.update((process.name(), end.ip.removeprefix("::ffff:")) for end in ends)
    return found


@pytest.mark.usefixtures("addresses")
def test_the_stages_share_the_workers(tmp_path):
    data = shards(tmp_path / "data", rows=60, files=6)
    with watched(lambda: [worker.pid for worker in workers()]) as found:
        prune(data, 0.2, "dlc", backbone="micro", duplicates="all", engine="ray", store=tmp_path / "store")
    assert 1 <= len(found) <= 4  # Two for each CPU at most: Ray starts more than it needs while the first ones start.


@pytest.mark.usefixtures("addresses")
def test_the_command_writes_what_the_engine_in_process_writes(tmp_path):
    data = shards(tmp_path / "data", rows=120)
    words = ["prune", data, "--keep", "0.2", "--scorer", "dlc", "--backbone", "micro", "--duplicates", "all"]
    words += ["--store", tmp_path / "store"]
    command(*words, "--out", tmp_path / "ray", "--engine", "ray")
    command(*words, "--out", tmp_path / "here")
    tables = [(tmp_path / one / "all.csv").read_text().splitlines() for one in ("ray", "here")]
    for on_ray, here in zip(*map(csv.DictReader, tables), strict=True):
        assert float(on_ray.pop("score")) == pytest.approx(float(here.pop("score")), rel=1e-6)
        assert on_ray.pop("suspect_label") == ""  # These are not looked for on a cluster.
        here.pop("suspect_label")
        assert on_ray == here
    records = [json.loads((tmp_path / one / "prune.json").read_text()) for one in ("ray", "here")]
    assert [record["engine"] for record in records] == ["ray", "local"]
    assert records[0]["near_a_cut"] == 0
    for one, other in (("ray", ()), ("here", ("--engine", "ray"))):
        written = (tmp_path / one / "all.csv").stat().st_mtime_ns
        command(*words, "--out", tmp_path / one, *other)  # What one engine has finished is finished for the other.
        assert (tmp_path / one / "all.csv").stat().st_mtime_ns == written


def test_a_local_ray_uses_no_address_but_loopback(addresses, tmp_path):
    import ray

    prune(shards(tmp_path / "data"), 0.2, scorer="random", engine="ray", store=tmp_path / "store")
    assert {"gcs_server", "raylet"} <= {name for name, _ in addresses}
    assert {ipaddress.ip_address(address).is_loopback for _, address in addresses} == {True}
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
