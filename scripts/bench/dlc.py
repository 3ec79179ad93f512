"""DLC against the released implementation's procedure, and against decoding once and T plain passes.

python -m scripts.bench.dlc [--data <folder with data/ and weights/>] [--images 800] [--repeats 3]

The released procedure is written here as it was published: every pass decodes all files again through a DataLoader
(batches of 256, as many workers as cores), under no_grad, in fp32, with torch.nn.utils.prune. Every procedure runs in a
separate process, in turn, and starts from files and an empty store. The script writes dlc.md and dlc.csv.
"""

import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.utils import prune
from torchvision import transforms

from prunetune.base.devices import Hardware, resolve_device
from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageArrays
from prunetune.data.images.transforms import CROP_SHARE, evaluation_view
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import Passes, embed
from prunetune.networks.maskable import maskable
from prunetune.scorers import DLC
from prunetune.signals.network import Embedding, NetworkSignals
from scripts.bench import benchmarks
from scripts.bench.benchmarks import CPU, PEAK, SECONDS, SPREAD, Column, Row

BATCH = 256  # The batch size in the command of the released script.
COLUMNS = (
    Column("procedure", "procedure"),
    Column("precision", "precision"),
    SECONDS,
    SPREAD,
    Column("faster", "times faster", ".2f"),
    CPU,
    Column("cheaper", "of CPU", ".2f"),
    Column("of_limit", "of the limit", ".2f"),
    PEAK,
    Column("spearman", "Spearman, fp32", ".5f"),
    Column("spearman_released", "Spearman, released", ".5f"),
)
JOBS = {  # Maps a name in the table to the job of the child.
    "released procedure": {"procedure": "released", "precision": "fp32"},
    "limit: decode once, T plain passes": {"procedure": "limit", "precision": "fp32"},
    "DLC": {"procedure": "dlc", "precision": "fp32"},
    "limit: decode once, T plain passes, bf16": {"procedure": "limit", "precision": "bf16"},
    "DLC, bf16": {"procedure": "dlc", "precision": "bf16"},
}
NOTES = (
    "Every procedure starts from image files and an empty store. spread: (most - least) / median of the repeats.",
    "released procedure: T passes, each of which decodes every file; as a whole: also the pass that reads the labels "
    "and the one after the last mask that nothing uses, both of which the released script makes. times faster: than "
    "the T passes alone; of CPU: the same ratio of CPU seconds, which counts also where others use the machine.",
    "It sees the evaluation view through Pillow and pools as timm does, so that its scores can be compared; the script "
    "crops the train part at random and averages the tokens of a ViT, which costs the same.",
    "of the limit: seconds over those of decoding every image once and T plain passes at the same precision.",
    "Spearman, fp32: with DLC in fp32; Spearman, released: with the scores of the released procedure.",
)


class Files(torch.utils.data.Dataset):
    """A map-style data set that decodes and transforms an image each time it is read."""

    def __init__(self, pool: Pool, transform: Any) -> None:
        self.pool, self.transform = pool, transform

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images = self.pool.images
        if isinstance(images, ImageArrays):
            image = Image.fromarray(images.pixels[index])
        else:
            with Image.open(images.paths[index]) as file:
                image = file.convert("RGB")
        return self.transform(image), int(self.pool.labels[index])


def released(pool: Pool, network: Network, job: Row) -> tuple[Row, Tensor]:
    """Score as the released script does, with T levels that each mask `step` of the weights left; time every pass."""
    device, size = resolve_device("auto"), network.input_size
    mean, std = (network.mean / 255).flatten().tolist(), (network.std / 255).flatten().tolist()
    steps = [transforms.Resize(round(size / CROP_SHARE)), transforms.CenterCrop(size), transforms.ToTensor()]
    data = Files(pool, transforms.Compose([*steps, transforms.Normalize(mean, std)]))
    loader = torch.utils.data.DataLoader(data, BATCH, num_workers=os.cpu_count() or 1, pin_memory=device == "cuda")
    model = network.model.to(device, memory_format=torch.contiguous_format).eval()

    def features() -> Tensor:
        with torch.no_grad():
            return torch.cat([model(images.to(device)) for images, _ in loader])  # [N, D]

    clock = benchmarks.Clock()
    first = features()
    labels = pool.labels.to(device)
    prototypes = torch.stack([first[labels == label].mean(dim=0) for label in range(len(pool.classes))])  # [C, D]
    names = [name.removesuffix(".weight") for name in maskable(model, network.mask_modules).weights]
    parameters = [(model.get_submodule(name), "weight") for name in names]
    losses = []
    for level in range(job["levels"]):
        if level > 0:
            prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=job["step"])
        shown = first if level == 0 else features()
        distances = torch.cdist(shown, prototypes).clamp_min(1e-6)
        losses.append(torch.nn.functional.cross_entropy(1 / distances, labels, reduction="none").cpu())
    found = clock.read()
    for _ in loader:  # The released script reads the labels with a separate pass.
        pass
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=job["step"])
    features()
    whole = {f"whole_{key}": value for key, value in clock.read().items()}
    return {**found, **whole}, torch.stack(losses).double().mean(dim=0)


def limit(pool: Pool, network: Network, job: Row) -> tuple[Row, None]:
    """Decode every image once and run the unmasked network T times as fast as this package does: DLC's lower bound."""
    device, size = resolve_device("auto"), network.input_size
    network, count = network.to(device), len(pool)
    clock = benchmarks.Clock()
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        views = torch.stack(list(workers.map(lambda i: evaluation_view(pool.images.decode(i), size), range(count))))
    decode_seconds = clock.read()["seconds"]
    for _ in range(job["levels"]):
        embed(network, views.__getitem__, range(count), Passes(64, Hardware(device, job["precision"])), "plain pass")
    return {**clock.read(), "decode_seconds": decode_seconds}, None


def dlc(pool: Pool, network: Network, job: Row) -> tuple[Row, Tensor]:
    """Score with this package, from files and an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        clock = benchmarks.Clock()
        embedding = Embedding(network, Store(Path(folder)), job["precision"], resolve_device("auto"))
        signals = NetworkSignals(pool, embedding)
        scores = DLC(levels=job["levels"], step=job["step"]).score(pool, signals, stream("bench dlc"))
        found = clock.read()
        return {**found, "decode_seconds": embedding.decode_seconds(pool)}, scores


PROCEDURES = {"released": released, "limit": limit, "dlc": dlc}


def measure(job: Row) -> Row:
    """Run one procedure in this process, and save its scores in the file that the job names."""
    pool, _, network = benchmarks.opened(job["overrides"])
    if job["images"] < len(pool):
        pool = pool.take(torch.linspace(0, len(pool) - 1, job["images"]).long())
    row, scores = PROCEDURES[job["procedure"]](pool, network, job)
    if scores is not None:
        np.save(job["scores"], scores.numpy())
    return {**row, "num_images": len(pool)}


def compare(overrides: list[str], options: Any) -> list[Row]:
    """Run all procedures on one pool and network and return their rows."""
    with tempfile.TemporaryDirectory() as folder:
        shared = {"overrides": overrides, "images": options.images, "levels": options.levels, "step": options.step}
        files = {name: Path(folder) / f"{index}.npy" for index, name in enumerate(JOBS)}
        jobs = {name: {**shared, **job, "scores": str(files[name])} for name, job in JOBS.items()}
        procedures = {name: lambda job=job: benchmarks.run_apart(__spec__.name, job) for name, job in jobs.items()}
        found = benchmarks.in_turn(procedures, options.repeats, "  ")
        scores = {name: np.load(file) for name, file in files.items() if file.is_file()}
    return table_rows(found, scores)


def table_rows(found: dict[str, Row], scores: dict[str, np.ndarray]) -> list[Row]:
    """Return the rows of one pool and network: ratios and rank correlations beside what was measured."""
    slow = found["released procedure"]
    rows = []
    for name, job in JOBS.items():
        row = {"procedure": name, "precision": job["precision"], **found[name]}
        if "seconds" not in row:
            row["seconds"] = row["outcome"]
        row["faster"] = benchmarks.ratio(slow, found[name])
        row["cheaper"] = benchmarks.ratio(slow, found[name], "cpu_seconds")
        bound = found["limit: decode once, T plain passes" + (", bf16" if job["precision"] == "bf16" else "")]
        row["of_limit"] = benchmarks.ratio(found[name], bound)
        if name in scores:
            row["spearman"] = _rank_correlation(scores.get("DLC"), scores[name])
            row["spearman_released"] = _rank_correlation(scores.get("released procedure"), scores[name])
        rows.append(row)
        if "whole_seconds" in row:
            whole = {
                "seconds": row["whole_seconds"],
                "cpu_seconds": row["whole_cpu_seconds"],
                "precision": "fp32",
                "peak_bytes": row["peak_bytes"],
            }
            rows.append({**whole, "procedure": f"{name}, as a whole", "faster": slow["seconds"] / whole["seconds"]})
    return rows


def _rank_correlation(first: np.ndarray | None, second: np.ndarray) -> float | None:
    return None if first is None else float(spearmanr(first, second).statistic)


def main() -> None:
    parser = benchmarks.parser_of(__doc__)
    parser.add_argument("--images", type=int, default=800, help="largest number of images of each pool")
    parser.add_argument("--levels", type=int, default=5, help="number of networks T")
    parser.add_argument("--step", type=float, default=0.2, help="fraction of the weights masked in each step")
    parser.add_argument("--datasets", nargs="+", default=["dtd10"], help="data sets below --data")
    parser.add_argument("--networks", nargs="+", default=["vit_tiny", "mobilenetv2"], help="networks below --data")
    options = parser.parse_args()
    if options.child:
        benchmarks.finish(measure(json.loads(options.child)))
        return
    rows = []
    for name, overrides in benchmarks.settings(options.data, options.datasets, options.networks).items():
        print(name, flush=True)
        found = compare(overrides, options)
        count = next((row["num_images"] for row in found if "num_images" in row), 0)
        rows += [{"section": f"{name}: {count} images, T = {options.levels}", **row} for row in found]
    if resolve_device("auto") == "cpu":
        rows.append({"section": "GPU", "procedure": "all", "precision": "all", "seconds": "unmeasured: no GPU here"})
    title = "DLC against the released procedure and against the limit"
    about = f"{options.repeats} runs of each in turn, medians. By `python -m scripts.bench.dlc`."
    benchmarks.write_table(options.out, "dlc", title, about, COLUMNS, rows, NOTES)


if __name__ == "__main__":
    sys.exit(main())
