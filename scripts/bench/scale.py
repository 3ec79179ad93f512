"""Time and memory of every scorer and sampler that needs only features, on synthetic features of width 384.

python -m scripts.bench.scale [--sizes 10000 100000 1000000] [--layouts 20 1000] [--methods herding ccs ...]

Each (method, size, layout) runs in a separate process at ratio 0.1. The pool has `layout` equal classes. Training
dynamics come from linear probes, which are trained once per (size, layout) and listed as `linear probe`. Their time is
added to that of a score that reads them. Each row is appended to results/bench/scale.csv at once, and finished rows are
not repeated. At the end results/bench/scale.md is written, with the exponent by which time grows from the
second-largest size to the largest. The limits are 30 minutes, and 2 GiB in addition to the features.
"""

import argparse
import csv
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunetune import api
from prunetune.base.errors import suggestion
from prunetune.base.peak_memory import peak_memory
from prunetune.base.seeding import stream
from prunetune.config.named import SAMPLERS
from prunetune.data.pool import Pool
from prunetune.report.rounding import short_commit
from prunetune.runs.records import commit
from prunetune.samplers import Sampler
from prunetune.scorers import DLC, DeepFool, DLCFinetuned, Scorer
from prunetune.signals.proxy import LINEAR_PROBE, ProbeProxy, ProxyTraining
from prunetune.signals.proxy_training import train_probe
from prunetune.signals.tensors import TensorSignals

WIDTH, RATIO = 384, 0.1
SECONDS, EXTRA = 1800, 2 * 2**30  # The limits of time in seconds, and of memory in bytes beyond the features.
PROBE = "linear probe"
NEEDS_NETWORK = (DLC, DLCFinetuned, DeepFool)  # They need forward passes, and their other work is negligible.
VARIANTS = ("_deepcore", "_released")  # Variants for comparison with published code only.
TRAINS = ("random", "rs2", "infobatch", "auto")  # Samplers without a selection rule to time.
REPEATS = {0: 50, 1: 5, 2: 5}  # Epochs of each repeat of the proxy, as many as el2n and grand_last read.
COLUMNS = ("method", "classes", "size", "seconds", "peak_bytes", "feature_bytes", "outcome", "commit", "cpu")
# Methods that have changed since they were measured, and the commits of those rows.
OLDER = {"sampler d2": ("5086448e", "cd5ccc2e", "4c748b1c")}


def made_features(size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return features [N, 384] float32 around one centre per class, and labels [N] int64."""
    generator = stream("bench scale", size, num_classes)
    labels = torch.arange(num_classes).repeat_interleave(size // num_classes)
    centres = torch.randn(num_classes, WIDTH, generator=generator)
    features = torch.empty(size, WIDTH).normal_(generator=generator)
    for rows in torch.arange(size).split(100_000):
        features[rows] += centres[labels[rows]]
    return features, labels


def scorers() -> dict[str, Scorer]:
    """Return the scorers that need no network. Greedy ones pick only as many images as the ratio keeps."""
    chosen = {}
    for name, scorer in api.SCORERS.items():
        if isinstance(scorer, NEEDS_NETWORK) or getattr(scorer, "parameters", "") == "all":
            continue
        if scorer.higher_means == "nothing" or name.endswith(VARIANTS):
            continue
        has_depth = any(field.name == "depth" for field in dataclasses.fields(scorer))
        chosen[name] = dataclasses.replace(scorer, depth=RATIO) if has_depth else scorer
    return chosen


def samplers() -> dict[str, Sampler]:
    """Return the samplers by name."""
    return {f"sampler {name}": made for name, made in SAMPLERS.items() if name not in TRAINS}


def run_here(method: str, size: int, num_classes: int, folder: Path) -> dict[str, float]:
    """Run one method in this process and return its seconds and peak memory."""
    features, labels = made_features(size, num_classes)
    width = len(str(size))
    ids = tuple(f"{i:0{width}d}" for i in range(size))
    pool = Pool("synthetic", labels, ids, ("train",) * size, tuple(map(str, range(num_classes))))
    if method == PROBE:
        seconds = _train_probes(features, labels, num_classes, folder)
        return {"seconds": seconds, "peak_bytes": peak_memory()}
    proxies = _read_probes(features, folder)
    signals = TensorSignals(features, pool=pool, proxies=proxies)
    start = time.perf_counter()
    if method.startswith("sampler "):
        scores = torch.rand(size, generator=stream("bench scores"), dtype=torch.float64)
        SAMPLERS[method.removeprefix("sampler ")].select(scores, labels, RATIO, stream("bench draw"), signals)
    else:
        scorers()[method].score(pool, signals, stream("bench score"))
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak_memory()}


def _train_probes(features: Tensor, labels: Tensor, num_classes: int, folder: Path) -> float:
    start = time.perf_counter()
    for repeat, epochs in REPEATS.items():
        proxy = train_probe(features, labels, num_classes, ProxyTraining(LINEAR_PROBE, repeat, epochs), "cpu")
        heads = [proxy.head(epoch) for epoch in range(1, epochs + 1)]
        np.save(folder / f"weights_{repeat}.npy", torch.stack([weight.T for weight, _ in heads]).numpy())
        np.save(folder / f"biases_{repeat}.npy", torch.stack([bias for _, bias in heads]).numpy())
    return time.perf_counter() - start


def _read_probes(features: Tensor, folder: Path) -> list[ProbeProxy]:
    def read(name: str) -> Tensor:
        return torch.from_numpy(np.load(folder / name))

    repeats = [repeat for repeat in REPEATS if (folder / f"biases_{repeat}.npy").is_file()]
    return [ProbeProxy(features, read(f"weights_{r}.npy"), read(f"biases_{r}.npy")) for r in repeats]


def run_apart(method: str, size: int, num_classes: int, folder: Path, limit: float) -> dict[str, object]:
    """Run one method in a process of its own and return its row."""
    command = [sys.executable, "-m", __spec__.name, "--child", method, str(size), str(num_classes), str(folder)]
    row = {"method": method, "classes": num_classes, "size": size, "feature_bytes": 4 * size * WIDTH}
    row |= {"commit": commit(), "cpu": f"{os.cpu_count()} cores, {platform.machine()}"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return {**row, "seconds": limit, "peak_bytes": "", "outcome": "over the time limit"}
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"killed by signal {-error.returncode}"]
        return {**row, "seconds": "", "peak_bytes": "", "outcome": f"failed: {lines[-1]}"}
    found = json.loads(done.stdout.splitlines()[-1])
    return {**row, **found, "outcome": "finished"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of images")
    parser.add_argument("--layouts", type=int, nargs="+", default=[20, 1000], help="numbers of classes")
    parser.add_argument("--methods", nargs="+", help="default: all; a sampler is written as 'sampler ccs'")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for the tables")
    parser.add_argument("--limit", type=float, default=SECONDS, help="largest number of seconds of one method")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, size, num_classes, folder = options.child
        print(json.dumps(run_here(method, int(size), int(num_classes), Path(folder))))
        return
    known = [*scorers(), *samplers()]
    methods = options.methods or known
    for method in set(methods) - set(known):
        sys.exit(f"error: no method {method!r}; known: {', '.join(known)}.{suggestion(method, known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for size in sorted(options.sizes):
        for num_classes in options.layouts:
            run_all(methods, size, num_classes, options.out / "scale.csv", options.limit)
    write_table(read_rows(options.out / "scale.csv"), options.out / "scale.md")


def run_all(methods: list[str], size: int, num_classes: int, file: Path, limit: float) -> None:
    """Run the methods of one (size, layout) that the file lacks."""
    there = {(row["method"], int(row["classes"]), int(row["size"])) for row in read_rows(file)}
    todo = [method for method in methods if (method, num_classes, size) not in there]
    if not todo:
        return
    known = scorers()
    reads_probe = any(method == "sampler beta" or getattr(known.get(method), "uses_proxy", False) for method in todo)
    with tempfile.TemporaryDirectory() as temporary:
        # The probes are not stored, so they are trained again.
        for method in [*([PROBE] if reads_probe else []), *todo]:
            row = run_apart(method, size, num_classes, Path(temporary), limit)
            print(f"{num_classes:>5} classes  {size:>8}  {method:<28} {row['seconds']} s  {row['outcome']}", flush=True)
            if (method, num_classes, size) not in there:
                append(file, row)


def append(file: Path, row: dict[str, object]) -> None:
    """Add a row to the CSV file."""
    is_new = not file.is_file()
    with file.open("a", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of the CSV file."""
    if not file.is_file():
        return []
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def write_table(rows: list[dict[str, str]], file: Path) -> None:
    """Write the Markdown table: seconds and memory beyond the features, by layout and size, and the growth."""
    lines = [
        "# Scale: ratio 0.1, features of width 384",
        "",
        "Seconds and peak memory of the whole process beyond the features (GiB), each method in a process of its own;",
        f"limits {SECONDS // 60} min and {EXTRA / 2**30:g} GiB. X: not run, or no growth to tell. Scores of training",
        f"dynamics come on top of the row `{PROBE}` (50 epochs, and 5 epochs of two repeats). growth: the exponent a",
        "in seconds ~ N^a between the two largest sizes. Not measured: variants (`_deepcore`, `_released`), weights of",
        "CRAIG and GradMatch, class budgets; lc_knn has one layer. By `python -m scripts.bench.scale`, commit "
        + ", ".join(sorted({short_commit(row["commit"]) for row in rows}))
        + ".",
        "†: measured before a change of the method; the graph of d2 was directed.",
    ]
    for num_classes in sorted({int(row["classes"]) for row in rows}):
        part = [row for row in rows if int(row["classes"]) == num_classes]
        sizes = sorted({int(row["size"]) for row in part})
        heads = ["method", *(f"{size:,} s" for size in sizes), *(f"{size:,} GiB" for size in sizes), "growth"]
        lines += ["", f"## {num_classes} classes", "", "| " + " | ".join(heads) + " |"]
        lines.append("|---|" + "---:|" * (len(heads) - 1))
        for method in dict.fromkeys(row["method"] for row in part):
            cells = {int(row["size"]): row for row in part if row["method"] == method}
            is_older = any(row["commit"].startswith(OLDER.get(method, ())) for row in cells.values())
            lines.append("| " + " | ".join([f"{method} †" if is_older else method, *_line(cells, sizes)]) + " |")
        missed = [f"{row['method']} at {int(row['size']):,} ({_fault(row)})" for row in part if _fault(row)]
        lines += ["", "Missed the limits, of what was run: " + ("; ".join(missed) if missed else "none") + "."]
    file.write_text("\n".join(lines) + "\n")


def _line(cells: dict[int, dict[str, str]], sizes: list[int]) -> list[str]:
    seconds = {size: float(row["seconds"]) for size, row in cells.items() if row["outcome"] == "finished"}
    beyond = {
        size: (float(cells[size]["peak_bytes"]) - float(cells[size]["feature_bytes"])) / 2**30 for size in seconds
    }
    growth = "X"
    if len(seconds) > 1:
        small, large = sorted(seconds)[-2:]
        growth = f"{np.log(seconds[large] / seconds[small]) / np.log(large / small):.2f}"
    shown = [f"{seconds[size]:.1f}" if size in seconds else _absent(cells, size) for size in sizes]
    return [*shown, *(f"{beyond[size]:.2f}" if size in beyond else "X" for size in sizes), growth]


def _absent(cells: dict[int, dict[str, str]], size: int) -> str:
    return "X" if size not in cells else cells[size]["outcome"]


def _fault(row: dict[str, str]) -> str:
    if row["outcome"] != "finished":
        return row["outcome"]
    faults = [f"{float(row['seconds']) / 60:.0f} min"] if float(row["seconds"]) > SECONDS else []
    beyond = float(row["peak_bytes"]) - float(row["feature_bytes"])
    return ", ".join([*faults, *([f"{beyond / 2**30:.1f} GiB"] if beyond > EXTRA else [])])


if __name__ == "__main__":
    main()
