"""What goes wrong on a real Ray: killed workers and commands, broken data, object storage, and a full disk."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from cluster_inputs import shards
from cluster_processes import DeadlyRule, Hasty, Slow, at_work
from prunetune import cli
from prunetune.api import make_plan, prune
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.cluster import engine, job, passes, stages
from prunetune.cluster.engine import Cluster
from prunetune.cluster.sources import find
from prunetune.own.keep import understood
from prunetune.own.read import ReadOptions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
SETTINGS = {"scorer": "dlc", "backbone": "micro", "duplicates": "all"}
STAGES = ("list_parquet", "finished_parts", "class_sums", "sort_run", "choose_classes")


def wrap_tasks(monkeypatch, wrapper):
    """Let the workers run a wrapper around each function."""
    run_tasks = engine.run_tasks
    wrapped = lambda function, *given, **words: run_tasks(wrapper(function), *given, **words)  # noqa: E731
    monkeypatch.setattr(stages, "run_tasks", wrapped)
    monkeypatch.setattr(passes, "run_tasks", wrapped)


def records(store):
    """Return the records of all that is finished, with their times of change."""
    return {path: path.stat().st_mtime_ns for path in store.glob("cluster/*/*.json") if path.name != stages.MANIFEST}


def test_a_worker_killed_in_any_stage_costs_its_batches_only(on_ray, tmp_path, monkeypatch):
    data = shards(tmp_path / "data", rows=240, files=12)
    killed, done = [], {}

    def kill_one_in_each_stage():
        for stage in STAGES:
            while not (found := at_work(stage)):
                time.sleep(0.01)
            done.update(records(tmp_path / "a"))
            found[0].kill()
            killed.append(stage)

    with monkeypatch.context() as patch:
        wrap_tasks(patch, Slow)
        killer = threading.Thread(target=kill_one_in_each_stage, daemon=True)
        killer.start()
        chosen = prune(data, 0.2, engine="ray", store=tmp_path / "a", **SETTINGS)
        killer.join(10)
    assert tuple(killed) == STAGES
    assert len(done) > 24  # The lists and parts of all shards, and more.
    assert {path: time for path, time in records(tmp_path / "a").items() if path in done} == done
    assert chosen.positions.equal(prune(data, 0.2, store=tmp_path / "b", **SETTINGS).positions)


def test_a_part_that_always_kills_its_worker_ends_the_run_in_one_line_that_names_it(on_ray, tmp_path, monkeypatch):
    data, line = (
        shards(tmp_path / "data", rows=48),
        r"^workers died 2 times on part 000001-0+ \(rows 16 to 31\), .*again$",
    )
    with monkeypatch.context() as patch:
        patch.setattr(ReadOptions, "rule", DeadlyRule())
        wrap_tasks(patch, Hasty)
        with pytest.raises(InputError, match=line):
            prune(data, 0.2, engine="ray", store=tmp_path / "a", **SETTINGS)
    done = records(tmp_path / "a")
    chosen = prune(data, 0.2, engine="ray", store=tmp_path / "a", **SETTINGS)
    assert {path: time for path, time in records(tmp_path / "a").items() if path in done} == done
    assert chosen.positions.equal(prune(data, 0.2, store=tmp_path / "b", **SETTINGS).positions)


def test_a_killed_command_goes_on_from_finished_shards(s3, tmp_path):
    import psutil

    data = shards(tmp_path / "data", rows=600, files=20)
    words = [sys.executable, "-m", "prunetune", "prune", str(data), "--keep", "0.2", "--scorer", "dlc", "--backbone"]
    words += ["micro", "--engine", "ray", "--store", str(tmp_path / "s"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    while run.poll() is None and len(list(tmp_path.glob("s/cluster/passes-*/*-*.json"))) < 3:
        time.sleep(0.05)
    assert run.poll() is None, (tmp_path / "log").read_text()
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert psutil.wait_procs(family, timeout=240)[1] == []  # Ray ends with the command.
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("s/cluster/passes-*/*-*.json")}
    assert 3 <= len(done) < 20
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"scoring: {30 * len(done)} of 600 rows were finished before" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    expected = prune(data, 0.2, store=tmp_path / "b", **SETTINGS)
    assert (tmp_path / "out/kept.txt").read_text().splitlines() == list(expected.kept_names)


def test_broken_images_and_a_broken_shard_are_counted_and_named(on_ray, tmp_path, caplog):
    data = shards(tmp_path / "data", broken=(4, 80))
    (data / "001.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(InputError, match=r"001\.parquet cannot be read as parquet"):
        prune(data, 0.2, engine="ray", store=tmp_path / "a", **SETTINGS)
    chosen = prune(data, 0.2, engine="ray", on_error="skip", store=tmp_path / "a", **SETTINGS)
    assert len(chosen.data.pool) == 58
    assert re.search(r"shard .*001\.parquet is left out: .* cannot be read as parquet", caplog.text)
    assert "2 of 60 images cannot be read and are left out: 4, 50 (its content is no image" in caplog.text
    (data / "001.parquet").unlink()
    with pytest.raises(InputError, match=r"2 of 60 images cannot be read: 4, 50 \(its content is no image .*on_error"):
        prune(data, 0.2, engine="ray", store=tmp_path / "a", **SETTINGS)


def failure(monkeypatch, *words: object) -> str:
    """Return the one line with which a command ends; its exit code is 1, since the line is what it exits with."""
    monkeypatch.setattr(sys, "argv", ["prunetune", "prune", *map(str, words), "--engine", "ray", "--backbone", "micro"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert str(exit_.value.code).startswith("error: ")
    assert "\n" not in exit_.value.code
    return exit_.value.code


def test_missing_objects_and_wrong_credentials_end_in_one_line(on_ray, s3, tmp_path, monkeypatch):
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir("faults")
    system.put(str(shards(tmp_path / "data")), "faults/photos", recursive=True)
    asked = ("--keep", "0.2", "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert "there is nothing at s3://faults/absent" in failure(monkeypatch, "s3://faults/absent", *asked)
    assert "s3://no-such-bucket/photos" in failure(monkeypatch, "s3://no-such-bucket/photos", *asked)
    _need_credentials(s3, True)
    try:
        line = failure(monkeypatch, "s3://faults/photos", *asked)
    finally:
        _need_credentials(s3, False)
    assert "s3://faults/photos: no access to the data" in line
    assert "check the credentials" in line
    assert not (tmp_path / "out").exists()

    options = ReadOptions()
    cluster, plan = Cluster(Store(tmp_path / "store")), make_plan("herding", "auto", "micro", 0, duplicates="all")
    rows = job.list_rows(find("s3://faults/photos", options), cluster, options)
    system.rm("faults/photos/001.parquet")
    with pytest.raises(InputError, match=r"001\.parquet.* check the path, or copy the file again$"):
        job.prune_rows(rows, understood(0.2), plan, cluster, options)


def _need_credentials(address: str, is_needed: bool) -> None:
    """Let the S3 server refuse keys that it does not know, or take any."""
    data = b"0" if is_needed else b"inf"
    words = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset-auth", data, words, method="POST")).close()


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(on_ray, small_disk, tmp_path, monkeypatch):
    place, resize = small_disk
    data = shards(tmp_path / "data")
    words = (data, "--keep", "0.2", "--scorer", "dlc", "--store", place / "store", "--out", tmp_path / "out")

    def tight(function):
        """Leave no room for a file when a function is called."""

        def inner(*given, **words):
            assert resize(shutil.disk_usage(place).used // 1024)
            return function(*given, **words)

        return inner

    fills = [(None, "", f"the store {place}/store"), (passes, "streamed", rf"{place}/store/cluster/passes-\w+/000")]
    fills += [(job, "sort_by_class", rf"{place}/store/cluster/runs-\w+/run-")]
    for module, name, full in fills:
        with monkeypatch.context() as patch:
            if module is None:
                assert resize(64)  # The networks do not fit, which the command itself writes for the workers.
            else:
                assert resize(20_000)
                patch.setattr(module, name, tight(getattr(module, name)))
            assert re.search(f"could not .*{full}|{full}.* could not .*", line := failure(monkeypatch, *words)), line
        assert "free some space" in line
        assert not (tmp_path / "out").exists()
        assert [path for path in Path(place).rglob("*") if "partial" in path.name] == []
    assert resize(20_000)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code in (0, None)
    kept = (tmp_path / "out/kept.txt").read_text().splitlines()
    assert kept == list(prune(data, 0.2, store=tmp_path / "b", **SETTINGS).kept_names)
