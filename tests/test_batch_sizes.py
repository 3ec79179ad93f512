"""Batches of an epoch: their sizes by each rule for a last, shorter batch."""

import pytest

from prunetune.training.batch_sizes import batch_sizes


@pytest.mark.parametrize(
    ("count", "batch_size", "rule", "sizes"),
    [
        (130, 128, "balanced", [65, 65]),
        (129, 128, "balanced", [65, 64]),
        (300, 128, "balanced", [100, 100, 100]),
        (128, 128, "balanced", [128]),
        (1, 128, "balanced", [1]),
        (5, 2, "balanced", [3, 2]),  # Three batches would leave a single image.
        (3, 2, "balanced", [3]),
        (3, 1, "balanced", [1, 1, 1]),  # Single images were asked for.
        (130, 128, "keep", [128, 2]),
        (129, 128, "keep", [128, 1]),
        (256, 128, "keep", [128, 128]),
        (5, 128, "keep", [5]),
        (130, 128, "drop", [128]),
        (256, 128, "drop", [128, 128]),
        (5, 128, "drop", [5]),  # Otherwise nothing would be left.
    ],
)
def test_the_sizes_of_batches(count, batch_size, rule, sizes):
    assert batch_sizes(count, batch_size, rule) == sizes


def test_a_single_image_joins_a_kept_batch_where_batches_are_normalised():
    assert batch_sizes(129, 128, "keep", joins_single=True) == [129]
    assert batch_sizes(257, 128, "keep", joins_single=True) == [128, 129]
    assert batch_sizes(130, 128, "keep", joins_single=True) == [128, 2]
    assert batch_sizes(1, 128, "keep", joins_single=True) == [1]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 16])
def test_balanced_batches_differ_by_one_image_at_most_and_none_is_a_single_image(batch_size):
    for count in range(1, 200):
        sizes = batch_sizes(count, batch_size, "balanced")
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > 1 or count == 1
        assert len(sizes) in (-(-count // batch_size), -(-count // batch_size) - 1 or 1)
