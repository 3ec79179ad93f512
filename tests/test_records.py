"""A damaged file of a run is found, named in one line, and made again with the same numbers."""

import errno
import json
import logging
import os
import shutil

import numpy as np
import pytest

import damage
from prunetune.base.errors import InputError
from prunetune.base.store import Store, read_meta
from prunetune.base.verification import SIZES
from prunetune.config.identity import recorded
from prunetune.config.sweeps import PlannedRun
from prunetune.report.collect import collect
from prunetune.runs import failures, image_run, records, status
from runs import SMALL, compose_here, lasting, read_result, run_here

RUN = [*SMALL, "method=dlc_topk", "ratio=0.2", "finetune.views=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the results folder of one finished run."""
    results = tmp_path_factory.mktemp("finished") / "results"
    run_here(results, *RUN)
    return results


@pytest.fixture
def results(finished, tmp_path):
    """Return a copy of the folder, which the test can damage."""
    return shutil.copytree(finished, tmp_path / "results")


def the_run(results):
    [file] = (results / "runs").rglob("result.json")
    return file.parent


def run_again(results, finished):
    """Repeat the run without its result, and check that the new result is the same."""
    (the_run(results) / "result.json").unlink()
    folder = run_here(results, *RUN)
    before = the_run(finished)
    assert lasting(read_result(folder)) == lasting(read_result(before))
    for name in ("subset.csv", "predictions.csv", "history.csv"):
        assert (folder / name).read_bytes() == (before / name).read_bytes()


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_hashes(entry):
    """Make an entry one of an older store, which kept neither sizes nor hashes."""
    (entry / "meta.json").write_text(json.dumps(read_meta(entry)))


def scramble(file):
    file.write_bytes(b"\0" * file.stat().st_size)  # A power cut can leave such a file on some disks.


def flip(file):
    damage.damage(file, damage.flip_a_bit)


DAMAGES = {"cut in half": cut, "zeroed": scramble, "one bit": flip, "gone": lambda file: file.unlink()}
FILES = {
    "scores": "scores/*/scores.csv",
    "the losses beside the scores": "scores/*/losses.npy",
    "features": "features/*/features.npy",
    "views": "views/*/part-*/views.npy",
    "the positions of the views": "views/*/part-*/positions.npy",
    "what an entry cost": "features/*/meta.json",
    "what an entry was made from": "scores/*/key.json",
}


@pytest.mark.parametrize("way", DAMAGES)
@pytest.mark.parametrize("what", FILES)
def test_a_damaged_file_of_the_store_is_named_once_and_made_again(results, finished, caplog, what, way):
    files = list((results / "store").glob(FILES[what]))
    assert files
    for file in files:
        DAMAGES[way](file)
    # Images of the pool are read only for scores. Those of the test set are always read.
    if FILES[what].startswith("features"):
        shutil.rmtree(results / "store" / "scores")
    with caplog.at_level(logging.WARNING):
        run_again(results, finished)
    said = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(said) == len(files)
    assert all("\n" not in line and line.endswith("and is made again") for line in said)
    store = Store(results / "store")
    assert all(store.is_sound(file.parent) for file in store.root.glob(FILES[what]))
    assert list((results / "store").rglob(".partial-*")) == []


def test_readable_scores_of_other_images_are_computed_again(results, finished, caplog):
    [file] = (results / "store").glob(FILES["scores"])
    text = file.read_text()
    sample_id = text.splitlines()[1].split(",")[1]
    file.write_text(text.replace(sample_id, sample_id[::-1], 1))
    without_hashes(file.parent)
    with caplog.at_level(logging.WARNING):
        run_again(results, finished)
    assert "scores.csv cannot be read or belongs to other samples" in caplog.text


def test_an_undamaged_store_is_read_without_a_message(results, finished, caplog):
    stamps = {path: path.stat().st_mtime_ns for path in (results / "store").rglob("*") if path.is_file()}
    with caplog.at_level(logging.WARNING):
        run_again(results, finished)
    assert caplog.records == []
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_store_without_noted_sizes_counts_as_undamaged(tmp_path):
    def make(folder):
        np.save(folder / "a.npy", np.arange(1000))
        return {"seconds": 1.0}

    store = Store(tmp_path)
    entry = store.entry("features", "words", {"a": 1}, make)
    meta = json.loads((entry / "meta.json").read_text())
    assert meta[SIZES]["a.npy"] == (entry / "a.npy").stat().st_size
    assert set(meta[SIZES]) == {"a.npy", "key.json"}
    without_hashes(entry)
    assert store.is_sound(entry)
    without_hashes(entry)
    cut(entry / "a.npy")
    assert not store.is_sound(entry)  # An array file states its own size.
    assert not entry.exists()


def test_a_damaged_entry_is_replaced_by_a_whole_one(tmp_path):
    store, made = Store(tmp_path), []

    def make(folder):
        made.append(folder)
        (folder / "product.txt").write_text("whole")
        return {}

    entry = store.entry("features", "words", {"a": 1}, make)
    (entry / "product.txt").write_text("who")
    assert store.entry("features", "words", {"a": 1}, make) == entry
    assert (entry / "product.txt").read_text() == "whole"
    assert len(made) == 2
    assert len(list((tmp_path / "features").iterdir())) == 1


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"config": null}', '{"config": 3, "accuracy": 1}'])
def test_a_damaged_result_is_named_and_the_run_is_made_again(results, finished, caplog, content):
    file = the_run(results) / "result.json"
    whole = read_result(file.parent)
    file.write_text(content)
    with pytest.raises(InputError, match=r"result\.json is damaged$"):
        records.read_result(file.parent)
    with caplog.at_level(logging.WARNING):
        run_here(results, *RUN)
    assert f"{file} is damaged and is made again" in caplog.text
    assert lasting(read_result(file.parent)) == lasting(whole)


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, "a pipe"), (lambda path: path.symlink_to("/dev/full"), "a device")]
)
def test_what_lies_where_a_run_keeps_its_records_is_not_waited_for(tmp_path, make, kind):
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    make(folder / "result.json")
    make(folder / "failed.json")
    with pytest.raises(records.DamagedError, match=f"result.json is {kind}$"):
        records.read_result(folder)
    assert failures.read(folder).error == f"failed.json is {kind}"
    frame, [line] = collect(tmp_path)
    assert len(frame) == 0
    assert f"not a finished run's result (it is {kind})" in line


def edit(file):
    text = file.read_text()
    file.write_text(text[:-2] + ("1" if text[-2] == "0" else "0") + "\n")


@pytest.mark.parametrize("name", records.CSV_FILES)
@pytest.mark.parametrize(("change", "word"), [(edit, "changed"), (lambda file: file.unlink(), "deleted")])
def test_a_file_of_a_finished_run_that_somebody_changed_is_named_and_made_again(
    results, finished, caplog, name, change, word
):
    folder = the_run(results)
    change(folder / name)
    cell = status.state(PlannedRun("textures", folder, recorded(compose_here(results, *RUN)), None))
    assert (cell.state, cell.reason) == (status.UNREADABLE, f"{folder / name} was {word} since the run has finished")
    with caplog.at_level(logging.WARNING):
        run_here(results, *RUN)
    [line] = [record.getMessage() for record in caplog.records]
    assert line == f"{folder / name} was {word} since the run has finished, so the run is done again"
    assert (folder / name).read_bytes() == (the_run(finished) / name).read_bytes()
    assert lasting(read_result(folder)) == lasting(read_result(the_run(finished)))
    assert records.changed_file(folder, read_result(folder)) is None


def test_a_result_from_before_hashes_stays_finished_while_its_files_exist(results, monkeypatch, caplog):
    folder = the_run(results)
    result = read_result(folder)
    del result[records.HASHES]
    (folder / "result.json").write_text(json.dumps(result))
    edit(folder / "subset.csv")  # Without a hash, nobody can know.
    with monkeypatch.context() as patches:
        patches.setattr(image_run, "open_task", None)  # Any attempt to open the task would fail.
        run_here(results, *RUN)
    (folder / "history.csv").unlink()
    with caplog.at_level(logging.WARNING):
        run_here(results, *RUN)
    assert "history.csv was deleted since the run has finished" in caplog.text
    assert set(read_result(folder)[records.HASHES]) == set(records.CSV_FILES)


def test_a_text_run_has_no_predictions(tmp_path):
    for name in ("subset.csv", "history.csv"):
        (tmp_path / name).write_text("whole\n")
    records.publish(tmp_path, {"kind": "text", "config": {}})
    assert set(read_result(tmp_path)[records.HASHES]) == {"subset.csv", "history.csv"}
    assert records.changed_file(tmp_path, read_result(tmp_path)) is None
    assert records.changed_file(tmp_path, {"kind": "text"}) is None
    assert records.changed_file(tmp_path, {}) == f"{tmp_path / 'predictions.csv'} was deleted"


def test_a_result_that_may_not_be_read_is_not_made_again(tmp_path, monkeypatch):
    def forbidden(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    with pytest.raises(
        InputError, match=r"result\.json cannot be used \(Permission denied\); change its permissions or pass results"
    ):
        records.is_finished(tmp_path, {}, lambda: None)


def test_a_result_that_is_not_text_is_damaged(tmp_path):
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is damaged"):
        records.read_result(tmp_path)


def test_a_folder_without_a_result_is_not_finished(tmp_path):
    assert records.read_result(tmp_path) is None
    assert records.read_result(tmp_path / "nowhere") is None


def test_a_configuration_is_compared_without_images_or_weights(results):
    folder = the_run(results)
    result, same = read_result(folder), recorded(compose_here(results, *RUN))
    records.check_configuration(folder, result, same)
    other = recorded(compose_here(results, *RUN, "finetune.epochs=9", "seed=1"))
    with pytest.raises(InputError, match=r"another configuration \(finetune\.epochs: 3 there, 9 now; seed: 0 there, 1"):
        records.check_configuration(folder, result, other)


def test_a_finished_run_forgets_its_failed_attempts(results):
    folder = the_run(results)
    (folder / "result.json").unlink()
    failures.note(folder, RuntimeError("before"))
    assert failures.read(folder) is not None
    run_here(results, *RUN)
    assert failures.read(folder) is None
