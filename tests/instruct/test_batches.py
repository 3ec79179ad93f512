"""Batches by length: every sample once, none too large, padding on the right."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from prunetune.base.errors import InputError
from prunetune.instruct.model.batches import bucketed, collate


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_every_sample_is_in_one_batch_and_no_batch_of_several_is_too_large(lengths, max_tokens):
    lengths = torch.tensor(lengths, dtype=torch.int64)
    batches = bucketed(lengths, max_tokens)
    together = torch.cat(batches) if batches else torch.empty(0, dtype=torch.int64)
    assert sorted(together.tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * int(lengths[rows].max()) <= max_tokens


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_lengths_fall_from_batch_to_batch_and_no_batch_could_take_the_next_sample(lengths, max_tokens):
    lengths = torch.tensor(lengths)
    batches = bucketed(lengths, max_tokens)
    assert lengths[torch.cat(batches)].tolist() == sorted(lengths.tolist(), reverse=True)
    for rows in batches[:-1]:
        assert (len(rows) + 1) * int(lengths[rows].max()) > max_tokens


def test_equal_lengths_keep_the_order_of_the_pool():
    assert [rows.tolist() for rows in bucketed(torch.tensor([3, 5, 3, 5, 3]), 10)] == [[1, 3], [0, 2, 4]]


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, True, "8"])
def test_a_wrong_batch_size_gives_a_one_line_error(max_tokens):
    with pytest.raises(InputError, match="max_tokens is the size of a batch and must be a whole number of at least 1"):
        bucketed(torch.tensor([1, 2]), max_tokens)


def test_a_batch_holds_the_samples_tokens_and_then_padding():
    ids = [torch.tensor([1, 7, 8, 2]).int(), torch.tensor([1, 9]).int(), torch.tensor([1, 5, 2]).int()]
    marks = [torch.tensor([0, 0, 1, 1]).bool(), torch.tensor([0, 1]).bool(), torch.tensor([0, 1, 1]).bool()]
    batch = collate(tiny.of_tokens(ids, marks, ["a", "b", "c"]), torch.tensor([2, 0, 1]), pad_id=99)
    assert batch.rows.tolist() == [2, 0, 1]
    assert batch.input_ids.tolist() == [[1, 5, 2, 99], [1, 7, 8, 2], [1, 9, 99, 99]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.responses.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert batch.num_tokens == 9


def test_a_padding_token_inside_a_sample_is_a_real_token():
    ids, marks = [torch.tensor([1, 2, 2]).int()], [torch.tensor([False, True, True])]
    batch = collate(tiny.of_tokens(ids, marks, ["a"]), torch.tensor([0]), pad_id=2)
    assert batch.attention_mask.tolist() == [[1, 1, 1]]
