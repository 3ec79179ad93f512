"""The evaluation view and the seeded training view, against torchvision's on Pillow images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from prunetune.base.seeding import stream
from prunetune.data.images.decode import ImageArrays
from prunetune.data.images.transforms import crop_box, evaluation_view, training_view
from prunetune.data.pool import Pool
from prunetune.networks.frozen_pass import evaluation, training


def picture(height: int, width: int) -> torch.Tensor:
    """Return [3, height, width] uint8 with waves and noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x / 3 - y / 7), np.sin((x + y) / 11)])
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return torch.from_numpy((128 + 90 * waves + noise).clip(0, 255).astype(np.uint8))


def pool_of(num_images: int) -> Pool:
    pixels = np.random.default_rng(1).integers(0, 256, (num_images, 20, 24, 3), dtype=np.uint8)
    ids = tuple(f"image{i:03d}" for i in range(num_images))
    return Pool(
        "made",
        torch.zeros(num_images, dtype=torch.int64),
        ids,
        ("train",) * num_images,
        ("a",),
        ImageArrays(pixels),
    )


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (97, 131), (48, 40), (256, 256), (33, 200)])
@pytest.mark.parametrize("size", [32, 224])
def test_the_evaluation_view_is_torchvisions_resize_and_centre_crop(shape, size):
    image = picture(*shape)
    usual = transforms.Compose([transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size)])
    expected = np.asarray(usual(Image.fromarray(image.permute(1, 2, 0).numpy())))
    view = evaluation_view(image, size)
    assert view.dtype == torch.uint8
    assert view.shape == (3, size, size)
    difference = np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected.astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.1


@pytest.mark.parametrize("shape", [(1, 30000), (30000, 1), (1, 1), (2, 3)])
def test_images_of_extreme_shape_give_views_of_the_usual_size(shape):
    image = torch.full((3, *shape), 77, dtype=torch.uint8)
    for view in (evaluation_view(image, 32), training_view(image, 32, stream("crop"))):
        assert view.shape == (3, 32, 32)
        assert view.unique().tolist() == [77]


def test_an_image_one_pixel_wide_is_not_enlarged_as_a_whole(monkeypatch):
    from prunetune.data.images.transforms import functional

    largest = 0
    resize = functional.resize

    def watched(image, size, **options):
        nonlocal largest
        result = resize(image, size, **options)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(functional, "resize", watched)
    evaluation_view(torch.zeros(3, 1, 30000, dtype=torch.uint8), 224)
    assert 0 < largest <= 3 * 256 * 256 * 8


def test_only_ends_that_no_view_shows_are_cut_from_a_long_image():
    image = picture(16, 16 * 10)  # The image is longer than 8 times its short side, and is enlarged exactly twice.
    usual = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28)])
    expected = np.asarray(usual(Image.fromarray(image.permute(1, 2, 0).numpy()))).astype(int)
    assert np.abs(evaluation_view(image, 28).permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 2**31))
@settings(max_examples=300, deadline=None)
def test_a_crop_lies_inside_the_image_and_is_not_empty(height, width, seed):
    top, left, crop_height, crop_width = crop_box(height, width, torch.Generator().manual_seed(seed))
    assert 1 <= crop_height <= height
    assert 1 <= crop_width <= width
    assert 0 <= top <= height - crop_height
    assert 0 <= left <= width - crop_width


def test_crops_have_the_area_and_aspect_of_random_resized_crop():
    generator = stream("crops")
    boxes = torch.tensor([crop_box(400, 500, generator) for _ in range(3000)], dtype=torch.float64)
    area, aspect = boxes[:, 2] * boxes[:, 3] / 200_000, boxes[:, 3] / boxes[:, 2]
    assert 0.078 < area.min() < 0.09
    assert area.max() <= 1
    assert 0.74 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.35
    assert boxes[:, 0].min() == 0
    assert boxes[:, 1].min() == 0
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    assert centre.mean(dim=0).tolist() == pytest.approx([200, 250], abs=5)
    theirs = torch.tensor(
        [
            transforms.RandomResizedCrop.get_params(torch.empty(3, 400, 500), (0.08, 1), (3 / 4, 4 / 3))
            for _ in range(3000)
        ],
        dtype=torch.float64,
    )
    their_area = theirs[:, 2] * theirs[:, 3] / 200_000
    assert area.mean().item() == pytest.approx(their_area.mean().item(), abs=0.03)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 30000), (0, 14999, 1, 1)), ((10, 300), (0, 143, 10, 13)), ((300, 10), (143, 0, 13, 10))],
)
def test_where_no_attempt_fits_the_largest_centred_crop_of_a_permitted_aspect_is_taken(shape, expected):
    class NeverFits:
        """Stands for a generator whose draws ask for the whole area each time."""

    def full_area(count, generator, dtype):
        return torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunetune.data.images.transforms.torch.rand", full_area)
        assert crop_box(*shape, NeverFits()) == expected


def test_the_same_view_of_the_same_image_has_the_same_pixels_whatever_was_drawn_before():
    pool = pool_of(6)
    one, again = (training(pool.images, 16, pool, "view", 2) for _ in range(2))
    other = training(pool.images, 16, pool, "view", 3)
    forwards = [one(i) for i in range(6)]
    backwards = [again(i) for i in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not any(torch.equal(forwards[i], other(i)) for i in range(6))
    part = pool.take([4, 1])  # Positions change in a part of the pool, but ids do not.
    assert torch.equal(training(part.images, 16, part, "view", 2)(1), forwards[4])


def test_about_half_of_the_training_views_are_flipped():
    # The image becomes brighter to the right.
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(3, 48, 64).contiguous()
    views = [training_view(ramp, 8, stream("flip", i)) for i in range(600)]
    flipped = sum(bool(view[0, :, 0].float().mean() > view[0, :, -1].float().mean()) for view in views)
    assert abs(flipped - 300) < 4 * 150**0.5


def test_the_evaluation_view_of_a_pool_is_that_of_its_images():
    pool = pool_of(3)
    assert torch.equal(evaluation(pool.images, 16)(2), evaluation_view(pool.images.decode(2), 16))
