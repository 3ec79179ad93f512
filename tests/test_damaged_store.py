"""Changed bytes of every kind of stored product of images are named, and the product is made again as it was."""

import logging
import shutil

import numpy as np
import pytest
import torch

import damage
from made_data import make_image_folder
from prunetune.base import hashes
from prunetune.base.store import Store
from prunetune.data.readers.image_folder import ImageFolder
from prunetune.networks.backbone import Backbone
from prunetune.networks.masking import MaskPath
from prunetune.runs.scores import stored_scores
from prunetune.scorers import DLC
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import LINEAR_PROBE, ProxyRecipe
from prunetune.signals.view_bank import view_bank
from prunetune.training.recipe import Recipe

FULL = ProxyRecipe(Recipe("full", trained="all", epochs=2, batch_size=8, learning_rate=1e-3, views=0))
MAPPED = ("images", "masked", "views", "layers", "proxies")  # Their large files are verified block by block.


def signals_over(folder, pool, network, short_side=None):
    """Return new signals over a store, which have nothing in memory yet."""
    return NetworkSignals(pool, Embedding(network, Store(folder), short_side=short_side), LINEAR_PROBE, True)


def decoded(signals):
    images = signals.embedding.decoded(signals.pool)
    return torch.cat([images.decode(position).flatten() for position in range(len(signals.pool))])


def views(signals):
    return view_bank(signals, torch.arange(len(signals.pool)), 2).values


def parts(signals):
    def means(batches, _):
        return torch.cat([batch.double().mean((1, 2, 3)) for batch in batches])

    return signals.per_image({"function": "means"}, means, "means")


def full_proxy(signals):
    proxy = NetworkSignals(signals.pool, signals.embedding, FULL).proxy()
    values = [proxy.logits(1), proxy.logits(2), proxy.features(2), *proxy.head(2)]
    return torch.cat([value.flatten() for value in [*values, *proxy.model(2).state_dict().values()]])


def scores(signals):
    found = stored_scores(DLC(levels=2), signals, 0)
    return torch.cat([found.values, torch.from_numpy(np.load(found.folder / "losses.npy")).flatten()])


READERS = {
    "images": decoded,
    "features": lambda signals: signals.features(),
    "masked": lambda signals: torch.stack(list(signals.masked_features(MaskPath(levels=2)))),
    "views": views,
    "parts": parts,
    "layers": lambda signals: torch.cat(list(signals.layer_features()), dim=1),
    "proxies": full_proxy,
    "probes": lambda signals: torch.cat([value.flatten() for value in signals.proxy().head(3)]),
    "scores": scores,
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("images"), {"cat": 5, "dog": 5})
    return ImageFolder(root=str(folder)).pool("train")


@pytest.fixture(scope="module")
def network():
    return Backbone(model="prunetune_micro", pretrained=False, mask_modules="conv2d", input_size=16).load()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pool, network):
    """Return what each reader returns, and the folder of the stores in which it finds it."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: read(signals_over(folder / kind, pool, network)) for kind, read in READERS.items()}, folder


@pytest.fixture
def small_blocks(monkeypatch):
    """Have files of a few kilobytes consist of several blocks."""
    monkeypatch.setattr(hashes, "BLOCK", 1024)


def entry_of(store, kind):
    [entry] = damage.entries(store, "proxies" if kind == "probes" else kind)
    return entry


def check(kind, store, pool, network, expected, caplog):
    """Read a damaged store, and check the value and the warning. Afterwards the store is whole."""
    entry = entry_of(store, kind)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        value = READERS[kind](signals_over(store, pool, network))
    assert torch.equal(value, expected)
    said = [record.getMessage() for record in caplog.records]
    assert [line.startswith(f"{entry} is damaged (") and line.endswith("and is made again") for line in said] == [True]
    assert [path.name for path in (store / "damaged").glob(f"*/{entry.relative_to(store)}")] == [entry.name]
    shutil.rmtree(store / "damaged")
    assert entry.is_dir()


@pytest.mark.parametrize("kind", READERS)
def test_one_changed_bit_of_each_file_is_found(whole, pool, network, tmp_path, caplog, kind):
    values, folder = whole
    store = shutil.copytree(folder / kind, tmp_path / "store")
    # One bit of meta.json can be the last digit of a float, which stays the same number. Its test is another one.
    for name in sorted({file.name for file in entry_of(store, kind).iterdir()} - {"meta.json"}):
        damage.damage(entry_of(store, kind) / name, damage.flip_a_bit)
        check(kind, store, pool, network, values[kind], caplog)


@pytest.mark.parametrize("way", [damage.zero_a_page, damage.replace_the_body])
@pytest.mark.parametrize("kind", READERS)
def test_more_changed_bytes_of_the_largest_file_are_found(whole, pool, network, tmp_path, caplog, kind, way):
    values, folder = whole
    store = shutil.copytree(folder / kind, tmp_path / "store")
    files = [file for file in entry_of(store, kind).iterdir() if file.suffix != ".json"]
    damage.damage(max(files, key=lambda file: file.stat().st_size), way)
    check(kind, store, pool, network, values[kind], caplog)


@pytest.mark.parametrize("kind", READERS)
def test_an_exchanged_entry_is_found(whole, pool, network, tmp_path, caplog, kind):
    values, folder = whole
    store = shutil.copytree(folder / kind, tmp_path / "store")
    READERS[kind](signals_over(tmp_path / "other", pool, network, short_side=12))
    damage.exchange(entry_of(store, kind), entry_of(tmp_path / "other", kind))
    check(kind, store, pool, network, values[kind], caplog)


@pytest.mark.parametrize("kind", MAPPED)
def test_changed_bytes_of_a_large_file_are_found_when_they_are_read(
    small_blocks, whole, pool, network, tmp_path, caplog, kind
):
    values, folder = whole
    store = tmp_path / "store"
    READERS[kind](signals_over(store, pool, network))
    for file in sorted(entry_of(store, kind).iterdir()):
        if file.suffix in (".npy", ".bin"):
            damage.damage(file, damage.flip_a_bit)
            check(kind, store, pool, network, values[kind], caplog)
