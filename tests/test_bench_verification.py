"""The benchmark of verification: whole runs with and without it, and medians of their ratios. No time is checked."""

from runs import SMALL
from scripts.bench import verification as bench
from scripts.bench.verification import WITH, WITHOUT


def test_runs_with_and_without_verification_are_measured_cold_and_warm():
    found = bench.measure({"overrides": [*SMALL, "method=herding", "ratio=0.2"], "repeats": 1})
    for row in (found["cold"], found["warm"]):
        assert row["with_seconds"] > row["own_seconds"] > 0
        assert row["ratio"] == row["with_seconds"] / row["without_seconds"]
        assert row["hashed_bytes"] > 10_000


def test_medians_are_taken_over_pairs():
    pairs = [
        {WITH: {"seconds": a, "own": 0.1, "bytes": 5}, WITHOUT: {"seconds": b, "own": 0.0, "bytes": 4}}
        for a, b in ((2.0, 1.0), (3.0, 3.0), (4.0, 8.0))
    ]
    found = bench.summary(pairs)
    assert (found["with_seconds"], found["without_seconds"], found["ratio"]) == (3.0, 3.0, 1.0)
    assert found["share"] == 100 * 0.1 / 3.0
