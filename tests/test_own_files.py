"""The outcome of pruning own data: rows, names, files, and folders that other tools can read."""

import csv
import json
import math

import pytest
import torch
from PIL import Image

from made_data import make_image_folder
from prunetune import Pool
from prunetune.base.errors import InputError
from prunetune.data.images.decode import ImageFiles
from prunetune.own import export
from prunetune.own.data import OwnData
from prunetune.own.duplicates import Duplicates
from prunetune.own.files import class_percentiles, write_files
from prunetune.own.subset import Subset
from prunetune.own.suspects import Suspects


def made(folder, names=None, layout="folders"):
    """Return eight image files of two classes in a reversed order, of which three are kept; the last is a copy."""
    root = make_image_folder(folder / "photos", {"bark": 4, "moss": 4})
    files = sorted(root.rglob("*.jpg"), reverse=True)
    ids = [path.relative_to(root).as_posix() for path in files]
    labels = torch.tensor([int(name.startswith("moss")) for name in ids])
    pool = Pool("photos", labels, tuple(ids), ("train",) * 8, ("bark", "moss"), ImageFiles(tuple(files)))
    files, given = [files[i] for i in pool.order], list(names or ids)
    given = [given[i] for i in pool.order]
    data = OwnData(pool, pool.order, 9, tuple(given), tuple(files), layout, left_out={"notes.txt": "no image"})
    scores = torch.tensor([1, 2, 3, 4, 1, 2, 3, math.nan], dtype=torch.float64)
    return Subset(data, torch.tensor([1, 3, 4]), scores, method="made", duplicates=Duplicates(((6, 7),)))


def size_of(path):
    with Image.open(path) as image:
        return image.size


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_positions_scores_and_names_are_in_the_users_order(tmp_path):
    subset = made(tmp_path)
    assert subset.positions.tolist() == [3, 4, 6]  # The pool's first image is the user's last one.
    assert [name.split("/")[0] for name in subset.kept_names] == ["moss", "bark", "bark"]
    assert subset.scores[7].item() == 1
    assert subset.scores[3].item() == 1
    assert subset.scores[0].isnan()  # This is the copy.
    assert subset.scores[8].isnan()  # This row was no candidate.
    assert [path.name for path in subset.kept_paths] == [name.split("/")[1] for name in subset.kept_names]
    assert len(subset.dropped_paths) == 5
    assert repr(subset) == "Subset: 3 of 8 samples of 2 classes kept by made"


def test_the_tables_say_why_each_sample_is_kept_or_not(tmp_path):
    subset = made(tmp_path)
    (tmp_path / "out").mkdir()
    write_files(subset, tmp_path / "out")
    everything, kept = rows(tmp_path / "out" / "all.csv"), rows(tmp_path / "out" / "kept.csv")
    assert [row["row"] for row in everything] == [*map(str, range(8)), ""]
    assert [row["row"] for row in kept] == ["3", "4", "6"]
    assert (tmp_path / "out" / "kept.txt").read_text().split() == list(subset.kept_names)
    assert everything[0]["reason"] == f"duplicate of {everything[1]['name']}"
    assert (everything[0]["score"], everything[0]["duplicate_group"]) == ("", "0")
    assert (everything[-1]["name"], everything[-1]["reason"]) == ("notes.txt", "left out: no image")
    assert [row["percentile"] for row in everything[4:8]] == ["100", "75", "50", "25"]
    assert all(row["path"].startswith(str(tmp_path)) for row in everything[:8])
    frame = subset.to_frame()
    assert frame["kept"].tolist() == [False, False, False, True, True, False, True, False]


def test_the_tables_name_the_class_that_a_suspect_sample_looks_like(tmp_path):
    subset = made(tmp_path)
    is_suspect = torch.tensor([False] * 3 + [True] + [False] * 4)
    suspects = Suspects(torch.linspace(0, 1, 8), torch.ones(8, dtype=torch.int64), is_suspect)
    (tmp_path / "out").mkdir()
    write_files(subset, tmp_path / "out", suspects=suspects)
    named = {row["name"]: row["suspect_label"] for row in rows(tmp_path / "out" / "all.csv")}
    assert [name for name, label in named.items() if label] == [subset.data.names[3]]
    assert named[subset.data.names[3]] == "moss"
    assert [row["suspect_label"] for row in rows(tmp_path / "out" / "kept.csv")].count("moss") == 1


def test_percentiles_count_equal_scores_as_not_larger():
    scores = torch.tensor([1.0, 1.0, 3.0, math.nan, 5.0], dtype=torch.float64)
    found = class_percentiles(scores, torch.tensor([0, 0, 0, 0, 1]))
    assert found[:3].tolist() == pytest.approx([200 / 3, 200 / 3, 100])
    assert found[3].isnan()
    assert found[4].item() == 100


@pytest.mark.parametrize("form", ["link", "copy"])
def test_a_folder_keeps_its_layout(tmp_path, form):
    subset = made(tmp_path)
    folder = subset.to_folder(tmp_path / "kept", form)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert found == sorted(subset.sample_ids)
    assert all(path.is_symlink() == (form == "link") for path in folder.rglob("*.jpg"))
    assert size_of(folder / found[0]) == size_of(subset.kept_paths[-1])
    with pytest.raises(InputError, match="has content already"):
        subset.to_folder(tmp_path / "kept", form)


def test_where_links_cannot_be_made_the_images_are_copied_and_a_line_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(export, "_linked", lambda source, target: False)
    folder = made(tmp_path).to_folder(tmp_path / "kept")
    assert len([path for path in folder.rglob("*.jpg") if not path.is_symlink()]) == 3
    assert caplog.text.count("the kept images are copied") == 1


def test_images_of_a_table_go_to_their_class_and_colliding_names_keep_their_folders(tmp_path):
    names = [f"{'ab'[i % 2]}/same.jpg" if i in (4, 6) else f"x/{i}.jpg" for i in range(8)]
    subset = made(tmp_path, names, "table")
    files = [tmp_path / name for name in names]
    object.__setattr__(subset.data, "paths", tuple(files[i] for i in subset.pool.order.tolist()))
    assert export.layout(subset) == ["moss/3.jpg", "bark/a/same.jpg", "bark/a/same.jpg"]


def test_coco_has_an_image_a_category_and_an_annotation_for_each(tmp_path):
    folder = made(tmp_path).to_folder(tmp_path / "kept", "coco")
    content = json.loads((folder / "annotations.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["bark", "moss"]
    assert [note["category_id"] for note in content["annotations"]] == [2, 1, 1]
    for image in content["images"]:
        assert size_of(folder / image["file_name"]) == (image["width"], image["height"])


def test_a_saved_hugging_face_dataset_has_the_images_and_the_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    subset = made(tmp_path)
    saved = datasets.load_from_disk(str(subset.to_folder(tmp_path / "kept", "hf")))
    assert saved["label"] == [1, 0, 0]
    assert saved.features["label"].names == ["bark", "moss"]
    assert saved[0]["image"].size == size_of(subset.kept_paths[0])


def test_a_folder_gives_a_torch_dataset_of_the_kept_images_in_the_users_order(tmp_path):
    subset = made(tmp_path)
    kept = subset.as_torch(transform=lambda image: image.size)
    sizes = [size_of(path) for path in subset.kept_paths]
    assert [kept[row] for row in range(3)] == list(zip(sizes, [1, 0, 0], strict=True))
    assert (kept.classes, kept.targets) == (["bark", "moss"], [1, 0, 0])
    assert isinstance(subset.as_torch()[2][0], Image.Image)
    [(sizes, labels)] = torch.utils.data.DataLoader(kept, batch_size=4)
    assert (len(sizes[0]), labels.tolist()) == (3, [1, 0, 0])


def test_the_kept_part_of_another_data_set_is_refused(tmp_path):
    subset = made(tmp_path)
    assert list(subset.as_torch(list(range(9)))) == [3, 4, 6]
    with pytest.raises(InputError, match="should have the 9 items, has 3"):
        subset.as_torch([1, 2, 3])
    with pytest.raises(InputError, match="has the transform of the dataset"):
        subset.as_torch(list(range(9)), transform=str)
    with pytest.raises(InputError, match="dataset must be a map-style dataset, got int"):
        subset.as_torch(3)
