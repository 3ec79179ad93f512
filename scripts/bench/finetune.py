"""Full fine-tuning: images decoded once, against a DataLoader that decodes in every epoch, and ready tensors.

python -m scripts.bench.finetune [--data <folder with data/ and weights/>] [--out results/bench] [--images 256]

finetune.md has three tables: making the training views of an epoch without a network; the whole training step; and with
--data the accuracy with smaller stored images. The released loop is written here as published: Pillow,
RandomResizedCrop, flip, ToTensor and Normalize in a DataLoader with as many workers as cores (8 on a GPU), batch 128,
SGD with Nesterov momentum, fp32. If there is a GPU the steps run on it, also with resnet18 at 224 pixels; otherwise
these rows say unmeasured. Without --data the embedded textures and the micro network are used.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from prunetune.base.devices import Hardware, resolve_device
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageFiles
from prunetune.data.images.decoded import ShownImages, decode_pool
from prunetune.data.images.device_views import DeviceView, Source
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.frozen_pass import batches, training
from prunetune.report import collect
from prunetune.training import full
from prunetune.training.recipe import Recipe
from prunetune.training.sample_order import Static, Walk
from scripts.bench import benchmarks
from scripts.bench.benchmarks import PEAK, SECONDS, SPREAD, Column, Row
from scripts.real_data import ROOT

RECIPE = Recipe("full", trained="all", epochs=1, learning_rate=1e-3, views=0)
LOADER = "DataLoader, decoding in every epoch"
STORE = "decoded once, views by threads"
DEVICE = "decoded once, views by the device"
SYNTHETIC = "tensors already there"
SHORT_SIDES = (None, 96, 64)  # The images of the small data sets have 128 pixels.
SMALL_NETWORK = 8  # The micro network is measured with 8 times as many images.
RATIOS, SEEDS = (0.5, 1.0), (0, 1, 2)


class ReleasedImages(Dataset):
    """The training images as the released code reads them: decoded and augmented at each access."""

    def __init__(self, pool: Pool, network: Network) -> None:
        mean, std = (tensor.flatten() / 255 for tensor in (network.mean, network.std))
        self.images, self.labels = pool.images, pool.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(network.input_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean.tolist(), std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if isinstance(self.images, ImageFiles):
            with Image.open(self.images.paths[position]) as file:
                image = file.convert("RGB")
        else:
            image = Image.fromarray(self.images.decode(position).permute(1, 2, 0).numpy())
        return self.transform(image), self.labels[position]


def loader_of(pool: Pool, network: Network, device: str) -> DataLoader:
    """Return the released loader over a pool."""
    workers = 8 if device == "cuda" else os.cpu_count() or 1
    return DataLoader(
        ReleasedImages(pool, network), 128, shuffle=True, num_workers=workers, pin_memory=device == "cuda"
    )


class Normalised(nn.Module):
    """The network of the released code: it takes normalised float images in the default memory format."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.model.to(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class Ready(full.DeviceView):
    """A view whose batches are already on the device, the same for all."""

    def batches(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        for start in range(0, len(positions), batch_size):
            yield self.source[: min(batch_size, len(positions) - start)]


def opened(job: dict) -> tuple[Pool, Network]:
    """Return the first images of a pool, equally many of every class, and the network."""
    pool, _, network = benchmarks.opened(job["overrides"])
    if job["network"] == "resnet18":
        network = Backbone(model="resnet18", pretrained=False).load()
    step = max(1, len(pool) // job["images"])
    return pool.take(torch.arange(0, len(pool), step)[: job["images"]]), network


def measure_views(job: dict) -> Row:
    """Make the training views of some epochs in one way. No network is trained."""
    pool, network = opened(job)
    everything, size, way = list(range(len(pool))), network.input_size, job["way"]
    decode_seconds = 0.0
    if way == LOADER:
        loader = loader_of(pool, network, "cpu")

        def epoch(number: int) -> int:
            return sum(len(images) for images, _ in loader)
    else:
        images, decode_seconds = decode_pool(pool, Store(Path(job["store"])), None)
        source = Source.of(images, torch.tensor(everything), "cpu") if way == DEVICE else None

        def epoch(number: int) -> int:
            names = ("crop", 0, number)
            if source is not None:
                made = DeviceView(source, size, pool.sample_ids, names).batches(everything, 128)
            else:
                made = batches(training(images, size, pool, *names), everything, 128)
            return sum(len(batch) for batch in made)

    start = time.perf_counter()
    count = sum(epoch(number) for number in range(job["epochs"]))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rate": count / seconds, "decode_seconds": decode_seconds}


def measure_step(job: dict) -> Row:
    """Train for some epochs in one way, after one epoch that is not timed. The time includes views and decoding."""
    pool, network = opened(job)
    way, device, epochs = job["way"], job["device"], job["epochs"]
    with seeded("finetune", 0) as generator:
        head = nn.Linear(network.num_features, len(pool.classes))
        if way == LOADER:
            train = _released(Normalised(network), head, loader_of(pool, network, device), device)
        else:
            train = _ours(nn.Sequential(network, head), pool, network.input_size, job, generator)
        next(train)
        start = time.perf_counter()
        for _ in range(epochs):
            next(train)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "rate": epochs * len(pool) / seconds}


def _released(body: nn.Module, head: nn.Module, loader: DataLoader, device: str) -> Iterator[float]:
    model = nn.Sequential(body, head).to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), RECIPE.learning_rate, 0.9, 0, 1e-5, True)
    while True:
        total = 0.0
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(labels)
        yield total / len(loader.dataset)


def _ours(model: nn.Module, pool: Pool, size: int, job: dict, generator: torch.Generator) -> Iterator[float]:
    device, pixels = job["device"], pool.images
    recipe = Recipe(**{**vars(RECIPE), "epochs": job["epochs"] + 1})
    if job["way"] == SYNTHETIC:
        ready = Ready(torch.randint(0, 256, (128, 3, size, size), dtype=torch.uint8).to(device), size, (), ())

        def view_of(epoch: int) -> Ready:
            return ready
    else:
        pixels, _ = decode_pool(pool, Store(Path(job["store"])), None)
        view_of = full.training_views(ShownImages.whole(pool, pixels), size, device, "crop", 0)
    walk, hardware = Walk(Static(len(pool)), generator, device), Hardware(device, job["precision"])
    trained = full.train_epochs(model.to(device), ShownImages.whole(pool, pixels), view_of, recipe, walk, hardware)
    return (loss for _, loss in trained)


def view_rows(name: str, common: dict, repeats: int) -> list[Row]:
    """Return the rows of the first table for one data set."""

    def measured(way: str) -> Row:
        return benchmarks.run_apart(__spec__.name, {**common, "what": "views", "way": way})

    found = benchmarks.in_turn(
        {way: lambda way=way: measured(way) for way in (LOADER, STORE, DEVICE)}, repeats, f"views of {name}: "
    )
    section = f"Training views alone: {name}"
    return [
        {"section": section, "way": way, "on": "cpu", "precision": "", **row, **_faster(found[LOADER], row)}
        for way, row in found.items()
    ]


def step_rows(name: str, common: dict, device: str, repeats: int) -> list[Row]:
    """Return the rows of the training step of one data set and network on one device."""
    ways = [(LOADER, "fp32"), *itertools.product((STORE if device == "cpu" else DEVICE, SYNTHETIC), ("fp32", "bf16"))]

    def measured(way: str, precision: str) -> Row:
        job = {**common, "what": "step", "way": way, "precision": precision, "device": device}
        return benchmarks.run_apart(__spec__.name, job)

    procedures = {words: lambda words=words: measured(*words) for words in ways}
    found = benchmarks.in_turn({" ".join(key): run for key, run in procedures.items()}, repeats, f"step of {name}: ")
    rows = []
    for way, precision in ways:
        row = found[f"{way} {precision}"]
        row |= {"section": f"Training step: {name}", "way": way, "on": device, "precision": precision}
        rows.append({**row, **_faster(found[f"{LOADER} fp32"], row, found[f"{SYNTHETIC} {precision}"])})
    return rows


def _faster(loader: Row, row: Row, synthetic: Row | None = None) -> Row:
    result = {"times": benchmarks.ratio(row, loader, "rate")}
    if synthetic is not None:
        result["share"] = benchmarks.ratio(row, synthetic, "rate")
    return result


def unmeasured_rows() -> list[Row]:
    """Return the rows that need a GPU."""
    nothing = dict.fromkeys(("seconds", "rate", "times", "share", "peak_bytes"), "unmeasured")
    section = "Training step: resnet18 at 224 pixels on a GPU"
    ways = [(LOADER, "fp32"), (DEVICE, "fp32"), (DEVICE, "bf16"), (SYNTHETIC, "bf16"), ("runs sharing a GPU", "fp32")]
    return [{"section": section, "way": way, "on": "cuda", "precision": kind, **nothing} for way, kind in ways]


def measure_size(job: dict) -> Row:
    """Run probes on a store of one size and return the accuracy over seeds in percent."""
    command = [sys.executable, str(ROOT / "run.py"), "--config-name", "grid", *job["overrides"]]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    row: Row = {"seconds": time.perf_counter() - start}
    results = Path(job["results"])
    runs, _ = collect.collect(results)
    for ratio, cells in runs.groupby("ratio"):
        row |= {f"accuracy_{ratio:g}": 100 * cells["accuracy"].mean(), f"std_{ratio:g}": 100 * cells["accuracy"].std()}
    files = results.glob("store/images/*/pixels.bin")
    return {**row, "store_bytes": sum(file.stat().st_size for file in files)}


def size_rows(name: str, overrides: list[str], folder: Path) -> list[Row]:
    """Return a row for each size of the store."""
    rows = []
    for short_side in SHORT_SIDES:
        results = folder / f"size_{short_side}"
        lists = [f"ratios=[{','.join(map(str, RATIOS))}]", f"seeds=[{','.join(map(str, SEEDS))}]", "methods=[random]"]
        words = [*overrides, *lists, "finetune.views=4", "finetune.evaluate_every=50", "wandb=disabled"]
        words += [f"images.short_side={'null' if short_side is None else short_side}", f"results_dir={results}"]
        row = benchmarks.run_apart(__spec__.name, {"what": "size", "overrides": words, "results": str(results)}, 3600)
        print(f"store of {name} at {short_side}: {row.get('seconds', row['outcome'])}", flush=True)
        rows.append({"section": name, "short_side": short_side or "as it is (128)", **row})
        shutil.rmtree(results, ignore_errors=True)
    return rows


def write(out: Path, rows: list[Row], images: int) -> None:
    """Write the table of views and steps."""
    columns = [
        Column("way", "images come from"),
        Column("on", "on"),
        Column("precision", "precision"),
        Column("rate", "images per s", ",.1f"),
        SECONDS,
        SPREAD,
        Column("times", "times the DataLoader", ".2f"),
        Column("share", "share of tensors already there", ".3f"),
        Column("decode_seconds", "decoding once, s", ".2f"),
        PEAK,
    ]
    about = (
        "Training views alone, and whole steps of full fine-tuning (batch 128; forward, backward, optimiser, views). "
        "Targets on a data-centre GPU, resnet18 at 224 pixels: at least 0.85 of tensors already there, and at least "
        "3 times the released loop with 8 workers."
    )
    notes = [
        f"An epoch of a step has {images} images on a CPU (micro: {SMALL_NETWORK * images}) if there are as many. The "
        "real ones have a short side of 128 pixels; full-size photographs take longer to decode.",
        "The released loop: Pillow and torchvision in a DataLoader with as many workers as cores, fp32, `loss.item()` "
        "in every step. Its memory includes its workers, a page shared by n processes counted as its n-th part.",
        "views by the device: what a GPU does by default, here timed on the CPU, where threads are the default.",
        "On a GPU this script measures the rows that say unmeasured, but for runs sharing it.",
    ]
    benchmarks.write_table(out, "finetune", "Full fine-tuning: where the images come from", about, columns, rows, notes)


def write_sizes(out: Path, rows: list[Row]) -> None:
    """Write the table of store sizes."""
    kinds = [(f"{key}_{ratio:g}", ratio, what) for ratio in RATIOS for key, what in (("accuracy", ""), ("std", " std"))]
    columns = [
        Column("short_side", "short side of the store, pixels"),
        Column("store_bytes", "store MiB", "bytes"),
        *(Column(key, f"accuracy{what} at {ratio:g}", ".2f") for key, ratio, what in kinds),
        Column("seconds", "seconds", ".1f"),
        PEAK,
    ]
    about = (
        f"Linear probes on random subsets ({len(SEEDS)} seeds, 4 views, percent) where training and test images come "
        "from a store that was shrunk to a short side before any crop (`images.short_side`)."
    )
    notes = [
        "The images here have a short side of 128 pixels and the network sees 224: these rows say what shrinking below "
        "a network's input costs. That 256 is enough for 224 is the usual choice and not measured here.",
    ]
    benchmarks.write_table(out, "store_size", "How small the decoded store may be", about, columns, rows, notes)


def main() -> None:
    parser = benchmarks.parser_of(__doc__)
    parser.add_argument("--images", type=int, default=256, help="images of a pool for the training steps")
    parser.add_argument("--epochs", type=int, default=1, help="epochs that are timed, after one that is not")
    parser.add_argument("--only", choices=["steps", "sizes"], help="write only these tables")
    options = parser.parse_args()
    if options.child:
        job = json.loads(options.child)
        benchmarks.finish({"views": measure_views, "step": measure_step, "size": measure_size}[job["what"]](job))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench_finetune_"))
    try:
        measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure and write both tables."""
    found = benchmarks.settings(options.data)
    if options.only != "sizes":
        rows, device = [], resolve_device("auto")
        for name, overrides in found.items():
            common = {"overrides": overrides, "store": str(folder / "store"), "epochs": options.epochs}
            alone = {**common, "network": "own", "images": 10 * options.images, "epochs": 3}
            rows += view_rows(name, alone, options.repeats)
        for name, network in networks(options.data, device).items():
            images = 10**9 if device == "cuda" else options.images * (SMALL_NETWORK if network[0] == "micro" else 1)
            job = {**common, "overrides": network[1], "network": network[0], "images": images}
            rows += step_rows(name, job, device, options.repeats)
        rows += unmeasured_rows() if device == "cpu" else []
        write(options.out, rows, options.images)
    if options.only != "steps" and options.data is not None:
        rows = [row for name, overrides in found.items() for row in size_rows(name, overrides, folder)]
        write_sizes(options.out, rows)


def networks(data: Path | None, device: str) -> dict[str, tuple[str, list[str]]]:
    """Return the networks whose steps are measured: their name and overrides, by their label in the table."""
    if data is None:
        return {"textures, micro": ("micro", benchmarks.EMBEDDED["textures"])}
    [overrides] = benchmarks.settings(data, ["caltech101"]).values()
    images = [word for word in overrides if word.startswith("dataset")]
    chosen = {
        "caltech101, micro": ("micro", [*images, "backbone=micro"]),
        "caltech101, vit_tiny": ("vit_tiny", overrides),
    }
    return {**chosen, "caltech101, resnet18": ("resnet18", overrides)} if device == "cuda" else chosen


if __name__ == "__main__":
    main()
