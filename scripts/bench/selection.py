"""What selecting a subset costs and gains, by methods of one pass, DLC + FlexRand, and baselines that fine-tune.

python -m scripts.bench.selection [--data <folder with data/ and weights/>] [--images 800] [--repeats 2]

A baseline's cost is extrapolated from two measured epochs of its proxy (and GraNd's gradients from a few images).
Methods of one pass, DLC and its cheaper variants (fewer networks, smaller images, bfloat16) are measured as a whole,
from files and an empty store to the saved subset. A selection is judged by the accuracy of a linear probe on its subset
at ratio 0.1. A variant of DLC also has its rank correlation with DLC at full size in fp32. The script writes
selection.md and selection.csv.
"""

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr, t
from torch import Tensor

from prunetune.base.devices import Hardware, resolve_device
from prunetune.base.seeding import seeded, stream
from prunetune.base.store import Store
from prunetune.config.parse import parse_image_run
from prunetune.data.images.decoded import ShownImages
from prunetune.data.pool import Pool
from prunetune.networks.frozen_pass import Passes, embed
from prunetune.report.score_analysis import within_class_spearman
from prunetune.runs.records import write_subset
from prunetune.samplers import FlexRand, RandomSampler
from prunetune.samplers.base import Sampler
from prunetune.scorers import DLC
from prunetune.scorers.base import Scorer
from prunetune.scorers.grand import gradient_norms
from prunetune.signals.contract import Signals
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe, ProxyTraining
from prunetune.signals.proxy_training import write_full
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe
from scripts.bench import benchmarks
from scripts.bench.benchmarks import PEAK, SECONDS, SPREAD, Column, Row

RATIO, GAMMA = 0.1, 0.25
EPOCHS, EARLY, PROXIES = 50, 5, 3  # Epochs of the recipe; epoch that el2n and grand read; proxies they average.
DLC_METHOD = "dlc + flexrand"
ONE_PASS = ("herding", "maxherding", "facility_location", "k_medoids", "typiclust", "zcore")  # They read features.
LEVELS = (5, 3, 2, 1)
SHARES = {"full": 1.0, "small": 160 / 224, "smaller": 128 / 224}  # Fractions of the network's input size.
GRADIENTS = 32  # Number of images whose gradients are timed.
PRECISIONS = ("fp32", "bf16")
COLUMNS = (
    Column("method", "method"),
    Column("levels", "T", "d"),
    Column("size", "pixels", "d"),
    Column("precision", "precision"),
    SECONDS,
    SPREAD,
    Column("decode_seconds", "of it decoding", ".2f"),
    Column("over_forgetting", "Forgetting / this", ".1f"),
    Column("over_forgetting_decoded", "with decoding", ".1f"),
    Column("over_dlc", "this / DLC", ".2f"),
    Column("spearman", "Spearman", ".4f"),
    Column("class_spearman", "in classes", ".4f"),
    Column("accuracy", "accuracy %", ".1f"),
    Column("accuracy_std", "std", ".1f"),
    Column("gain", "above random", ".1f"),
    Column("gain_within", "+-", ".1f"),
    PEAK,
)
NOTES = (
    f"Baselines: {EPOCHS} epochs of full fine-tuning, extrapolated from two measured ones at the same precision. "
    "forgetting: with the record of every epoch's end; least_confidence: recorded once, at the end; el2n and grand: "
    f"{PROXIES} proxies of {EARLY} epochs; *_released: one of {EPOCHS} epochs. Gradients of grand: from {GRADIENTS} "
    "images.",
    "Forgetting / this: at the same precision, decoding left out of both; with decoding: in both. this / DLC: against "
    "DLC with T = 5 at full size and the same precision.",
    "Spearman: with DLC at T = 5, full size, fp32: over the pool, and the mean over classes.",
    "accuracy: a linear probe (50 epochs, fp32 features of the evaluation view at full size) on the subset, on the "
    f"test set; mean and std over seeds. FlexRand draws anew for each seed, with gamma {GAMMA}. Methods of one pass "
    "keep the same images for each seed.",
    "above random: points of accuracy, paired by seed; +-: half of the 95 % t interval over seeds.",
    f"Methods of one pass ({', '.join(ONE_PASS)}) are measured as DLC is: decoding, features, selection, saved subset.",
    "Sizes below the checkpoint's own resample the position embedding of a ViT.",
)


def pixels(full: int, share: float) -> int:
    """Return an input size that networks accept: a multiple of 16, or of 8 for small networks."""
    step = 16 if full >= 64 else 8
    return max(step, round(full * share / step) * step)


def variants(full: int) -> dict[str, Row]:
    """Return the methods of one pass and every variant of DLC by name; the first two of DLC are the plain ones."""
    one_pass = [{"method": name, "size": full, "precision": precision} for name in ONE_PASS for precision in PRECISIONS]
    named = {f"{job['method']} {job['precision']}": job for job in one_pass}
    for share in SHARES.values():
        for levels in LEVELS:
            for precision in PRECISIONS:
                size = pixels(full, share)
                if precision == "fp32" and (levels, size) != (LEVELS[0], full):
                    continue
                job = {"method": DLC_METHOD, "levels": levels, "size": size, "precision": precision}
                named[f"dlc T{levels} {size}px {precision}"] = job
    return named


def method_of(job: Row) -> tuple[Scorer, Sampler]:
    """Return the scorer and the sampler of a job."""
    if job["method"] == DLC_METHOD:
        return DLC(levels=job["levels"]), FlexRand(gamma=GAMMA)
    run = parse_image_run(benchmarks.composed([*job["overrides"], f"method={job['method']}", f"ratio={RATIO}"]))
    [sampler] = run.candidates.values()
    return run.scorer, sampler


def overrides_of(job: Row) -> list[str]:
    """Return the overrides of a job's pool and network, at its size."""
    overrides = list(job["overrides"])
    if job["size"] == job["full_size"]:
        return overrides
    overrides.append(f"backbone.input_size={job['size']}")
    if any("vit_" in each for each in overrides):
        overrides.append("backbone.model_args={dynamic_img_size:true}")
    return overrides


def part(pool: Pool, count: int) -> Pool:
    """Return at most the given number of images, spread evenly over the pool."""
    return pool if count >= len(pool) else pool.take(torch.linspace(0, len(pool) - 1, count).long())


def select(job: Row) -> Row:
    """Score with a method and save its subset. The scores are saved in the file that the job names."""
    pool, _, network = benchmarks.opened(overrides_of(job))
    pool, (scorer, sampler) = part(pool, job["images"]), method_of(job)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        embedding = Embedding(network, Store(Path(folder)), job["precision"], resolve_device("auto"))
        signals = NetworkSignals(pool, embedding)
        scores = scorer.score(pool, signals, stream("bench selection"))
        subset = sampler.select(scores, pool.labels, RATIO, stream("bench subset"), signals)
        write_subset(Path(folder) / "subset.csv", pool, subset)
        seconds = time.perf_counter() - start
        decode_seconds = embedding.decode_seconds(pool)
    np.save(job["scores"], scores.numpy())
    return {"seconds": seconds, "decode_seconds": decode_seconds}


def train(job: Row) -> Row:
    """Measure two epochs of the proxy with their records, one record alone, and the gradients of a few images."""
    pool, _, network = benchmarks.opened(job["overrides"])
    pool, device, precision = part(pool, job["images"]), resolve_device("auto"), job["precision"]
    recipe = ProxyRecipe(replace(ProxyRecipe().training, epochs=EPOCHS))
    with tempfile.TemporaryDirectory() as folder:
        embedding = Embedding(network, Store(Path(folder)), precision, device)
        whole, views = ShownImages.whole(pool, embedding.decoded(pool)), embedding.evaluation(pool)
        hardware = Hardware(device, precision)
        meta = write_full(Path(folder), network, whole, views, ProxyTraining(recipe, 0, 2), hardware)
        first, both = meta["seconds_by_epoch"]
        start = time.perf_counter()
        embed(network, views, range(len(pool)), Passes(recipe.training.batch_size, hardware), "one record")
        record = time.perf_counter() - start
        rows = list(range(min(GRADIENTS, len(pool))))
        model = torch.nn.Sequential(network, torch.nn.Linear(network.num_features, len(pool.classes))).to(device)
        start = time.perf_counter()
        with hardware.arithmetic():
            gradient_norms(model, iter(views.read(rows).split(8)), pool.labels)
        gradients = (time.perf_counter() - start) * len(pool) / len(rows)
    parts = {"epoch_seconds": both / 2, "record_seconds": record, "gradient_seconds": gradients}
    return {"seconds": both, "first_seconds": first, "decode_seconds": embedding.decode_seconds(pool), **parts}


def baseline_costs(measured: Row) -> dict[str, float]:
    """Return the seconds of each baseline without decoding, from the parts of two epochs."""
    record, gradients = measured["record_seconds"], measured["gradient_seconds"]
    epoch = measured["epoch_seconds"] - record
    return {
        "forgetting": EPOCHS * (epoch + record),
        "least_confidence": EPOCHS * epoch + record,
        "el2n": PROXIES * (EARLY * epoch + record),
        "el2n_released": EPOCHS * epoch + record,
        "grand": PROXIES * (EARLY * epoch + gradients),
        "grand_released": EPOCHS * epoch + gradients,
    }


def judge(job: Row) -> Row:
    """Train linear probes on the subsets of saved scores, and of random ones, and return their accuracies."""
    pool, test, network = benchmarks.opened(job["overrides"])
    pool, device = part(pool, job["images"]), resolve_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        embedding = Embedding(network, Store(Path(folder)), "fp32", device)
        signals = NetworkSignals(pool, embedding)
        features, test_features = signals.features(), NetworkSignals(test, embedding).features()
    accuracies = {}
    samplers = {name: method_of({**job, **each})[1] for name, each in variants(job["full_size"]).items()}
    for name, file in {"random": None, **job["files"]}.items():
        scores = torch.zeros(len(pool), dtype=torch.float64) if file is None else torch.from_numpy(np.load(file))
        sampler = samplers.get(name, RandomSampler())
        subsets = [_draw(sampler, scores, signals, seed) for seed in range(job["seeds"])]
        probes = [Probe(s, pool.labels[s], test_features, test.labels, seed) for seed, s in enumerate(subsets)]
        recipe = Recipe("linear_probe", views=0, evaluate_every=EPOCHS)
        results = train_probes(features.unsqueeze(0), probes, len(pool.classes), recipe, device)
        accuracies[name] = [(result.predictions == test.labels).double().mean().item() for result in results]
    return {"seconds": 0.0, "accuracies": accuracies, "num_images": len(pool), "labels": pool.labels.tolist()}


def _draw(sampler: Sampler, scores: Tensor, signals: Signals, seed: int) -> Tensor:
    with seeded("sample", seed, RATIO) as generator:
        return sampler.select(scores, signals.pool.labels, RATIO, generator, signals)


PARTS = {"select": select, "train": train, "judge": judge}


def compare(overrides: list[str], options: Any) -> tuple[list[Row], int]:
    """Measure everything on one pool and network; return the rows and the number of images."""
    full = benchmarks.opened(overrides)[2].input_size
    shared = {"overrides": overrides, "images": options.images, "full_size": full}
    with tempfile.TemporaryDirectory() as folder:
        chosen = variants(full)
        files = {name: str(Path(folder) / f"{index}.npy") for index, name in enumerate(chosen)}
        jobs = {name: {**shared, **job, "part": "select", "scores": files[name]} for name, job in chosen.items()}
        training = {f"train {p}": {**shared, "part": "train", "precision": p} for p in PRECISIONS}
        procedures = {
            name: lambda job=job: benchmarks.run_apart(__spec__.name, job) for name, job in {**training, **jobs}.items()
        }
        found = benchmarks.in_turn(procedures, options.repeats, "  ")
        made = {name: file for name, file in files.items() if Path(file).is_file()}
        judged = benchmarks.run_apart(__spec__.name, {**shared, "part": "judge", "files": made, "seeds": options.seeds})
        scores = {name: torch.from_numpy(np.load(file)) for name, file in made.items()}
    return table_rows(chosen, found, judged, scores), judged.get("num_images", options.images)


def table_rows(chosen: dict[str, Row], found: dict[str, Row], judged: Row, scores: dict[str, Tensor]) -> list[Row]:
    """Return the rows of one pool and network, the baselines first."""
    rows = []
    of_dlc = {name: job for name, job in chosen.items() if job["method"] == DLC_METHOD}
    plain = {p: next(name for name, job in of_dlc.items() if job["precision"] == p) for p in PRECISIONS}
    forgetting = {}
    for precision in PRECISIONS:
        measured, dlc = found[f"train {precision}"], found[plain[precision]]
        if "epoch_seconds" not in measured:
            rows.append({"method": "baselines", "precision": precision, "seconds": measured["outcome"]})
            continue
        forgetting[precision] = baseline_costs(measured)["forgetting"], measured["decode_seconds"]
        for name, seconds in baseline_costs(measured).items():
            row = {"method": name, "precision": precision, "seconds": seconds, "peak_bytes": measured["peak_bytes"]}
            if "seconds" in dlc:
                row["over_dlc"] = seconds / (dlc["seconds"] - dlc["decode_seconds"])
            rows.append({**row, "size": chosen[plain[precision]]["size"]})
    accuracies = judged.get("accuracies", {})
    random = _accuracy(accuracies, "random") or {"seconds": judged["outcome"]}
    rows.append({"method": "random", **random})
    reference = scores.get(plain["fp32"])
    for name, job in chosen.items():
        row = {**job, **found[name], **_accuracy(accuracies, name)}
        if "seconds" not in row:
            row["seconds"] = row["outcome"]
        elif job["precision"] in forgetting:
            seconds, decoding = forgetting[job["precision"]]
            row["over_forgetting"] = seconds / (row["seconds"] - row["decode_seconds"])
            row["over_forgetting_decoded"] = (seconds + decoding) / row["seconds"]
            dlc = found[plain[job["precision"]]]
            if name not in of_dlc and "seconds" in dlc:
                row["over_dlc"] = (row["seconds"] - row["decode_seconds"]) / (dlc["seconds"] - dlc["decode_seconds"])
        if name in of_dlc and name in scores and reference is not None and "labels" in judged:
            row["spearman"] = float(spearmanr(reference, scores[name]).statistic)
            in_classes = within_class_spearman(reference, scores[name], torch.tensor(judged["labels"]))
            row["class_spearman"] = in_classes.mean
        rows.append(row)
    return rows


def _accuracy(accuracies: dict[str, list[float]], name: str) -> Row:
    """Return mean and std over seeds in percent, and the difference from random with half of its 95 % t interval."""
    if not accuracies.get(name):
        return {}
    own = [100 * each for each in accuracies[name]]
    row = {"accuracy": statistics.mean(own), "accuracy_std": statistics.stdev(own) if len(own) > 1 else 0.0}
    if name == "random" or len(own) < 2:
        return row
    gains = [mine - 100 * random for mine, random in zip(own, accuracies["random"], strict=True)]
    within = t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    return {**row, "gain": statistics.mean(gains), "gain_within": float(within)}


def main() -> None:
    parser = benchmarks.parser_of(__doc__)
    parser.set_defaults(repeats=2)
    parser.add_argument("--images", type=int, default=800, help="largest number of images of each pool")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds over which the accuracy is averaged")
    parser.add_argument("--datasets", nargs="+", default=["dtd10"], help="data sets below --data")
    parser.add_argument("--networks", nargs="+", default=["vit_tiny"], help="networks below --data")
    options = parser.parse_args()
    if options.child:
        job = json.loads(options.child)
        benchmarks.finish(PARTS[job["part"]](job))
        return
    rows = []
    for name, overrides in benchmarks.settings(options.data, options.datasets, options.networks).items():
        print(name, flush=True)
        found, count = compare(overrides, options)
        rows += [{"section": f"{name}: {count} images, ratio {RATIO}", **row} for row in found]
    if resolve_device("auto") == "cpu":
        rows.append({"section": "GPU", "method": "all", "seconds": "unmeasured: no GPU here"})
    title = "What selection costs and gains: methods of one pass, DLC + FlexRand, baselines that fine-tune"
    about = f"{options.repeats} runs of each in turn, medians; {options.seeds} seeds. "
    about += "By `python -m scripts.bench.selection`."
    benchmarks.write_table(options.out, "selection", title, about, COLUMNS, rows, NOTES)


if __name__ == "__main__":
    main()
