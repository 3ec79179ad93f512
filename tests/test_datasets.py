import colorsys
import gzip
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from made_data import (
    CLASSES,
    VARIANTS,
    make_cifar10,
    make_dtd,
    make_fgvcaircraft,
    make_image,
    make_image_folder,
    make_image_lists,
    make_split_folders,
    write_lines,
)
from prunetune.base.errors import InputError
from prunetune.data.pool import Dataset, Pool
from prunetune.data.readers import CIFAR10, DTD, FGVCAircraft, ImageFolder, SplitFolders
from prunetune.data.readers.listing import read_lines

# The data set of made_data has three classes. Each has 4 + 3 pool images and 2 test images.
COUNTS = {"num_classes": 3, "num_pool": 21, "num_test": 6}


def read(dataset: Dataset) -> tuple[Pool, Pool]:
    return dataset.pool("train"), dataset.pool("test")


def split_folders(root: Path, **changes: object) -> SplitFolders:
    given = {"name": "deepweeds", "root": str(root), "prepare": "prunetune prepare deepweeds", **COUNTS}
    return SplitFolders(**{**given, **changes})


def dtd(root: Path, **changes: object) -> DTD:
    return DTD(**{"root": str(root), **COUNTS, **changes})


def aircraft(root: Path, **changes: object) -> FGVCAircraft:
    return FGVCAircraft(**{"root": str(root), **COUNTS, **changes})


def ids(root: Path, **settings: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    pool, test = read(ImageFolder(root=str(root), **settings))
    return pool.sample_ids, test.sample_ids


MADE: dict[str, tuple[Callable[[Path], Path], Callable[..., Dataset]]] = {
    "dtd": (make_dtd, dtd),
    "fgvcaircraft": (make_fgvcaircraft, aircraft),
    "deepweeds": (make_split_folders, split_folders),
}


@pytest.mark.parametrize("name", MADE)
def test_a_reader_finds_pool_and_test_set(tmp_path: Path, name: str) -> None:
    make, dataset = MADE[name]
    pool, test = read(dataset(make(tmp_path)))
    assert (pool.name, test.name) == (name, name)
    assert pool.class_counts.tolist() == [7, 7, 7]
    assert test.class_counts.tolist() == [2, 2, 2]
    assert [pool.splits.count(split) for split in ("train", "val")] == [12, 9]
    assert set(test.splits) == {"test"}
    assert not set(pool.sample_ids) & set(test.sample_ids)
    assert all((tmp_path / sample_id).is_file() for sample_id in pool.sample_ids + test.sample_ids)
    assert pool.images is not None
    assert pool.images.decode(0).shape == (3, 40, 48)


@pytest.mark.parametrize("name", MADE)
def test_each_image_belongs_to_its_own_id_and_class(tmp_path: Path, name: str) -> None:
    make, dataset = MADE[name]
    pool = dataset(make(tmp_path)).pool("train")
    assert pool.images is not None
    # All images of a class in the made data have one hue.
    hues = [hue(pool.images.decode(position)) for position in range(len(pool))]
    spread = [np.ptp([hues[i] for i in range(len(pool)) if pool.labels[i] == label]) for label in range(3)]
    means = sorted(np.mean([hues[i] for i in range(len(pool)) if pool.labels[i] == label]) for label in range(3))
    assert max(spread) < min(np.diff(means)) / 2
    paths = [(tmp_path / sample_id).read_bytes() for sample_id in pool.sample_ids]
    assert [(pool.images.paths[i]).read_bytes() for i in range(len(pool))] == paths


def hue(image: torch.Tensor) -> float:
    return colorsys.rgb_to_hsv(*(image.double().mean((1, 2)) / 255).tolist())[0]


@pytest.mark.parametrize("name", MADE)
def test_wrong_numbers_give_a_one_line_error_that_tells_how_to_name_a_subset(tmp_path: Path, name: str) -> None:
    make, dataset = MADE[name]
    made = make(tmp_path)
    with pytest.raises(InputError) as caught:
        dataset(made, num_test=7).pool("train")
    assert str(caught.value) == (
        f"{name} is incomplete or another edition: expected 3 classes, 21 pool and 7 test images, found 3 classes, "
        "21 pool and 6 test images; prepare the data set again, "
        "or for a subset on purpose pass dataset.name=<other> dataset.check_counts=false"
    )
    for wrong in ({"num_pool": 22}, {"num_classes": 4}):
        with pytest.raises(InputError, match="expected"):
            dataset(made, **wrong).pool("test")
    assert len(dataset(made, name="some", num_test=7, check_counts=False).pool("test")) == 6


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (DTD(), "dtd is not in data/dtd; run `prunetune prepare dtd`"),
        (FGVCAircraft(), "fgvcaircraft is not in data/fgvcaircraft; run `prunetune prepare fgvcaircraft`"),
        (CIFAR10(), "cifar10 is not in data/cifar10; run `prunetune prepare cifar10`"),
        (
            split_folders(Path("data/deepweeds")),
            "deepweeds is not in data/deepweeds; run `prunetune prepare deepweeds`",
        ),
    ],
)
def test_missing_data_name_the_command_that_prepares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        dataset.pool("train")
    assert str(caught.value) == message + " or pass dataset.root=<folder>"


@pytest.mark.parametrize(
    ("name", "gone"),
    [("dtd", "labels/val1.txt"), ("fgvcaircraft", "data/variants.txt"), ("deepweeds", "val")],
)
def test_a_missing_part_names_the_command_that_prepares_it(tmp_path: Path, name: str, gone: str) -> None:
    make, dataset = MADE[name]
    make(tmp_path)
    shutil.rmtree(tmp_path / gone) if (tmp_path / gone).is_dir() else (tmp_path / gone).unlink()
    with pytest.raises(InputError, match=f"{name} is incomplete: .*{gone} is missing; run `prunetune prepare {name}`"):
        dataset(tmp_path).pool("train")


def test_listed_files_that_are_missing_are_counted(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    for number in (2, 5):
        (tmp_path / f"images/dotted/dotted_000{number}.jpg").unlink()
    with pytest.raises(InputError, match=r"2 of 27 listed files are missing, first: .*dotted_0002.jpg; run"):
        dtd(tmp_path).pool("test")


@pytest.mark.parametrize("part", ["val", "Train", ""])
def test_another_part_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(InputError, match="must be 'train' or 'test'"):
        dtd(make_dtd(tmp_path)).pool(part)


def test_dtd_reads_the_partition_that_is_asked_for(tmp_path: Path) -> None:
    make_dtd(tmp_path, partition=3)
    assert len(dtd(tmp_path, partition=3).pool("train")) == 21
    with pytest.raises(InputError, match="test1.txt|train1.txt"):
        dtd(tmp_path).pool("train")
    for wrong in (0, 11):
        with pytest.raises(InputError, match=r"dataset\.partition must be a whole number in 1\.\.10"):
            DTD(partition=wrong)


@pytest.mark.parametrize("line", ["dotted_0001.jpg", "a/b/c.jpg"])
def test_a_dtd_line_without_class_and_file_is_refused(tmp_path: Path, line: str) -> None:
    make_dtd(tmp_path)
    write_lines(tmp_path / "labels/val1.txt", [line])
    with pytest.raises(InputError, match="expected lines '<class>/<file>'"):
        dtd(tmp_path).pool("train")


def test_aircraft_classes_stand_in_the_order_of_their_file(tmp_path: Path) -> None:
    pool, test = read(aircraft(make_fgvcaircraft(tmp_path)))
    assert pool.classes == test.classes == VARIANTS
    first = pool.sample_ids.index("data/images/0034309.jpg")
    assert pool.classes[pool.labels[first]] == "Boeing 707-320"


def test_an_aircraft_variant_that_is_not_in_the_list_is_refused(tmp_path: Path) -> None:
    make_fgvcaircraft(tmp_path)
    write_lines(tmp_path / "data/variants.txt", VARIANTS[:2])
    with pytest.raises(InputError, match="got '.* A340-200'; run `prunetune prepare fgvcaircraft`"):
        aircraft(tmp_path).pool("train")


def test_cifar10_reads_torchvisions_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar10(tmp_path, monkeypatch)
    pool, test = read(CIFAR10(root=str(tmp_path), num_pool=20, num_test=4))
    assert pool.sample_ids[:2] == ("train/00000", "train/00001")
    assert test.sample_ids[-1] == "test/00003"
    assert pool.labels[:5].tolist() == [0, 3, 6, 9, 0]
    assert set(pool.splits) == {"train"}
    assert pool.classes[3] == "object_3"
    assert pool.images is not None
    first_row = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)[0]
    assert np.array_equal(pool.images.decode(0).numpy(), first_row.reshape(3, 32, 32))


def test_cifar10_checks_counts_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar10(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="expected 10 classes, 50000 pool .* found 10 classes, 20 pool and 4 test"):
        CIFAR10(root=str(tmp_path)).pool("train")
    with (tmp_path / "cifar-10-batches-py" / "data_batch_2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="a file in it is damaged; run `prunetune prepare cifar10`"):
        CIFAR10(root=str(tmp_path), check_counts=False).pool("test")


def test_class_folders_are_split_by_class(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "flowers", {"rose": 20, "aster": 7, "lily": 2, "iris": 1})
    pool, test = read(ImageFolder(root=str(tmp_path / "flowers")))
    assert pool.name == "flowers"
    assert pool.classes == ("aster", "iris", "lily", "rose")
    # The counts are round(1.4), then 0 for a class of one image, then the minimum of one, and round(4.0).
    assert test.class_counts.tolist() == [1, 0, 1, 4]
    assert pool.class_counts.tolist() == [6, 1, 1, 16]


def test_a_high_test_fraction_leaves_an_image_of_each_class(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"a": 3, "b": 2})
    assert ImageFolder(root=str(tmp_path), test_fraction=0.9).pool("train").class_counts.tolist() == [1, 1]


def test_our_split_depends_on_its_seed_and_not_on_the_name_or_the_place(tmp_path: Path) -> None:
    sizes = {"a": 12, "b": 9}
    first = ids(make_image_folder(tmp_path / "one", sizes))
    assert ids(make_image_folder(tmp_path / "two", sizes), name="other") == first
    assert ids(tmp_path / "one", split_seed=1) != first


def test_our_split_is_the_order_of_sha256_digests(tmp_path: Path) -> None:
    _, test = ids(make_image_folder(tmp_path, {"a": 5, "b": 5}), test_fraction=0.4, split_seed=3)
    names = [f"b/image_000{number}.jpg" for number in range(5)]
    order = sorted(names, key=lambda name: hashlib.sha256(f"image_folder\nb\n3\n{name}".encode()).hexdigest())
    assert [sample_id for sample_id in test if sample_id[0] == "b"] == sorted(order[:2])


def test_our_split_of_a_class_does_not_depend_on_the_other_classes(tmp_path: Path) -> None:
    _, test = ids(make_image_folder(tmp_path, {"a": 12, "b": 9}))
    make_image_folder(tmp_path, {"c": 5})
    _, more = ids(tmp_path)
    assert [sample_id for sample_id in more if sample_id[0] != "c"] == list(test)


def test_the_order_in_which_a_folder_is_listed_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_image_folder(tmp_path, {"a": 8, "b": 5})
    before = read(ImageFolder(root=str(root)))
    walk, iterdir = os.walk, Path.iterdir
    monkeypatch.setattr(os, "walk", lambda *given, **named: ((p, d, f[::-1]) for p, d, f in walk(*given, **named)))
    monkeypatch.setattr(Path, "iterdir", lambda folder: reversed(list(iterdir(folder))))
    after = read(ImageFolder(root=str(root)))
    assert [pool.fingerprint for pool in after] == [pool.fingerprint for pool in before]


def test_train_val_and_test_folders_are_found(tmp_path: Path) -> None:
    pool, test = read(ImageFolder(root=str(make_split_folders(tmp_path))))
    assert pool.classes == CLASSES
    assert (len(pool), len(test)) == (21, 6)
    assert pool.splits.count("val") == 9
    assert test.sample_ids[0] == "test/banded/test_000.png"


def test_a_validation_folder_of_another_name_joins_the_pool(tmp_path: Path) -> None:
    make_split_folders(tmp_path)
    (tmp_path / "val").rename(tmp_path / "valid")
    assert ImageFolder(root=str(tmp_path)).pool("train").splits.count("val") == 9


def test_train_without_test_is_refused_and_not_taken_for_classes(tmp_path: Path) -> None:
    make_split_folders(tmp_path)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(InputError, match="has a folder train but none test; add it or pass dataset.test_root"):
        ImageFolder(root=str(tmp_path)).pool("train")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"train": 4, "bus": 3, "test": 5})
    assert ImageFolder(root=str(tmp_path)).pool("train").classes == ("bus", "test", "train")


def test_a_second_folder_may_hold_the_test_images(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "mine", {"a": 3, "b": 4})
    make_image_folder(tmp_path / "held_out", {"a": 2, "b": 1})
    pool, test = read(ImageFolder(root=str(tmp_path / "mine"), test_root=str(tmp_path / "held_out")))
    assert (len(pool), len(test)) == (7, 3)
    assert test.sample_ids[0] == "a/image_0000.jpg"


def test_a_test_root_inside_the_root_is_no_class(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"a": 3, "b": 4})
    make_image_folder(tmp_path / "held_out", {"a": 2, "b": 1})
    pool, test = read(ImageFolder(root=str(tmp_path), test_root="held_out"))
    assert pool.classes == ("a", "b")
    assert test.sample_ids[0] == "held_out/a/image_0000.jpg"


def test_the_root_is_refused_as_test_root(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "mine", {"a": 3, "b": 4})
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="test_root is dataset.root itself"):
        ImageFolder(root=str(tmp_path / "mine"), test_root=str(tmp_path / "link")).pool("test")


def lists(root: Path, **changes: str) -> ImageFolder:
    return ImageFolder(**{"root": str(root), "train_list": "train.txt", "test_list": "test.txt", **changes})


def test_list_files_name_the_test_images(tmp_path: Path) -> None:
    make_image_lists(tmp_path, {"cat": (3, 2), "dog": (4, 1)})
    make_image(tmp_path / "cat" / "unlisted.jpg", "cat")
    pool, test = read(lists(tmp_path))
    assert pool.class_counts.tolist() == [3, 4]
    assert test.sample_ids == ("cat/image_0003.jpg", "cat/image_0004.jpg", "dog/image_0004.jpg")


def test_lists_may_start_below_the_root(tmp_path: Path) -> None:
    make_image_lists(tmp_path / "data" / "photos", {"cat": (3, 2), "dog": (4, 1)})
    for name in ("train.txt", "test.txt"):
        (tmp_path / "data" / "photos" / name).rename(tmp_path / "data" / name)
    make_image_folder(tmp_path / "data" / "other", {"cow": 1})
    outside = lists(tmp_path / "data")
    inside = lists(
        tmp_path / "data/photos",
        train_list=str(tmp_path / "data/train.txt"),
        test_list=str(tmp_path / "data/test.txt"),
    )
    assert [f"photos/{name}" for name in inside.pool("test").sample_ids] == list(outside.pool("test").sample_ids)
    assert (outside.pool("train").name, inside.pool("train").name) == ("data", "photos")


def test_relative_lists_are_also_found_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image_lists(tmp_path / "mine", {"cat": (3, 2), "dog": (4, 1)})
    monkeypatch.chdir(tmp_path)
    dataset = lists(Path("mine"), train_list="mine/train.txt", test_list="mine/test.txt")
    assert len(dataset.pool("train")) == 7
    assert len(dataset.pool("test")) == 3


def test_list_lines_may_carry_labels_and_names_with_spaces(tmp_path: Path) -> None:
    for name in ("a b.jpg", "a b.jpg 1.jpg", "c.jpg", "d,e.jpg", "f.jpg", "g h.jpg", "i.jpg"):
        make_image(tmp_path / "all" / name, "any")
    train = ["all/a b.jpg rusty chapeau", "all/a b.jpg 1.jpg\tpied imperial pigeon", "all/c.jpg,rusty chapeau"]
    write_lines(tmp_path / "train.txt", [*train, "all/d,e.jpg, pied imperial pigeon", ""])
    write_lines(tmp_path / "test.txt", ["all/g h.jpg   rusty chapeau", "all/i.jpg pied imperial pigeon"])
    pool, test = read(lists(tmp_path))
    assert pool.classes == ("pied imperial pigeon", "rusty chapeau")
    assert dict(zip(pool.sample_ids, pool.labels.tolist(), strict=True)) == {
        "all/a b.jpg": 1, "all/a b.jpg 1.jpg": 0, "all/c.jpg": 1, "all/d,e.jpg": 0,
    }  # fmt: skip
    assert dict(zip(test.sample_ids, test.labels.tolist(), strict=True)) == {"all/g h.jpg": 1, "all/i.jpg": 0}


def test_numbers_as_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    for number in range(4):
        make_image(tmp_path / f"{number}.jpg", "any")
    write_lines(tmp_path / "train.txt", ["0.jpg 10", "1.jpg 9", "2.jpg 2"])
    write_lines(tmp_path / "test.txt", ["3.jpg 10"])
    assert lists(tmp_path).pool("train").classes == ("2", "9", "10")


def test_a_list_with_labels_on_some_lines_is_refused(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 3, "dog": 3})
    write_lines(tmp_path / "train.txt", ["cat/image_0000.jpg cat", "dog/image_0000.jpg", "dog/image_0001.jpg"])
    write_lines(tmp_path / "test.txt", ["cat/image_0001.jpg cat"])
    with pytest.raises(InputError, match="2 of 4 listed images have no label, first: dog/image_0000.jpg"):
        lists(tmp_path).pool("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat/gone.jpg", r"1 of 10 listed files are missing, first: .*cat/gone.jpg; correct train.txt and test.txt"),
        ("cat/image_0001.jpg", "files both in the pool and in the test set: 1, first: .*cat/image_0001.jpg"),
        ("cat/../cat/image_0001.jpg", "files both in the pool and in the test set: 1, first: .*cat/image_0001.jpg"),
        ("../outside.jpg", r"outside.jpg is not below dataset.root="),
        ("loose.jpg", "loose.jpg is in no class folder"),
        ("cow/image_0000.jpg", "classes with test images but none in the pool: 1, first: 'cow'"),
    ],
)
def test_a_wrong_list_line_is_refused(tmp_path: Path, line: str, message: str) -> None:
    root = make_image_lists(tmp_path / "mine", {"cat": (3, 1), "dog": (4, 1)})
    for path in ("../outside.jpg", "loose.jpg", "cow/image_0000.jpg"):
        make_image(root / path, "any")
    with (root / "test.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        lists(root).pool("train")


def test_a_file_listed_twice_is_refused(tmp_path: Path) -> None:
    root = make_image_lists(tmp_path, {"cat": (3, 1), "dog": (4, 1)})
    with (root / "train.txt").open("a") as file:
        file.write("dog/image_0000.jpg\n")
    with pytest.raises(InputError, match="'dog/image_0000.jpg' occurs twice"):
        lists(root).pool("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"", "is empty"), (b"\n\n", "is empty"), (b"\xff\xfe\x00", "is not UTF-8")],
)
def test_an_unreadable_list_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    root = make_image_lists(tmp_path, {"cat": (3, 1), "dog": (4, 1)})
    (root / "train.txt").unlink()
    if content is not None:
        (root / "train.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"the list .*train.txt {message}"):
        lists(root).pool("train")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "endless line"])
def test_a_list_that_could_block_or_fill_the_memory_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    root = make_image_lists(tmp_path, {"cat": (3, 1), "dog": (4, 1)})
    path = root / "train.txt"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"cat/image_0000.jpg\n" + b"x" * 2**20)
    expected = "has a line of more than 65536 bytes, line 2" if kind == "endless line" else f"it is a {kind}"
    with pytest.raises(InputError, match=f"the list .*train.txt .*{expected}.*; pass a text file"):
        lists(root).pool("train")


def test_lists_of_old_programs_and_packed_lists_are_read(tmp_path: Path) -> None:
    path, lines = tmp_path / "list", [f"cat/{number}.jpg" for number in range(9000)]
    path.write_bytes("\r".join(lines).encode())  # A carriage return alone ends a line.
    assert read_lines(path) == lines
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert read_lines(path) == lines
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-1])
    with pytest.raises(InputError, match="is not a readable .gz file"):
        read_lines(path)


def test_a_windows_list_is_read(tmp_path: Path) -> None:
    root = make_image_lists(tmp_path, {"cat": (3, 1), "dog": (4, 1)})
    before = lists(root).pool("train").fingerprint
    (root / "train.txt").write_bytes(b"\xef\xbb\xbf" + (root / "train.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert lists(root).pool("train").fingerprint == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_list": "a.txt"}, "both lists or none"),
        ({"test_list": "a.txt"}, "both lists or none"),
        ({"train_list": "a.txt", "test_list": "b.txt", "test_root": "c"}, "either lists or dataset.test_root"),
        ({"test_fraction": 0.0}, "test_fraction is the fraction that is for testing and must be in"),
        ({"test_fraction": 1.0}, "test_fraction is the fraction that is for testing and must be in"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageFolder(root="mine", **settings)


def test_image_folder_needs_a_root_that_exists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_folder needs a root; pass dataset.root="):
        ImageFolder().pool("train")
    with pytest.raises(InputError, match="flowers is not in .*flowers; pass dataset.root="):
        ImageFolder(root=str(tmp_path / "flowers")).pool("train")


def test_the_name_is_the_folders_or_the_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ImageFolder(root="a/flowers/").resolved_name == "flowers"
    assert ImageFolder(root=".").resolved_name == tmp_path.name
    assert ImageFolder(root="a/flowers", name="roses").resolved_name == "roses"


@pytest.mark.parametrize("sizes", [{}, {"only": 5}])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected two or more classes"):
        ImageFolder(root=str(make_image_folder(tmp_path, sizes))).pool("train")


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "README.txt").write_text("soon")
    with pytest.raises(InputError, match="the class folder .*cow holds no images; add images to it or remove it"):
        ImageFolder(root=str(tmp_path)).pool("train")


def test_other_files_are_left_out_and_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_image_folder(tmp_path, {"cat": 3, "dog": 3})
    for name in ("cat/.DS_Store", "cat/._image_0000.jpg", "dog/Thumbs.db", "dog/README.txt", "README.md", "LICENSE"):
        (tmp_path / name).write_text("no image")
    make_image(tmp_path / "loose.png", "cat")
    make_image(tmp_path / ".git" / "x.jpg", "cat")
    (tmp_path / "cat" / "UPPER.JPG").write_bytes((tmp_path / "cat" / "image_0000.jpg").read_bytes())
    with caplog.at_level(logging.INFO):
        pool = ImageFolder(root=str(tmp_path)).pool("train")
    assert pool.classes == ("cat", "dog")
    assert len(pool) + len(ImageFolder(root=str(tmp_path)).pool("test")) == 7
    counted = [record.message for record in caplog.records if "ignored" in record.message]
    assert "ignored 5 files" in counted[0]
    assert "(1 .db, 1 .txt, 2 hidden, 1 image outside the class folders)" in counted[0]


def test_a_class_that_is_missing_from_the_test_set_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_split_folders(tmp_path)
    shutil.rmtree(root / "test" / "woven")
    pool, test = read(split_folders(root, check_counts=False))
    assert pool.classes == test.classes == CLASSES
    assert test.class_counts.tolist() == [2, 2, 0]
    assert [record.message for record in caplog.records] == [
        "deepweeds: 1 of 3 classes have no test image, first: 'woven'; "
        "accuracy is over the classes that the test set has"
    ]


def test_a_class_that_only_the_test_set_has_is_refused(tmp_path: Path) -> None:
    root = make_split_folders(tmp_path)
    for split in ("train", "val"):
        shutil.rmtree(root / split / "woven")
    with pytest.raises(InputError, match="classes with test images but none in the pool: 1, first: 'woven'"):
        split_folders(root, check_counts=False).pool("train")


def test_symbolic_links_are_read_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "store", {"cat": 3, "dog": 4})
    root = tmp_path / "links"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "store" / "cat")
    for path in (tmp_path / "store" / "dog").iterdir():
        (root / "dog" / path.name).symlink_to(path)
    (root / "dog" / "again").symlink_to(root / "dog")
    (root / "dog" / "more").symlink_to(make_image_folder(tmp_path / "store", {"puppy": 2}) / "puppy")
    pool, test = read(ImageFolder(root=str(root)))
    assert (pool.class_counts + test.class_counts).tolist() == [3, 6]


def test_images_in_folders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 3, "dog": 3})
    make_image_folder(tmp_path / "cat", {"tabby": 4})
    pool, test = read(ImageFolder(root=str(tmp_path)))
    assert pool.classes == ("cat", "dog")
    assert (pool.class_counts + test.class_counts).tolist() == [7, 3]


def test_listing_decodes_nothing_and_an_unreadable_file_is_named_later(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 3, "dog": 3})
    for path in (tmp_path / "cat").iterdir():
        path.write_text("no picture")
    pool = ImageFolder(root=str(tmp_path)).pool("train")
    assert pool.images is not None
    with pytest.raises(InputError, match=r"cat/image_000\d.jpg is not a readable image"):
        pool.images.decode(0)


@pytest.mark.skipif(os.name == "nt", reason="needs file names that are bytes")
def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 3, "dog": 3})
    try:
        os.rename(tmp_path / "cat" / "image_0000.jpg", os.fsencode(tmp_path / "cat") + b"/caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match=r"'cat/caf\\udce9.jpg' is not UTF-8; rename the file"):
        ImageFolder(root=str(tmp_path)).pool("train")


def real(*parts: str) -> Path:
    folder = os.environ.get("PRUNETUNE_REAL_DATA")
    if folder is None or not Path(folder, *parts).exists():
        pytest.skip("needs PRUNETUNE_REAL_DATA with " + "/".join(parts))
    return Path(folder, *parts)


@pytest.mark.data
def test_ten_classes_of_dtd_have_their_real_counts() -> None:
    root = str(real("data", "dtd10"))
    pool, test = read(DTD(name="dtd10", root=root, check_counts=False))
    assert (pool.name, len(pool), len(test), len(pool.classes)) == ("dtd10", 800, 400, 10)
    assert set(pool.class_counts.tolist()) == {80}
    assert pool.splits.count("val") == 400
    with pytest.raises(InputError, match="expected 47 classes, 3760 pool .*found 10 classes, 800 pool and 400 test"):
        DTD(root=root).pool("train")


@pytest.mark.data
@pytest.mark.parametrize(("root", "up"), [("caltech101", ""), ("caltech101/101_ObjectCategories", "..")])
def test_caltech101_has_its_real_counts_from_either_root(root: str, up: str) -> None:
    folder = real("data", root)
    pool, test = read(lists(folder, train_list=str(folder / up / "train.txt"), test_list=str(folder / up / "test.txt")))
    assert (len(pool), len(test), len(pool.classes)) == (2914, 1763, 101)
    assert int(pool.class_counts.max()) == 30
    assert int(test.class_counts.max()) == 20
