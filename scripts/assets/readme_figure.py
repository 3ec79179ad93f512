"""Draw the figure of the README: test accuracy against the fraction of images kept.

python -m scripts.assets.readme_figure [--out docs/assets/accuracy.svg]

The numbers are those of results/tables/baselines_runs.csv (ViT-Tiny, linear probe, five seeds).
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "results" / "tables" / "baselines_runs.csv"
TITLES = {"caltech101": "Caltech-101: 2914 images, 101 classes", "dtd10": "DTD, ten classes: 800 images"}
# Each key is (scorer, sampler, tag), and each value is (label, colour, line style).
LINES = {
    ("herding", "topk", "default"): ("herding (one forward pass)", "#0072b2", "-"),
    ("dlc", "flexrand", "default"): ("DLC + FlexRand (the paper)", "#d55e00", "-"),
    ("random", "random", "default"): ("random images", "#000000", "--"),
    ("el2n_probe", "topk", "default"): ("EL2N, hardest images", "#999999", "-"),
}


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "assets" / "accuracy.svg", help="file to write")
    out = parser.parse_args().out
    runs = pd.read_csv(RUNS)
    runs = runs[runs["finetune"] == "linear_probe"]
    plt.rcParams.update({"svg.hashsalt": "prunetune", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, len(TITLES), figsize=(9, 3.4), layout="constrained")
    for panel, (dataset, title) in zip(axes, TITLES.items(), strict=True):
        draw(panel, runs[runs["dataset"] == dataset])
        panel.set_title(title, fontsize=10)
    axes[0].set_ylabel("test accuracy in %")
    axes[0].legend(frameon=False, loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})
    print(f"wrote {out}")


def draw(panel: Axes, runs: pd.DataFrame) -> None:
    """Draw the mean of the seeds of each method with its standard deviation, and the accuracy of the whole pool."""
    for (scorer, sampler, tag), (label, colour, line) in LINES.items():
        mine = runs[(runs["scorer"] == scorer) & (runs["sampler"] == sampler) & (runs["tag"] == tag)]
        by_ratio = 100 * mine[mine["ratio"] < 1].groupby("ratio")["accuracy"].agg(["mean", "std"])
        style = {"color": colour, "ls": line, "marker": "o", "ms": 4, "capsize": 2, "label": label}
        panel.errorbar(by_ratio.index * 100, by_ratio["mean"], by_ratio["std"], **style)
    whole = 100 * runs[runs["ratio"] == 1]["accuracy"].mean()
    panel.axhline(whole, color="#bbbbbb", lw=1)
    panel.text(4, whole, "all images", ha="left", va="top", color="#777777", fontsize=9)
    panel.set_xlabel("images kept in %")
    panel.set_xticks([5, 10, 30, 50])


if __name__ == "__main__":
    main()
