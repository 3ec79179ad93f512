"""The benchmark of the cluster engine: its shards, its table, and its model of cost. Times are not checked."""

import csv
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from runs import ROOT
from scripts.assets.doc_cluster_costs import cluster_costs_page
from scripts.bench import cluster_data, cluster_table
from scripts.bench.cluster_costs import PASSES, are_enough, checked, fitted
from scripts.bench.cluster_table import STAGES_OF_LOG

HELD_BACK = ("dlc", 100_000)
START, READING, NETWORK = 40.0, 0.0005, 0.0002


def row(method, size, engine="ray", data="images", factor=1.0):
    cpu = factor * (START + size * (READING + PASSES.get(method, 0) * NETWORK))
    numbers = {f"{stage}_seconds": cpu / 10 for stage in cluster_table.STAGES}
    numbers |= {f"{kind}_bytes": 10 * size for kind in ("input", "written", *cluster_table.KINDS)}
    numbers["passes_bytes"] = (44 + 4 * 96 * PASSES.get(method, 0)) * size
    return {
        **{"data": data, "method": method, "classes": 10, "size": size, "engine": engine, "repeat": 0},
        **{"outcome": "finished", "seconds": cpu / 2, "start_seconds": 5.0, "cpu_seconds": cpu, **numbers},
        **{"driver_peak_bytes": 2**30, "worker_peak_bytes": 2**30, "workers": 4, "commit": "c" * 40, "device": "d"},
    }


def rows(factor=1.0):
    found = [
        row(method, size) for method in ("decode", *PASSES) for size in (10_000, 100_000) if (method, size) != HELD_BACK
    ]
    return [*found, row(*HELD_BACK, factor=factor)]


def test_shards_are_the_same_whatever_the_pool_is(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cluster_data.image_shard(tmp_path / folder, 3, rows=20)
        cluster_data.embedding_shard(tmp_path / folder, 3, rows=20)
    a, b = (pq.read_table(tmp_path / folder / "00003.parquet") for folder in ("a", "b"))
    assert a.equals(b)
    matrix = np.stack(a.column("embedding").to_pylist())
    assert matrix.shape == (20, 384)
    assert set(np.array(a.column("fine")) // 50) == set(a.column("coarse").to_pylist())


def test_embeddings_are_given_to_the_engine_in_process_in_the_same_order(tmp_path):
    for shard in (0, 1):
        cluster_data.embedding_shard(tmp_path, shard, rows=10)
    features, labels = (np.load(place) for place in cluster_data.as_arrays(tmp_path, "fine", tmp_path))
    table = pq.read_table(tmp_path / "00001.parquet")
    assert features.dtype == np.float16
    assert np.array_equal(features[10:], np.stack(table.column("embedding").to_pylist()))
    assert labels[10:].tolist() == table.column("fine").to_pylist()


def test_every_stage_of_the_engine_has_a_column():
    texts = [file.read_text() for file in (ROOT / "src/prunetune/cluster").glob("*.py")]
    assert {name for text in texts for name in re.findall(r'what="([^"]+)"', text)} == set(STAGES_OF_LOG)
    assert set(STAGES_OF_LOG.values()) <= set(cluster_table.STAGES)


def test_the_model_finds_its_numbers_and_predicts_the_row_that_is_held_back():
    model, predicted, measured = checked(rows(factor=1.1))
    assert (model.start, model.reading, model.network) == pytest.approx((START, READING, NETWORK))
    assert predicted == pytest.approx(measured / 1.1)


def test_rows_that_do_not_determine_the_model_are_too_few():
    plain = [row("plain", size) for size in (10_000, 100_000, 1_000_000)]
    assert not are_enough(plain)
    assert not are_enough([*plain, row("dlc", 10_000)])  # They do not tell the pass from the rest.
    assert are_enough([*plain, row("dlc", 10_000), row("dlc", 30_000)])


def test_negative_costs_are_refused():
    found = {("plain", 10_000): row("plain", 10_000), ("plain", 30_000): row("plain", 30_000, factor=0.5)}
    with pytest.raises(ValueError, match="negative"):
        fitted({**found, ("dlc", 10_000): row("dlc", 10_000)})


def write_csv(found, file):
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


def test_the_page_says_when_the_prediction_misses_its_goal(tmp_path):
    for factor, word in ((1.1, "which is within the goal"), (1.5, "which is **not** within the goal")):
        write_csv(rows(factor), tmp_path / "cluster.csv")
        assert word in cluster_costs_page(tmp_path / "cluster.csv")
    # 10^9 images of five passes: 10^9 (0.0005 + 5 0.0002) s = 416,667 hours.
    assert "| 10^9 | 417 |" in cluster_costs_page(tmp_path / "cluster.csv").replace("416,667", "417")


def test_the_table_has_ratios_exponents_and_what_was_not_run(tmp_path):
    found = [*rows(), row("plain", 100_000, "local", factor=0.5)]
    found.append({**row("dlc", 1_000_000), "outcome": "not run: it takes too long", "seconds": None})
    write_csv(found, tmp_path / "cluster.csv")
    cluster_table.write(cluster_table.read(tmp_path / "cluster.csv"), tmp_path / "cluster.md")
    text = (tmp_path / "cluster.md").read_text()
    # Half the seconds in process are a ratio of 0.50.
    assert "| images | plain | 100,000 | 3,636 | 1,818 | 0.50 | 0.50 |" in text
    assert "- images plain 100,000: 0.50 of the rows a second of the engine in process." in text
    growth = np.log10((START + 1e5 * READING) / (START + 1e4 * READING))
    assert f"| images | decode | 10,000 to 100,000 | {growth:.2f} |" in text
    assert "- images dlc 1,000,000 ray: not run: it takes too long." in text
    assert "embeddings herding 10,000,000 ray" in text.split("## Not measured")[1]
