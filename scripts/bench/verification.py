"""What it costs that the store verifies its bytes: whole runs with and without it, in turn in one process.

python -m scripts.bench.verification [--data <folder with data/ and weights/>] [--sets dtd10] [--repeats 3]

A cold run starts with an empty store. A warm run finds decoded images, features and views in the store; it computes
scores, a subset at ratio 0.1 and a linear probe. Before a warm run the times of all stored files are set, so that
nothing counts as verified earlier in the process. All seconds are CPU seconds of the process, which other programs do
not change much. The system has the files in memory, with and without verification, so that the time to read them from
a disk is not in the numbers. The script writes verification.md and verification.csv.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from prunetune.base import store, stored_array
from prunetune.base.verification import HASHES
from prunetune.config.parse import parse_image_run
from prunetune.runs import image_run
from scripts.bench import benchmarks
from scripts.bench.benchmarks import Column, Row

METHODS = ("herding", "dlc_topk")  # The first reads features alone, the second runs masked networks over all images.
SHORT = ["ratio=0.1", "finetune.views=4", "wandb=disabled", "precision=fp32"]
TINY = ["dataset.num_pool=100", "dataset.num_test=100", "method=herding"]
SMALL_INPUT = "backbone.input_size=112"  # Of real images, so that runs are short and the share is rather too large.
WITH, WITHOUT = "with", "without"
COLUMNS = (
    Column("method", "method"),
    Column("start", "run"),
    Column("without_seconds", "CPU s without", ".2f"),
    Column("with_seconds", "CPU s with", ".2f"),
    Column("ratio", "with / without", ".3f"),
    Column("own_seconds", "CPU s of verification", ".4f"),
    Column("share", "% of the run", ".2f"),
    Column("hashed_bytes", "hashed MiB", "bytes"),
)
NOTES = (
    "with / without: the median of the ratios of runs that follow each other. It has the noise of whole runs.",
    "CPU s of verification: hashes and all other checks of the store, measured inside the runs with verification, so "
    "that they have little noise. % of the run: their share. Target: at most 3 % of a warm run.",
    f"Real images are run with {SMALL_INPUT}: runs are shorter than usual, and the share is larger.",
    "hashed MiB: the size of the store after the run. A cold run hashes what it writes, and large arrays again when it "
    "reads them.",
)


class Stopwatch:
    """The CPU seconds that are spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable) -> Callable:
        """Return the same function, whose calls are timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.thread_time() - start

        return timed


@contextmanager
def verified() -> Iterator[Stopwatch]:
    """Time what the store does to verify its bytes."""
    watch = Stopwatch()
    names = ("fault_of", "sealed", "add_hashes")
    with (
        mock.patch.multiple(store, **{name: watch.around(getattr(store, name)) for name in names}),
        mock.patch.object(stored_array, "block_fault", watch.around(stored_array.block_fault)),
    ):
        yield watch


@contextmanager
def unverified() -> Iterator[Stopwatch]:
    """Have the store verify nothing."""
    with mock.patch.multiple(store, fault_of=lambda *_: None, sealed=lambda _, meta: meta, add_hashes=lambda _: False):
        yield Stopwatch()


def take(overrides: list[str], results: Path, way: str) -> Row:
    """Take a whole run, and return its CPU seconds and those of verification."""
    run = parse_image_run(benchmarks.composed([*overrides, f"results_dir={results}"]))
    with verified() if way == WITH else unverified() as watch:
        start = time.process_time()
        image_run.execute(run, results / "runs" / "here")
        seconds = time.process_time() - start
    files = [file for file in (results / "store").rglob("*") if file.is_file()]
    has_hashes = all(HASHES in json.loads(file.read_text()) for file in files if file.name == "meta.json")
    if has_hashes != (way == WITH):
        raise RuntimeError(f"the run {way} verification wrote the other kind of entries")
    return {"seconds": seconds, "own": watch.seconds, "bytes": sum(file.stat().st_size for file in files)}


def make_warm(results: Path) -> None:
    """Remove the run and its scores, and change the times of the remaining files of the store."""
    shutil.rmtree(results / "runs")
    shutil.rmtree(results / "store" / "scores")
    for file in (results / "store").rglob("*"):
        os.utime(file)


def measure(job: Row) -> Row:
    """Measure a method in this process: one cold and one warm run of each way in turn, as often as `repeats` says."""
    found: dict[str, list[dict[str, Row]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        # The first run is not counted, since it imports modules.
        take([*benchmarks.EMBEDDED["textures"], *SHORT, *TINY], Path(folder) / "first", WITH)
        for repeat in range(job["repeats"]):
            ways = (WITH, WITHOUT) if repeat % 2 else (WITHOUT, WITH)
            places = {way: Path(folder) / f"{way}{repeat}" for way in ways}
            found["cold"].append({way: take(job["overrides"], places[way], way) for way in ways})
            for way in ways:
                make_warm(places[way])
            found["warm"].append({way: take(job["overrides"], places[way], way) for way in ways})
            for way in ways:
                shutil.rmtree(places[way])
    return {start: summary(pairs) for start, pairs in found.items()}


def summary(pairs: list[dict[str, Row]]) -> Row:
    """Return the medians over pairs of runs with and without verification."""
    own = [pair[WITH]["own"] for pair in pairs]
    return {
        "without_seconds": median(pair[WITHOUT]["seconds"] for pair in pairs),
        "with_seconds": median(pair[WITH]["seconds"] for pair in pairs),
        "ratio": median(pair[WITH]["seconds"] / pair[WITHOUT]["seconds"] for pair in pairs),
        "own_seconds": median(own),
        "share": median(100 * pair[WITH]["own"] / pair[WITH]["seconds"] for pair in pairs),
        "hashed_bytes": pairs[-1][WITH]["bytes"],
    }


def main() -> None:
    parser = benchmarks.parser_of(__doc__)
    parser.add_argument("--sets", nargs="+", default=["dtd10"], help="real data sets")
    options = parser.parse_args()
    if options.child:
        benchmarks.finish(measure(json.loads(options.child)))
        return
    rows = []
    extra = [] if options.data is None else [SMALL_INPUT]
    for name, overrides in benchmarks.settings(options.data, options.sets, ["mobilenetv2"]).items():
        for method in METHODS:
            words = [*overrides, *extra, *SHORT, f"method={method}"]
            job = {"overrides": words, "repeats": options.repeats}
            found = benchmarks.run_apart(__spec__.name, job, limit=7200)
            print(f"{name}, {method}: {found['outcome']}", flush=True)
            measured = {start: found.get(start, {}) for start in ("warm", "cold")}
            rows += [{"section": name, "method": method, "start": start, **row} for start, row in measured.items()]
    about = f"Whole runs in one process, in turn; medians of {options.repeats}. A warm run finds images, features and "
    about += (
        "views in the store and computes scores; a cold run finds nothing. By `python -m scripts.bench.verification`."
    )
    benchmarks.write_table(options.out, "verification", "The cost of verifying the store", about, COLUMNS, rows, NOTES)


if __name__ == "__main__":
    main()
