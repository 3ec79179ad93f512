"""Stored evaluation views, in memory or in a file, have the same pixels as new ones and save transforms."""

import errno
import logging
import os

import pytest
import torch
from torch import Tensor

from prunetune.base.devices import Hardware
from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images import evaluation_views
from prunetune.data.images.decoded import decode_pool
from prunetune.data.images.evaluation_views import EvaluationViews
from prunetune.data.images.transforms import evaluation_view
from prunetune.data.readers import Textures
from prunetune.networks.backbone import Backbone
from prunetune.networks.frozen_pass import Passes, batches, embed
from prunetune.scorers import DLC
from prunetune.signals.network import Embedding, NetworkSignals

POOL = Textures(num_pool=101).pool("train")  # The number of images is no multiple of the batch size.


def slow_views(size: int) -> Tensor:
    return torch.stack([evaluation_view(POOL.images.decode(position), size) for position in range(len(POOL))])


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    sizes = []

    def view(image: Tensor, size: int) -> Tensor:
        sizes.append(size)
        return evaluation_view(image, size)

    monkeypatch.setattr(evaluation_views, "evaluation_view", view)
    return sizes


def test_stored_evaluation_views_equal_new_ones_in_every_order_and_pass(tmp_path, counted):
    views, expected = EvaluationViews(POOL.images, len(POOL), 24, tmp_path), slow_views(24)
    for positions in (range(len(POOL)), range(len(POOL)), [5, 6, 7, 50, 3, 100], range(40, 77), []):
        found = list(batches(views, positions, 8))
        assert sum(map(len, found)) == len(positions)
        assert torch.equal(torch.cat([*found, expected[:0]]), expected[list(positions)])
    assert len(counted) == len(POOL)
    assert torch.equal(views(3), expected[3])
    assert list(tmp_path.iterdir()) == []  # The temporary file has no name in the folder.


def test_only_views_that_were_requested_are_stored(tmp_path):
    views = EvaluationViews(POOL.images, len(POOL), 24, tmp_path)
    views(4)
    assert views.has([4])
    assert not views.has([4, 5])
    assert views.has([])


@pytest.mark.parametrize("fails", ["pwrite", "folder"])
def test_without_room_for_views_they_are_made_again(tmp_path, monkeypatch, caplog, fails):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "pwrite":
        monkeypatch.setattr(os, "pwrite", full)
    else:
        monkeypatch.setattr(evaluation_views.tempfile, "TemporaryFile", full)
    with caplog.at_level(logging.WARNING):
        views = EvaluationViews(POOL.images, len(POOL), 24, tmp_path)
        for _ in range(2):
            assert torch.equal(torch.cat(list(batches(views, range(len(POOL)), 16))), slow_views(24))
    assert not views.has([0])
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_the_pass_over_evaluation_views_gives_the_features_of_a_plain_pass(tmp_path):
    network = Backbone(model="prunetune_micro").load()
    views = EvaluationViews(POOL.images, len(POOL), 32, tmp_path)
    with torch.inference_mode():
        plain = torch.cat([network(part) for part in slow_views(32).split(16)])
    for _ in range(2):
        found = embed(network, views, range(len(POOL)), Passes(16), "test")
        assert torch.equal(found, plain)


def test_dlc_transforms_every_image_once(tmp_path, counted):
    network = Backbone(model="prunetune_micro", mask_modules="conv2d").load()
    signals = NetworkSignals(POOL, Embedding(network, Store(tmp_path)))
    DLC().score(POOL, signals, stream("test"))
    assert counted == [32] * len(POOL)
    images, _ = decode_pool(POOL, Store(tmp_path), None)
    assert images is POOL.images  # A pool in memory is not copied.


def test_features_waiting_on_the_device_are_fetched_in_order(tmp_path, monkeypatch):
    network = Backbone(model="prunetune_micro").load()
    views = EvaluationViews(POOL.images, len(POOL), 32, tmp_path)
    at_once = embed(network, views, range(len(POOL)), Passes(16), "test")
    monkeypatch.setattr("prunetune.networks.frozen_pass.FETCHED_AT_ONCE", 1)
    assert torch.equal(embed(network, views, range(len(POOL)), Passes(16), "test"), at_once)
    assert embed(network, views, [], Passes(16), "test").shape == (0, network.num_features)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pass_in_threads_gives_the_features_of_one_thread(tmp_path, three_threads, precision):
    network = Backbone(model="prunetune_micro").load()
    views = EvaluationViews(POOL.images, len(POOL), 32, tmp_path)
    found = [embed(network, views, range(len(POOL)), Passes(8, Hardware("cpu", precision)), "test") for _ in range(3)]
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    alone = embed(network, views, range(len(POOL)), Passes(8, Hardware("cpu", precision)), "test")
    assert all(torch.equal(each, alone) for each in found)


def test_an_error_in_one_thread_ends_the_pass(tmp_path, three_threads):
    network = Backbone(model="prunetune_micro").load()
    seen = []

    def view(position: int) -> Tensor:
        seen.append(position)
        if position == 10:
            raise ValueError("no such image")
        return evaluation_view(POOL.images.decode(position), 32)

    with pytest.raises(ValueError, match="no such image"):
        embed(network, view, [*range(101)] * 100, Passes(8), "test")
    assert len(seen) < 1000
    assert torch.get_num_threads() == 3


def test_dlc_in_threads_gives_the_scores_of_one_thread(tmp_path, three_threads):
    found = []
    for threads in (3, 1):
        torch.set_num_threads(threads)
        network = Backbone(model="prunetune_micro", mask_modules="conv2d").load()
        embedding = Embedding(network, Store(tmp_path / str(threads)), batch_size=8)
        found.append(DLC().score(POOL, NetworkSignals(POOL, embedding), stream("test")))
    # All threads together compute distances and losses, so rounding may differ.
    assert torch.allclose(*found, rtol=1e-12)
