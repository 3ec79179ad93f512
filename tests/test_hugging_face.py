"""Datasets of the library `datasets`: as own data and in runs."""

import sys

import pytest
import torch

from own_inputs import CLASSES, by_command, classes_of, labels_by_row, make_folders, rows
from prunetune.base.errors import InputError
from prunetune.data.readers import HFImages
from prunetune.data.readers import hugging_face as reader
from prunetune.own.read import ReadOptions, read
from runs import MICRO, QUICK, run_here

datasets = pytest.importorskip("datasets")
EACH = dict.fromkeys(CLASSES, 4)
LABELS = [label for _, label in rows()]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("photos"), *CLASSES)


@pytest.fixture(scope="module")
def made(folder):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    columns = {"image": [str(folder / path) for path, _ in rows()], "label": [CLASSES.index(name) for name in LABELS]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_dataset_is_read_in_its_order_without_its_transform(made):
    data = read(made.with_transform(lambda batch: {"image": [0] * len(batch["image"])}))
    assert (classes_of(data), labels_by_row(data), data.layout) == (EACH, LABELS, "hugging_face")
    assert data.pool.images.decode(3).shape == (3, 12, 16)
    assert data.described()[1:] == ["image column: image", "label column: label"]
    some = read(made.select([9, 1, 2]))
    assert labels_by_row(some) == ["owl", "crab", "crab"]
    assert "classes without an image: eel" in some.described()


def test_the_splits_of_a_dict_are_splits(made):
    splits = datasets.DatasetDict(train=made, test=made.select([0, 4]))
    data = read(splits)
    assert (classes_of(data), len(data.others), data.left_out) == (EACH, 2, {"test (2 rows)": "another split"})
    both = read(splits, ReadOptions(split="all"))
    assert (len(both.pool), both.num_rows, both.left_out, both.others) == (14, 14, {}, None)
    with pytest.raises(InputError, match="has the splits validation, test; choose with"):
        read(datasets.DatasetDict(validation=made, test=made))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.to_iterable_dataset(), "got IterableDataset; load it without streaming"),
        (lambda made: made.remove_columns("label").add_column("label", [0.5] * 12), "row 0 has the label 0.5"),
        (lambda made: made.remove_columns("label").add_column("label", [[0, 1]] * 12), "row 0 has several labels"),
        (lambda made: made.add_column("y", [0] * 12).cast_column("y", datasets.ClassLabel(names=["x"])), "label and y"),
    ],
)
def test_wrong_datasets_are_one_line(made, change, message):
    with pytest.raises(InputError, match=message):
        read(change(made))


def test_saved_folders_and_parquet_files(made, tmp_path):
    datasets.DatasetDict(train=made, test=made.select([0])).save_to_disk(str(tmp_path / "saved"))
    data = by_command(tmp_path / "saved")
    assert (classes_of(data), len(data.others), data.source.column_names) == (EACH, 1, ["image", "label"])
    (tmp_path / "shards").mkdir()
    for split, part in (("train", made), ("test", made.select([0]))):
        part.to_parquet(str(tmp_path / "shards" / f"{split}-00000-of-00001.parquet"))
    one = by_command(tmp_path / "shards" / "train-00000-of-00001.parquet")
    assert (classes_of(one), labels_by_row(one), one.layout) == (EACH, LABELS, "parquet")
    assert torch.equal(one.pool.images.decode(5), data.pool.images.decode(5))
    shards = by_command(tmp_path / "shards")
    assert (classes_of(shards), len(shards.others)) == (EACH, 1)
    (tmp_path / "bad.parquet").write_text("text")
    with pytest.raises(InputError, match="bad.parquet cannot be read as parquet"):
        by_command(tmp_path / "bad.parquet")
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a saved dataset"):
        by_command(tmp_path / "saved")


def test_a_name_on_the_hub(made, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **_: asked.append(names) or {"train": made})
    monkeypatch.setattr(reader, "_answers", lambda address: True)
    assert classes_of(by_command("hf:somebody/photos")) == EACH
    assert asked == [("somebody/photos", None)]
    # An existing path always wins.
    assert by_command(f"hf:{folder}").layout == "folders"
    assert len(asked) == 1


def test_without_a_network_the_hub_is_one_line_at_once(monkeypatch):
    monkeypatch.setattr(reader, "_answers", lambda address: False)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(InputError, match="'nobody/nothing' could not be fetched from the Hugging.*save_to_disk"):
        by_command("hf:nobody/nothing")
    assert datasets.config.HF_HUB_OFFLINE == before


@pytest.mark.parametrize(
    ("data", "library", "words"),
    [("hf:x", "datasets", "Hugging Face datasets"), ("a.parquet", "pyarrow", "parquet files")],
)
def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, data, library, words):
    (tmp_path / "a.parquet").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        InputError, match=rf"{words} need {library}, which is not installed; run pip install -e '.\[data\]'"
    ):
        by_command(data)


def test_a_run_reads_a_saved_dataset(made, tmp_path):
    datasets.DatasetDict(train=made, validation=made.select(range(0, 12, 2))).save_to_disk(str(tmp_path / "pets"))
    given = HFImages(id=str(tmp_path / "pets"))
    pool, test = given.pool("train"), given.pool("test")
    assert (len(pool), len(test), pool.classes, pool.name) == (12, 6, CLASSES, "pets")
    assert pool.sample_ids[3] == "train/03"
    run = run_here(
        tmp_path, "dataset=hf_images", f"dataset.id={tmp_path / 'pets'}", *MICRO, *QUICK, "method=herding", "ratio=0.5"
    )
    assert run.relative_to(tmp_path / "runs").parts[0] == "pets"
    assert len((run / "subset.csv").read_text().splitlines()) == 7


def test_a_run_splits_a_dataset_without_a_test_split(made, tmp_path):
    made.save_to_disk(str(tmp_path / "one"))
    given = HFImages(id=str(tmp_path / "one"), test_fraction=0.25)
    assert given.pool("train").class_counts.tolist() == [3, 3, 3]
    assert given.pool("test").class_counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "hf_images needs an id; pass dataset.id="),
        ({"id": "one", "test_split": "extra"}, "one has no split 'extra'; it has train"),
        ({"id": "one", "label_column": "kind"}, "one has no column 'kind'; it has image, label"),
        ({"id": "one", "test_fraction": 2}, r"dataset.test_fraction must be in \(0, 1\)"),
    ],
)
def test_wrong_settings_of_a_run_are_one_line(made, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    made.save_to_disk("one")
    with pytest.raises(InputError, match=message):
        HFImages(**settings).pool("train")


def test_a_run_reads_an_imagefolder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert HFImages(id=str(folder)).pool("train").classes == CLASSES
