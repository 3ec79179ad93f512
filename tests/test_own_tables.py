"""Tables, frames and lists: columns are guessed and printed, and every wrong row is named."""

import json

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from PIL import Image

from own_inputs import CLASSES, by_command, classes_of, labels_by_row, make_folders, rows
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.data.readers.image_folder import ImageFolder
from prunetune.own.read import ReadOptions, read
from prunetune.runs.records import write_subset

EACH = dict.fromkeys(CLASSES, 4)
BODY = "".join(f"{path},{label}\n" for path, label in rows())
PLAIN = f"path,label\n{BODY}"


@pytest.fixture
def folder(tmp_path):
    return make_folders(tmp_path / "photos", *CLASSES)


def table(folder, text, name="list.csv", encoding="utf-8", **options):
    (folder / name).write_bytes(text.encode(encoding))
    return by_command(folder / name, **options)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PLAIN, "list.csv"),
        ("\ufeff" + PLAIN.replace("\n", "\r\n"), "list.csv"),
        ("label,path\n" + "".join(f"{label},{path}\n" for path, label in rows()), "list.csv"),
        (PLAIN.replace("/", "\\"), "list.csv"),
        (PLAIN.replace(",", ";"), "list.csv"),
        (PLAIN.replace(",", "\t"), "list.TSV"),
        (PLAIN.replace("path,label", '"File Name","Class"'), "list.csv"),
        (PLAIN.replace("\n", "\n\n"), "list.csv"),
        ("".join(json.dumps({"image": path, "category": label}) + "\n" for path, label in rows()), "list.jsonl"),
    ],
)
def test_tables_of_every_make_are_read(folder, text, name):
    data = table(folder, text, name)
    assert classes_of(data) == EACH
    assert labels_by_row(data) == [label for _, label in rows()]
    assert sorted(data.rows.tolist()) == list(range(12))
    assert [line.split(":")[0] for line in data.described()[1:]] == ["image column", "label column"]


def test_quoted_names_with_commas(folder):
    (folder / "crab" / "crab00.jpg").rename(folder / "crab" / "a, b.jpg")
    data = table(folder, 'path,label\n"crab/a, b.jpg","crab, big"\neel/eel00.jpg,eel\n')
    assert classes_of(data) == {"crab, big": 1, "eel": 1}
    assert data.names == ("crab/a, b.jpg", "eel/eel00.jpg")


def test_rows_of_a_table_are_those_below_its_header(folder):
    lines = [f"{path},{label}" for path, label in reversed(rows())]
    data = table(folder, "\n".join(["path,label", *lines]))
    order = data.rows.argsort().tolist()
    assert [data.names[position] for position in order] == [path for path, _ in reversed(rows())]
    assert [data.paths[position].name for position in order] == [path.split("/")[1] for path, _ in reversed(rows())]


MISSING = PLAIN + "crab/no.jpg,crab\n,eel\nhttp://x.org/y.jpg,eel\n"


def test_every_row_that_cannot_be_read_is_named_or_left_out(folder, caplog):
    with pytest.raises(InputError) as caught:
        table(folder, MISSING)
    expected = (
        "3 of 15 rows cannot be read: line 14: crab/no.jpg (no such file), line 15 (it names no image), line 16: "
        "http://x.org/y.jpg (an address on the network is not read, download the image); repair or remove them, or "
        "leave them out with --on-error skip"
    )
    assert str(caught.value) == expected
    data = table(folder, MISSING, on_error="skip")
    assert (classes_of(data), data.num_rows, len(data.left_out)) == (EACH, 15, 3)
    assert "1 left out (no such file): line 14: crab/no.jpg" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BODY, "list.csv is no header, it names the image 'crab/crab00.jpg'; put a line such as path,label"),
        (PLAIN + "a,b,c\n", "line 14: 3 fields where the header has 2; put a field that holds ',' into quotes"),
        (PLAIN + '"a,b\n', "list.csv, line 14: unexpected end of data; correct the quotes"),
        (PLAIN + "crab/crab00.jpg,eel\n", "crab/crab00.jpg has the label 'crab' in line 2 and 'eel' in line 14"),
        (PLAIN + "./crab/crab00.jpg,eel\n", "has the label 'crab' in line 2 and 'eel' in line 14"),
        (PLAIN.replace("01.jpg,eel", "01.jpg,"), r"1 of 12 rows cannot be read: line 7 \(it has no label\)"),
        ("path,image,label\na,b,c\n", "path and image of list.csv could both be the image; .*--image-column path"),
        ("path,label,class\na,b,c\n", "label and class of list.csv could both be the label; .*--label-column label"),
        ("when,what\n1,2\n", "no column with a usual name for the image; it has when, what; .*--image-column"),
        ("path,path\na,b\n", "list.csv has the column 'path' twice"),
        ("", "list.csv is empty"),
        ("path,label\n", "list.csv has no rows"),
        ("path,label\nx/a.jpg,cat\n", r"none of the 1 images .* is there, first: line 2: x/a.jpg \(no such file\)"),
        (PLAIN.replace("crab/crab00.jpg,crab", "crab/crab00.jpg,0.5").replace(",crab", ",1").replace(",eel", ",2")
         .replace(",owl", ",3"), "line 2 has the label 0.5, a number with a decimal point"),
        (PLAIN.replace(",crab", ",crab|owl"), r"line 2 has several labels in one field \(crab\|owl\)"),
        (PLAIN.replace(",crab", ",crab;owl"), r"line 2 has several labels in one field \(crab;owl\)"),
        (PLAIN.replace(",crab", ",1 0 0").replace(",eel", ",0 1 1").replace(",owl", ",0 0 0"), r"several.*\(1 0 0\)"),
        (PLAIN.replace(",crab", ',"[0, 1]"'), r"line 2 has several labels in one field \(\[0, 1\]\)"),
        (PLAIN.replace(",crab", ",-1").replace(",eel", ",0").replace(",owl", ",1"), "line 2 has the label -1"),
    ],
)  # fmt: skip
def test_wrong_tables_are_one_line_that_names_the_row(folder, text, message):
    with pytest.raises(InputError, match=message) as caught:
        table(folder, text)
    assert "\n" not in str(caught.value)


def test_labels_in_all_combinations_are_several_labels_and_names_with_commas_are_not(folder):
    combined = ["a", "b", "a,b", "b,c", "a,c", "a,b,c", "c"]
    text = "".join(f'{path},"{combined[i % 7]}"\n' for i, (path, _) in enumerate(rows()))
    with pytest.raises(InputError, match=r"line 4 has several labels in one field \(a,b\)"):
        table(folder, f"path,label\n{text}")
    assert len(classes_of(table(folder, f"path,label\n{text}", labels_from="column"))) == 7
    names = {"crab": "crab, king", "eel": "eel, moray, sea", "owl": "owl"}
    text = "".join(f'{path},"{names[label]}"\n' for path, label in rows())
    assert set(classes_of(table(folder, f"path,label\n{text}"))) == set(names.values())


def test_a_label_of_its_own_for_each_row_is_refused(folder):
    many = make_folders(folder / "many", *CLASSES, count=8)
    text = "".join(f"{path},id_{i}\n" for i, (path, _) in enumerate(rows(8)))
    with pytest.raises(InputError, match="each of the 24 rows has a label of its own, such as 'id_0' of line 2"):
        table(many, f"path,label\n{text}")


def test_paths_start_from_the_root_and_stay_inside(folder, tmp_path):
    (tmp_path / "list.csv").write_text(PLAIN)
    with pytest.raises(InputError, match="none of the 12 images of list.csv is there.*--root <folder> gives another"):
        by_command(tmp_path / "list.csv")
    assert classes_of(by_command(tmp_path / "list.csv", root=folder)) == EACH
    with pytest.raises(InputError, match=r"line 14: \.\./out\.jpg \(outside --root"):
        table(folder, PLAIN + "../out.jpg,crab\n", root=folder)
    with pytest.raises(InputError, match="--root nowhere is no folder"):
        by_command(tmp_path / "list.csv", root="nowhere")


def test_the_subset_of_a_run_is_a_list(folder, tmp_path):
    pool = ImageFolder(root=str(folder)).pool("train")
    write_subset(tmp_path / "subset.csv", pool, torch.tensor([0, 2, 5]))
    data = by_command(tmp_path / "subset.csv", root=folder)
    assert data.pool.sample_ids == tuple(pool.sample_ids[i] for i in (0, 2, 5))
    assert labels_by_row(data) == [str(int(pool.labels[i])) for i in (0, 2, 5)]


def test_a_column_of_splits_is_honoured(folder):
    text = "".join(f"{path},{label},{'Train' if i % 2 else 'test'}\n" for i, (path, label) in enumerate(rows()))
    data = table(folder, f"path,label,split\n{text}")
    assert data.rows.tolist() == [1, 3, 5, 7, 9, 11]
    assert (data.left_out, len(data.others)) == ({"test (6 rows)": "another split"}, 6)
    assert len(table(folder, f"path,label,split\n{text}", split="all").pool) == 12


def test_a_table_without_labels_says_so(folder, caplog):
    data = table(folder, PLAIN.replace("label", "when"))
    assert not data.is_labelled
    assert "no label column among when; the images are taken without labels (--label-column" in caplog.text
    caplog.clear()
    assert not table(folder, PLAIN, labels_from="none").is_labelled
    assert not table(folder, "file\n" + "".join(f"{path}\n" for path, _ in rows())).is_labelled
    assert caplog.text == ""


def test_an_image_that_is_listed_twice_is_counted_once(folder):
    data = table(folder, PLAIN + "./crab/crab00.jpg,crab\n")
    assert (classes_of(data), data.num_rows) == (EACH, 13)
    assert data.left_out == {"line 14: ./crab/crab00.jpg": "listed before"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_that_is_not_utf8_is_named(folder, encoding):
    with pytest.raises(InputError, match="list.csv is not UTF-8 text; save it as UTF-8"):
        table(folder, "path,label\ncafé.jpg,a\n", encoding=encoding)


@pytest.mark.parametrize("line", ["not json", "[1]", '"text"'])
def test_a_line_that_is_no_json_object_is_named(folder, line):
    with pytest.raises(InputError, match="list.jsonl, line 2 is no JSON object"):
        table(folder, f'{{"path": "a.jpg"}}\n{line}\n', "list.jsonl")


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


PATHS, LABELS = [path for path, _ in rows()], [label for _, label in rows()]


@pytest.mark.parametrize(
    "given",
    [
        lambda: pd.DataFrame({"path": PATHS, "label": LABELS}, index=range(50, 62)),
        lambda: pd.DataFrame({"path": PATHS, "label": pd.Categorical(LABELS)}),
        lambda: polars.DataFrame({"path": PATHS, "label": LABELS}),
        lambda: rows(),
        lambda: [list(row) for row in rows()],
        lambda: [{"image": path, "label": label} for path, label in rows()],
        lambda: (PATHS, LABELS),
        lambda: (np.array(PATHS), np.array(LABELS)),
        lambda: (pd.Series(PATHS), pd.Series(LABELS)),
        lambda: (polars.Series(PATHS), polars.Series(LABELS)),
        lambda: [(Image.open(path), label) for path, label in rows()],
        lambda: pd.DataFrame({"image": [open(path, "rb").read() for path in PATHS], "label": LABELS}),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_frames_and_lists_are_read_in_their_order(in_folder, given):
    data = read(given())
    assert (classes_of(data), labels_by_row(data)) == (EACH, LABELS)
    first = data.rows.argsort()[0]
    assert data.pool.images.decode(int(first)).shape == (3, 12, 16)


@pytest.mark.parametrize("made", [pd.Series, polars.Series, np.array, tuple])
def test_columns_of_paths_have_no_labels(in_folder, made):
    data = read(made(PATHS))
    assert (len(data.pool), data.is_labelled, data.names) == (12, False, tuple(PATHS))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5 * i for i in range(12)], "row 0 has the label 0.0, a number with a decimal point.*ReadOptions"),
        ([1.0, 0.0] * 6, r"convert them \(1, not 1\.0\)"),
        ([0, 1, None] * 4, r"4 of 12 rows cannot be read: row 2, row 5, row 8, row 11 \(it has no label\); repair"),
        ([["a", "b"]] * 12, "row 0 has several labels in one field"),
        ([np.eye(3)[0]] * 12, "row 0 has several labels in one field"),
        (["a", 1] * 6, "row 0 has the label 'a' and row 1 1; give texts only or whole numbers only"),
        ([-1, 1] * 6, "row 0 has the label -1, which often means 'without a label'"),
        ([object()] * 12, "row 0 has a label of type object"),
        ([None] * 12, "no row has a label; score without labels with"),
    ],
)
def test_wrong_labels_are_refused_in_one_line(in_folder, labels, message):
    frame = pd.DataFrame({"path": PATHS, "label": pd.Series(labels, dtype=object)})
    with pytest.raises(InputError, match=message) as caught:
        read(frame)
    assert "--" not in str(caught.value)
    assert len(read(frame, ReadOptions(labels_from="none")).pool) == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the list is empty"),
        ([("a.jpg", 0), "b.jpg"], "row 1 is no pair"),
        ((["a.jpg"], [0, 1]), "there are 1 images and 2 labels"),
        ([(3, 0)], "row 0 should hold a path, an image or the bytes of one, holds int"),
        (7, "data must be a folder, a table.*got int"),
        ({"a": 1}, "data must be .*got dict"),
        (polars.DataFrame({"path": ["a"]}).lazy(), "the frame is lazy"),
    ],
)
def test_other_objects_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        read(given)


def test_bool_labels_are_two_classes(in_folder):
    assert classes_of(read(list(zip(PATHS, [True, False] * 6, strict=True)))) == {"False": 6, "True": 6}


def test_a_pool_is_taken_as_it_is(in_folder):
    pool = ImageFolder(root=".").pool("train")
    data = read(pool)
    assert data.pool is pool
    with pytest.raises(InputError, match="give its features as embeddings"):
        read(Pool("made", torch.arange(2), ("a", "b"), ("train",) * 2, ("x", "y")))


@pytest.mark.parametrize("text", ["x" * 5000, "~nobody_here/a.jpg", "a\0b.jpg", "crab"])
def test_a_text_that_can_be_no_path_is_one_line(in_folder, text):
    with pytest.raises(InputError, match=r"1 of 2 rows cannot be read: row 1: .*\((no such file|it is a folder)\)"):
        read([(PATHS[0], "crab"), (text, "eel")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_from": "file"}, "--labels-from must be one of auto, folders, column, none, got 'file'"),
        ({"on_error": "go"}, "--on-error must be one of stop, skip"),
        ({"max_pixels": 0}, "--max-pixels must be a whole number of at least 1"),
        ({"hold_out": 1.0}, r"--hold-out must be in \(0, 1\)"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(InputError, match=message):
        by_command("anything", **options)
    with pytest.raises(InputError, match=message[2:].replace("labels-", "labels_").replace("-", "_")[:10]):
        ReadOptions(**options)
