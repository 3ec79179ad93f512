"""How well suspect labels are found where the wrong ones are known, beside cleanlab.

python -m scripts.survey.suspect_labels --data <folder with data/ and weights/> [--sets dtd10] [--repeats 3]

A fraction of the labels of a set is changed to another class at random. Each sample gets a number that says how well
its label agrees with its features, by `prunetune` and by cleanlab's CleanLearning with its defaults, on the same
features. The script writes suspect_labels.md and suspect_labels.csv. cleanlab is in the extra `parity`; it is under the
AGPL, and nothing else here uses it. Without it, its columns say X.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.own.suspects import suspect_labels
from scripts.bench.benchmarks import Column, write_table
from scripts.survey.features import SETS, Features, features_of

RATES = (0.05, 0.1, 0.2)
COLUMNS = (
    Column("set", "set"),
    Column("rate", "flipped %", ".0f"),
    Column("flipped", "labels", "d"),
    Column("auc", "AUC", ".3f"),
    Column("auc_spread", "spread", ".3f"),
    Column("precision", "precision %", ".1f"),
    Column("precision_spread", "spread", ".1f"),
    Column("listed", "listed", ".0f"),
    Column("right", "of them flipped %", ".1f"),
    Column("cleanlab_auc", "AUC, cleanlab", ".3f"),
    Column("cleanlab_precision", "precision %, cleanlab", ".1f"),
)
NOTES = (
    "labels: how many are flipped; each repeat flips others. Spread: standard deviation over the repeats.",
    "AUC: of the agreement of label and features, for telling flipped labels from the others.",
    "precision: of as many labels as were flipped, those that agree least, the percentage that was flipped.",
    "listed: how many labels the report calls suspect; of them flipped: the percentage of these.",
    "The sets have wrong and doubtful labels of their own, which count here as right ones.",
)


def main() -> None:
    """Measure all sets and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=Path("results/own_data"), help="folder for the tables")
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="folder for features")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS[:3])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for features in features_of(arguments.data, arguments.sets, arguments.store):
        for rate in RATES:
            found = [measured(features, rate, repeat) for repeat in range(arguments.repeats)]
            rows.append(_row(features.name, rate, found))
            print(rows[-1], flush=True)
    about = "Labels that were flipped at random, and how well they are found. Features of ViT-Tiny, training images."
    write_table(arguments.out, "suspect_labels", "Suspect labels", about, COLUMNS, rows, NOTES)


def measured(features: Features, rate: float, repeat: int) -> dict[str, float]:
    """Return AUC and precision on one set of flipped labels."""
    labels, is_wrong = flipped(features.labels, rate, repeat)
    found = suspect_labels(features.pool, labels, seed=repeat)
    auc, precision = _quality(is_wrong, found.agreement.numpy())
    row = {
        "flipped": int(is_wrong.sum()),
        "auc": auc,
        "precision": 100 * precision,
        "listed": len(found.ranking),
        "right": 100 * float(is_wrong[found.ranking.numpy()].mean()),
    }
    if find_spec("cleanlab") is not None:
        auc, precision = _quality(is_wrong, _by_cleanlab(features.pool, labels))
        row |= {"cleanlab_auc": auc, "cleanlab_precision": 100 * precision}
    return row


def flipped(labels: Tensor, rate: float, repeat: int) -> tuple[Tensor, np.ndarray]:
    """Return labels [N] of which a fraction is changed to another class, and which those are, [N] bool."""
    generator, num_classes = stream("flipped labels", rate, repeat), int(labels.max()) + 1
    rows = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    shift = torch.randint(1, num_classes, (len(rows),), generator=generator)
    changed, is_wrong = labels.clone(), np.zeros(len(labels), dtype=bool)
    changed[rows] = (changed[rows] + shift) % num_classes
    is_wrong[rows.numpy()] = True
    return changed, is_wrong


def _quality(is_wrong: np.ndarray, agreement: np.ndarray) -> tuple[float, float]:
    """Return the AUC of low agreement, and the precision of as many as are wrong, both fractions of 1."""
    first = np.argsort(agreement, kind="stable")[: is_wrong.sum()]
    return float(roc_auc_score(is_wrong, -agreement)), float(is_wrong[first].mean())


def _by_cleanlab(features: Tensor, labels: Tensor) -> np.ndarray:
    """Return cleanlab's quality of each label, [N]; larger is better."""
    from cleanlab.classification import CleanLearning

    issues = CleanLearning(seed=0).find_label_issues(features.numpy(), labels.numpy())
    return issues["label_quality"].to_numpy()


def _row(name: str, rate: float, found: list[dict[str, float]]) -> dict[str, Any]:
    """Return the means over the repeats, and the spread of what the report gives."""
    row = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
    spreads = {f"{key}_spread": float(np.std([each[key] for each in found], ddof=1)) for key in ("auc", "precision")}
    return {"set": name, "rate": 100 * rate, **row, **spreads, "flipped": found[0]["flipped"]}


if __name__ == "__main__":
    main()
