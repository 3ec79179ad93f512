import hashlib

import numpy as np
import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.data.readers.textures import CLASSES, SHARES, Textures, class_counts, paint, uniform_draws

SMALL = Textures(num_pool=100, num_test=100)


def pixels_of(pool):
    return np.stack([pool.images.decode(i).permute(1, 2, 0).numpy() for i in range(len(pool))])


def test_the_same_settings_give_the_same_bytes_on_every_machine():
    assert (
        hashlib.sha256(pixels_of(SMALL.pool("train")).tobytes()).hexdigest()
        == "41e1a0c399c363a880f06b33feafd7b022498de30c261943fb41e3ef6aa9a62b"
    )
    assert (
        hashlib.sha256(pixels_of(Textures().pool("train")).tobytes()).hexdigest()
        == "46da7f4198a2b2b552eec82dc6bcf99be637468818bb0ac6529d0507712d1a1d"
    )
    assert (
        hashlib.sha256(pixels_of(Textures().pool("test")).tobytes()).hexdigest()
        == "57dd756f846725875da2b9f33f04d0632ff18d54dc03d891ea96cd3f4d44b7ca"
    )
    assert (
        hashlib.sha256(Textures().difficulty("train").numpy().tobytes()).hexdigest()
        == "80577fcd3cca6ab17385e5acd212dcf8e66e14e3ecbb5312e25c718862b0f5f8"
    )


def test_an_image_depends_on_its_names_and_not_on_how_many_others_there_are():
    few, many = SMALL.pool("train"), Textures(num_pool=200).pool("train")
    wanted = few.sample_ids.index("train/weave/0003"), many.sample_ids.index("train/weave/0003")
    assert few.images.digest(wanted[0]) == many.images.digest(wanted[1])


def test_another_seed_gives_other_images_with_the_same_ids():
    pool, other = SMALL.pool("train"), Textures(num_pool=100, seed=1).pool("train")
    assert pool.sample_ids == other.sample_ids
    assert not any(pool.images.digest(i) == other.images.digest(i) for i in range(len(pool)))


def test_no_image_of_the_pool_is_in_the_test_set():
    pool, test = SMALL.pool("train"), SMALL.pool("test")
    assert not {pool.images.digest(i) for i in range(len(pool))} & {test.images.digest(i) for i in range(len(test))}


def test_the_classes_are_unequal_and_sum_to_what_was_asked():
    pool, test = Textures().pool("train"), Textures().pool("test")
    assert pool.class_counts.tolist() == [160, 80, 100, 60, 130, 70, 110, 50, 140, 100]
    assert test.class_counts.tolist() == [64, 32, 40, 24, 52, 28, 44, 20, 56, 40]
    assert sum(SHARES.values()) == 100
    # Rounding down leaves 2 images, which the first class gets.
    assert class_counts(150) == [24 + 2, 12, 15, 9, 19, 10, 16, 7, 21, 15]


def test_the_pool_has_train_and_val_images_of_every_class_and_the_test_set_neither():
    pool, test = Textures().pool("train"), Textures().pool("test")
    is_val = torch.tensor([split == "val" for split in pool.splits])
    val_counts = torch.bincount(pool.labels[is_val], minlength=len(CLASSES))
    assert val_counts.tolist() == [count // 4 for count in pool.class_counts.tolist()]
    assert set(pool.splits) == {"train", "val"}
    assert set(test.splits) == {"test"}
    assert pool.sample_ids[0] == "train/bricks/0001"
    assert pool.classes == tuple(sorted(CLASSES)) == CLASSES


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_difficulty_is_known_spread_and_aligned_with_the_pool(part):
    textures = Textures()
    pool, difficulty = textures.pool(part), textures.difficulty(part)
    assert difficulty.shape == (len(pool),)
    assert difficulty.dtype == torch.float64
    assert 0 <= float(difficulty.min()) < 0.05
    assert 0.95 < float(difficulty.max()) < 1
    for label in range(len(pool.classes)):  # Every class must have easy and hard images.
        assert float(difficulty[pool.labels == label].std()) > 0.2


def test_difficulty_lowers_the_contrast():
    textures = Textures()
    pool, difficulty = textures.pool("train"), textures.difficulty("train")
    contrast = torch.from_numpy(pixels_of(pool).astype(np.float64).std(axis=(1, 2)).max(axis=1))
    assert contrast[difficulty < 0.3].mean() > 1.3 * contrast[difficulty > 0.7].mean()


def test_the_mean_colour_tells_nothing_about_the_class():
    pool = Textures().pool("train")
    means = torch.from_numpy(pixels_of(pool).mean(axis=(1, 2)))  # [N, 3]
    between = torch.stack([means[pool.labels == label].mean(0) for label in range(len(CLASSES))]).std(0)
    assert (between < 0.25 * means.std(0)).all()


def test_another_size_shows_the_same_texture():
    small, large = pixels_of(SMALL.pool("train")), pixels_of(Textures(num_pool=100, size=64).pool("train"))
    assert large.shape == (100, 64, 64, 3)
    shrunk = large.reshape(100, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(small, shrunk, strict=True)]
    assert np.median(correlations) > 0.9


def test_paint_follows_its_draws():
    # The first image is light on dark, and the second one is dark on light.
    draws = np.array([[0.9, 0.0, 0.5, *[0.5] * 6], [0.1, 0.0, 0.5, *[0.5] * 6]])
    images = paint(np.array([[[0.0, 1.0]], [[0.0, 1.0]]]), draws)
    assert images[0, 0].tolist() == [[71, 71, 71], [184, 184, 184]]  # The values are 255 * (0.5 -+ 0.22), rounded.
    assert images[1, 0].tolist() == [[184, 184, 184], [71, 71, 71]]


def test_uniform_draws_are_those_of_numpys_generator():
    expected = np.random.Generator(np.random.PCG64(7)).random(5)
    assert uniform_draws(7, 5).tolist() == expected.tolist()


@pytest.mark.parametrize("settings", [{"num_pool": 99}, {"num_test": 60_000}, {"size": 8}])
def test_sizes_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))} .*must be a whole number in"):
        Textures(**settings)


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="must be 'train' or 'test', got 'val'"):
        SMALL.pool("val")
