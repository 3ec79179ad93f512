"""How often the interval of `prunetune advise` holds the loss that a test set then shows.

python -m scripts.survey.advice_coverage --data <folder with data/ and weights/> [--sets dtd10] [--sub-pools 20]

From the pool of each set random sub-pools are drawn, at most 60 % of each class. `advise` estimates on a sub-pool alone
what each fraction of it loses against all of it. Then the sub-pool is pruned to that fraction, probes are trained on
the part and on the whole, and the test set says what was lost. The interval should hold this loss. The script writes
advice_coverage.md and advice_coverage.csv, and keeps features in --store and finished sub-pools in --parts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.api import make_plan
from prunetune.base.seeding import stream
from prunetune.own import learning_curve
from prunetune.own.advice import selection_of
from prunetune.own.choose import DEFAULT_METHOD
from prunetune.own.learning_curve import FRACTIONS, Curve
from prunetune.report.statistics import estimate
from prunetune.training.linear_probe import Probe
from scripts.bench.benchmarks import Column, write_table
from scripts.survey.features import SETS, Features, features_of

SHARE, LEAST = 0.6, 8  # A sub-pool has this fraction of each class, and at least this many samples of it.
MOST = 1500  # A sub-pool of more samples than this is cut, so that the survey takes minutes.
COLUMNS = (
    Column("set", "set"),
    Column("samples", "samples", "d"),
    Column("classes", "classes", "d"),
    Column("sub_pools", "sub-pools", "d"),
    Column("coverage", "coverage %", ".1f"),
    Column("interval", "95 % interval"),
    *(Column(f"at_{fraction:g}", f"at {fraction:.0%}", ".0f") for fraction in FRACTIONS[:-1]),
    Column("width", "width", ".1f"),
    Column("bias", "bias", ".1f"),
    Column("error", "spread of error", ".1f"),
)
NOTES = (
    "coverage: percentage of the intervals of a loss that hold the loss on the test set, over sub-pools and fractions.",
    "95 % interval: of the coverage, by Student's t over the sub-pools, since the fractions of one sub-pool are "
    "dependent. Sub-pools of a set share samples and the test set, so the interval is too narrow rather than too wide.",
    "at 5 % and so on: the coverage at this fraction kept.",
    "width: of the intervals, mean; bias: mean of estimate minus test loss; spread of error: its standard deviation. "
    "All three are in percentage points.",
    "The loss on the test set is itself uncertain: it comes from one training, and a finite test set.",
)


def main() -> None:
    """Measure every sub-pool that --parts does not have, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=Path("results/own_data"), help="folder for the tables")
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="folder for features")
    parser.add_argument("--parts", type=Path, default=Path("results/store/advice_coverage"), help="finished sub-pools")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sub-pools", type=int, default=20)
    arguments = parser.parse_args()
    rows = []
    for features in features_of(arguments.data, arguments.sets, arguments.store):
        found = [_kept(features, number, arguments.parts) for number in range(arguments.sub_pools)]
        rows.append(row_of(features, found))
        print({key: value for key, value in rows[-1].items() if not key.startswith("at_")}, flush=True)
    about = (
        "The interval of `prunetune advise` for the loss of accuracy at each fraction kept, against the loss that a "
        "test set then shows. ViT-Tiny, a linear probe, herding with top-k. A sub-pool has at most 60 % of each class."
    )
    write_table(arguments.out, "advice_coverage", "Coverage of the advice", about, COLUMNS, rows, NOTES)


def _kept(features: Features, number: int, parts: Path) -> dict[str, Any]:
    """Return what `measured` gives for one sub-pool, from its file if it was measured before."""
    file = parts / f"{features.name}_{number}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measured(features, number)))
        print(file, flush=True)
    return json.loads(file.read_text())


def measured(features: Features, number: int) -> dict[str, Any]:
    """Return the learning curve of one sub-pool, and the loss on the test set at each fraction.

    Args:
        features: of a set.
        number: of the sub-pool.
    """
    rows = sub_pool(features.labels, number)
    pool, labels = features.pool[rows], features.labels[rows]
    select = selection_of(make_plan(DEFAULT_METHOD, "auto", "micro", number))  # The network is not used.
    curve = learning_curve.learning_curve(pool, labels, select, seed=number)
    kept = [select(pool, labels, fraction, number) for fraction in FRACTIONS[:-1]]
    accuracies = _accuracies(features, pool, labels, [*kept, torch.arange(len(labels))], number)
    return {
        "samples": len(labels),
        "curve": curve.as_json(),
        "losses": [accuracies[-1] - accuracy for accuracy in accuracies[:-1]],
    }


def sub_pool(labels: Tensor, number: int) -> Tensor:
    """Return the ascending positions of a random sub-pool of N samples."""
    generator, drawn = stream("coverage of advice", number), []
    share = min(SHARE, MOST / len(labels))
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        count = max(int(share * len(members)), min(len(members), LEAST))
        drawn.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(drawn).sort().values


def _accuracies(features: Features, pool: Tensor, labels: Tensor, kept: Sequence[Tensor], seed: int) -> list[float]:
    """Return the accuracy on the test set of a probe on each of the kept parts, trained as `advise` trains."""
    num_classes, found = int(features.labels.max()) + 1, []
    for rows in kept:
        probe = Probe(rows, labels[rows], features.test, features.test_labels, seed)
        found += learning_curve.judged(pool, [probe], num_classes, "cpu")
    return [float(right.mean()) for right in found]


def row_of(features: Features, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of one set in the table."""
    curves = [Curve.from_json(part["curve"]) for part in found]
    estimates = [[curve.loss(row) for row in range(len(FRACTIONS) - 1)] for curve in curves]
    parts = [[[each.mean, each.low, each.high] for each in row] for row in estimates]
    mean, low, high = np.moveaxis(np.array(parts), 2, 0)  # [S, R - 1] each.
    losses = np.array([part["losses"] for part in found])
    holds, error = (low <= losses) & (losses <= high), mean - losses
    by_pool = holds.mean(axis=1)
    coverage = estimate(by_pool)
    return {
        "set": features.name,
        "samples": found[0]["samples"],
        "classes": int(features.labels.max()) + 1,
        "sub_pools": len(found),
        "coverage": 100 * coverage.mean,
        "interval": f"{100 * max(coverage.low, 0):.1f} to {100 * min(coverage.high, 1):.1f}",
        **{f"at_{f:g}": 100 * share for f, share in zip(FRACTIONS, holds.mean(axis=0), strict=False)},
        "width": 100 * float((high - low).mean()),
        "bias": 100 * float(error.mean()),
        "error": 100 * float(error.std(ddof=1)),
    }


if __name__ == "__main__":
    main()
