"""The stages of the engine on Ray without Ray: items, records, workers, messages and products."""

import json
import pickle
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster_inputs import shards
from cluster_steps import in_this_process, pruned
from prunetune import RayEngine
from prunetune.api import make_plan, prune
from prunetune.base.errors import InputError
from prunetune.base.hashes import file_hash
from prunetune.cli import app
from prunetune.cluster import engine, products, stages, workers
from prunetune.cluster.engine import RETRIES, chosen_engine, storage_fault
from prunetune.cluster.job import check_plan
from prunetune.cluster.products import write_products
from prunetune.cluster.progress import Progress
from prunetune.cluster.shared import counted, shared_folder, shared_work
from prunetune.cluster.stages import Item, Stage, bundled
from prunetune.own.keep import understood
from prunetune.own.read import ReadOptions
from prunetune.samplers import CCS


@pytest.fixture
def here(monkeypatch):
    in_this_process(monkeypatch)


def test_what_the_driver_sends_and_holds_of_finished_items_is_small(here, tmp_path, monkeypatch):
    stage, names, sent = Stage(tmp_path), [f"{number:09d}" for number in range(600)], []
    (tmp_path / "file").write_bytes(b"12")
    for name in names:
        stage.finish(name, [tmp_path / "file"], {"failed": [[4, "cut"]]} if name == names[7] else {})
    plain = stages.run_tasks

    def weighed(function, items, *shared):
        sent.extend(len(pickle.dumps((item, shared))) for item in items)
        return plain(function, items, *shared)

    monkeypatch.setattr(stages, "run_tasks", weighed)
    found = stage.finished(names)
    assert list(found) == names
    assert [name for name in names if found[name]] == [names[7]]
    assert len({id(facts) for facts in found.values()}) == 2
    assert len(sent) == -(-600 // stages.AT_ONCE)
    assert sum(sent) < 20 * 600  # Bytes: the names and little more, whatever the records hold.
    stage.write_manifest(names[:2])
    assert list(json.loads((tmp_path / "manifest.json").read_text())) == ["file"]


def test_a_process_keeps_networks_as_long_as_its_stage(monkeypatch):
    monkeypatch.setattr(engine, "_kept", [])
    monkeypatch.setattr(engine, "_last", [])
    made = []
    network = engine.kept(lambda place: made.append(place) or place)

    def one_stage(item):
        return network(item)

    def next_stage(item):
        return item

    for _ in range(3):
        engine._task(one_stage, "a")
    assert made == ["a"]
    engine._task(next_stage, "b")
    assert network.cache_info().currsize == 0
    engine._task(one_stage, "a")
    assert made == ["a", "a"]


def test_bundles_have_at_most_so_many_rows_and_items():
    items = [5, 5, 1, 20, 0, 3, 3, 3]
    assert list(bundled(items, int, 10)) == [[5, 5], [1], [20], [0, 3, 3, 3]]
    assert list(bundled(items, int, 10, 2)) == [[5, 5], [1], [20], [0, 3], [3, 3]]
    assert list(bundled([], int, 10)) == []


def test_finished_parts_are_kept_and_damaged_ones_made_again(here, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workers, "MOST_ROWS", 10)
    data = shards(tmp_path / "data")
    first = pruned(data, tmp_path, 0.2, "dlc")
    parts = first.passes.folder
    times = {path: path.stat().st_mtime_ns for path in parts.glob("*.features.npz")}
    victim = min(times)
    content = bytearray(victim.read_bytes())
    content[-200] ^= 1
    victim.write_bytes(content)
    gone = max(times)
    gone.unlink()
    second = pruned(data, tmp_path, 0.2, "dlc")
    made = {path for path in times if path.stat().st_mtime_ns != times[path]}
    assert made == {victim, gone}
    assert f"{victim.name.partition('.')[0]} is damaged" in caplog.text
    assert second.kept.tolist() == first.kept.tolist()
    assert set(json.loads((parts / "manifest.json").read_text())) == {path.name for path in parts.glob("*.np[yz]")}


def test_methods_that_ray_does_not_run_are_refused_by_name():
    keep, options = understood(0.1), ReadOptions()
    for scorer, sampler, words in [("el2n", "topk", "el2n"), ("random", CCS(), "ccs")]:
        with pytest.raises(InputError, match=f'engine="ray".* runs the .*not {words}'):
            check_plan(make_plan(scorer, sampler, "micro", 0, duplicates="all"), keep, options)
    with pytest.raises(InputError, match='does not look for duplicates; pass duplicates="all"'):
        check_plan(make_plan("dlc", "auto", "micro", 0), keep, options)
    with pytest.raises(InputError, match='does not judge labels; leave suspects="drop" out'):
        check_plan(make_plan("dlc", "auto", "micro", 0, duplicates="all", suspects="drop"), keep, options)


def test_the_engine_in_process_needs_no_ray(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)  # Importing it raises ModuleNotFoundError.
    data = shards(tmp_path / "data", rows=12, files=1)
    settings = {"keep": 6, "scorer": "random", "backbone": "micro", "duplicates": "all"}
    assert len(prune(data, **settings)) == 6
    with pytest.raises(InputError, match=r"runs on Ray need ray, .*pip install -e '.\[cluster\]'"):
        prune(data, engine="ray", **settings)


@pytest.mark.parametrize("words", [("--ray-address", "auto"), ("--with-features",)])
def test_options_of_ray_are_refused_without_it(words):
    with pytest.raises(InputError, match=f"{words[0]} belongs to --engine ray; add it, or leave {words[0]} out"):
        app(["prune", "photos", "--keep", "0.5", *words], standalone_mode=False)


def test_features_of_a_scorer_that_reads_none_are_refused(tmp_path):
    words = ["prune", str(tmp_path), "--keep", "0.5", "--scorer", "random", "--engine", "ray", "--with-features"]
    with pytest.raises(InputError, match="--with-features needs a scorer that reads features, and random reads none"):
        app(words, standalone_mode=False)


def test_the_engine_is_a_name_or_its_settings():
    assert chosen_engine("local") is None
    assert chosen_engine("ray") == RayEngine()
    assert chosen_engine(RayEngine("auto", worker_gb=1)).worker_bytes == 10**9
    with pytest.raises(InputError, match="engine must be"):
        chosen_engine("spark")
    with pytest.raises(InputError, match="worker_gb"):
        RayEngine(worker_gb=0)


def test_products_are_parquet_files_and_a_manifest_with_hashes(here, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MOST_ROWS", 10)
    monkeypatch.setattr(products, "MOST_ROWS", 40)
    data = shards(tmp_path / "data", broken=(4,))
    outcome = pruned(data, tmp_path, 0.2, "dlc", options=ReadOptions(on_error="skip"))
    folder = write_products(outcome, tmp_path / "products", True)
    files = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables(map(pq.read_table, files))
    assert len(files) == 3
    assert table.column_names == ["row", "id", "label", "score", "kept", "features"]
    rows = [row for row in range(90) if row != 4]
    assert table.column("row").to_pylist() == rows
    assert table.column("id").to_pylist() == list(map(str, rows))
    labels = pa.concat_tables(map(pq.read_table, sorted(data.glob("*.parquet")))).column("label").to_pylist()
    assert table.column("label").to_pylist() == [labels[row] for row in rows]
    assert np.array_equal(table.column("score").to_numpy(), outcome.scores[rows])
    assert np.array_equal(table.column("kept").to_numpy(), outcome.kept[rows])
    with np.load(next(outcome.passes.folder.glob("*.features.npz"))) as file:
        assert np.array_equal(np.stack(table.column("features").to_numpy()[: len(file["features"])]), file["features"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {path.name: {"bytes": path.stat().st_size, "xxh3": file_hash(path)} for path in files}


def test_a_full_disk_a_missing_object_and_a_wrong_credential_are_one_line():
    class NoCredentialsError(Exception):
        pass

    NoCredentialsError.__module__ = "botocore.exceptions"
    for error, words in [
        (OSError(28, "No space left on device", "/store/x"), "No space left on device: /store/x.*free some space"),
        (FileNotFoundError(2, "No such file", "bucket/a.parquet"), "bucket/a.parquet is missing"),
        (NoCredentialsError("Unable to locate credentials"), "check the credentials"),
    ]:
        line = storage_fault(error)
        assert "\n" not in line
        pytest.raises(InputError, _raise, line).match(words)
    assert storage_fault(KeyError("a bug")) is None


def _raise(text):
    raise InputError(text)


def test_the_progress_line_has_rows_rate_and_time_left():
    progress = Progress("scoring", 20_000, 1000)
    progress.add(4000)
    assert progress.line(16) == "scoring: 5000 of 20000 rows, 250 rows/s, 60 s left"
    progress.add(15_000)
    assert progress.line(76) == "scoring: 20000 of 20000 rows, 250 rows/s"


def test_equal_commands_at_the_same_time_do_not_share_a_folder(tmp_path):
    killed = tmp_path / f".partial-{socket.gethostname()}-{2**22 + 1}-12345678"  # No process has such an id.
    killed.mkdir()
    with shared_folder(Stage(tmp_path), ("work",)) as first:
        with shared_folder(Stage(tmp_path), ("work",)) as second:
            assert shared_work(str(second)) == ("work",)
        assert list(tmp_path.iterdir()) == [first]
        shared_work.cache_clear()
        assert shared_work(str(first)) == ("work",)  # As a worker reads it that starts late.
    assert list(tmp_path.iterdir()) == []


def test_work_that_kills_its_worker_again_and_again_ends_in_one_line(tmp_path):
    begin = lambda name: counted(str(tmp_path), name, lambda: f"part {name}")  # noqa: E731
    for _ in range(20):  # Work that ends is not counted, and an error is an end.
        with pytest.raises(KeyError), begin("a"):
            raise KeyError
    dead = [begin("a") for _ in range(RETRIES + 1)]
    for one in dead:
        one.__enter__()
    with pytest.raises(InputError, match=r"^workers died 6 times on part a, .* give the same command again$"):
        begin("a").__enter__()
    with begin("b"):
        pass


def test_an_item_without_its_record_is_not_finished(tmp_path):
    stage = Stage(tmp_path)
    (tmp_path / "a.npy").write_bytes(b"12")
    assert stage.record("a") is None
    stage.finish("a", [tmp_path / "a.npy"], {"rows": 2})
    assert stage.record("a")["rows"] == 2
    (tmp_path / "a.npy").write_bytes(b"1")
    assert stage.record("a") is None
    assert Item("a", 1).work is None


@pytest.mark.parametrize(("share", "room"), [(1.0, 3), (0.3, 9), (0.1, 30), (2.0, 1)])
def test_an_actor_needs_its_share_of_one_machine(monkeypatch, share, room):
    nodes = [{"Alive": True, "Resources": {"GPU": 1.0}}, {"Alive": True, "Resources": {"GPU": 2.0}}]
    dead = {"Alive": False, "Resources": {"GPU": 8.0}}
    monkeypatch.setattr(engine, "library", lambda: SimpleNamespace(nodes=lambda: [*nodes, dead]))
    assert engine.places("GPU", share) == room
    with pytest.raises(InputError, match="no machine of the Ray cluster has 4 GPU, the most is 2"):
        engine.places("GPU", 4.0)


def test_a_share_above_one_gpu_is_a_whole_number():
    with pytest.raises(InputError, match=r"gpus_per_actor above 1 must be a whole number, got 1\.5"):
        RayEngine(gpus_per_actor=1.5)
