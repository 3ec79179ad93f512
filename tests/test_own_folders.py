"""Folders as people have them: splits are never classes, nothing is left out without a word."""

import os
import shutil

import pytest

from made_data import make_image
from own_inputs import CLASSES, SIZE, by_command, classes_of, in_classes, make_folders
from prunetune.base.errors import InputError
from prunetune.data.readers.image_folder import ImageFolder
from prunetune.own.folder import OutFolder, mark
from prunetune.own.read import ReadOptions, read

EACH = dict.fromkeys(CLASSES, 4)


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("train", "dev"),
        ("train", "val"),
        ("TRAIN", "Validation"),
        ("train_images", "test_images"),
        ("train2017", "val2017"),
    ],
)
def test_splits_are_never_classes(tmp_path, caplog, chosen, other):
    data = by_command(make_folders(tmp_path, *in_classes(chosen, other)))
    assert classes_of(data) == EACH
    assert {name.split("/")[0] for name in data.names} == {chosen}
    assert len(data.others) == 12
    assert f"1 left out (another split): {other}/ (12 images)" in caplog.text
    assert data.described()[1] == f"split: {chosen}"


def test_a_split_can_be_chosen_by_its_name_its_kind_or_all(tmp_path):
    folder = make_folders(tmp_path, *in_classes("Train", "Validation", "Test"), count=2)
    assert {name.split("/")[0] for name in by_command(folder, split="val").names} == {"Validation"}
    both = by_command(folder, split="train,test")
    assert ({name.split("/")[0] for name in both.names}, len(both.pool)) == ({"Train", "Test"}, 12)
    assert len(both.others) == 6
    assert len(by_command(folder, split="all").pool) == 18
    with pytest.raises(InputError, match="no split 'extra'; it has Train, Test, Validation"):
        by_command(folder, split="extra")


def test_without_a_training_split_the_user_chooses(tmp_path):
    with pytest.raises(InputError, match="the splits test, val; choose with --split test, or .*--split all"):
        by_command(make_folders(tmp_path, *in_classes("val", "test")))


@pytest.mark.parametrize("flat", ["test", "val"])
def test_a_flat_split_beside_class_folders_has_no_labels_and_is_left_out(tmp_path, caplog, flat):
    data = by_command(make_folders(tmp_path, *in_classes("train"), flat))
    assert classes_of(data) == EACH
    assert f"(a split without class folders, so without labels): {flat}/ (4 images)" in caplog.text
    assert data.others.sample_ids == tuple(f"{flat}/{flat}{number:02d}.jpg" for number in range(4))


def test_splits_inside_class_folders_are_splits_too(tmp_path):
    data = by_command(make_folders(tmp_path, *(f"{name}/{split}" for name in CLASSES for split in ("train", "test"))))
    assert classes_of(data) == EACH
    assert len(data.others) == 12


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["train", "crab"],
            "train in .* look like splits, and crab like classes;.*--split train.*-from folders",
        ),
        (
            ["train", "test"],
            "train, test in .* hold images, but no class folders;.*--split train.*-from folders",
        ),
        (["train/images", "val/images"], "train, val in .* hold images, but no class folders"),
        (["images_64", "images_128"], "images_128, images_64 of .* are called after what they hold, not after classes"),
        (in_classes("101_Things"), "has the one folder '101_Things', which has the folders crab, eel, owl"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused_with_both(tmp_path, folders, message):
    with pytest.raises(InputError, match=message):
        by_command(make_folders(tmp_path, *folders))


def test_the_user_says_which_way_is_meant(tmp_path):
    folder = make_folders(tmp_path, "train", "test")
    assert classes_of(by_command(folder, labels_from="folders")) == {"train": 4, "test": 4}
    flat = by_command(folder, split="train")
    assert (flat.is_labelled, len(flat.pool), len(flat.others)) == (False, 4, 4)
    unlabelled = by_command(make_folders(tmp_path / "more", *CLASSES), labels_from="none")
    assert (unlabelled.is_labelled, unlabelled.layout, len(unlabelled.pool)) == (False, "flat", 12)


def test_images_below_a_folder_called_images_and_nested_ones(tmp_path):
    data = by_command(make_folders(tmp_path / "a", *in_classes("images")))
    assert classes_of(data) == EACH
    assert "classes are the folders of images/" in data.described()
    nested = by_command(make_folders(tmp_path / "b", "crab/left", "crab/right", "eel/left", "owl"))
    assert classes_of(nested) == {"crab": 8, "eel": 4, "owl": 4}
    splits = by_command(make_folders(tmp_path / "c", *in_classes("train/images", "test/images")))
    assert classes_of(splits) == EACH


def test_one_class_and_a_flat_folder(tmp_path):
    assert by_command(make_folders(tmp_path / "a", "crab")).described() == ["4 images, 1 class: crab 4"]
    flat = by_command(make_folders(tmp_path / "b", ""))
    assert (flat.described(), flat.is_labelled, flat.layout) == (["4 images without labels"], False, "flat")


def test_what_is_no_image_does_not_stop_and_is_counted(tmp_path, caplog):
    folder = make_folders(tmp_path, *CLASSES)
    make_image(folder / "crab" / "@eaDir" / "crab00.jpg" / "thumb.jpg", "x", size=SIZE)
    (folder / "empty").mkdir()
    for place in ("annotations/a.xml", "notes.txt", "crab/b.svg", ".DS_Store", "eel/Thumbs.db", ".cache/x.jpg"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text("")
    (folder / "owl" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    make_image(folder / "cover.jpg", "x", size=SIZE)
    data = by_command(folder)
    assert classes_of(data) == EACH
    lines = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert lines == {
        "1 left out (folders of the system): crab/@eaDir/",
        "1 left out (hidden folders): .cache/",
        "2 left out (folders without images): annotations/, empty/",
        "2 left out (no images): notes.txt, annotations/a.xml",
        "1 left out (.svg is not read): crab/b.svg",
        "2 left out (files of the system): .DS_Store, eel/Thumbs.db",
        "1 left out (links to nothing): owl/gone.jpg",
        "1 left out (outside the class folders): cover.jpg",
    }


def test_an_annotations_folder_beside_splits_is_no_class(tmp_path):
    folder = make_folders(tmp_path, *in_classes("train", "test"))
    (folder / "annotations").mkdir()
    (folder / "annotations" / "a.json").write_text("{}")
    assert classes_of(by_command(folder)) == EACH


def test_many_images_beside_a_few_folders_are_refused(tmp_path):
    make_folders(tmp_path, "thumbs", count=2)
    make_folders(tmp_path, "", count=5)
    with pytest.raises(InputError, match="5 images lie directly in .* and 2 in its folders thumbs; take all without"):
        by_command(tmp_path)


def test_the_folder_that_is_written_to_is_not_read(tmp_path):
    folder = make_folders(tmp_path, *CLASSES, "pruned/crab")
    data = by_command(folder, leave_out=folder / "pruned")
    assert (classes_of(data), data.left_out["pruned/"]) == (EACH, "the folder that is written to")


def test_folders_that_an_earlier_prune_has_written_are_not_read(tmp_path):
    folder = make_folders(tmp_path / "photos", *CLASSES)
    for name in ("old", "crab/old", "val"):
        OutFolder(folder / name, {}).write(mark(read(folder)), lambda partial: make_folders(partial, "images/crab"))
    (folder / "owl" / "prune.json").write_text('{"tree": "plum"}')  # This is a file of the user.
    data = by_command(folder)
    reason = "folders that an earlier prune has written"
    assert classes_of(data) == EACH
    assert [name for name, why in data.left_out.items() if why == reason] == ["old/", "val/", "crab/old/"]
    assert len(by_command(folder / "old").pool) == 4  # The user may ask for one of them.


def test_rows_count_the_sorted_paths_and_files_are_named(tmp_path):
    data = read(str(make_folders(tmp_path, *CLASSES)))
    assert data.rows.tolist() == list(range(12))
    assert data.names[4] == "eel/eel00.jpg"
    assert data.paths[4] == tmp_path / "eel" / "eel00.jpg"
    assert data.num_rows == 12
    assert (data.layout, data.source) == ("folders", tmp_path)


def test_folder_names_may_look_like_anything(tmp_path):
    data = by_command(make_folders(tmp_path, "0.5", "a;b", "a", "-1"))
    assert classes_of(data) == {"-1": 4, "0.5": 4, "a": 4, "a;b": 4}
    numbers = by_command(make_folders(tmp_path / "n", "10", "2", "1"))
    assert numbers.pool.classes == ("1", "2", "10")


def test_class_names_that_differ_in_capitals_only_are_said(tmp_path):
    data = by_command(make_folders(tmp_path, "Cat", "cat"))
    assert "classes that differ only in capitals: Cat and cat" in data.described()


def test_a_circle_of_links_ends_and_a_name_that_is_not_utf8_is_refused(tmp_path):
    folder = make_folders(tmp_path, *CLASSES)
    (folder / "crab" / "up").symlink_to(folder)
    assert classes_of(by_command(folder)) == EACH
    os.rename(os.fsencode(folder / "owl" / "owl00.jpg"), os.fsencode(folder / "owl") + b"/\xff.jpg")
    with pytest.raises(InputError, match="is not UTF-8; rename the file"):
        by_command(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no file or folder .*nowhere; check the path, or write hf:"),
        ("empty", "is empty; expected images, or folders of them"),
        ("texts", r"holds no images; 1 left out, first: a\.txt \(no images\)"),
        ("a.zip", "is an archive; unpack it and give the folder"),
        ("a.npy", "holds arrays; give it as --embeddings"),
        ("a.doc", "is no folder and no table; tables end in .csv"),
    ],
)
def test_what_is_no_data_is_one_line(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for file in ("texts/a.txt", "a.zip", "a.npy", "a.doc"):
        (tmp_path / file).write_text("x")
    with pytest.raises(InputError, match=message) as caught:
        by_command(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_words_are_those_of_the_door(tmp_path):
    folder = make_folders(tmp_path, "train", "test")
    with pytest.raises(InputError, match=r'read_as=ReadOptions\(labels_from="folders"\)') as caught:
        read(folder)
    assert "--" not in str(caught.value)


def test_hold_out_reads_a_folder_as_a_run_does(tmp_path):
    folder = make_folders(tmp_path / "photos", *CLASSES)
    data = read(folder, ReadOptions(hold_out=0.25))
    pool = ImageFolder(root=str(folder), test_fraction=0.25).pool("train")
    assert (data.pool.sample_ids, data.pool.labels.tolist()) == (pool.sample_ids, pool.labels.tolist())
    assert len(data.others) == 3
    assert data.num_rows == 12
    shutil.rmtree(folder / "eel")
    shutil.rmtree(folder / "owl")
    with pytest.raises(InputError, match="expected two or more classes") as caught:
        read(folder, ReadOptions(hold_out=0.25))
    assert "dataset." not in str(caught.value)


def test_the_list_of_an_imagefolder_gives_the_labels(tmp_path, caplog):
    folder = make_folders(tmp_path, "train/files", "test/files")
    lines = [f"files/files{number:02d}.jpg,{'ab'[number % 2]}" for number in range(3)]
    (folder / "train" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    data = by_command(folder)
    assert classes_of(data) == {"a": 2, "b": 1}
    assert "labels from train/metadata.csv" in data.described()
    assert data.left_out["files/files03.jpg"] == "not in metadata.csv"
    assert data.left_out["test/ (4 images)"] == "another split"
    assert len(data.others) == 4
