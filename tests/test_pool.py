"""Pool: the order does not depend on the listing; checks, fingerprint and parts."""

import numpy as np
import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Pool

IDS = ("b/2.png", "a/1.png", "c/3.png")
LABELS = (1, 0, 2)
SPLITS = ("train", "val", "train")
PIXELS = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)


def make_pool(**changes):
    values = {
        "name": "made",
        "labels": torch.tensor(LABELS),
        "sample_ids": IDS,
        "splits": SPLITS,
        "classes": ("x", "y", "z"),
        "images": ImageArrays(PIXELS),
    }
    return Pool(**{**values, **changes})


def test_a_pool_sorts_labels_splits_and_images_by_sample_id():
    pool = make_pool()
    assert pool.sample_ids == ("a/1.png", "b/2.png", "c/3.png")
    assert pool.labels.tolist() == [0, 1, 2]
    assert pool.splits == ("val", "train", "train")
    assert torch.equal(pool.images.decode(0), torch.from_numpy(PIXELS[1]).permute(2, 0, 1))
    assert torch.equal(pool.images.decode(1), torch.from_numpy(PIXELS[0]).permute(2, 0, 1))


def test_every_listing_order_gives_the_same_pool():
    order = [2, 0, 1]
    listed = make_pool(
        labels=torch.tensor([LABELS[i] for i in order]),
        sample_ids=tuple(IDS[i] for i in order),
        splits=tuple(SPLITS[i] for i in order),
        images=ImageArrays(PIXELS[order]),
    )
    assert listed.sample_ids == make_pool().sample_ids
    assert torch.equal(listed.labels, make_pool().labels)
    assert listed.fingerprint == make_pool().fingerprint


def test_the_fingerprint_ignores_the_name():
    assert make_pool(name="other").fingerprint == make_pool().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([1, 0, 1])},
        {"splits": ("train", "train", "train")},
        {"sample_ids": ("b/2.png", "a/1.png", "c/4.png")},
        {"images": ImageArrays(np.where(PIXELS == 7, 8, PIXELS).astype(np.uint8))},
    ],
    ids=["label", "split", "id", "one byte of one image"],
)
def test_the_fingerprint_changes_with(change):
    assert make_pool(**change).fingerprint != make_pool().fingerprint


def test_a_duplicate_id_is_refused_and_named():
    with pytest.raises(InputError, match=r"'a/1\.png' occurs twice"):
        make_pool(sample_ids=("a/1.png", "b/2.png", "a/1.png"))


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 1]])
def test_a_label_out_of_range_is_refused(labels):
    with pytest.raises(InputError, match=r"labels must be in 0\.\.2 for 3 classes"):
        make_pool(labels=torch.tensor(labels))


@pytest.mark.parametrize("labels", [["a", "b", "c"], [0.5, 1.5, 1.0], [[0], [1], [2]]])
def test_labels_that_are_no_class_indices_are_refused(labels):
    with pytest.raises(InputError, match="labels must be class indices"):
        make_pool(labels=labels)


def test_classes_that_are_no_names_are_refused():
    with pytest.raises(InputError, match="classes must be the classes' names in index order, got 3"):
        make_pool(classes=3)


def test_the_attribute_order_sorts_tensors_like_the_pool(caplog):
    given = torch.tensor(LABELS)
    pool = make_pool(images=None)
    assert torch.equal(given[pool.order], pool.labels)
    assert "features[pool.order]" in caplog.text
    caplog.clear()
    assert pool.take([2, 0]).order.tolist() == [1, 0]
    make_pool()  # Images are sorted by the pool itself, so there is no message.
    Pool("sorted", pool.labels, pool.sample_ids, pool.splits, pool.classes)
    assert caplog.text.count("features[pool.order]") == 1  # The only message is that of `take`.


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match="expected images, found none"):
        Pool("made", torch.empty(0, dtype=torch.int64), (), (), ("x",))


@pytest.mark.parametrize("key", ["labels", "splits", "images"])
def test_lengths_that_differ_are_refused(key):
    shorter = {"labels": torch.tensor([0, 1]), "splits": ("train", "train"), "images": ImageArrays(PIXELS[:2])}
    with pytest.raises(InputError, match="differ in length"):
        make_pool(**{key: shorter[key]})


def test_take_gives_the_chosen_images_whatever_their_order():
    part = make_pool().take(torch.tensor([2, 0]))
    assert part.sample_ids == ("a/1.png", "c/3.png")
    assert part.labels.tolist() == [0, 2]
    assert part.classes == ("x", "y", "z")
    assert torch.equal(part.images.decode(1), torch.from_numpy(PIXELS[2]).permute(2, 0, 1))
    assert make_pool().take([0, 2]).fingerprint == part.fingerprint


def test_class_counts_include_classes_without_images():
    assert make_pool(labels=torch.tensor([0, 0, 2])).class_counts.tolist() == [2, 0, 1]


def test_a_pool_without_images_has_a_fingerprint_of_its_own():
    assert make_pool(images=None).fingerprint == make_pool(images=None, name="other").fingerprint
    assert make_pool(images=None).fingerprint != make_pool().fingerprint
