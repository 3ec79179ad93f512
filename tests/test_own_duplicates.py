"""Identical and nearly identical images are found, others are not, and wrong labels are ranked first."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from prunetune import prune
from prunetune.base.errors import InputError
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Pool
from prunetune.data.readers.textures import Textures
from prunetune.own.draw import stratified
from prunetune.own.duplicates import Duplicates, find_duplicates, identical_rows, prints_of
from prunetune.own.suspects import suspect_labels
from prunetune.testing import made_signals


@pytest.fixture(scope="module")
def textures():
    return Textures(num_pool=100, num_test=100, size=64).pool("train").images.pixels[:60]


def pool_of(pixels):
    count = len(pixels)
    ids = tuple(f"{i:03d}" for i in range(count))
    return Pool("made", torch.zeros(count, dtype=torch.int64), ids, ("train",) * count, ("x",), ImageArrays(pixels))


def encoded(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def features_of(pixels):
    """Return a stand-in for a network's features: the image in 8 x 8 pixels."""
    small = torch.nn.functional.interpolate(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), (8, 8), mode="area")
    return small.flatten(1)


def prints(pixels):
    pool = pool_of(pixels)
    return prints_of(pool, pool.images, lambda positions: features_of(pixels)[positions])


def test_copies_and_images_that_are_encoded_again_are_found_and_no_others(textures):
    again = np.stack([textures[3], encoded(textures[5], 60), textures[7] // 2 * 2, textures[3]])
    found = find_duplicates(prints(np.concatenate([textures, again])))
    assert found.groups == ((3, 60, 63), (5, 61), (7, 62))
    assert found.copies == {60: 3, 63: 3, 61: 5, 62: 7}
    assert found.group_of[63] == 0
    assert found.alone(64).tolist() == list(range(60))


def test_stripes_of_other_colours_are_told_apart_though_their_hashes_agree():
    stripes = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    stripes[:, :, ::16] = [[[[200, 0, 0]]], [[[0, 200, 0]]], [[[200, 0, 0]]]]
    stripes[:, :, 8::16] = [[[[90, 90, 0]]], [[[0, 90, 90]]], [[[91, 90, 0]]]]
    found = find_duplicates(prints(stripes))
    assert found.groups == ((0, 2),)


def test_images_of_other_splits_are_compared_with_the_candidates_only(textures):
    others = np.stack([textures[50], textures[50], encoded(textures[2], 70)])
    found = find_duplicates(prints(textures[:40]), prints(others))
    assert (found.groups, found.leaks) == ((), ((2, 2),))
    found = find_duplicates(prints(textures[:55]), prints(others))
    assert (found.groups, found.leaks) == ((), ((2, 2), (50, 0), (50, 1)))


def test_a_group_with_two_labels_is_a_conflict():
    found = Duplicates(((0, 2), (1, 3)))
    assert found.conflicts(torch.tensor([0, 1, 1, 1])) == ((0, 2),)


def test_equal_rows_of_embeddings_are_duplicates():
    features = torch.eye(4)[[0, 1, 0, 2, 0]]
    assert identical_rows(features).groups == ((0, 2, 4),)
    assert identical_rows(torch.eye(3)).groups == ()


def test_flipped_labels_are_the_most_suspect():
    labels = torch.arange(4).repeat_interleave(50)
    features = made_signals(labels, width=16).features() + 2 * torch.eye(16)[labels]
    flipped = labels.clone()
    wrong = torch.arange(0, 200, 10)
    flipped[wrong] = (flipped[wrong] + 1) % 4
    found = suspect_labels(features, flipped)
    is_wrong = flipped != labels
    assert roc_auc_score(is_wrong.numpy(), -found.agreement.numpy()) > 0.95
    assert found.ranking[:10].tolist() == [p for p in found.ranking[:10].tolist() if is_wrong[p]]
    assert (found.suggested[is_wrong] == labels[is_wrong]).double().mean() > 0.8


def test_suspect_samples_are_left_out_on_request_and_as_many_are_kept(caplog):
    labels = torch.arange(4).repeat_interleave(50)
    features = made_signals(labels, width=16).features() + 2 * torch.eye(16)[labels]
    flipped = labels.clone()
    flipped[::10] = (flipped[::10] + 1) % 4
    names = [f"class {label}" for label in flipped.tolist()]
    found = suspect_labels(features, flipped).suggestions()
    plain = prune(embeddings=features, labels=names, keep=0.4)
    assert plain.dropped == {}
    subset = prune(embeddings=features, labels=names, keep=0.4, suspects="drop")
    assert subset.dropped == found
    assert f"{len(found)} samples with suspect labels are left out, such as " in caplog.text
    kept, all_kept = set(subset.kept.tolist()), set(plain.kept.tolist())
    assert not kept & found.keys()
    assert all_kept & found.keys()
    assert flipped[subset.kept].bincount().tolist() == flipped[plain.kept].bincount().tolist()
    for position, label in found.items():
        assert subset.reason(position) == f"suspect label: looks like class {label}"
        assert subset.scores[position].isnan()


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (None, "cannot be left out, since these data have no labels"),
        (["a"] * 10, "at least two classes with 5 samples each"),
    ],
)
def test_labels_that_cannot_be_judged_are_an_error_where_suspects_are_to_be_dropped(labels, fault):
    with pytest.raises(InputError, match=fault):
        prune(embeddings=torch.randn(10, 4), labels=labels, keep=0.5, suspects="drop")


def test_a_misspelt_way_to_treat_suspects_is_an_error():
    with pytest.raises(InputError, match="suspects must be one of keep, drop"):
        prune(embeddings=torch.randn(10, 4), labels=["a"] * 10, keep=0.5, suspects="drp")


def test_large_data_are_checked_by_classifiers_of_a_part_of_them(monkeypatch):
    labels = torch.arange(4).repeat_interleave(50)
    features = made_signals(labels, width=16).features() + 2 * torch.eye(16)[labels]
    whole = suspect_labels(features, labels)
    monkeypatch.setattr("prunetune.own.suspects.MOST_TRAINED", 80)
    part = suspect_labels(features, labels)
    assert not torch.equal(part.agreement, whole.agreement)
    assert (part.suggested == labels).double().mean() > 0.9


def test_a_stratified_part_has_the_same_fraction_of_each_class_and_all_of_a_small_one():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 4)
    rows = stratified(labels, 31, torch.Generator().manual_seed(0))
    assert labels[rows].bincount().tolist() == [20, 10, 4]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert stratified(labels, 94, torch.Generator()).tolist() == list(range(94))


@pytest.mark.parametrize("labels", [[0] * 10, [0] * 10 + [1] * 4])
def test_suspect_labels_need_two_classes_of_five(labels):
    with pytest.raises(InputError, match="at least two classes with 5 samples each"):
        suspect_labels(torch.randn(len(labels), 4), torch.tensor(labels))
