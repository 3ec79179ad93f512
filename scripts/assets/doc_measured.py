"""The page of measured differences from random, from results/tables/baselines.csv."""

from pathlib import Path

import pandas as pd

from prunetune.report.tables import signed
from scripts.assets.doc_text import escaped, page, table

RATIOS = (0.05, 0.1, 0.3, 0.5)
LEAST_SEEDS = 3  # With fewer seeds the spread is not meaningful.
DATASETS = ("caltech101", "dtd10")


def measured_page(path: Path) -> str:
    """Return the page of all methods that have at least LEAST_SEEDS seeds, best mean difference at 0.1 first."""
    frame = pd.read_csv(path)
    random = frame[(frame["finetune"] == "linear_probe") & (frame["method"] == "random")]
    frame = frame[(frame["finetune"] == "linear_probe") & (frame["num_pairs"] >= LEAST_SEEDS)]
    frame = frame[frame["ratio"].isin(RATIOS)]
    means = frame[frame["ratio"] == 0.1].groupby("method")["difference"].mean()
    cells = frame.set_index(["method", "dataset", "ratio"])
    columns = [(dataset, ratio) for dataset in DATASETS for ratio in RATIOS]
    rows = []
    for method in means.sort_values(ascending=False, kind="stable").index:
        rows.append([escaped(method), *(_cell(cells, (method, *column)) for column in columns)])
    seeds = sorted(frame["num_pairs"].unique())
    accuracies = random.set_index(["dataset", "ratio"])["mean"]
    reached = ", ".join(f"{accuracies[column]:.1f}" for column in columns)
    return page(
        "Measured: every method against random",
        "Percentage points of test accuracy above random: mean ± standard deviation of the differences, paired by "
        f"seed.\nNumber of seeds: {', '.join(str(count) for count in seeds)}. ViT-Tiny with ImageNet-1K weights, a "
        "linear probe on four augmented views.\n"
        "`caltech101` has 2914 images in 101 classes to prune and 1763 to test on; `dtd10` is ten classes of DTD, "
        "800 and 400 images.\nA column is a set and the fraction of each class that is kept. The best mean at 0.1 "
        "comes first.",
        "A method is written `scorer-sampler`, with its tag in brackets; [Methods](methods.md) has the settings of "
        "each tag. `swap` is the\nk-medoids of [the study](study.md). `dlc-flexrand` without a tag has the gamma that "
        "was chosen on held-out images. A scorer\nthat ends in `_probe` reads a linear-probe proxy. Methods that take "
        "long\n(DeepFool, GraNd of all weights, those that read a full fine-tuning) have only runs of an earlier "
        "recipe, in\nresults/tables/baselines_older.md. `none-rs2` and `none-infobatch` are no pruning: they see the "
        "whole pool during training.",
        f"Random images themselves reach {reached} % (the columns in turn).",
        table(["method", *(f"{dataset} {ratio}" for dataset, ratio in columns)], rows),
        is_wide=True,
    )


def _cell(cells: pd.DataFrame, key: tuple[str, str, float]) -> str:
    if key not in cells.index:
        return "X"
    row = cells.loc[key]
    return f"{signed(row['difference'])} ± {row['difference_std']:.1f}"
