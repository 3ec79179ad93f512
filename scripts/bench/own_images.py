"""What `prune()` and `advise` cost on a user's own images, in plain forward passes.

python -m scripts.bench.own_images [--data <folder with data/ and weights/>] [--images 1200] [--repeats 5]

A plain pass reads and decodes each file once and runs the same network over it as fast as this package can, and keeps
nothing. All procedures run in turn in one process, begin with files and an empty store, and load the network. The
ratios are of CPU seconds of the process, with all of its threads, since other programs change them little. The script
writes own_images.md and own_images.csv.
"""

import contextlib
import io
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from prunetune import advise, prune
from prunetune.api import make_plan
from prunetune.base.devices import Hardware, resolve_device, resolve_precision
from prunetune.config.build import build
from prunetune.config.parse import build_dataset
from prunetune.data.images.decode import ImageFiles
from prunetune.data.images.transforms import evaluation_view
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone
from prunetune.networks.frozen_pass import Passes, embed
from prunetune.own import command
from prunetune.own.keep import Keep
from prunetune.own.read import ReadOptions, read
from scripts.bench import benchmarks
from scripts.bench.benchmarks import CPU, SECONDS, SPREAD, Clock, Column, Row

KEEP, WARM = 0.2, 6
Pairs = list[tuple[str, str]]  # The path and the class of each image.
PLAIN = "plain pass"
COLUMNS = (
    Column("procedure", "procedure"),
    CPU,
    Column("ratio", "plain passes", ".2f"),
    Column("ratio_low", "least", ".2f"),
    Column("ratio_high", "most", ".2f"),
    SECONDS,
    SPREAD,
)
NOTES = (
    "plain passes: the CPU seconds divided by those of the plain pass of the same repeat, median over the repeats; "
    "least and most: of the repeats.",
    "plain pass: decode each file once with threads, make the evaluation view, run the network over it.",
    "prune(): the Python function with its defaults, herding with top-k: it also looks for duplicates.",
    "prunetune prune: the command, without its imports: also suspect labels, the tables, and report.html.",
    "another amount: the same command with another --keep, after the scores are in the store.",
    "advise(): the learning curve with all its probes; no scores are in the store.",
)


def main() -> None:
    """Measure all networks and write the tables."""
    parser = benchmarks.parser_of(__doc__)
    parser.add_argument("--images", type=int, default=1200, help="at most this many, spread evenly")
    parser.add_argument("--networks", nargs="+", default=["vit_tiny", "mobilenetv2"])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides in benchmarks.settings(options.data, ["dtd10"], options.networks).items():
            cfg = benchmarks.composed(overrides)
            pairs = files_of(build_dataset(cfg.dataset).pool("train"), options.images, Path(folder))
            section = f"{name}, {len(pairs)} images"
            rows += [{"section": section, **row} for row in measured(pairs, build(cfg.backbone), options.repeats)]
    about = (
        "CPU seconds on a user's own images, and the same in plain forward passes plus decoding of the same images by "
        "the same network, in turn in one process. At most 1.15 is wanted of prune(), at most 2 of advise()."
    )
    benchmarks.write_table(options.out, "own_images", "Own images, in plain passes", about, COLUMNS, rows, NOTES)


def files_of(pool: Pool, most: int, folder: Path) -> list[tuple[str, str]]:
    """Return (path, class) of at most `most` images of a pool; images that are no files are written into the folder."""
    pairs = []
    for position in torch.linspace(0, len(pool) - 1, min(most, len(pool))).long().tolist():
        path = folder / f"{position}.png"
        if isinstance(pool.images, ImageFiles):
            path = pool.images.paths[position]
        else:
            Image.fromarray(pool.images.decode(position).permute(1, 2, 0).numpy()).save(path)
        pairs.append((str(path), pool.classes[int(pool.labels[position])]))
    return pairs


def measured(pairs: Pairs, backbone: Backbone, repeats: int) -> list[Row]:
    """Run all procedures in turn and return their rows."""
    runs: dict[str, list[Row]] = {}
    few = [pair for _, same in itertools.groupby(pairs, key=lambda pair: pair[1]) for pair in list(same)[:WARM]]
    list(_one_round(few, backbone))  # Imports, and what the libraries prepare at their first use, are not counted.
    for repeat in range(repeats):
        for name, row in _one_round(pairs, backbone):
            runs.setdefault(name, []).append(row)
            print(f"{name} ({repeat + 1} of {repeats}): {row['cpu_seconds']:.2f} CPU s", flush=True)
    return [row_of(name, found, runs[PLAIN]) for name, found in runs.items()]


def _one_round(pairs: Pairs, backbone: Backbone) -> Iterator[tuple[str, Row]]:
    """Yield the name and the cost of each procedure."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        yield PLAIN, _cost(lambda: plain_pass(pairs, backbone))
        yield "prune()", _cost(lambda: prune(pairs, KEEP, backbone=backbone))
        yield "prunetune prune", _cost(lambda: by_command(pairs, backbone, place, KEEP))
        yield "another amount", _cost(lambda: by_command(pairs, backbone, place, KEEP / 2))
        yield "advise()", _cost(lambda: advise(pairs, backbone))


def _cost(procedure: Callable[[], Any]) -> Row:
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        procedure()
    return clock.read()


def plain_pass(pairs: Pairs, backbone: Backbone) -> torch.Tensor:
    """Return the features [N, D] of files that are decoded once and not kept."""
    pool, network, device = read(pairs).pool, backbone.load(), resolve_device("auto")
    size = network.input_size
    passes = Passes(64, Hardware(device, resolve_precision("auto", device, network)))
    return embed(
        network.to(device),
        lambda position: evaluation_view(pool.images.decode(position), size),
        range(len(pool)),
        passes,
        PLAIN,
    )


def by_command(pairs: Pairs, backbone: Backbone, folder: Path, keep: float) -> None:
    """Do what `prunetune prune` does, with a table of the images, a store and a folder of results."""
    table = folder / "images.csv"
    table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in pairs))
    source = command.Source(str(table), None, None, None, ReadOptions(root="/"))
    output = command.Output(folder / "out", {"keep": keep}, store=folder / "store")
    command.run(source, Keep(fraction=keep), make_plan("herding", "auto", backbone, 0), output)


def row_of(name: str, found: Sequence[Row], plain: Sequence[Row]) -> Row:
    """Return the medians of one procedure, and its ratio to the plain pass of the same round."""
    ratios = [row["cpu_seconds"] / base["cpu_seconds"] for row, base in zip(found, plain, strict=True)]
    return {
        "procedure": name,
        **benchmarks.median_of(found),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


if __name__ == "__main__":
    main()
