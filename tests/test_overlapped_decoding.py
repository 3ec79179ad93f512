"""Decoding during the first pass, as on a GPU, gives the same store, features and scores, and raises all errors."""

import os
import threading

import numpy as np
import pytest
import torch

from made_data import cut_in_half, make_image_folder
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images import decoded
from prunetune.data.images.decoded import Decoding, decode_pool
from prunetune.data.readers.image_folder import ImageFolder
from prunetune.networks.backbone import Backbone
from prunetune.scorers import DLC
from prunetune.signals.network import Embedding, NetworkSignals


@pytest.fixture
def pool(tmp_path):
    return ImageFolder(root=str(make_image_folder(tmp_path / "images", {"cat": 9, "dog": 7}))).pool("train")


@pytest.fixture(scope="module")
def network():
    return Backbone(model="prunetune_micro", mask_modules="conv2d").load()


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.glob("images/*/*") if p.name != "meta.json"}


def test_overlapped_decoding_gives_the_scores_and_the_store_of_decoding_first(tmp_path, pool, network):
    found = []
    for overlaps in (False, True):
        embedding = Embedding(network, Store(tmp_path / str(overlaps)), overlaps=overlaps, batch_size=4)
        scores = DLC().score(pool, NetworkSignals(pool, embedding), stream("test"))
        assert embedding.decode_seconds(pool) > 0
        found.append((scores, files_of(tmp_path / str(overlaps))))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert "pixels.bin" in found[0][1]


def test_overlapped_decoding_is_the_default_on_a_gpu_and_not_on_a_cpu(tmp_path, network):
    assert Embedding(network, Store(tmp_path), device="cuda").does_overlap
    assert not Embedding(network, Store(tmp_path)).does_overlap


def test_images_are_yielded_before_the_last_one_is_decoded(tmp_path, pool, monkeypatch):
    may_go_on, decode_all = threading.Event(), decoded.decode_all

    def slowly(images):
        for position, image in decode_all(images):
            if position == 3:
                assert may_go_on.wait(60)
            yield position, image

    monkeypatch.setattr(decoded, "decode_all", slowly)
    decoding = Decoding(pool, Store(tmp_path / "store"), None)
    first = [decoding.decode(position) for position in range(3)]
    assert not list((tmp_path / "store" / "images").glob("[!.]*"))  # Nothing is published in the store yet.
    may_go_on.set()
    rest = [decoding.decode(position) for position in range(3, len(pool))]
    decoding.join()
    images, _ = decode_pool(pool, Store(tmp_path / "store"), None)
    expected = [images.decode(position) for position in range(len(pool))]
    assert all(torch.equal(a, b) for a, b in zip([*first, *rest], expected, strict=True))
    again = Decoding(pool, Store(tmp_path / "store"), None)  # The second object finds the images already decoded.
    assert all(torch.equal(again.decode(position), each) for position, each in enumerate(expected))


def test_images_that_cannot_be_read_stop_the_pass_with_their_names(tmp_path, pool, network):
    pool.fingerprint  # noqa: B018 - taken before the damage
    cut_in_half(pool.images.paths[5])
    signals = NetworkSignals(pool, Embedding(network, Store(tmp_path / "store"), overlaps=True))
    with pytest.raises(InputError, match="1 of .* images cannot be read"):
        signals.features()
    assert not list((tmp_path / "store").glob("*/[!.]*"))


def test_a_store_on_a_full_disk_stops_the_pass(tmp_path, pool, network, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(np, "save", full)
    signals = NetworkSignals(pool, Embedding(network, Store(tmp_path / "store"), overlaps=True))
    with pytest.raises(InputError, match="could not be written"):
        signals.features()
