"""Train all linear probes of a grid together, against one after another; and time a whole grid from images to results.

python -m scripts.bench.probe_grid [--data <folder with data/ and weights/>] [--out results/bench] [--views 8 1 50]

Heads: 11 methods x 9 ratios x 5 seeds = 495 cells on cached features, with recipe `linear_probe` and a test in every
epoch. The time does not depend on which images a method picks, so each cell is a random subset. Cells of different
methods have equal sizes, so one after another the 45 cells of one method are measured and the time is multiplied by 11.
End to end: the same grid with real methods, as a user runs it, in a new results folder. The script writes probe_grid
and end_to_end (.md and .csv). Without --data the embedded textures and the micro network are used.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from prunetune.base.devices import resolve_device
from prunetune.base.seeding import seeded, stream
from prunetune.config.parse import parse_image_run
from prunetune.report import collect
from prunetune.runs import image_run
from prunetune.samplers import class_budgets
from prunetune.signals.network import NetworkSignals
from prunetune.signals.view_bank import view_bank
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe
from scripts.bench import benchmarks
from scripts.bench.benchmarks import PEAK, SECONDS, SPREAD, Column, Row
from scripts.real_data import ROOT

METHODS = (
    *("dlc", "random", "herding", "k_center", "contextual_diversity", "forgetting", "least_confidence", "entropy"),
    *("margin", "grand_last", "el2n"),
)
RATIOS, SEEDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0, 1, 2, 3, 4)
RECIPE = Recipe("linear_probe", last_batch="keep")  # The plain loop of torch keeps a shorter last batch.
GRID, ALONE, PLAIN, SLOWEST = "all together", "one after another", "plain torch loop, one after another", "slowest cell"
SMALLER = ["dataset.num_pool=500", "dataset.num_test=300"]  # A smaller version of the embedded textures.
SHOWN_RATIOS = (0.1, 0.5, 0.9)


def probes_of(labels: Tensor, test: Tensor, test_labels: Tensor, methods: Sequence[str]) -> list[Probe]:
    """Return the cells of some methods: in each a random subset of the ratio's class budgets."""
    probes = []
    for method, ratio, seed in itertools.product(methods, RATIOS, SEEDS):
        generator, rows = stream("bench", method, ratio, seed), []
        for label, budget in class_budgets(labels, ratio).items():
            members = torch.nonzero(labels == label).flatten()
            rows.append(members[torch.randperm(len(members), generator=generator)[:budget]])
        kept = torch.cat(rows).sort().values
        probes.append(Probe(kept, labels[kept], test, test_labels, seed))
    return probes


def plain_losses(bank: Tensor, probe: Probe, num_classes: int, recipe: Recipe) -> list[float]:
    """Train one head with a simple loop that tests in every epoch, and return its mean loss in each epoch."""
    with seeded("finetune", probe.seed) as generator:
        head = nn.Linear(bank.shape[2], num_classes)
    optimiser = torch.optim.SGD(
        head.parameters(), recipe.learning_rate, recipe.momentum, 0, recipe.weight_decay, recipe.nesterov
    )
    losses = []
    for epoch in range(recipe.epochs):
        optimiser.param_groups[0]["lr"] = recipe.rate(epoch + 1)
        view, total = bank[epoch % len(bank)], 0.0
        for batch in torch.randperm(len(probe.rows), generator=generator).split(recipe.batch_size):
            loss = nn.functional.cross_entropy(head(view[probe.rows[batch]].float()), probe.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        losses.append(total / len(probe.rows))
        with torch.no_grad():
            (head(probe.test_features).argmax(dim=1) == probe.test_labels).double().mean().item()
    return losses


def measure_heads(job: dict) -> Row:
    """Train heads in one way and save their losses [cells, epochs]; only the training is timed."""
    task = image_run.open_task(parse_image_run(benchmarks.composed(job["overrides"])))
    everything = torch.arange(len(task.pool))
    bank = view_bank(task.tuned, everything, job["views"]).values
    test = NetworkSignals(task.test, task.tuned.embedding).features()
    recipe = replace(RECIPE, epochs=job.get("epochs", RECIPE.epochs))
    num_classes, way, device = len(task.pool.classes), job["way"], job["device"]
    methods = METHODS if way == GRID else METHODS[:1]
    probes = probes_of(task.pool.labels, test, task.test.labels, methods)
    if way == SLOWEST:
        probes = [max(probes, key=lambda probe: len(probe.rows))]
    # This run is a warm-up and is not timed.
    train_probes(bank, probes[:1], num_classes, replace(RECIPE, epochs=2), device)
    start = time.perf_counter()
    if way == PLAIN:
        losses = [plain_losses(bank, probe, num_classes, recipe) for probe in probes]
    else:
        groups = [probes] if way == GRID else [[probe] for probe in probes]
        results = [result for group in groups for result in train_probes(bank, group, num_classes, recipe, device)]
        losses = [[epoch.train_loss for epoch in result.history] for result in results]
    seconds = time.perf_counter() - start
    np.save(job["losses"], np.array(losses))
    times = 1 if way in (GRID, SLOWEST) else len(METHODS)
    return {"seconds": seconds * times, "cells": len(probes) * times}


def heads(name: str, overrides: list[str], views: int, folder: Path, repeats: int, epochs: int) -> list[Row]:
    """Return the rows of one data set: every way of training its 495 heads."""
    rows = []
    for device in ["cpu", *(["cuda"] if resolve_device("auto") == "cuda" else [])]:
        ways = [GRID, ALONE, SLOWEST, *([PLAIN] if device == "cpu" else [])]
        common = {"what": "heads", "overrides": overrides, "views": views, "device": device, "epochs": epochs}

        def measured(way: str, common: dict = common) -> Row:
            return benchmarks.run_apart(__spec__.name, {**common, "way": way, "losses": str(folder / f"{way}.npy")})

        found = benchmarks.in_turn({way: lambda way=way: measured(way) for way in ways}, repeats, f"{name}, {device}: ")
        together = _losses(folder / f"{GRID}.npy")
        for way in ways:
            row = {"section": name, "way": way, "on": device, **found[way]}
            row["times"] = benchmarks.ratio(found[way], found[GRID])
            alone = _losses(folder / f"{way}.npy")
            if way in (ALONE, PLAIN) and alone is not None and together is not None:
                row["difference"] = float(np.abs(together[: len(alone)] - alone).max())
            rows.append(row)
    if rows[-1]["on"] == "cpu":
        unmeasured = {"seconds": "unmeasured", "times": "unmeasured", "peak_bytes": "unmeasured"}
        rows += [{"section": name, "way": way, "on": "cuda", **unmeasured} for way in (GRID, SLOWEST)]
    return rows


def _losses(file: Path) -> np.ndarray | None:
    return np.load(file) if file.is_file() else None


def measure_grid(job: dict) -> Row:
    """Run a grid as a user does and return its seconds."""
    command = [sys.executable, str(ROOT / "run.py"), "--config-name", "grid", *job["overrides"]]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return {"seconds": time.perf_counter() - start}


def grid_overrides(overrides: list[str], methods: Sequence[str], views: int) -> list[str]:
    """Return the overrides of a grid with this many views. A tag separates grids with different numbers of views."""
    lists = {"methods": methods, "ratios": RATIOS, "seeds": SEEDS}
    words = [f"{key}=[{','.join(map(str, values))}]" for key, values in lists.items()]
    return [*overrides, *words, "proxy=linear_probe", "wandb=disabled", f"finetune.views={views}", f"tag=v{views}"]


def end_to_end(name: str, overrides: list[str], all_views: Sequence[int], results: Path) -> list[Row]:
    """Return a row for each number of views, the first of them run in a fresh folder with every method."""
    rows, first = [], all_views[0]
    for views in all_views:
        methods = METHODS if views == first else [method for method in METHODS if method != "dlc"]
        words = grid_overrides(overrides, methods, views)
        row = benchmarks.run_apart(__spec__.name, {"what": "grid", "overrides": words}, limit=3600)
        print(f"{name}, {views} views: {row.get('seconds', row['outcome'])}", flush=True)
        row |= {"section": name, "views": views, "how": "measured"}
        stored = max(views, first)  # The first grid has stored these views already.
        row["view_seconds"] = _seconds_of(results, "views", f"part-{stored}-*") * views / stored
        runs, _ = collect.collect(results)
        row |= accuracies(runs, views)
        if views == first:
            row |= shares(runs, results, row)
        elif "seconds" in row and "seconds" in rows[0]:
            row["seconds"] = rows[0]["seconds"] - rows[0]["view_seconds"] + row["view_seconds"]
            row["how"] = f"from the {first} views' grid, with these views' cost for theirs"
        rows.append(row)
    return rows


def accuracies(runs: pd.DataFrame, views: int) -> Row:
    """Return the mean accuracy (percent) at some ratios over the seeds of all methods but dlc, which searches gamma."""
    mine = runs[(runs["tag"] == f"v{views}") & (runs["scorer"] != "dlc")] if len(runs) else runs
    means = {ratio: mine.loc[mine["ratio"] == ratio, "accuracy"] for ratio in SHOWN_RATIOS} if len(mine) else {}
    return {f"accuracy_{ratio}": 100 * float(values.mean()) for ratio, values in means.items() if len(values)}


def shares(runs: pd.DataFrame, results: Path, row: Row) -> Row:
    """Return the seconds of each part of a grid."""
    signals = {kind: _seconds_of(results, kind, "*") for kind in ("images", "features", "masked", "proxies")}
    in_cells = {key: float(runs[key].sum()) if len(runs) else 0.0 for key in ("finetune_seconds", "search_seconds")}
    count = int(runs["num_test"].iloc[0]) if len(runs) else 0
    of_test = [
        json.loads(file.read_text())["seconds"]
        for file in _metas(results, "features", "*")
        if len(np.load(file.parent / "features.npy", mmap_mode="r")) == count
    ]
    parts = {
        "decode_seconds": signals["images"],
        "feature_seconds": signals["features"],
        "signal_seconds": signals["masked"] + signals["proxies"],
        "head_seconds": max(0.0, in_cells["finetune_seconds"] - row["view_seconds"] - sum(of_test)),
        "search_seconds": in_cells["search_seconds"],
    }
    return {**parts, "rest_seconds": row.get("seconds", 0.0) - sum(parts.values()) - row["view_seconds"]}


def _metas(results: Path, kind: str, pattern: str) -> list[Path]:
    folder = results / "store" / kind
    return sorted(folder.glob(f"*/{pattern}/meta.json" if kind == "views" else f"{pattern}/meta.json"))


def _seconds_of(results: Path, kind: str, pattern: str) -> float:
    return sum(json.loads(file.read_text())["seconds"] for file in _metas(results, kind, pattern))


def write_heads(out: Path, rows: list[Row], views: int, epochs: int) -> None:
    """Write the table of the heads."""
    columns = [
        Column("way", "heads trained"),
        Column("on", "on"),
        Column("cells", "cells", ".0f"),
        SECONDS,
        SPREAD,
        Column("times", "times the time of all together", ".2f"),
        PEAK,
        Column("difference", "largest difference of a loss", ".1e"),
    ]
    about = (
        f"Linear probes of {len(METHODS)} methods x {len(RATIOS)} ratios x {len(SEEDS)} seeds on cached features "
        f"({views} views, {epochs} epochs, batch 128, the test set looked at in every epoch). Targets: one after "
        "another at least 10 times all together on 2 CPU cores; all together at most 3 times the slowest cell on a GPU."
    )
    notes = [
        f"{ALONE} and {PLAIN}: the {len(RATIOS) * len(SEEDS)} cells of one method, times {len(METHODS)} (all methods "
        "have cells of the same sizes).",
        f"{ALONE} is this package's single run, {PLAIN} `nn.Linear`, `cross_entropy` and `torch.optim.SGD`; neither "
        "includes the start of a process or reading the features.",
        "Differences are the largest over all epochs of those 45 cells between them and all together.",
        "Peak memory is the whole process's, with torch and the features.",
    ]
    benchmarks.write_table(out, "probe_grid", "The probe grid", about, columns, rows, notes)


def write_end_to_end(out: Path, rows: list[Row]) -> None:
    """Write the table of grids from images to results."""
    columns = [
        Column("views", "views", ".0f"),
        SECONDS,
        Column("how", "how"),
        PEAK,
        Column("view_seconds", "views s", ".1f"),
        Column("decode_seconds", "decode s", ".1f"),
        Column("feature_seconds", "features s", ".1f"),
        Column("signal_seconds", "masked, proxies s", ".1f"),
        Column("head_seconds", "heads s", ".1f"),
        Column("search_seconds", "gamma search s", ".1f"),
        Column("rest_seconds", "the rest s", ".1f"),
        *(Column(f"accuracy_{ratio}", f"accuracy at {ratio}", ".2f") for ratio in SHOWN_RATIOS),
    ]
    about = (
        f"{len(METHODS) * len(RATIOS) * len(SEEDS)} cells ({', '.join(METHODS)}; {len(RATIOS)} ratios, {len(SEEDS)} "
        "seeds, linear probe and linear-probe proxy) from image files to result.json by one command in a fresh folder. "
        "Target: caltech101 with vit_tiny and 8 views on 2 cores in less than 600 s."
    )
    notes = [
        "Accuracy: percent, mean over the seeds of all methods but dlc, whose gamma is searched once.",
        "views: embedding the training views. features: pool and test set. masked, proxies: what dlc and the scores of "
        "training dynamics read. heads: 495 linear probes. the rest: scores, subsets, start, result files.",
        "The first row of a set is measured as a whole; the others ran in its folder, so that only their views and "
        "heads are new. Fewer views are a part of the first row's, and cost their share of them.",
    ]
    benchmarks.write_table(out, "end_to_end", "A grid from images to results", about, columns, rows, notes)


def main() -> None:
    parser = benchmarks.parser_of(__doc__)
    parser.add_argument(
        "--views",
        type=int,
        nargs="+",
        default=[8, 1, 50],
        help="views of each image for end_to_end; probe_grid uses the first number",
    )
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs, help="epochs of each head")
    parser.add_argument("--only", choices=["heads", "grid"], help="write only one of the two tables")
    parser.add_argument(
        "--datasets", nargs="*", default=[], help="data sets below --data (default: dtd10 and caltech101)"
    )
    options = parser.parse_args()
    if options.child:
        job = json.loads(options.child)
        benchmarks.finish({"heads": measure_heads, "grid": measure_grid}[job["what"]](job))
        return
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Measure every data set and write both tables."""
    head_rows, grid_rows = [], []
    for name, overrides in benchmarks.settings(options.data, options.datasets).items():
        folder = Path(tempfile.mkdtemp(prefix="bench_probe_grid_"))
        results = folder / "results"
        words = [*overrides, *(SMALLER if options.data is None else []), f"results_dir={results}"]
        try:
            if options.only != "heads":  # The smaller set runs with one number of views.
                all_views = options.views[:1] if name.startswith("dtd10") else options.views
                grid_rows += end_to_end(name, words, all_views, results)
            if options.only != "grid":
                head_rows += heads(name, words, options.views[0], folder, options.repeats, options.epochs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if head_rows:
            write_heads(options.out, head_rows, options.views[0], options.epochs)
        if grid_rows:
            write_end_to_end(options.out, grid_rows)


if __name__ == "__main__":
    main()
