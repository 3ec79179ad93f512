"""The benchmarks of DLC on pools of a few images: scores are equal and tables complete. Times are not checked."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from prunetune.data.readers import Textures
from prunetune.networks.backbone import Backbone
from runs import ROOT
from scripts.bench import benchmarks, dlc, growth, selection
from scripts.bench.benchmarks import Column

JOB = {"levels": 5, "step": 0.2}


@pytest.fixture(scope="module")
def network():
    return Backbone(model="prunetune_micro", mask_modules="conv2d").load()


def test_the_released_procedure_and_ours_give_the_same_ranking(monkeypatch):
    monkeypatch.setattr(dlc.os, "cpu_count", lambda: 0)  # With no CPUs the loader starts no processes.
    pool = Textures(num_pool=120).pool("train")

    def network():  # The released procedure does not remove its masks from the network.
        return Backbone(model="prunetune_micro", mask_modules="conv2d").load()

    row, theirs = dlc.released(pool, network(), JOB)
    _, ours = dlc.dlc(pool, network(), {**JOB, "precision": "fp32"})
    # The resize of Pillow rounds differently, so the ranks are not quite equal.
    assert dlc._rank_correlation(theirs.numpy(), ours.numpy()) > 0.998
    assert row["whole_seconds"] > row["seconds"] > 0


def test_without_the_resize_the_released_procedure_gives_our_scores(monkeypatch):
    monkeypatch.setattr(dlc.os, "cpu_count", lambda: 0)
    pool = Textures(num_pool=120).pool("train")
    monkeypatch.setattr(dlc.transforms, "Resize", lambda size: dlc.transforms.CenterCrop(32))
    monkeypatch.setattr("prunetune.data.images.transforms.round", lambda size: 32, raising=False)
    _, theirs = dlc.released(pool, Backbone(model="prunetune_micro", mask_modules="conv2d").load(), JOB)
    network = Backbone(model="prunetune_micro", mask_modules="conv2d").load()
    _, ours = dlc.dlc(pool, network, {**JOB, "precision": "fp32"})
    assert torch.allclose(theirs.double(), ours, atol=1e-6)


def test_the_limit_counts_decoding_and_all_passes(network):
    pool, shown = Textures(num_pool=101).pool("train"), []
    handle = network.model.register_forward_hook(lambda _, inputs, __: shown.append(len(inputs[0])))
    row, scores = dlc.limit(pool, network, {"levels": 3, "precision": "fp32"})
    handle.remove()
    assert scores is None
    assert sum(shown) == 3 * 101
    assert row["seconds"] >= row["decode_seconds"] > 0


def test_the_table_of_dlc_has_ratios_and_rank_correlations():
    names = list(dlc.JOBS)
    found = {name: {"seconds": 10.0 / (i + 1), "cpu_seconds": 1.0, "peak_bytes": 1} for i, name in enumerate(names)}
    found[names[0]] |= {"whole_seconds": 12.0, "whole_cpu_seconds": 1.5}
    found["DLC"] = {"outcome": "failed: no memory"}
    scores = {"released procedure": np.arange(5.0), "DLC, bf16": np.array([0.0, 1, 2, 4, 3])}
    rows = {row["procedure"]: row for row in dlc.table_rows(found, scores)}
    assert list(rows) == [names[0], "released procedure, as a whole", *names[1:]]
    assert rows["DLC, bf16"]["faster"] == pytest.approx(5)
    assert rows["DLC, bf16"]["of_limit"] == pytest.approx(4 / 5)
    assert rows["DLC, bf16"]["spearman_released"] == pytest.approx(0.9)
    assert rows["DLC, bf16"]["spearman"] is None  # There are no scores in fp32 to compare with.
    assert rows["DLC"]["seconds"] == "failed: no memory"
    assert rows["DLC"]["faster"] is None


def test_procedures_run_in_turn_give_medians_and_a_failure_is_not_repeated():
    calls = []

    def procedure(name, seconds):
        def run():
            calls.append(name)
            return {"seconds": seconds.pop(0), "peak_bytes": len(calls), "text": name}

        return run

    def failing():
        calls.append("f")
        return {"outcome": "failed: x"}

    found = benchmarks.in_turn({"a": procedure("a", [1.0, 5.0, 2.0]), "f": failing, "b": procedure("b", [1, 1, 1])}, 3)
    assert "".join(calls) == "afbabab"
    assert found["a"] == {"seconds": 2.0, "peak_bytes": 6, "text": "a", "seconds_spread": 2.0}
    assert found["f"] == {"outcome": "failed: x"}
    assert benchmarks.ratio(found["a"], found["b"]) == 2
    assert benchmarks.ratio(found["f"], found["b"]) is None


def test_a_table_is_written_for_people_and_for_programs(tmp_path):
    columns = [Column("name", "name"), Column("seconds", "seconds", ".2f"), benchmarks.PEAK]
    rows = [{"section": "one", "name": "a", "seconds": 1.234, "peak_bytes": 3 * 2**20}]
    rows += [{"section": "two", "name": "b", "seconds": "unmeasured"}]
    benchmarks.write_table(tmp_path, "t", "Title", "About.", columns, rows, ["A note."])
    text = (tmp_path / "t.md").read_text()
    assert "## one\n\n| name | seconds | peak MiB |\n|---|---:|---:|\n| a | 1.23 | 3 |\n" in text
    assert "| b | unmeasured | X |" in text
    assert "- A note.\n- Device: " in text
    with (tmp_path / "t.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["seconds"] for row in found] == ["1.234", "unmeasured"]
    assert all(row["device"] and row["commit"] for row in found)


def test_a_child_process_is_measured_and_its_failure_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The command `python -m` looks for modules in this folder.
    (tmp_path / "child.py").write_text(
        "import sys, json; job = json.loads(sys.argv[2]); print('x'); print(json.dumps(eval(job['do'])))"
    )
    assert benchmarks.run_apart("child", {"do": "{'seconds': 1.5, 'peak_bytes': 7}"}) == {
        "seconds": 1.5,
        "peak_bytes": 7,
        "outcome": "finished",
    }
    assert benchmarks.run_apart("child", {"do": "1 / 0"}) == {"outcome": "failed: ZeroDivisionError: division by zero"}
    slow = benchmarks.run_apart("child", {"do": "__import__('time').sleep(60)"}, limit=0.5)
    assert slow == {"outcome": "stopped after 0.5 s"}


def test_the_costs_of_baselines_are_made_of_two_epochs():
    measured = {"epoch_seconds": 10.0, "record_seconds": 2.0, "gradient_seconds": 30.0}
    assert selection.baseline_costs(measured) == {
        "forgetting": 500,
        "least_confidence": 402,
        "el2n": 3 * (5 * 8 + 2),
        "el2n_released": 402,
        "grand": 3 * (5 * 8 + 30),
        "grand_released": 430,
    }


def test_variants_have_smaller_images_or_lower_precision_and_unique_names():
    chosen = selection.variants(224)
    of_dlc = [name for name, job in chosen.items() if job["method"] == selection.DLC_METHOD]
    assert of_dlc[:2] == ["dlc T5 224px fp32", "dlc T5 224px bf16"]
    assert {job["size"] for job in chosen.values()} == {224, 160, 128}
    assert [chosen[name]["precision"] for name in of_dlc].count("fp32") == 1
    assert {job["size"] for job in selection.variants(32).values()} == {32, 24, 16}


def test_the_table_of_selection_compares_at_equal_precision():
    chosen = selection.variants(32)
    found = {name: {"seconds": 11.0, "decode_seconds": 1.0, "peak_bytes": 1} for name in chosen}
    parts = {"epoch_seconds": 10.0, "record_seconds": 2.0, "gradient_seconds": 3.0, "decode_seconds": 1.0}
    found["train fp32"] = {"seconds": 20.0, "peak_bytes": 1, **parts}
    found["train bf16"] = {"outcome": "failed: x"}
    scores = {name: torch.arange(8.0) for name in chosen}
    accuracies = {"random": [0.5, 0.6], "herding fp32": [0.7, 0.7]}
    rows = selection.table_rows(chosen, found, {"accuracies": accuracies, "labels": [0] * 4 + [1] * 4}, scores)
    plain = next(row for row in rows if row["method"] == "dlc + flexrand")
    assert plain["over_forgetting"] == 50
    assert plain["over_forgetting_decoded"] == pytest.approx(501 / 11)
    assert (plain["spearman"], plain["class_spearman"]) == (1, 1)
    assert next(row for row in rows if row["method"] == "forgetting")["over_dlc"] == 50
    random = next(row for row in rows if row["method"] == "random")
    assert random["accuracy"] == pytest.approx(55)
    herding = next(row for row in rows if row["method"] == "herding")
    assert (herding["over_dlc"], herding["over_forgetting"], herding["gain"]) == (1, 50, pytest.approx(15))
    assert herding["gain_within"] == pytest.approx(12.706 * 5, abs=0.01)  # t of one degree of freedom, 20 and 10 points
    assert "spearman" not in herding
    bf16 = [row for row in rows if row["method"] == "dlc + flexrand" and row["precision"] == "bf16"]
    assert bf16
    assert not any("over_forgetting" in row for row in bf16)


def test_growth_is_the_exponent_between_sizes():
    jobs = {f"{size} fp32": {"size": size, "precision": "fp32"} for size in (10, 100, 1000)}
    found = {name: {"seconds": 2 * job["size"] ** 1.5} for name, job in jobs.items()}
    rows = growth.table_rows(found, jobs)
    assert "growth" not in rows[0]
    assert all(math.isclose(row["growth"], 1.5) for row in rows[1:])
    assert growth.slopes(rows) == "1.500 (fp32)"


def test_pools_that_grow_have_no_two_images_alike():
    pool = growth.made_pool(2100)
    assert len(pool) == 2100
    assert len({pool.images.digest(position) for position in range(2100)}) == 2100
    assert torch.equal(pool.labels[:1000], pool.labels[1000:2000])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("dlc", ["--images", "100"]),
        ("selection", ["--images", "100", "--seeds", "2"]),
        ("growth", ["--sizes", "200", "400"]),
        ("verification", []),
    ],
)
def test_the_scripts_write_their_tables_without_data(tmp_path, script, options):
    command = [sys.executable, "-m", f"scripts.bench.{script}", "--out", str(tmp_path), "--repeats", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with (tmp_path / f"{script}.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert rows
    assert "failed" not in json.dumps(rows)
