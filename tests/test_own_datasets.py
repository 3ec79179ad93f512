"""Datasets, arrays, embeddings and archives: each item is read once, rows are the caller's, wrong input is one line."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset
from torchvision import datasets as torchvision_datasets
from torchvision.transforms import v2

from made_data import cut_in_half
from own_inputs import CLASSES, by_command, classes_of, labels_by_row, make_folders, rows
from prunetune import prune
from prunetune.base import words
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.images.decode import UnreadableImages, decode_all
from prunetune.own.read import ReadOptions, read, read_embeddings, read_labelled
from prunetune.own.read.unreadable import with_readable

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 8, 3), dtype=np.uint8)
EACH = dict.fromkeys(CLASSES, 4)


class Items:
    """A map-style dataset that notes what is read of it."""

    def __init__(self, make=lambda item: (Image.fromarray(PIXELS[item]), item % 3), damaged=()):
        self.make, self.damaged, self.read, self.transform = make, damaged, [], None

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, item):
        self.read.append(item)
        if item in self.damaged:
            raise OSError("image file is truncated")
        image, *rest = self.make(item)
        return (image if self.transform is None else self.transform(image), *rest)


class Dicts(Items):
    def __getitem__(self, item):
        image, label = super().__getitem__(item)
        return {"pixels": 1, "img": image, "label": label}


def used(data):
    """Do what a run does with the images: identify and decode all of them, twice."""
    for _ in range(2):
        assert data.pool.fingerprint
        for position in range(len(data.pool)):
            assert data.pool.images.decode(position).dtype == torch.uint8
    return data


@pytest.mark.parametrize("kind", [Items, Dicts])
@pytest.mark.parametrize("has_targets", [False, True])
def test_each_item_is_read_once(kind, has_targets):
    dataset = kind()
    if has_targets:
        dataset.targets = [item % 3 for item in range(12)]
    data = used(read(dataset))
    assert dataset.read == list(range(12))
    assert labels_by_row(data) == [str(item % 3) for item in range(12)]
    assert torch.equal(data.pool.images.decode(5), torch.from_numpy(PIXELS[5]).permute(2, 0, 1))


def test_prune_reads_each_item_once():
    dataset = Items()
    assert len(prune(dataset, keep=6, backbone="micro")) == 6
    assert dataset.read == list(range(12))


@pytest.mark.parametrize("label", ["ab", [np.array([0]), np.array([1])], torch.tensor([0, 1]), np.array([0, 1])])
def test_labels_may_be_texts_or_numbers_of_other_libraries(label):
    assert list(classes_of(read(Items(lambda item: (PIXELS[item], label[item % 2])))).values()) == [6, 6]


def test_images_alone_have_no_labels_and_a_third_part_is_ignored():
    assert not read(Items(lambda item: (PIXELS[item],))).is_labelled
    assert len(classes_of(read(Items(lambda item: (PIXELS[item], item % 3, "more"))))) == 3


def test_transforms_are_switched_off_in_a_copy(tmp_path):
    folder = make_folders(tmp_path, *CLASSES)
    augmented = v2.Compose([v2.RandomCrop(4), v2.ToDtype(torch.float32)])
    dataset = Items()
    dataset.transform = augmented
    assert torch.equal(read(dataset).pool.images.decode(3), torch.from_numpy(PIXELS[3]).permute(2, 0, 1))
    assert dataset.transform is augmented
    loaded = torchvision_datasets.ImageFolder(str(folder), augmented, target_transform=lambda label: 2 - label)
    data = used(read(loaded))
    assert data.pool.images.decode(0).shape == (3, 12, 16)
    assert labels_by_row(data) == [str(2 - label) for label in loaded.targets]
    assert loaded.transform is augmented


def test_torchvisions_image_folder_has_its_paths_as_ids(tmp_path):
    dataset = torchvision_datasets.ImageFolder(str(make_folders(tmp_path, *CLASSES)), transform=v2.ToImage())
    data = read(dataset)
    assert data.pool.sample_ids[4] == "eel/eel00.jpg"
    assert (data.paths[4], data.pool.classes) == (tmp_path / "eel" / "eel00.jpg", CLASSES)
    part = read(Subset(dataset, [11, 0, 5]))
    order = part.rows.argsort().tolist()
    assert [part.pool.sample_ids[i] for i in order] == ["owl/owl03.jpg", "crab/crab00.jpg", "eel/eel01.jpg"]


def test_parts_and_joins_of_datasets():
    dataset = Items()
    dataset.targets, dataset.classes = [item % 3 for item in range(12)], ["no", "yes", "perhaps", "never"]
    part = read(Subset(dataset, [1, 4, 2]))
    assert labels_by_row(part) == ["yes", "yes", "perhaps"]
    assert "classes without an image: no, never" in part.described()
    assert classes_of(read(ConcatDataset([dataset, dataset]))) == {"no": 8, "yes": 8, "perhaps": 8}


class Stream(IterableDataset):
    def __iter__(self):
        yield PIXELS[0], 0


FLOATS = Items()
FLOATS.targets = [0.5] * 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: FLOATS, "item 0 has the label 0.5, a number with a decimal point"),
        (lambda: Items(lambda item: (PIXELS[item], torch.eye(3)[0])), "item 0 has several labels in one field"),
        (
            lambda: Items(lambda item: (torch.zeros(3, 4, 4), 0)),
            r"item 0 should be a PIL.* is torch.float32 \[3, 4",
        ),
        (lambda: Items(lambda item: ("a.jpg", 0)), "item 0 should be a PIL image.* is str"),
        (lambda: Dicts(lambda item: (PIXELS[item], -1)), "item 0 has the label -1"),
        (
            lambda: Items(damaged=(1, 4)),
            r"2 of 12 items cannot be read: item 1, item 4 \(image file is truncated\); repair",
        ),
        (Stream, "an IterableDataset has no items by number; collect it into a list"),
    ],
)
def test_wrong_datasets_are_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        used(read(given()))
    assert "--" not in str(caught.value)


def test_keys_of_dicts_that_are_unusual_are_named():
    class Odd(Items):
        def __getitem__(self, item):
            return {"a": PIXELS[item], "b": item % 2}

    with pytest.raises(InputError, match="item 0 is a dict with the keys a, b, none of them usual for an image"):
        read(Odd())
    assert classes_of(read(Odd(), ReadOptions(image_column="a", label_column="b"))) == {"0": 6, "1": 6}


def test_items_that_cannot_be_read_are_left_out_by_the_users_word(caplog):
    data = used(read(Items(damaged=(1, 4)), ReadOptions(on_error="skip")))
    assert data.rows.tolist() == [0, 2, 3, *range(5, 12)]
    assert "2 left out (image file is truncated): item 1, item 4" in caplog.text


@pytest.mark.parametrize("known", [False, True])
def test_unreadable_files_are_named_all_or_left_out_and_remembered(tmp_path, caplog, known):
    folder = make_folders(tmp_path / "photos", *CLASSES)
    cut_in_half(folder / "crab" / "crab01.jpg")
    (folder / "owl" / "owl02.jpg").write_bytes(b"")
    store, calls = Store(tmp_path / "store"), []

    def work(data):
        calls.append(len(data.pool))
        return sum(1 for _ in decode_all(data.pool.images))

    stop = ReadOptions(words=words.command)
    with pytest.raises(InputError, match=r"2 of 12 images .*: crab/crab01.jpg \(.*\), owl/owl02.jpg \(.*--on-err"):
        with_readable(read(folder, stop), stop, store, work)
    skip = ReadOptions(on_error="skip")
    for _ in range(2 if known else 1):
        calls.clear()
        data, outcome = with_readable(read(folder, skip), skip, store, work)
    assert (outcome, calls) == (10, [10] if known else [12, 10])
    assert set(data.left_out) == {"crab/crab01.jpg", "owl/owl02.jpg"}
    assert "2 of 12 images cannot be read and are left out: crab/crab01.jpg (" in caplog.text


def test_items_with_known_labels_that_cannot_be_read_are_found_when_decoded(tmp_path):
    dataset = Items(damaged=(3,))
    dataset.targets = [item % 3 for item in range(12)]
    data = read(dataset)
    with pytest.raises(UnreadableImages):
        used(data)
    left, _ = with_readable(data, ReadOptions(on_error="skip"), Store(tmp_path), used)
    assert (left.left_out, len(left.pool)) == ({"3": "image file is truncated"}, 11)
    assert dataset.read == list(range(12))


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        PIXELS / 255.0,
        PIXELS.astype(np.float32) / 255,
    ],
)
def test_arrays_of_every_layout(images):
    data = read((images, np.arange(12) % 3))
    assert torch.equal(data.pool.images.decode(7), torch.from_numpy(PIXELS[7]).permute(2, 0, 1))
    assert labels_by_row(data) == [str(item % 3) for item in range(12)]
    assert not read(images).is_labelled


def test_grey_arrays_have_three_equal_channels():
    image = read((PIXELS[..., 0], np.arange(12) % 3)).pool.images.decode(4)
    assert torch.equal(image, torch.from_numpy(PIXELS[4, ..., 0]).expand(3, 9, 8))


LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            PIXELS / 255 - 0.5,
            LABELS,
            "floats in 0..1, got float64 from -0.5 to 0.5; give them as they were",
        ),
        (PIXELS.astype(np.int32), LABELS, "images must be uint8, or floats in 0..1, got int32"),
        (PIXELS.reshape(12, -1), LABELS, "got .12, 216.; rows of features are given as embeddings"),
        (PIXELS[:, :3], LABELS, r"\[12, 3, 8, 3\] can be read in two ways"),
        (PIXELS, LABELS[:3], "there are 12 rows and 3 labels"),
        (PIXELS, LABELS * 0.5, "row 0 has the label 0.0"),
        (PIXELS, np.eye(3)[LABELS], "row 0 has several labels in one field"),
    ],
)
def test_wrong_arrays_are_one_line(images, labels, message):
    with pytest.raises(InputError, match=message):
        read((images, labels))


FEATURES = np.random.default_rng(0).normal(size=(6, 4))


def changed(row, value):
    features = FEATURES.copy()
    features[row] = value
    return features


def test_embeddings_are_in_the_callers_order_with_or_without_ids():
    plain = read_embeddings(FEATURES, list("aabbab"))
    assert (plain.rows.tolist(), plain.names[:2], plain.layout) == (list(range(6)), ("0", "1"), "embeddings")
    named = read_embeddings(torch.from_numpy(FEATURES), list("aabbab"), list("fedcba"))
    assert named.rows.tolist() == [5, 4, 3, 2, 1, 0]
    assert named.names == tuple("abcdef")
    assert torch.equal(named.features, plain.features.flip(0))
    assert labels_by_row(named) == list("aabbab")
    assert read_embeddings(FEATURES).described() == ["6 rows without labels"]


def test_a_class_of_one_row_is_named():
    assert "at most that row can be kept: c (row 5)" in read_embeddings(FEATURES, list("aabbac")).described()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((changed(3, np.nan), None), "row 3 of the embeddings holds NaN, infinity"),
        ((FEATURES * 1e300, None), "row 0 of the embeddings holds NaN.*, and 5 more rows too"),
        ((changed(2, 0), None), "row 2 of the embeddings is zero, so that it has no direction"),
        ((FEATURES.astype(object), None), "embeddings must be numbers .N, D., got an array of object"),
        (([[1, 2], [3]], None), "their rows differ in length"),
        ((FEATURES[:0], None), r"one row for each sample, got \[0, 4\]"),
        ((FEATURES[None], None), r"got \[1, 6, 4\]; images are no embeddings, give them as data"),
        ((FEATURES, list("aab")), "there are 6 rows and 3 labels"),
        ((FEATURES, [0.0, 1.0] * 3), "row 0 has the label 0.0"),
        ((FEATURES, ["a", None] * 3), r"3 of 6 rows cannot be read: row 1, row 3, row 5 \(it has no label\); repair"),
        ((FEATURES, None, list("abcdea")), "the id 'a' is that of row 0 and of row 5"),
        ((FEATURES, None, ["a", None, *"cdef"]), "row 1 has no id"),
    ],
)
def test_wrong_embeddings_are_one_line_that_names_the_row(arguments, message):
    with pytest.raises(InputError, match=message):
        read_embeddings(*arguments)


def test_embeddings_in_files(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES)
    np.save(tmp_path / "y.npy", np.array(list("aabbab")))
    np.save(tmp_path / "objects.npy", np.array(list("aabbab"), dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=FEATURES, b=FEATURES)
    (tmp_path / "y.txt").write_text("a\na\nb\nb\na\nb\n")
    (tmp_path / "text.npy").write_text("text")
    torch.save(torch.ones(6, 4), tmp_path / "x.pt")
    os.mkfifo(tmp_path / "pipe.npy")
    options = ReadOptions(words=words.command)
    assert classes_of(read_embeddings(tmp_path / "x.npy", tmp_path / "y.npy", None, options)) == {"a": 3, "b": 3}
    assert classes_of(read_embeddings(tmp_path / "x.npy", tmp_path / "y.txt", None, options)) == {"a": 3, "b": 3}
    for labels, message in [
        ("objects.npy", "--labels .*objects.npy: the file holds Python objects, which are not loaded"),
        ("two.npz", "holds the arrays a, b; save one of them"),
        ("text.npy", "--labels .*text.npy: expected a file that np.save has written, or a text file .txt with one"),
        ("x.pt", "expected a file that np.save has written"),
        ("pipe.npy", "--labels .*pipe.npy: it is a pipe; pass a file"),
        ("gone.npy", "--labels .*gone.npy: there is no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_embeddings(tmp_path / "x.npy", tmp_path / labels, None, options)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (lambda: Items(), {"split": "train"}, r'ReadOptions\(split="train"\) is of no use for a dataset of torch'),
        (
            lambda: Items(),
            {"label_column": "y"},
            "the items of the dataset are no dicts with keys; leave .*label_column",
        ),
        (
            lambda: (PIXELS, LABELS),
            {"image_column": "x"},
            "image_column.* is of no use for arrays of images; leave it out",
        ),
        (lambda: (PIXELS, LABELS), {"hold_out": 0.2}, "^hold_out=0.2 is of no use for arrays of images"),
        (lambda: (PIXELS, LABELS), {"labels_from": "folders"}, "labels_from.* is of no use for arrays of images"),
        (
            lambda: [(PIXELS[0], 0), (PIXELS[1], 1)],
            {"label_column": "y"},
            "label_column.* is of no use for a list of images",
        ),
    ],
)
def test_an_option_that_the_data_have_no_use_for_is_refused(given, options, message):
    with pytest.raises(InputError, match=message):
        used(read(given(), ReadOptions(**options)))


def test_options_that_embeddings_have_no_use_for_are_refused():
    with pytest.raises(InputError, match="--split train is of no use for embeddings; leave it out"):
        read_embeddings(FEATURES, options=ReadOptions(split="train", words=words.command))


def test_labels_beside_images_and_never_beside_data_with_labels_of_their_own(tmp_path):
    assert labels_by_row(read_labelled(PIXELS, LABELS)) == [str(label) for label in LABELS]
    assert labels_by_row(read_labelled(list(PIXELS), list(LABELS))) == [str(label) for label in LABELS]
    for data in (str(tmp_path), Items(), [(PIXELS[0], 0)] * 12):
        with pytest.raises(InputError, match=r"labels may be given beside embeddings, .*such as this (str|Items|list)"):
            read_labelled(data, LABELS)


def test_images_and_labels_in_a_list_of_two_and_a_loader():
    assert labels_by_row(read([PIXELS, LABELS])) == [str(label) for label in LABELS]
    with pytest.raises(InputError, match="a DataLoader gives batches; give its dataset instead: loader.dataset"):
        read(DataLoader(Items()))


def write_tar(path, samples):
    """Write samples (key, files by ending) as WebDataset does."""
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(path)) as writer:
        for key, files in samples:
            writer.write({"__key__": key, **files})
    return path


@pytest.fixture
def contents(tmp_path):
    folder = make_folders(tmp_path / "photos", *CLASSES)
    return [((folder / path).read_bytes(), label) for path, label in rows()]


def test_archives_of_webdataset(tmp_path, contents, caplog):
    numbered = [(f"s{i:02d}", {"jpg": content, "cls": i % 3}) for i, (content, _) in enumerate(contents)]
    for name in ("train-0000", "train-0001", "val-0000"):
        write_tar(tmp_path / f"{name}.tar", numbered)
    one = used(by_command(tmp_path / "train-0000.tar"))
    assert labels_by_row(one) == [str(i % 3) for i in range(12)]
    assert one.names[3] == "train-0000.tar/s03"
    assert len(by_command(f"{tmp_path}/train-{{0000..0001}}.tar").pool) == 24
    assert len(read([tmp_path / "train-0000.tar", tmp_path / "train-0001.tar"]).pool) == 24
    (tmp_path / "photos").rename(tmp_path.parent / f"{tmp_path.name}_photos")
    both = by_command(tmp_path)
    assert (len(both.pool), len(both.others), both.left_out) == (24, 12, {"val (1 archives)": "another split"})


def test_labels_in_json_and_samples_without_an_image(tmp_path, contents):
    samples = [
        (f"s{i:02d}", {"jpeg": content, "json": {"label": label}}) for i, (content, label) in enumerate(contents)
    ]
    data = by_command(write_tar(tmp_path / "a.tar", [*samples, ("z", {"txt": "words"})]))
    assert (classes_of(data), data.left_out) == (EACH, {"a.tar/z": "samples without an image"})
    whole = (tmp_path / "a.tar").read_bytes()
    for content, message in [
        (whole[:3000], "holds more data behind|cut short"),
        (whole + whole, "more data behind its last"),
    ]:
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(InputError, match=message):
            by_command(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"text")
    with pytest.raises(InputError, match="cannot be read as a tar archive|holds no images"):
        by_command(tmp_path / "a.tar")
