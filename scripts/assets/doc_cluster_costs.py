"""The page about the cost of a pruning on a cluster, from results/bench/cluster.csv."""

from pathlib import Path

from prunetune.cluster.workers import rows_of_part
from scripts.assets.doc_text import page, table
from scripts.bench.cluster_costs import (
    GOAL,
    MICRO_WIDTH,
    PASSES,
    Model,
    are_enough,
    bytes_a_row,
    checked,
    held_back,
    points,
)
from scripts.bench.cluster_table import KINDS, Row, read

SIZES = (10**8, 10**9)
LEVELS = PASSES["dlc"]
DRIVER_BYTES = 19  # For each row: how much the driver's measured peak grew from 10^5 to 10^7 rows, with FlexRand.
PART_BYTES = 350  # A part of the rows: its name and its place.
SMALL_SIDE = 32  # The images that were measured, in pixels.


class Photos:
    """The second example: what is assumed of photos and their network. None of this was measured here."""

    content = 110_000  # Bytes of a JPEG file of about 500 x 375 pixels.
    decoding = 0.006  # CPU seconds to decode one and to make its view of 224 x 224.
    rate = 2500  # Images a second of one pass of a ResNet-18 on one GPU.
    width = 512  # D of a ResNet-18.
    side = 224  # Of a view, in pixels.


def are_measured(file: Path) -> bool:
    """Whether the rows that the model needs were measured."""
    return are_enough(read(file))


def cluster_costs_page(file: Path) -> str:
    """Return the page."""
    rows = read(file)
    model, predicted, measured = checked(rows)
    sizes = bytes_a_row(rows)
    heads = ["images", "core-hours", "read", "written", "shuffled", "driver"]
    return page(
        "What a cluster run costs",
        "This page estimates the cost of `prunetune prune --engine ray` with DLC and FlexRand for 10^8 and 10^9\n"
        "images. It is made from results/bench/cluster.csv. See [Clusters](clusters.md) for how to run.",
        "The estimates are on paper: nothing of this size was run. They hold as long as disks and object storage\n"
        "deliver the bytes as fast as the workers need them.",
        "## The model",
        *_model(rows, model, predicted, measured),
        "## Small images, as measured",
        f"Images of 32 x 32 pixels, the micro network on CPUs (D = {MICRO_WIDTH}), DLC of {LEVELS} levels.",
        table(heads, [_small(count, model, sizes) for count in SIZES]),
        "## Photos through a ResNet-18, as assumed",
        *_photos(model, sizes),
        "## What the columns mean",
        _meaning(sizes),
    )


def _model(rows: list[Row], model: Model, predicted: float, measured: float) -> list[str]:
    measured_points = points(rows)
    method, size = out = held_back(measured_points)
    share = predicted / measured - 1
    verdict = "within" if abs(share) <= GOAL else "**not** within"
    fitted = sorted((PASSES[name], count, name) for name, count in measured_points if (name, count) != out)
    largest = max(count for _, count in measured_points)
    names = ", ".join(f"{name} of {count:,}" for _, count, name in fitted)
    numbers = [
        ["start", f"{model.start:.0f} s", "one run: Ray's workers start and import their libraries"],
        ["reading", f"{1e6 * model.reading:.0f} µs", "one image: list, decode, losses, sort, select, write"],
        ["pass", f"{1e6 * model.network:.0f} µs", "one pass of one image"],
    ]
    return [
        "CPU seconds of a run of N images through L passes of the network are `start + N (reading + L pass)`.\n"
        f"L is the number of networks: {LEVELS} with DLC, 1 with a plain pass. D below is the width of the features.\n"
        "Wall time is at least this divided by the number of cores. The command alone lists the rows and writes the\n"
        "tables. This took 7 µs a row in one trial that is in no table: two hours for 10^9.",
        table(["number", "fitted value", "meaning"], numbers),
        f"Fitted to {len(fitted)} runs ({names} images)\nby least squares of relative errors. Held back: {method} of "
        f"{size:,} images.\nPredicted are {predicted:.0f} CPU seconds, measured were {measured:.0f}. The prediction is "
        f"{abs(share):.0%} too {'high' if share > 0 else 'low'}, which is {verdict} the goal of {GOAL:.0%}.",
        f"The largest measured run had {largest:,} images, on two cores of one machine.\n"
        "The step to 10^8 is large: a cost that grows faster than the rows would not show in such runs.",
    ]


def _small(count: int, model: Model, sizes: dict[str, float]) -> list[str]:
    hours = model.cpu_seconds(count, LEVELS) / 3600
    return [_power(count), f"{hours:,.0f}", *_traffic(count, sizes["input"], sizes, MICRO_WIDTH, SMALL_SIDE)]


def _photos(model: Model, sizes: dict[str, float]) -> list[str]:
    lines = []
    for count in SIZES:
        cores = (model.cpu_seconds(count, 0) + count * Photos.decoding) / 3600
        gpus = count * LEVELS / Photos.rate / 3600
        lines.append([_power(count), f"{gpus:,.0f}", f"{cores:,.0f}"])
        lines[-1] += _traffic(count, Photos.content, sizes, Photos.width, Photos.side)
    return [
        f"**Assumed, not measured:** a photo has {Photos.content / 1000:.0f} kB, decoding it and making its view takes "
        f"{1000 * Photos.decoding:.0f} ms of a core,\nand a GPU does {Photos.rate:,} images a second in each pass "
        f"(D = {Photos.width}). Put in your own numbers: GPU-hours are L N / rate / 3600.",
        table(["images", "GPU-hours", "core-hours", "read", "written", "shuffled", "driver"], lines),
    ]


def _traffic(count: int, content: float, sizes: dict[str, float], width: int, side: int) -> list[str]:
    features = 4 * LEVELS * width
    written = features + sum(sizes[kind] for kind in KINDS)
    # The losses read all features again, and the class means those of the unmasked network.
    read_again = content + features + 4 * width + sizes["passes"] + sizes["scores"] + sizes["runs"]
    driver = DRIVER_BYTES + PART_BYTES / rows_of_part(side)
    values = (count * read_again, count * written, count * sizes["runs"], count * driver)
    return [_size(value) for value in values]


def _meaning(sizes: dict[str, float]) -> str:
    kinds = ", ".join(f"{kind} {sizes[kind]:.1f}" for kind in KINDS)
    return "\n".join(
        [
            "- **read**: the shards once, the features of all levels for the losses, those of the unmasked network",
            "  again for the class means, and what is sorted. Not counted: each written file is read once more for its",
            "  hash.",
            "- **written**: 4 L D bytes a row of features, and what was measured beside them, in bytes a row:",
            f"  {kinds}.",
            "  `out` are the tables of parquet that are written of many rows. What `choices` and `products` are is in",
            "  results/bench/cluster.md.",
            "- **shuffled**: what moves from the order of the shards to that of the classes. FlexRand needs a position",
            "  and a score of each row. A greedy scorer such as herding needs 4 D bytes more, and a class of two",
            "  levels these bytes once more.",
            f"- **driver**: {DRIVER_BYTES} bytes a row, by which its measured peak grew (it keeps 13 of them), and "
            f"{PART_BYTES:,} bytes for each\n  part of the rows, beside about 1 GB of libraries. A part has "
            f"{rows_of_part(SMALL_SIDE):,} of the small images and\n  {rows_of_part(Photos.side)} photos.",
            "- **GPU-hours, core-hours**: hours of work, summed over all machines. Hours in which a machine waits are",
            "  not counted, so a bill will be higher.",
        ]
    )


def _power(count: int) -> str:
    return f"10^{len(str(count)) - 1}"


def _size(count: float) -> str:
    """Return a number of bytes in GB or TB, with two digits that count."""
    unit, scale = ("TB", 1e12) if count >= 1e12 else ("GB", 1e9)
    value = count / scale
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
