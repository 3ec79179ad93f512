"""The stages of a cluster run, done one after another in this process: what is selected does not depend on Ray."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import socket
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cluster_inputs import archives, encoded, photos, shards, vectors
from prunetune import RayEngine
from prunetune.api import make_plan, prune
from prunetune.base.errors import InputError
from prunetune.base.hashes import file_hash
from prunetune.base.store import Store
from prunetune.cli import app
from prunetune.cluster import command as cluster_command
from prunetune.cluster import embeddings, engine, job, listing, passes, products, remote, selecting, stages
from prunetune.cluster.by_class import POSITIONS, ROWS, Runs, write_run
from prunetune.cluster.engine import RETRIES, Cluster, Failure, chosen_engine, guarded, storage_fault
from prunetune.cluster.job import check_plan, list_rows, prune_rows
from prunetune.cluster.outcome import as_subset, mark_of_shards
from prunetune.cluster.passes import Networks, _decoded, rows_of
from prunetune.cluster.products import write_products
from prunetune.cluster.progress import Progress
from prunetune.cluster.room import COPIES
from prunetune.cluster.selecting import ClassWork, _near, class_works, near_cuts, selected
from prunetune.cluster.shared import counted, shared_folder, shared_work
from prunetune.cluster.sources import find, find_embeddings
from prunetune.cluster.stages import Item, Stage, bundled
from prunetune.cluster.two_level import MEASURES, measure_loss, order_of, part_of, picks_of_part
from prunetune.data.images import rule
from prunetune.networks.micro import WIDTHS
from prunetune.own.folder import mark
from prunetune.own.keep import understood
from prunetune.own.read import ReadOptions, read
from prunetune.samplers import CCS, DoubleEnd, FlexRand, RandomSampler, TopK, TopKEasiest, Window
from prunetune.scorers import FacilityLocation, Herding, KCenter

OPTIONS = ReadOptions()


@pytest.fixture
def here(monkeypatch):
    """Let the stages run in this process, in the order of their items."""

    def in_turn(function, items, *shared, memory=None):
        for item in items:
            outcome = guarded(function, item, *shared)
            if isinstance(outcome, Failure):
                raise InputError(outcome.text)
            yield item, outcome

    def streamed(catalogue, stage, work, segments, gpus):
        with shared_folder(stage, (catalogue.bare(), stage, work)) as place:
            networks = Networks(str(place))
            for one in rows_of(catalogue, segments):
                for views in _decoded({"segment": [one["segment"]]}, str(place)):
                    row = {name: values[0] for name, values in networks(views).items()}
                    if row["error"]:
                        raise InputError(row["error"])
                    yield row["name"], row["rows"], json.loads(row["record"])

    class NoCluster:
        cluster_resources = staticmethod(lambda: {"CPU": 2})

    monkeypatch.setattr(stages, "run_tasks", in_turn)
    monkeypatch.setattr(passes, "_streamed", streamed)
    monkeypatch.setattr(job, "library", lambda: NoCluster)


def pruned(data, tmp_path, keep, scorer, sampler="auto", options=OPTIONS, worker_gb=2.0):
    plan = make_plan(scorer, sampler, "micro", 5, duplicates="all")
    cluster = Cluster(Store(tmp_path / "cluster store"), RayEngine(worker_gb=worker_gb))
    amount = understood(keep)
    check_plan(plan, amount, options)
    return prune_rows(list_rows(find(data, options), cluster, options), amount, plan, cluster, options)


METHODS = [("dlc", "auto"), ("dlc", "topk"), ("herding", "auto"), ("k_center", "auto"), ("facility_location", "auto")]


@pytest.mark.parametrize(("scorer", "sampler"), [*METHODS, ("moderate", "auto"), ("random", "auto")])
def test_the_same_rows_are_kept_as_in_process(here, tmp_path, scorer, sampler):
    data = shards(tmp_path / "data")
    for keep in (0.2, 20):
        outcome = pruned(data, tmp_path, keep, scorer, sampler)
        subset = prune(
            data, keep, scorer, sampler, "micro", 5, duplicates="all", store=tmp_path / "store", device="cpu"
        )
        assert np.flatnonzero(outcome.kept).tolist() == subset.positions.tolist()
        assert np.allclose(outcome.scores, subset.scores.numpy(), rtol=1e-6)
        assert as_subset(outcome, OPTIONS.rule).kept_names == subset.kept_names


def test_blocks_and_parts_change_nothing(here, tmp_path, monkeypatch):
    whole = pruned(shards(tmp_path / "a", files=1, group=90), tmp_path, 0.2, "dlc")
    monkeypatch.setattr(passes, "MOST_ROWS", 7)
    cut = pruned(shards(tmp_path / "b", files=5, group=20), tmp_path, 0.2, "dlc")
    monkeypatch.setattr(selecting, "PIECE", 5)
    pieces = pruned(tmp_path / "b", tmp_path / "pieces", 0.2, "dlc")
    assert len(cut.parts) > len(whole.parts)
    for other in (cut, pieces):
        assert other.kept.tolist() == whole.kept.tolist()
        assert other.ranks.tolist() == whole.ranks.tolist()


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


@pytest.mark.parametrize(
    "cells",
    [
        [3, None, 10, 3, 1],
        ["b", "a", "", None, "null", "a"],
        [1.0, -0.0, 0.0, None],
        [[1], [1, 2], [1]],
        [True, False],
        [],
    ],
)
def test_labels_are_listed_as_if_each_were_converted_alone(cells):
    made = pa.chunked_array([pa.array(cells), pa.array(cells)[:0]])
    column = listing._texts(made)
    texts = [listing.as_text(cell) for cell in cells]
    assert column.to_pylist() == texts
    keys = ["null" if text is None else text for text in texts]
    found = listing._counts(column)
    assert list(found) == list(dict.fromkeys(keys))
    assert found == {key: [keys.count(key), keys.index(key)] for key in keys}


@pytest.mark.parametrize("make", [shards, archives])
def test_the_driver_gets_no_counts_of_labels_with_the_records(here, tmp_path, make):
    data, files = make(tmp_path / "data", rows=120, files=3), 3
    source, cluster = find(data, OPTIONS), Cluster(Store(tmp_path / "store"))
    listed = list_rows(source, cluster, OPTIONS)
    assert sum(listed.sizes) == 120
    assert len(listed.sizes) == len(listed.classes) > 1
    found = Stage(listed.lists).finished(f"{shard:06d}" for shard in range(files))
    column = [".cls"] if make is archives else ["label"]
    assert [facts["labels"] for facts in found.values()] == [column] * files  # The names only, not the counts.


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


@pytest.mark.parametrize(
    ("scorer", "sampler", "keep", "words"),
    [
        (
            "dlc",
            "auto",
            0.2,
            r"class kind \d has \d+ rows, and a worker of 8e-07 GB holds 20 of one class; give the ",
        ),
        ("random", "auto", 0.2, r"give the workers more memory with engine=RayEngine\(worker_gb=0.01\)$"),
        (
            "maxherding",
            "auto",
            0.2,
            "holds 0 of one class; use herding, k_center or facility_location, which select in",
        ),
        ("herding", "auto", 0.9, r"\d+ images of one class are to be kept, and a worker holds 0"),
    ],
)
def test_a_class_that_cannot_be_selected_is_refused_before_anything_is_read(
    here, tmp_path, monkeypatch, scorer, sampler, keep, words
):
    monkeypatch.setattr(job, "run_passes", lambda *_: pytest.fail("the images are read"))
    with pytest.raises(InputError, match=words):
        pruned(shards(tmp_path / "data"), tmp_path, keep, scorer, sampler, worker_gb=8e-7)


def test_the_mark_of_shards_is_that_of_the_engine_in_process(here, tmp_path):
    data = shards(tmp_path / "data", broken=(4,))
    options = ReadOptions(on_error="skip")
    outcome = pruned(data, tmp_path, 0.2, "random", options=options)
    assert mark_of_shards(outcome) == mark(read(data, options))


def test_broken_images_are_counted_and_named(here, tmp_path):
    data = shards(tmp_path / "data", broken=(4, 50))
    with pytest.raises(InputError, match=r"2 of 90 images cannot be read: 4, 50 \(its content is no image .*on_error"):
        pruned(data, tmp_path, 0.2, "random")
    options = ReadOptions(on_error="skip")
    outcome = pruned(data, tmp_path, 0.2, "herding", options=options)
    subset = prune(data, 0.2, "herding", "auto", "micro", 5, duplicates="all", on_error="skip")
    assert outcome.failed == 2
    assert np.flatnonzero(outcome.kept).tolist() == subset.positions.tolist()
    assert {name: reason for name, reason in as_subset(outcome, options.rule).data.left_out.items()} == dict(
        subset.data.left_out
    )


@pytest.mark.parametrize("write", [shards, archives])
def test_skipping_keeps_the_passes_of_a_call_that_stopped(here, tmp_path, write):
    data = write(tmp_path / "data")
    place = sorted(data.iterdir())[0]
    place.write_bytes(place.read_bytes().replace(b"PNG", b"GNP", 3))  # One image or more begin so.
    with pytest.raises(InputError, match="images cannot be read"):
        pruned(data, tmp_path, 0.2, "herding")
    files = lambda: {  # noqa: E731
        path: path.stat().st_mtime_ns
        for kind in ("lists", "passes")
        for path in tmp_path.rglob(f"{kind}-*/*")
        if path.name != stages.MANIFEST
    }
    done = files()
    assert len(done) > 6
    outcome = pruned(data, tmp_path, 0.2, "herding", options=ReadOptions(on_error="skip"))
    assert 0 < outcome.failed < 10
    assert files() == done


@pytest.mark.parametrize("name", ["000.parquet", "001.parquet"])
def test_a_broken_shard_is_named_or_left_out(here, tmp_path, name):
    data = shards(tmp_path / "data")
    (data / name).write_bytes(b"PAR1 cut")
    with pytest.raises(InputError, match=rf"{name} cannot be read as parquet"):
        pruned(data, tmp_path, 0.2, "random")
    outcome = pruned(data, tmp_path, 0.2, "random", options=ReadOptions(on_error="skip"))
    assert sum(outcome.sizes.values()) == 60
    assert [Path(left).name for left in outcome.catalogue.left_out] == [name]
    with pytest.raises(InputError, match=rf"{name} cannot be read as parquet"):
        pruned(data, tmp_path, 0.2, "random")


def test_an_archive_without_labels_is_left_out_beside_one_with_labels(here, tmp_path):
    data = archives(tmp_path / "data")
    with tarfile.open(data / "part-1.tar") as archive:
        images = [(one, archive.extractfile(one).read()) for one in archive if one.name.endswith(".png")]
    with tarfile.open(data / "part-1.tar", "w") as archive:
        for member, content in images:
            archive.addfile(member, io.BytesIO(content))
    outcome = pruned(data, tmp_path, 0.2, "herding", options=ReadOptions(on_error="skip"))
    subset = prune(data, 0.2, "herding", "auto", "micro", 5, duplicates="all", on_error="skip")
    assert sum(outcome.sizes.values()) == 20
    assert np.flatnonzero(outcome.kept).tolist() == subset.positions.tolist()


def labelled(*samples):
    """Return the files of samples, each of which has an image."""
    return [{"png": encoded(np.random.default_rng(row), 0), **sample} for row, sample in enumerate(samples)]


LABELLED = {
    "empty cls": [labelled({"cls": b"a"}, {"cls": b" "}, {"cls": b"b"})],
    "bad json beside cls": [labelled({"cls": b"a", "json": b"{"}, {"cls": b"b", "json": b"{}"})],
    "bad json of one archive, cls of another": [labelled({"json": b"{"}), labelled({"cls": b"a"}, {"cls": b"b"})],
    "bad json": [labelled({"json": b'{"label": "a"}'}, {"json": b"[1]"})],
    "cls without an image": [[*labelled({"json": b'{"label": "a"}'}, {"json": b'{"label": "b"}'}), {"cls": b"c"}]],
    "two endings": [labelled({"label": b"a"}), labelled({"cls": b"b"}, {"cls": b"c", "label": b"d"})],
    "no label in json": [labelled({"json": b'{"label": null}'}, {"json": b'{"label": " "}'})],
    "other keys": [labelled({"json": b'{"score": 1}'}, {"json": b'{"place": 2}'})],
    "two keys": [labelled({"json": b'{"label": "a"}'}), labelled({"json": b'{"class": "b"}'})],
    "numbers and blanks": [labelled({"json": b'{"label": 3}'}, {"json": b'{"label": 10}'}, {"png.json": b"{"})],
    "name": [labelled({"name": b"a", "json": b'{"name": "x"}'}, {"json": b'{"name": "y"}'}, {"name": b"b"})],
}


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("column", [None, "label", "name"])
@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_archives_are_read_by_the_rules_of_one_process(here, tmp_path, name, column, on_error):
    (data := tmp_path / "data").mkdir()
    for number, samples in enumerate(LABELLED[name]):
        with tarfile.open(data / f"part-{number}.tar", "w") as archive:
            for row, sample in enumerate(samples):
                for ending, content in sample.items():
                    member = tarfile.TarInfo(f"{row:03d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    options = ReadOptions(label_column=column, on_error=on_error)

    def on_cluster():
        rows = list_rows(find(data, options), Cluster(Store(tmp_path / "store")), options)
        names, labels = (
            [one for part in rows.segments(9) for one in of(part.parts[0])] for of in (rows.names, rows.labels)
        )
        return {key: rows.classes[label] for key, label in zip(names, labels, strict=True) if label >= 0}

    def in_process():
        found = read(data, options)
        return dict(zip(found.names, [found.pool.classes[label] for label in found.pool.labels], strict=True))

    def of(function):
        try:
            return function()
        except InputError as error:
            return str(error) if ".json" in str(error) or "no sample has" in str(error) else "another line"

    assert of(on_cluster) == of(in_process)


def test_labels_and_names_of_a_part_read_only_the_row_groups_of_the_part(here, tmp_path, monkeypatch):
    data, read_groups, seen = archives(tmp_path / "data"), pq.ParquetFile.read_row_groups, []
    whole = read(data, OPTIONS)
    monkeypatch.setattr(listing, "LIST_ROWS", 4)
    rows = list_rows(find(data, OPTIONS), Cluster(Store(tmp_path / "store")), OPTIONS)

    def watched(file, groups, **words):
        seen.append((list(groups), file.num_row_groups))
        return read_groups(file, groups, **words)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    parts = [part for segment in rows.segments(7) for part in segment.parts]
    assert [label for part in parts for label in rows.labels(part)] == whole.pool.labels.tolist()
    assert [name for part in parts for name in rows.names(part)] == list(whole.names)
    of_shard = [([0, 1], 5), ([1, 2, 3], 5), ([3, 4], 5)]  # Rows 0 to 6, 7 to 13 and 14 to 19.
    assert seen == 4 * of_shard


def test_a_damaged_row_group_costs_its_images_only(here, tmp_path):
    data = shards(tmp_path / "data")
    content = bytearray((data / "001.parquet").read_bytes())
    content[4:64] = b"\xff" * 60  # The header of the first page of images.
    (data / "001.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"12 of 90 images cannot be read: 30, 31, .* \(row group 0 of 001"):
        pruned(data, tmp_path, 0.2, "random")
    outcome = pruned(data, tmp_path, 0.2, "random", options=ReadOptions(on_error="skip"))
    assert np.isnan(outcome.scores[30:42]).all()
    assert sum(outcome.sizes.values()) == 78


PASSING = [OSError(number, os.strerror(number)) for number in (errno.EACCES, errno.EIO, errno.EMFILE)]
PASSING += [ConnectionError("the network is down"), pa.ArrowMemoryError("malloc failed")]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_an_error_that_passes_is_not_remembered_as_a_fact_of_an_image(here, tmp_path, monkeypatch, error):
    data, skip, read = photos(tmp_path / "data"), ReadOptions(on_error="skip"), Path.read_bytes

    def fails(path):
        if path.name == "003.png":
            raise error
        return read(path)

    (data / "bark/000.png").write_bytes(b"no image")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises((InputError, MemoryError)):
            pruned(data, tmp_path, 0.25, "random", options=skip)
    assert pruned(data, tmp_path, 0.25, "random", options=skip).failed == 1


@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("write", [shards, archives])
def test_a_shard_out_of_reach_is_not_remembered_as_damaged(here, tmp_path, monkeypatch, write, error):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise error

    data, skip, opened = write(tmp_path / "data"), ReadOptions(on_error="skip"), listing.open_url
    files = sorted(map(str, data.iterdir()))
    for broken in (files[0], files[-1]):
        with monkeypatch.context() as patch:
            one = lambda url, broken=broken: Broken(b"0" * 9999) if url == broken else opened(url)  # noqa: E731
            patch.setattr(listing, "open_url", one)
            with pytest.raises((InputError, MemoryError)):
                pruned(data, tmp_path, 0.2, "random", options=skip)
    assert pruned(data, tmp_path, 0.2, "random", options=skip).catalogue.left_out == {}


@pytest.mark.parametrize("write", [shards, archives, photos])
@pytest.mark.parametrize("error", [OSError("Forbidden"), ValueError("Bad request: invalid")], ids=repr)
def test_a_refusal_of_object_storage_is_not_remembered_as_damage(here, tmp_path, monkeypatch, write, error):
    skip = ReadOptions(on_error="skip")
    found, cluster = find(f"file://{write(tmp_path / 'data')}", skip), Cluster(Store(tmp_path / "store"))
    plan = make_plan("random", "auto", "micro", 5, duplicates="all")

    class Refusing(io.BytesIO):
        def read(self, size=-1):
            raise error

    def refused(path):
        raise error

    with monkeypatch.context() as patch:
        storage = SimpleNamespace(open=lambda path, mode: Refusing(bytes(9999)), cat_file=refused)
        patch.setattr(remote, "file_system", lambda url: (storage, url))
        with pytest.raises(InputError, match="could not read or write"):
            prune_rows(list_rows(found, cluster, skip), understood(0.2), plan, cluster, skip)
    outcome = prune_rows(list_rows(found, cluster, skip), understood(0.2), plan, cluster, skip)
    assert (outcome.failed, outcome.catalogue.unlabelled) == (0, 0)
    assert not [reason for reason in outcome.catalogue.left_out.values() if "cannot be read" in reason]


def test_an_extra_that_a_worker_lacks_is_no_fact_of_an_image(here, tmp_path, monkeypatch):
    data, skip = photos(tmp_path / "data"), ReadOptions(on_error="skip")
    (data / "bark/000.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))

    def missing():
        raise InputError("HEIC images need pillow_heif")

    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(rule, "open_heif", missing)
    with pytest.raises(InputError, match="^HEIC images need pillow_heif$"):
        pruned(data, tmp_path, 0.25, "random", options=skip)
    monkeypatch.setattr(rule, "open_heif", lambda: None)
    outcome = pruned(data, tmp_path, 0.25, "random", options=skip)
    assert outcome.reasons(outcome.parts[0]) == {0: "its content is no image of a known format"}


def test_archives_of_one_name_in_two_folders_are_told_apart(here, tmp_path):
    (tmp_path / "data").mkdir()
    for folder in ("a", "b"):
        place = archives(tmp_path / "data" / folder, rows=20, files=1) / "part-0.tar"
        content = place.read_bytes()
        place.write_bytes(content.replace(b"\x89PNG", b"no image"[:4], 1))  # The first image, 0000.png.
        with tarfile.open(place, "a") as archive:
            archive.addfile(tarfile.TarInfo("9999.cls"))
    options = ReadOptions(on_error="skip")
    outcome = pruned(tmp_path / "data", tmp_path, 0.2, "random", options=options)
    left_out = as_subset(outcome, options.rule).data.left_out
    names = [f"{tmp_path}/data/{folder}/part-0.tar/{key}" for folder in "ab" for key in ("0000", "9999")]
    assert sorted(left_out) == names
    with pytest.raises(InputError, match=rf"2 of 40 images cannot be read: {names[0]}, {names[2]} \("):
        pruned(tmp_path / "data", tmp_path, 0.2, "random")


def test_hidden_files_are_no_data(tmp_path):
    data = shards(tmp_path / "data", rows=12, files=1)
    for hidden in (".cache", "__MACOSX", "@eaDir"):
        shutil.copytree(data, tmp_path / "copy" / hidden)
    shutil.copy(data / "000.parquet", tmp_path / "copy/a.parquet")
    shutil.copy(data / "000.parquet", tmp_path / "copy/._a.parquet")
    for place in (f"file://{tmp_path}/copy", f"file://{tmp_path}/copy/*.parquet", f"file://{tmp_path}/copy/a.parquet"):
        assert [file.name for file in find(place, OPTIONS).files] == ["a.parquet"]
    vectors(tmp_path / "copy/a.parquet")
    assert [file.name for file in find_embeddings(tmp_path / "copy", OPTIONS).files] == ["a.parquet"]
    assert [file.name for file in find_embeddings(f"file://{tmp_path}/copy", OPTIONS).files] == ["a.parquet"]
    images = photos(tmp_path / "photos")
    (images / ".thumbs").mkdir()
    shutil.copy(images / "bark/000.png", images / ".thumbs/000.png")
    shutil.copy(images / "bark/000.png", images / "bark/._000.png")
    there, here = find(f"file://{images}", OPTIONS), find(images, OPTIONS)
    assert there.held.names == here.held.names
    assert {name: reason for name, reason in there.left_out.items() if "." in name[0] or "_" in name} == {
        ".thumbs/000.png": "hidden folders",
        "bark/._000.png": "files of the system",
    }


def test_finished_parts_are_kept_and_damaged_ones_made_again(here, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(passes, "MOST_ROWS", 10)
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


@pytest.mark.parametrize("sampler", [RandomSampler(), TopK(), TopKEasiest(), FlexRand(), Window(), DoubleEnd()])
@pytest.mark.parametrize("ratio", [0.03, 0.3, 0.9])
def test_replayed_draws_are_those_of_one_process(sampler, ratio, monkeypatch):
    labels = torch.randint(0, 6, (700,), generator=torch.Generator().manual_seed(1))
    scores = torch.rand(700, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    from prunetune.base.seeding import seeded
    from prunetune.samplers.budgets import class_budgets

    with seeded("sample", 9, ratio) as generator:
        expected = sampler.select(scores, labels, ratio, generator)
    sizes = dict(enumerate(labels.bincount().tolist()))
    permuted, randperm = [], torch.randperm
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randperm", lambda *given, **words: permuted.append(given) or randperm(*given, **words))
        works = class_works(sampler, sizes, class_budgets(labels, ratio), ratio, True, 9)
    drawn = [work for work in works if work.state is not None]
    assert len(permuted) == len(sampler.draw_sizes(100, ratio)) * (len(drawn) - 1)  # None behind the last class.
    kept = torch.zeros(700, dtype=torch.bool)
    for work in reversed(works):  # In any order.
        members = torch.nonzero(labels == work.label).flatten()
        kept[members] = selected(work, sampler, scores[members])
    assert torch.nonzero(kept).flatten().equal(expected)


def test_methods_that_ray_does_not_run_are_refused_by_name():
    keep, options = understood(0.1), ReadOptions()
    for scorer, sampler, words in [("el2n", "topk", "el2n"), ("random", CCS(), "ccs")]:
        with pytest.raises(InputError, match=f'engine="ray".* runs the .*not {words}'):
            check_plan(make_plan(scorer, sampler, "micro", 0, duplicates="all"), keep, options)
    with pytest.raises(InputError, match='does not look for duplicates; pass duplicates="all"'):
        check_plan(make_plan("dlc", "auto", "micro", 0), keep, options)


def test_the_engine_in_process_needs_no_ray(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)  # Importing it raises ModuleNotFoundError.
    data = shards(tmp_path / "data", rows=12, files=1)
    settings = {"keep": 6, "scorer": "random", "backbone": "micro", "duplicates": "all"}
    assert len(prune(data, **settings)) == 6
    with pytest.raises(InputError, match=r"engine=ray need ray, .*pip install -e '.\[cluster\]'"):
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


def test_scores_near_a_cut_are_counted():
    ranked = torch.tensor([1.0, 2.0, 2.0 + 1e-7, 3.0], dtype=torch.float64)
    assert _near(ranked, 2) == 2
    assert _near(ranked, 1) == 0
    work = ClassWork(0, 4, 2, 0.5)
    kept = torch.tensor([False, False, True, True])
    assert near_cuts(work, TopK(), ranked, kept) == 2
    assert near_cuts(work, RandomSampler(), ranked, kept) == 0


@pytest.mark.parametrize("seed", range(5))
def test_rounding_moves_only_scores_that_are_counted_as_near_a_cut(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = 1 + 1e-5 * torch.rand(400, generator=generator, dtype=torch.float64)
    rounded = scores * (1 + 0.9e-6 * (2 * torch.rand(400, generator=generator, dtype=torch.float64) - 1))
    work = ClassWork(0, 400, 80, 0.2)
    kept, other = (selected(work, TopK(), one) for one in (scores, rounded))
    differ = int((kept != other).sum())
    assert 0 < differ <= near_cuts(work, TopK(), scores, kept) < 400


def test_products_are_parquet_files_and_a_manifest_with_hashes(here, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "MOST_ROWS", 10)
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


def test_workers_get_only_those_images_of_a_folder_that_they_read(here, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "MOST_ROWS", 7)
    monkeypatch.setattr(products, "MOST_ROWS", 7)
    data, sent, in_turn, dumps = photos(tmp_path / "data"), [], stages.run_tasks, pickle.dumps

    def watched(function, items, *shared, **words):
        sent.extend([*map(dumps, items), dumps(shared)])
        return in_turn(function, items, *shared, **words)

    monkeypatch.setattr(stages, "run_tasks", watched)
    monkeypatch.setattr(passes.pickle, "dumps", lambda content: sent.append(dumps(content)) or sent[-1])
    outcome = pruned(data, tmp_path, 0.25, "random")
    folder = write_products(outcome, tmp_path / "products", False)
    found = [len(set(re.findall(rb"(?:bark|moss)/\d{3}", content))) for content in sent]
    assert sum(found) == 2 * 24  # Each image goes to the passes once and to the products once.
    assert max(found) == 7
    table = pa.concat_tables(map(pq.read_table, sorted(folder.glob("*.parquet"))))
    assert table.column("id").to_pylist() == list(outcome.catalogue.held.names)
    assert table.column("label").to_pylist() == [name[:4] for name in outcome.catalogue.held.names]


@pytest.mark.parametrize("scorer", ["herding", "k_center", "facility_location"])
def test_a_class_that_no_worker_holds_is_selected_in_two_levels(here, tmp_path, scorer):
    data = shards(tmp_path / "data")
    one = pruned(data, tmp_path, 0.2, scorer)
    width = WIDTHS[-1]
    two = pruned(data, tmp_path, 0.2, scorer, worker_gb=20 * 4 * COPIES * width / 1e9)  # A worker holds 20 rows.
    assert two.kept.sum() == one.kept.sum()
    assert two.budgets == one.budgets
    scores = two.scores[two.kept]
    assert scores.max() == 1
    assert (two.scores[~two.kept] == 0).all()
    assert one.losses == ()
    sizes = {f"kind {label}": (two.sizes[label], two.budgets[label]) for label in range(3)}
    assert {loss.name for loss in two.losses} == set(sizes)
    for loss in two.losses:
        size, budget = sizes[loss.name]
        assert (loss.parts, loss.kept) == (-(-size // 20), round(budget * loss.rows / size))
        assert re.search(
            r"of [23] parts; on \d+ of its rows, of which \d are kept, the .* is .* instead of ", loss.line
        )
    lost = min((tmp_path / "cluster store").glob("cluster/choices-*/*-union-*.choice.npz"))
    lost.unlink()
    again = pruned(data, tmp_path, 0.2, scorer, worker_gb=20 * 4 * COPIES * width / 1e9)
    assert lost.exists()
    assert again.kept.tolist() == two.kept.tolist()


def test_an_outcome_of_two_levels_is_made_again_with_other_memory_or_in_process(here, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_command, "started", lambda address: nullcontext())
    data, out = shards(tmp_path / "data"), tmp_path / "out"
    words = ["prune", str(data), "--keep", "0.2", "--backbone", "micro", "--scorer", "herding", "--out", str(out)]
    words += ["--duplicates", "all", "--store", str(tmp_path / "store")]

    def kept(*more):
        app([*words, *more], standalone_mode=False)
        return (out / "prune.json").stat().st_mtime_ns, (out / "kept.txt").read_text()

    small = ["--engine", "ray", "--worker-gb", str(20 * 4 * COPIES * WIDTHS[-1] / 1e9)]  # A worker holds 20 rows.
    two_levels = kept(*small)
    assert kept(*small) == two_levels
    one_level = kept("--engine", "ray")
    assert one_level[1] != two_levels[1]
    assert kept(*small) == one_level  # What one level keeps is as good.
    shutil.rmtree(out)
    kept(*small)
    here_kept = kept()
    assert here_kept[1] == one_level[1]
    assert kept("--engine", "ray") == here_kept


def test_parts_of_different_sizes_pick_enough_for_the_whole_class(tmp_path):
    size, held, budget = 101, 100, 100
    rows = torch.randn(size, 4, generator=torch.Generator().manual_seed(0)).numpy()
    work, uneven = ClassWork(0, size, budget, 0.5), 0
    for seed in range(9):
        stage = Stage(tmp_path / str(seed))
        stage.folder.mkdir()
        write_run("run", stage, np.zeros(size, dtype=int), 1, {POSITIONS: [np.arange(size)], ROWS: [rows]})
        runs = Runs(stage, ("run",), np.array([size]))
        selecting.cut_run(Item("cut", size, (work, 2, runs)), stage, seed)
        pieces = Runs(stage, ("cut",), np.zeros(0))
        assert [pieces.whole(part, POSITIONS).tolist() for part in range(2)] == [
            np.flatnonzero(part_of(np.arange(size), 2, seed) == part).tolist() for part in range(2)
        ]
        for item in selecting.LargeClass(work, 2, pieces).items(held):
            selecting.pick_part(item, stage, SimpleNamespace(scorer=Herding()))
        picked = [np.load(file)["positions"] for file in stage.folder.glob("*" + selecting.PICKS)]
        assert len(np.unique(np.concatenate(picked))) >= budget
        uneven += abs(len(picked[0]) - len(picked[1])) > 1
    assert uneven > 0


@pytest.mark.parametrize(("scorer", "most"), [(Herding(), 1.3), (KCenter(), 1.15), (FacilityLocation(), 1.1)])
def test_two_levels_lose_little(scorer, most):
    """The loss against one level, on Gaussian features; a random draw is much worse or the measure says nothing."""
    features = torch.randn(600, 16, generator=torch.Generator().manual_seed(4))
    loss = measure_loss(scorer, features, 30, 4, "all")
    assert loss.two_levels <= most * loss.one_level
    value = MEASURES[type(scorer)][1]
    assert loss.one_level == value(features, order_of(scorer, features, 30))
    drawn = [value(features, torch.randperm(600, generator=torch.Generator().manual_seed(i))[:30]) for i in range(9)]
    assert loss.two_levels < sorted(drawn)[4]


def test_parts_of_a_large_class_are_even_and_fixed():
    part = part_of(np.arange(10_000), 7, 3)
    assert np.bincount(part).min() > 1250
    assert part[5000:5010].tolist() == part_of(np.arange(5000, 5010), 7, 3).tolist()
    with pytest.raises(InputError, match="900 images of one class are to be kept, and a worker holds 500"):
        picks_of_part(900, 4, 500)


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


def test_embeddings_in_parquet(here, tmp_path):
    rows, labels = vectors(tmp_path / "e.parquet")
    plan = make_plan("herding", "auto", "micro", 0, duplicates="all")
    cluster, keep = Cluster(Store(tmp_path / "store")), understood(0.25)
    source = find_embeddings(tmp_path / "e.parquet", OPTIONS)
    outcome = prune_rows(list_rows(source, cluster, OPTIONS), keep, plan, cluster, OPTIONS)
    subset = prune(embeddings=rows, labels=labels, keep=0.25, scorer="herding", duplicates="all")
    assert np.flatnonzero(outcome.kept).tolist() == subset.positions.tolist()
    assert as_subset(outcome, OPTIONS.rule).sample_ids == subset.sample_ids


def test_lost_and_damaged_features_of_embeddings_are_made_again(here, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "ROWS", 10)  # The row groups of 30 rows have three parts each.
    vectors(tmp_path / "e.parquet")
    cluster, plan = Cluster(Store(tmp_path / "store")), make_plan("herding", "auto", "micro", 0, duplicates="all")
    source = find_embeddings(tmp_path / "e.parquet", OPTIONS)

    def files():
        outcome = prune_rows(list_rows(source, cluster, OPTIONS), understood(0.25), plan, cluster, OPTIONS)
        found = sorted(outcome.passes.folder.glob("*.features.npz"))
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    before = files()
    assert len(before) == 8
    names = list(before)
    names[1].unlink()
    names[5].write_bytes(before[names[5]][1][:-1] + b"x")
    after = files()
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in before.items()
    }
    assert [name for name in names if after[name] == before[name]] == names[6:]  # Whole segments are read again.


def test_embeddings_of_different_lengths_are_refused(here, tmp_path):
    cells = [[1.0, 2.0]] * 20 + [[1.0, 2.0, 3.0, 4.0]] * 20
    pq.write_table(pa.table({"embedding": cells, "label": [row % 2 for row in range(40)]}), tmp_path / "e.parquet")
    cluster, plan = Cluster(Store(tmp_path / "store")), make_plan("herding", "auto", "micro", 0, duplicates="all")
    source = find_embeddings(tmp_path / "e.parquet", OPTIONS)
    with pytest.raises(InputError, match=r"e\.parquet differ in length"):
        prune_rows(list_rows(source, cluster, OPTIONS), understood(0.25), plan, cluster, OPTIONS)


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
