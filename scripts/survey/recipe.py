"""How the settings of the linear probe change its accuracy on few images: the last batch, learning rate and epochs.

python -m scripts.survey.recipe --data <folder with data/ and weights/> [--sets dtd10] [--draws 5]

Random images of a set train a linear probe on the features of their evaluation view. Each setting is compared on the
same draws, at numbers of images below, at and just above a multiple of the batch size. The script writes recipe.md and
recipe.csv.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunetune.base.seeding import stream
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe
from scripts.bench.benchmarks import Column, write_table
from scripts.survey.features import SETS, Features, features_of

COUNTS = (10, 20, 40, 80, 120, 128, 130, 160, 200, 256, 258, 300, 386, 400, 500)
RECIPE = Recipe("linear_probe", views=0, evaluate_every=50)
SETTINGS = {
    "balanced": RECIPE,
    "keep": replace(RECIPE, last_batch="keep"),
    "drop": replace(RECIPE, last_batch="drop"),
    "batch_32": replace(RECIPE, batch_size=32),
    "rate_0.003": replace(RECIPE, learning_rate=3e-3),
    "rate_0.03": replace(RECIPE, learning_rate=3e-2),
    "rate_0.1": replace(RECIPE, learning_rate=1e-1),
    "epochs_200": replace(RECIPE, epochs=200, milestones=(100, 150), evaluate_every=200),
    "no_decay": replace(RECIPE, milestones=()),
}
HEADINGS = {
    "batch_32": "batch 32",
    "rate_0.003": "rate 0.003",
    "rate_0.03": "rate 0.03",
    "rate_0.1": "rate 0.1",
    "epochs_200": "200 epochs",
    "no_decay": "no decay",
}
COLUMNS = (
    Column("set", "set"),
    Column("images", "images", "d"),
    *(Column(name, HEADINGS.get(name, name), ".1f") for name in SETTINGS),
    Column("spread", "spread", ".1f"),
)
NOTES = (
    "Test accuracy in %, mean over the draws. All settings of a row train on the same draws.",
    "balanced, keep, drop: `finetune.last_batch`. The other columns change one more setting of `balanced`, whose batch "
    "size is 128, whose learning rate is 0.01, times 0.1 after epochs 25 and 37 of 50.",
    "spread: standard deviation of `balanced` over the draws.",
)


def main() -> None:
    """Measure all sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder for the tables")
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="folder for features")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS[:3])
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for features in features_of(arguments.data, arguments.sets, arguments.store):
        rows += [measured(features, count, arguments.draws) for count in COUNTS]
    about = "ViT-Tiny, a linear probe on random images, judged by all test images."
    write_table(arguments.out, "recipe", "The recipe on few images", about, COLUMNS, rows, NOTES)


def measured(features: Features, count: int, draws: int) -> dict[str, Any]:
    """Return the row of one number of images: the mean accuracy in % of each setting."""
    kept = [_drawn(len(features.labels), count, draw) for draw in range(draws)]
    row: dict[str, Any] = {"set": features.name, "images": count}
    for name, recipe in SETTINGS.items():
        probes = [
            Probe(rows, features.labels[rows], features.test, features.test_labels, seed)
            for seed, rows in enumerate(kept)
        ]
        found = train_probes(features.pool.unsqueeze(0), probes, int(features.labels.max()) + 1, recipe, "cpu")
        accuracies = [100 * result.history[-1].test_accuracy for result in found]
        row[name] = float(np.mean(accuracies))
        if recipe is RECIPE:
            row["spread"] = float(np.std(accuracies, ddof=1))
    return row


def _drawn(total: int, count: int, draw: int) -> torch.Tensor:
    return torch.randperm(total, generator=stream("recipe", draw))[:count].sort().values


if __name__ == "__main__":
    main()
