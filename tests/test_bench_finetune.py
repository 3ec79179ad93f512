"""The benchmark of full fine-tuning: both loops train on the same images, and tables are right. No time is checked."""

import pandas as pd
import pytest
import torch
from torch import nn

from prunetune.data.readers.textures import Textures
from prunetune.networks.backbone import Backbone
from scripts.bench import benchmarks
from scripts.bench import finetune as bench

WORDS = ["dataset=textures", "dataset.num_pool=100", "dataset.num_test=100", "dataset.size=16"]
WORDS += ["backbone=micro", "backbone.pretrained=false", "backbone.input_size=16"]


def job(tmp_path, **changes):
    common = {"overrides": WORDS, "store": str(tmp_path), "network": "micro", "images": 40, "epochs": 1}
    return {**common, "device": "cpu", "precision": "fp32", **changes}


def test_the_released_loader_shows_normalised_crops_of_the_same_images():
    pool = Textures(num_pool=100, num_test=100, size=16).pool("train")
    network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
    images = bench.ReleasedImages(pool, network)
    shown, label = images[3]
    assert (len(images), label) == (100, int(pool.labels[3]))
    assert shown.shape == (3, 16, 16)
    images.transform.transforms = images.transform.transforms[2:]  # This leaves out crop and flip.
    whole, _ = images[3]
    assert torch.allclose(whole, network.normalise(pool.images.decode(3).unsqueeze(0))[0], atol=1e-5)
    features = bench.Normalised(network)(whole.unsqueeze(0))
    assert torch.allclose(features, network(pool.images.decode(3).unsqueeze(0)), atol=1e-4)


@pytest.mark.parametrize("way", [bench.STORE, bench.DEVICE])
def test_the_views_of_some_epochs_are_counted(tmp_path, way):
    row = bench.measure_views(job(tmp_path, way=way, epochs=2))
    assert row["rate"] * row["seconds"] == pytest.approx(80)


@pytest.mark.parametrize("way", [bench.STORE, bench.SYNTHETIC])
def test_our_step_trains(tmp_path, way):
    row = bench.measure_step(job(tmp_path, way=way))
    assert row["rate"] * row["seconds"] == pytest.approx(40)


def test_the_released_loop_trains_what_the_plain_step_would():
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 4, 4), torch.arange(6) % 3
    loader = torch.utils.data.DataLoader([*zip(images, labels, strict=True)], 6)
    head = nn.Linear(48, 3)
    losses = bench._released(nn.Flatten(), head, loader, "cpu")
    first = nn.functional.cross_entropy(head(images.flatten(1)), labels).item()
    assert next(losses) == pytest.approx(first, rel=1e-5)
    assert next(losses) < first


def test_a_part_of_the_pool_has_images_of_every_class(tmp_path):
    pool, _ = bench.opened(job(tmp_path, images=25))
    assert len(pool) == 25
    assert len(pool.labels.unique()) > 5


def test_the_table_says_shares_ratios_and_what_needs_a_gpu(tmp_path, monkeypatch):
    rates = {bench.LOADER: 10.0, bench.STORE: 30.0, bench.DEVICE: 20.0, bench.SYNTHETIC: 40.0}

    def run_apart(script, wanted):
        return {"seconds": 1.0, "rate": rates[wanted["way"]], "peak_bytes": 2**20, "outcome": "finished"}

    monkeypatch.setattr(benchmarks, "run_apart", run_apart)
    common = job(tmp_path)
    rows = [*bench.view_rows("made", common, 2), *bench.step_rows("made", common, "cpu", 1), *bench.unmeasured_rows()]
    bench.write(tmp_path, rows, 40)
    table = pd.read_csv(tmp_path / "finetune.csv")
    views = table[table["section"] == "Training views alone: made"]
    assert views["times"].astype(float).tolist() == [1, 3, 2]
    steps = table[table["section"] == "Training step: made"]
    assert steps["share"].astype(float).tolist() == [0.25, 0.75, 0.75, 1, 1]
    assert (table["rate"] == "unmeasured").sum() == 5
    assert "at least 0.85" in (tmp_path / "finetune.md").read_text()


def test_the_sizes_of_the_store_are_run_one_by_one_and_a_failed_one_is_named(tmp_path, monkeypatch):
    def run_apart(script, wanted, limit):
        if "images.short_side=64" in wanted["overrides"]:
            return {"outcome": "failed: no space"}
        return {"seconds": 1.0, "accuracy_0.5": 70.0, "std_0.5": 1.0, "store_bytes": 2**21, "outcome": "finished"}

    monkeypatch.setattr(benchmarks, "run_apart", run_apart)
    rows = bench.size_rows("made", [], tmp_path)
    bench.write_sizes(tmp_path, rows)
    text = (tmp_path / "store_size.md").read_text()
    assert "| 96 | 2 | 70.00 |" in text
    assert "| 64 | X | X |" in text
