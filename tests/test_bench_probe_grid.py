"""The benchmark of the probe grid: its cells, the agreement of its methods, and its tables. No time is checked."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from prunetune.base.seeding import stream
from prunetune.training.linear_probe import train_probes
from prunetune.training.recipe import Recipe
from scripts.bench import benchmarks
from scripts.bench import probe_grid as bench

LABELS = torch.arange(120) % 5
SHORT = Recipe("linear_probe", epochs=4, batch_size=16, last_batch="keep")


def features(views: int) -> torch.Tensor:
    noise = torch.randn(views, 120, 12, generator=stream("bench features", views))
    return noise + 2 * torch.nn.functional.one_hot(LABELS, 12)


def test_the_grid_has_495_cells_with_the_budgets_of_its_ratios():
    probes = bench.probes_of(LABELS, features(1)[0], LABELS, bench.METHODS)
    assert len(probes) == 11 * 9 * 5 == 495
    for method in range(11):
        assert [len(probe.rows) for probe in probes[45 * method : 45 * method + 45 : 5]] == [
            5 * round(24 * ratio) for ratio in bench.RATIOS
        ]
    assert len({tuple(probe.rows.tolist()) for probe in probes}) == 495
    assert all(torch.equal(probe.labels, LABELS[probe.rows]) for probe in probes)


def test_the_three_ways_of_training_give_the_same_losses():
    bank, test = features(3).half(), features(1)[0]
    probes = bench.probes_of(LABELS, test, LABELS, bench.METHODS[:1])
    together = train_probes(bank, probes, 5, SHORT, "cpu")
    for probe, result in list(zip(probes, together, strict=True))[::7]:
        losses = [epoch.train_loss for epoch in result.history]
        [alone] = train_probes(bank, [probe], 5, SHORT, "cpu")
        assert losses == pytest.approx([epoch.train_loss for epoch in alone.history], abs=1e-5)
        assert losses == pytest.approx(bench.plain_losses(bank, probe, 5, SHORT), abs=1e-5)


def test_the_table_of_heads_has_differences_targets_and_what_was_not_measured(tmp_path, monkeypatch):
    asked = []

    def run_apart(script, job):
        asked.append(job["way"])
        cells = 495 if job["way"] == bench.GRID else 45
        np.save(job["losses"], np.full((cells, 2), 1.5 if job["way"] == bench.PLAIN else 1.25))
        times = {bench.GRID: 2.0, bench.ALONE: 20.0, bench.PLAIN: 40.0, bench.SLOWEST: 0.5}
        return {"seconds": times[job["way"]], "cells": cells, "peak_bytes": 2**20, "outcome": "finished"}

    monkeypatch.setattr(benchmarks, "run_apart", run_apart)
    monkeypatch.setattr(bench, "resolve_device", lambda _: "cpu")
    rows = bench.heads("made", [], 8, tmp_path, repeats=3, epochs=2)
    assert asked == [bench.GRID, bench.ALONE, bench.SLOWEST, bench.PLAIN] * 3  # The ways are measured in turn.
    bench.write_heads(tmp_path, rows, 8, 2)
    table = pd.read_csv(tmp_path / "probe_grid.csv")
    assert table["times"].tolist()[:4] == ["1.0", "10.0", "0.25", "20.0"]
    assert table["difference"].tolist()[1:4:2] == [0, 0.25]
    assert table.loc[table["on"] == "cuda", "seconds"].tolist() == ["unmeasured"] * 2
    assert {"device", "commit", "peak_bytes"} <= set(table)
    text = (tmp_path / "probe_grid.md").read_text()
    assert "at least 10 times" in text
    assert "unmeasured" in text


def test_the_time_of_a_grid_that_was_not_run_is_that_of_the_first_with_its_own_views(tmp_path, monkeypatch):
    def run_apart(script, job, limit):
        views = int(job["overrides"][-2].split("=")[1])
        if views >= 8:  # Smaller numbers of views are read from the stored eight.
            part = tmp_path / "store" / "views" / "made" / f"part-{views}-x"
            part.mkdir(parents=True)
            (part / "meta.json").write_text(json.dumps({"seconds": 3.0 * views}))
        return {"seconds": 100.0 if views == 8 else 40.0, "peak_bytes": 1, "outcome": "finished"}

    monkeypatch.setattr(benchmarks, "run_apart", run_apart)
    rows = bench.end_to_end("made", [], [8, 1, 50], tmp_path)
    assert [row["seconds"] for row in rows] == [100, 100 - 24 + 3, 100 - 24 + 150]
    assert [row["how"] for row in rows][0] == "measured"
    assert rows[0]["rest_seconds"] == 76
    bench.write_end_to_end(tmp_path, rows)
    assert pd.read_csv(tmp_path / "end_to_end.csv")["views"].tolist() == [8, 1, 50]


def test_every_way_trains_the_heads_of_embedded_images(tmp_path):
    words = ["dataset=textures", "dataset.num_pool=100", "dataset.num_test=100", "dataset.size=16"]
    words += ["backbone=micro", "backbone.pretrained=false", "backbone.input_size=16", f"results_dir={tmp_path}"]
    losses = {}
    for way in (bench.ALONE, bench.PLAIN, bench.SLOWEST):
        job = {"overrides": words, "views": 2, "way": way, "device": "cpu", "epochs": 2}
        row = bench.measure_heads({**job, "losses": str(tmp_path / f"{way}.npy")})
        assert row["cells"] == (1 if way == bench.SLOWEST else 495)
        losses[way] = np.load(tmp_path / f"{way}.npy")
    assert losses[bench.ALONE].shape == (45, 2)
    assert np.abs(losses[bench.ALONE] - losses[bench.PLAIN]).max() < 1e-5
