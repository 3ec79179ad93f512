"""What the engine on Ray reads: shards, archives, folders, embeddings, and what is broken there; without Ray."""

import errno
import io
import os
import pickle
import re
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster_inputs import archives, encoded, photos, shards, vectors
from cluster_steps import OPTIONS, in_this_process, pruned
from prunetune.api import make_plan, prune
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.cluster import embeddings, listing, passes, products, remote, stages, workers
from prunetune.cluster.engine import Cluster
from prunetune.cluster.job import list_rows, prune_rows
from prunetune.cluster.outcome import as_subset, mark_of_shards
from prunetune.cluster.products import write_products
from prunetune.cluster.sources import find, find_embeddings
from prunetune.cluster.stages import Stage
from prunetune.data.images import rule
from prunetune.own.folder import mark
from prunetune.own.keep import understood
from prunetune.own.read import ReadOptions, read


@pytest.fixture
def here(monkeypatch):
    in_this_process(monkeypatch)


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


def test_workers_get_only_those_images_of_a_folder_that_they_read(here, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MOST_ROWS", 7)
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
