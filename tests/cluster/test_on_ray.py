"""Pruning on a real Ray: the same answer as in process, from local shards and from object storage, and after kills."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster_inputs import archives, shards
from prunetune.api import prune
from prunetune.base.errors import InputError
from prunetune.cli import app

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
SETTINGS = {"scorer": "dlc", "backbone": "micro", "duplicates": "all"}


def kept(folder: Path) -> list[str]:
    return (folder / "kept.txt").read_text().splitlines()


def command(*words: object) -> None:
    """Run the command in this process."""
    app([str(word) for word in words], standalone_mode=False)


@pytest.mark.usefixtures("on_ray")
def test_the_command_writes_what_the_engine_in_process_writes(tmp_path):
    data = shards(tmp_path / "data", rows=120)
    words = ["prune", data, "--keep", "0.2", "--scorer", "dlc", "--backbone", "micro", "--duplicates", "all"]
    words += ["--store", tmp_path / "store"]
    command(*words, "--out", tmp_path / "ray", "--engine", "ray")
    command(*words, "--out", tmp_path / "here")
    columns = ("row", "name", "class", "score", "percentile", "kept", "reason")
    tables = [list(csv.DictReader((tmp_path / one / "all.csv").open())) for one in ("ray", "here")]
    assert [[row[name] for name in columns] for row in tables[0]] == [
        [row[name] for name in columns] for row in tables[1]
    ]
    written = (tmp_path / "ray/all.csv").stat().st_mtime_ns
    command(*words, "--out", tmp_path / "ray")  # What one engine has finished is finished for the other.
    assert (tmp_path / "ray/all.csv").stat().st_mtime_ns == written


def test_archives_in_object_storage(on_ray, s3, tmp_path):
    import s3fs

    local = archives(tmp_path / "tars")
    system = s3fs.S3FileSystem()
    system.mkdir("lab")
    system.put(str(local), "lab/tars", recursive=True)
    chosen = prune("s3://lab/tars", 0.25, engine="ray", store=tmp_path / "a", **SETTINGS)
    expected = prune(sorted(map(str, local.glob("*.tar"))), 0.25, store=tmp_path / "b", **SETTINGS)
    assert chosen.kept_names == expected.kept_names
    assert len(chosen) == 10
    with pytest.raises(InputError, match="there is nothing at s3://lab/absent"):
        prune("s3://lab/absent", 0.25, engine="ray", store=tmp_path / "a", **SETTINGS)


def test_a_worker_that_is_killed_costs_its_batches_only(on_ray, tmp_path):
    import psutil

    data = shards(tmp_path / "data", rows=400, files=10)
    folder = tmp_path / "a/cluster"

    def kill_one():
        while True:
            workers = [one for one in psutil.process_iter() if _is_at_work(one)]
            if workers and list(folder.glob("passes-*/*.features.npz")):
                workers[0].kill()
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    chosen = prune(data, 0.2, engine="ray", store=tmp_path / "a", **SETTINGS)
    killer.join(10)
    assert not killer.is_alive()
    assert chosen.positions.equal(prune(data, 0.2, store=tmp_path / "b", **SETTINGS).positions)


def _is_at_work(process) -> bool:
    try:
        return "ray::MapWorker" in " ".join(process.cmdline())
    except Exception:  # The process has ended meanwhile.
        return False


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_from_finished_shards(s3, tmp_path):
    data = shards(tmp_path / "data", rows=600, files=20)
    words = ["prune", data, "--keep", "0.2", "--scorer", "dlc", "--backbone", "micro", "--engine", "ray"]
    words = [sys.executable, "-m", "prunetune", *map(str, words), "--store", str(tmp_path / "s"), "--out"]
    words.append(str(tmp_path / "out"))
    run = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while run.poll() is None and len(list(tmp_path.glob("s/cluster/passes-*/*.features.npz"))) < 3:
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("s/cluster/passes-*/*[0-9].json")}
    assert 3 <= len(done) < 20
    assert subprocess.run(words, stderr=subprocess.PIPE, text=True).returncode == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    expected = prune(data, 0.2, store=tmp_path / "b", **SETTINGS)
    assert kept(tmp_path / "out") == list(expected.kept_names)
