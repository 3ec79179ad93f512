"""The cluster engine against the engine in process on the same cores, and its growth with the number of rows.

python -m scripts.bench.cluster --work <folder with room> [--data images] [--sizes 10000 100000] [--engines local ray]

Each row runs in a process of its own and is appended to results/bench/cluster.csv at once; finished rows are not
repeated, so that the same command goes on where it was stopped. The engines run in turn. At the end cluster.md is
written. It also names the planned rows that were not run; `--because "..."` writes the reason for those that the given
options name, instead of running them. Needs the extras `cluster` and `cluster-tests`.

Images are 32 x 32 JPEG in parquet files. With them, `decode` only decodes the images, to find broken ones (the engine
in process keeps the pixels in its store), `plain` is the loss of the unmasked micro network with FlexRand, and
`dlc` is DLC of five levels with FlexRand. Embeddings are [N, 384] float16. With them, topk and flexrand take the
losses of the embeddings. Herding orders no more rows than are kept. `two_levels` is herding of 20 classes by workers
that may hold a quarter of a class only; `one_level` is the same without this limit.

The clock of Ray covers `prunetune prune --engine ray` from the listing of the shards to the written folder. Starting
Ray has a column of its own. The clock of the engine in process covers the same steps, without the pictures, the map
and the suspect labels of its report, which Ray does not make. Both start with an empty store and imported packages.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunetune.api import make_plan
from prunetune.base.peak_memory import peak_memory
from prunetune.base.store import Store
from prunetune.own import command
from prunetune.own.choose import Plan, choose
from prunetune.own.files import write_files
from prunetune.own.folder import mark
from prunetune.own.keep import Keep
from prunetune.own.read import ReadOptions
from prunetune.runs.records import commit
from prunetune.scorers import DLC, Herding
from scripts.bench import benchmarks, cluster_table
from scripts.bench.cluster_data import as_arrays, made
from scripts.bench.cluster_table import ENGINES, KEEP, KINDS, METHODS, NOT_RUN, STAGES, STAGES_OF_LOG, Row
from scripts.bench.processes import Family

LIMIT = 3600  # Seconds that one row may take.
IMAGES, EMBEDDINGS = "images", "embeddings"
LABELS = {20: "coarse", 1000: "fine"}
SMALL_WORKER_GB = 0.08  # With it a worker holds 13,000 rows of 384 numbers.
KEYS = ("data", "method", "classes", "size", "engine", "repeat")
COLUMNS = (
    *KEYS,
    *("outcome", "seconds", "start_seconds", "cpu_seconds", "input_bytes", "written_bytes"),
    *("driver_peak_bytes", "worker_peak_bytes", "workers"),
    *(f"{stage}_seconds" for stage in STAGES),
    *(f"{kind}_bytes" for kind in KINDS),
    *("commit", "device"),
)


def plan_of(method: str, backbone: str) -> Plan:
    """Return the plan of a method's name."""
    one_level = DLC(levels=1)
    herding = Herding(depth=KEEP[EMBEDDINGS])  # No more rows are ordered than are kept.
    scorer, sampler = {
        "decode": ("random", "random"),
        "random": ("random", "random"),
        "plain": (one_level, "flexrand"),
        "flexrand": (one_level, "flexrand"),
        "topk": (one_level, "topk"),
        "dlc": (DLC(), "flexrand"),
        "herding": (herding, "topk"),
        "one_level": (herding, "topk"),
        "two_levels": (herding, "topk"),
    }[method]
    return make_plan(scorer, sampler, backbone, 0, duplicates="all")


def measure(job: Row) -> Row:
    """Prune one pool in this process, with one engine."""
    folder = Path(job["folder"])
    options = ReadOptions(label_column=LABELS[job["classes"]] if job["data"] == EMBEDDINGS else "label")
    pool, keep = Path(job["pool"]), Keep(KEEP[job["data"]])
    plan = plan_of(job["method"], "micro")
    size = sum(file.stat().st_size for file in pool.glob("*.parquet"))
    measured = _measure_ray if job["engine"] == "ray" else _measure_local
    row = measured(job, folder, pool, keep, plan, options)
    row["driver_peak_bytes"] = peak_memory()
    kinds = {f"{kind}_bytes": _bytes_of(folder.glob(f"store/cluster/{kind}-*")) for kind in KINDS if kind != "out"}
    return {**row, "input_bytes": size, **kinds, "out_bytes": _bytes_of([folder / "out"])}


def _measure_ray(job: Row, folder: Path, pool: Path, keep: Keep, plan: Plan, options: ReadOptions) -> Row:
    from prunetune.cluster import command as on_cluster
    from prunetune.cluster.engine import RayEngine, started

    names = (None, pool) if job["data"] == EMBEDDINGS else (str(pool), None)
    source = command.Source(*names, None, None, options)
    output = command.Output(folder / "out", {}, store=folder / "store")
    engine = RayEngine(worker_gb=SMALL_WORKER_GB if job["method"] == "two_levels" else 2.0)
    start = time.perf_counter()
    with started(), Family() as family:
        before = {"start_seconds": time.perf_counter() - start, "cpu_seconds": family.cpu_seconds()}
        with _stages_timed() as stages:
            clock = time.perf_counter()
            on_cluster.run(source, keep, plan, output, engine)
            seconds = time.perf_counter() - clock
    workers = family.workers()
    return {
        "seconds": seconds,
        **stages,
        "start_seconds": before["start_seconds"],
        "cpu_seconds": family.cpu_seconds() - before["cpu_seconds"],
        "written_bytes": family.written_bytes(),
        "worker_peak_bytes": max((worker.peak_bytes for worker in workers), default=0),
        "workers": len(workers),
    }


def _measure_local(job: Row, folder: Path, pool: Path, keep: Keep, plan: Plan, options: ReadOptions) -> Row:
    source = command.Source(str(pool), None, None, None, options)
    if job["data"] == EMBEDDINGS:
        rows, labels = as_arrays(pool, options.label_column, folder)
        source = command.Source(None, rows, labels, None, ReadOptions())
    with Family() as family:
        before, clock = family.cpu_seconds(), time.perf_counter()
        data = source.read()
        mark(data)
        chosen = choose(data, keep, plan, Store(folder / "store"), source.options)
        (folder / "out").mkdir()
        write_files(chosen.subset, folder / "out")
        seconds = time.perf_counter() - clock
    used = {"cpu_seconds": family.cpu_seconds() - before, "written_bytes": family.written_bytes()}
    return {"seconds": seconds, **used}


@contextmanager
def _stages_timed() -> Iterator[Row]:
    """Yield a row that gets the seconds of each stage while the block runs."""
    from prunetune.cluster import job
    from prunetune.cluster.stages import Stage

    row: Row = {}
    run, passes = Stage.run, job.run_passes

    def timed(name: str, function: Any, *arguments: Any, **settings: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **settings)
        finally:
            row[f"{name}_seconds"] = row.get(f"{name}_seconds", 0.0) + time.perf_counter() - start

    Stage.run = lambda stage, *arguments, what, **settings: timed(
        STAGES_OF_LOG[what], run, stage, *arguments, what=what, **settings
    )
    job.run_passes = lambda *arguments: timed("passes", passes, *arguments)
    try:
        yield row
    finally:
        Stage.run, job.run_passes = run, passes


def _bytes_of(folders: Any) -> int:
    files = [file for folder in folders for file in Path(folder).rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for shards and stores; 10M embeddings need 24 GB")
    parser.add_argument("--data", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of rows; default: all that are planned")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=1, help="runs of each engine; the table shows medians")
    parser.add_argument("--because", metavar="REASON", help="do not run the rows that these options name, and say why")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for the tables")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(json.loads(options.child))))
        return
    file = options.out / "cluster.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in cluster_table.planned(options.repeats) if _is_asked(job, options)]
    if jobs and options.because is None and options.work is None:
        sys.exit("error: pass --work <folder> for the shards and the stores")
    for job in jobs:
        there = [row for row in cluster_table.read(file) if all(row[key] == job[key] for key in KEYS)]
        if any(row["outcome"] == "finished" for row in there):
            continue
        if options.because is not None:
            append(file, {**job, "outcome": f"{NOT_RUN}: {options.because}"})
            continue
        row = {**job, **run_row(job, options.work)}
        print(*(job[key] for key in KEYS), f"{row.get('seconds', 0):.1f} s", row["outcome"], flush=True)
        append(file, row)
    cluster_table.write(cluster_table.read(file), options.out / "cluster.md")


def _is_asked(job: Row, options: argparse.Namespace) -> bool:
    asked = {"data": options.data, "method": options.methods, "size": options.sizes, "engine": options.engines}
    return all(values is None or job[key] in values for key, values in asked.items())


def run_row(job: Row, work: Path) -> Row:
    """Make the shards that a row needs, and run it in a process of its own with an empty folder."""
    pool = made(job["data"], job["size"], work / "shards")
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    child = json.dumps({**job, "pool": str(pool), "folder": str(folder)})
    # Each engine uses all cores in its own way.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-m", __spec__.name, "--child", child]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": f"stopped after {LIMIT} s"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"outcome": f"failed: {lines[-1]}"}
    return {**json.loads(done.stdout.splitlines()[-1]), "outcome": "finished"}


def append(file: Path, row: Row) -> None:
    """Add a row to the CSV file."""
    is_new = not file.is_file()
    with file.open("a", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n", extrasaction="ignore")
        if is_new:
            writer.writeheader()
        writer.writerow({**row, "commit": commit(), "device": benchmarks.device()})


if __name__ == "__main__":
    main()
