"""How the cost of DLC + FlexRand grows with the number of images: small images, the micro network.

python -m scripts.bench.growth [--sizes 1000 10000 100000] [--repeats 3] [--data ignored]

Pools are the embedded textures, repeated with different noise, so that no two images are equal. The measurement starts
with images in memory and an empty store and ends with the saved subset at ratio 0.1. The largest size runs once. The
script writes growth.md and growth.csv, with the exponent a of seconds ~ N^a.
"""

import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from prunetune.base.devices import resolve_device
from prunetune.base.seeding import derive_seed, stream
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Pool
from prunetune.data.readers import Textures
from prunetune.networks.backbone import Backbone
from prunetune.runs.records import write_subset
from prunetune.samplers import FlexRand
from prunetune.scorers import DLC
from prunetune.signals.network import Embedding, NetworkSignals
from scripts.bench import benchmarks
from scripts.bench.benchmarks import CPU, PEAK, SECONDS, SPREAD, Column, Row

RATIO, NOISE = 0.1, 12  # NOISE is the largest change of a pixel, in units of 1/255.
PRECISIONS = ("fp32", "bf16")
COLUMNS = (
    Column("size", "images", ",d"),
    Column("precision", "precision"),
    SECONDS,
    SPREAD,
    CPU,
    Column("microseconds", "us an image", ".0f"),
    Column("identify_seconds", "identify", ".2f"),
    Column("first_seconds", "first pass", ".2f"),
    Column("masked_seconds", "masked passes", ".2f"),
    Column("sample_seconds", "sample, save", ".2f"),
    Column("growth", "exponent", ".3f"),
    PEAK,
)
NOTES = (
    "identify: SHA-256 of every image; first pass: views made and kept, features of the unmasked network; masked "
    "passes: the other T - 1, distances and losses of all T; sample, save: FlexRand and subset.csv.",
    "exponent: a in seconds ~ N^a from the size before to this one. The slope over all sizes, by least squares: ",
)


def made_pool(size: int) -> Pool:
    """Return a pool of this many different images of 32 x 32."""
    base = Textures(num_pool=min(size, 1000)).pool("train")
    draws = np.random.Generator(np.random.PCG64(derive_seed("bench growth")))
    pixels = np.empty((size, *base.images.pixels.shape[1:]), np.uint8)
    for start in range(0, size, len(base)):
        end = min(size, start + len(base))
        noise = draws.integers(-NOISE, NOISE + 1, (end - start, *pixels.shape[1:]), dtype=np.int16)
        pixels[start:end] = np.clip(base.images.pixels[: end - start] + noise, 0, 255)
    ids = tuple(f"{position:08d}" for position in range(size))
    labels = base.labels[torch.arange(size) % len(base)]
    return Pool("repeated textures", labels, ids, ("train",) * size, base.classes, ImageArrays(pixels))


def measure(job: Row) -> Row:
    """Score and sample one pool in this process."""
    pool, network = made_pool(job["size"]), Backbone(model="prunetune_micro", mask_modules="conv2d").load()
    with tempfile.TemporaryDirectory() as folder:
        clock, times = benchmarks.Clock(), [time.perf_counter()]
        pool.fingerprint  # noqa: B018 - computed here, so that its time has a separate column
        times.append(time.perf_counter())
        embedding = Embedding(network, Store(Path(folder)), job["precision"], resolve_device("auto"))
        signals = NetworkSignals(pool, embedding)
        signals.features()
        times.append(time.perf_counter())
        scores = DLC().score(pool, signals, stream("bench growth score"))
        times.append(time.perf_counter())
        subset = FlexRand().select(scores, pool.labels, RATIO, stream("bench growth draw"))
        write_subset(Path(folder) / "subset.csv", pool, subset)
        times.append(time.perf_counter())
    parts = ("identify_seconds", "first_seconds", "masked_seconds", "sample_seconds")
    return {**clock.read(), **dict(zip(parts, np.diff(times).tolist(), strict=True))}


def table_rows(found: dict[str, Row], jobs: dict[str, Row]) -> list[Row]:
    """Return the rows, by precision and size, with the growth from one size to the next."""
    rows: list[Row] = []
    for precision in PRECISIONS:
        before: Row = {}
        for name, job in jobs.items():
            if job["precision"] != precision:
                continue
            row = {**job, **found[name]}
            if "seconds" not in row:
                rows.append({**row, "seconds": row["outcome"]})
                continue
            row["microseconds"] = 1e6 * row["seconds"] / row["size"]
            if before:
                row["growth"] = math.log(row["seconds"] / before["seconds"]) / math.log(row["size"] / before["size"])
            rows.append(row)
            before = row
    return rows


def slopes(rows: list[Row], key: str = "seconds") -> str:
    """Return the least-squares exponent of each precision in words."""
    words = []
    for precision in PRECISIONS:
        points = [
            (math.log(row["size"]), math.log(row[key]))
            for row in rows
            if row["precision"] == precision and "microseconds" in row
        ]
        if len(points) > 1:
            words.append(f"{np.polyfit(*zip(*points, strict=True), 1)[0]:.3f} ({precision})")
    return ", ".join(words) or "X"


def main() -> None:
    parser = benchmarks.parser_of(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="numbers of images")
    options = parser.parse_args()
    if options.child:
        benchmarks.finish(measure(json.loads(options.child)))
        return
    sizes = sorted(options.sizes)
    jobs = {f"{size} {precision}": {"size": size, "precision": precision} for precision in PRECISIONS for size in sizes}
    small = {name: job for name, job in jobs.items() if job["size"] < sizes[-1]}
    large = {name: job for name, job in jobs.items() if job["size"] == sizes[-1]}
    found = {}
    for group, repeats in ((small, options.repeats), (large, 1)):
        procedures = {name: lambda job=job: benchmarks.run_apart(__spec__.name, job) for name, job in group.items()}
        found |= benchmarks.in_turn(procedures, repeats)
    rows = table_rows(found, jobs)
    title = "Growth with the number of images: DLC + FlexRand, 32 x 32 pixels, micro network"
    about = f"T = 5, ratio {RATIO}; medians of {options.repeats} runs, the largest size once. "
    about += "By `python -m scripts.bench.growth`."
    notes = [NOTES[0], NOTES[1] + slopes(rows) + "."]
    benchmarks.write_table(options.out, "growth", title, about, COLUMNS, rows, notes)


if __name__ == "__main__":
    main()
