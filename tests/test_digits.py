import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prunetune.base.errors import InputError
from prunetune.data.readers.digits import Digits, enlarge


def test_pool_and_test_set_are_all_digits_once():
    pool, test = Digits().pool("train"), Digits().pool("test")
    assert (len(pool), len(test)) == (1178, 619)
    numbers = [int(name.split("/")[1]) for name in (*pool.sample_ids, *test.sample_ids)]
    assert sorted(numbers) == list(range(1797))
    target = load_digits().target
    assert pool.labels.tolist() == [target[int(name.split("/")[1])] for name in pool.sample_ids]


def test_the_split_and_the_painted_images_never_change():
    pool = Digits().pool("test")
    assert pool.sample_ids[:3] == ("test/0001", "test/0002", "test/0003")
    assert (
        hashlib.sha256(pool.images.pixels.tobytes()).hexdigest()
        == "3a6a716a6e5ea5a40b75a3b774162bd8706c881a2ecae3bd1a71d0b663a282ad"
    )


def test_a_quarter_of_the_pool_is_val():
    pool = Digits().pool("train")
    assert pool.splits.count("val") == 290
    assert pool.splits.count("train") == 888
    assert set(Digits().pool("test").splits) == {"test"}


def test_plain_digits_are_the_librarys_grey_levels():
    pool = Digits(size=8, is_painted=False).pool("train")
    number = int(pool.sample_ids[5].split("/")[1])
    expected = np.floor(load_digits().images[number] * 255 / 16 + 0.5)
    image = pool.images.decode(5)
    assert image.shape == (3, 8, 8)
    assert all(np.array_equal(channel.numpy(), expected) for channel in image)


def test_painted_digits_differ_in_polarity_and_keep_their_shape():
    plain, painted = Digits(is_painted=False).pool("train"), Digits().pool("train")
    correlations = []
    for i in range(200):
        grey, image = plain.images.decode(i)[0].double(), painted.images.decode(i).double()
        correlations.append(float(torch.corrcoef(torch.stack([grey.flatten(), image.mean(0).flatten()]))[0, 1]))
    assert min(abs(value) for value in correlations) > 0.9
    assert 0.4 < np.mean(np.array(correlations) > 0) < 0.6


def test_enlarge_interpolates_linearly():
    image = np.zeros((1, 8, 8))
    image[0, :, 1] = 1.0
    row = enlarge(image, 16)[0, 4]
    assert row[:6].tolist() == [0.0, 0.25, 0.75, 0.75, 0.25, 0.0]


def test_a_wrong_part_or_size_is_refused():
    with pytest.raises(InputError, match="must be 'train' or 'test'"):
        Digits().pool("val")
    with pytest.raises(
        InputError, match=r"dataset\.size is the side in pixels and must be a whole number in 8\.\.256, got 4"
    ):
        Digits(size=4)
