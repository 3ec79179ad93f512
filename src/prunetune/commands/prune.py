"""The commands about your own data: `prunetune prune` and `prunetune advise`."""

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from prunetune.base.errors import InputError

METHOD, READING, OUTPUT, MACHINE = "Method", "Reading the data", "Output", "Machine"
KEEP_WORDS = ("--keep", "--ratio", "--per-class")
# The files of --out do not depend on these options.
NOT_ASKED = (
    "out",
    "store",
    "dry_run",
    "device",
    "batch_size",
    "engine",
    "ray_address",
    "gpus_per_actor",
    "worker_gb",
    "with_features",
)


class Export(StrEnum):
    """What `--export` makes of the kept images."""

    link = "link"
    copy = "copy"
    hf = "hf"
    coco = "coco"


def option(*names: str, panel: str, help: str, metavar: str | None = None) -> typer.models.OptionInfo:
    """Return an option below a heading of the help."""
    return typer.Option(*names, rich_help_panel=panel, help=help, metavar=metavar)


Data = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]",
        help="A folder of images, a table (csv, tsv, jsonl, parquet), tar shards, or hf:NAME. Or use --embeddings.",
    ),
]
KeepAmount = Annotated[
    str | None,
    typer.Option("--keep", metavar="AMOUNT", help="0.2 or 20%: this fraction of each class. 500: this many in all."),
]
Ratio = Annotated[str | None, typer.Option("--ratio", metavar="FRACTION", help="Another name of --keep.", hidden=True)]
PerClass = Annotated[
    str | None, typer.Option("--per-class", metavar="N", help="Keep this many of each class, instead of --keep.")
]
Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="The folder to write. It must be new, empty, or ours.")
]
Scorer = Annotated[str, option("--scorer", panel=METHOD, help="`prunetune list scorers` shows all.")]
Sampler = Annotated[str, option("--sampler", panel=METHOD, help="auto: the scorer's own.")]
Backbone = Annotated[str, option("--backbone", panel=METHOD, help="The network: a short name or a timm name.")]
Checkpoint = Annotated[
    Path | None, option("--checkpoint", panel=METHOD, metavar="FILE", help="Local weights, instead of a download.")
]
Proxy = Annotated[str, option("--proxy", panel=METHOD, help="For scorers that read a training: full or linear_probe.")]
Rounding = Annotated[
    str, option("--rounding", panel=METHOD, help="How a fraction of a class becomes a number: or half_even.")
]
Seed = Annotated[int, option("--seed", panel=METHOD, help="The seed of all random draws.")]
Split = Annotated[
    str | None, option("--split", panel=READING, metavar="NAME", help="The candidates: train, or train,val, or all.")
]
ImageColumn = Annotated[str | None, option("--image-column", panel=READING, help="The column of image paths.")]
LabelColumn = Annotated[str | None, option("--label-column", panel=READING, help="The column of labels.")]
Root = Annotated[
    Path | None, option("--root", panel=READING, metavar="FOLDER", help="The folder that paths of a table start from.")
]
LabelsFrom = Annotated[
    str, option("--labels-from", panel=READING, help="auto, folders, column or none (prune without labels).")
]
Embeddings = Annotated[
    Path | None, option("--embeddings", panel=READING, metavar="FILE", help="[N, D] numbers (.npy), instead of DATA.")
]
Labels = Annotated[
    Path | None, option("--labels", panel=READING, metavar="FILE", help="The labels of the embeddings (.npy, .txt).")
]
Ids = Annotated[
    Path | None, option("--ids", panel=READING, metavar="FILE", help="The names of the embeddings, one a line.")
]
NoExif = Annotated[bool, option("--no-exif", panel=READING, help="Do not turn images as their EXIF data say.")]
MaxPixels = Annotated[
    int | None, option("--max-pixels", panel=READING, help="Refuse an image with more pixels than this.")
]
OnError = Annotated[str, option("--on-error", panel=READING, help="stop at what cannot be read, or skip it.")]
Duplicates = Annotated[
    str | None,
    typer.Option(
        "--duplicates",
        rich_help_panel=READING,
        help="one: keep at most one of equal images; all: treat each by itself.",
        show_default="one; all with --engine ray",
    ),
]
Suspects = Annotated[
    str, option("--suspects", panel=READING, help="keep samples whose label is probably wrong, or drop them.")
]
Exports = Annotated[
    Export | None, option("--export", panel=OUTPUT, help="Also write the kept images as a folder or data set.")
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        "--store",
        rich_help_panel=OUTPUT,
        metavar="FOLDER",
        help="Where features and scores are kept for the next call.",
        show_default="the user's cache folder",
    ),
]
AdviceOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Also write report.html into this folder. It must be new, empty, or ours."
    ),
]
DryRun = Annotated[bool, option("--dry-run", panel=OUTPUT, help="Print what was understood, and stop.")]
Device = Annotated[str, option("--device", panel=MACHINE, help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, option("--precision", panel=MACHINE, help="auto, fp32 or bf16.")]
Engine = Annotated[str, option("--engine", panel=MACHINE, help="local: this process. ray: the workers of Ray.")]
RayAddress = Annotated[
    str | None,
    option("--ray-address", panel=MACHINE, metavar="ADDRESS", help="A Ray cluster; else RAY_ADDRESS or this machine."),
]
GpusPerActor = Annotated[
    float, option("--gpus-per-actor", panel=MACHINE, help="With --engine ray: the GPUs that one network takes.")
]
WorkerGb = Annotated[
    float, option("--worker-gb", panel=MACHINE, help="With --engine ray: the memory of a worker for one class, in GB.")
]
WithFeatures = Annotated[
    bool, option("--with-features", panel=OUTPUT, help="With --engine ray: also write the features of each sample.")
]
BatchSize = Annotated[int, option("--batch-size", panel=MACHINE, help="Images per forward pass.")]


def prune(
    context: typer.Context,
    data: Data = None,
    keep: KeepAmount = None,
    ratio: Ratio = None,
    per_class: PerClass = None,
    out: Out = Path("pruned"),
    scorer: Scorer = "herding",
    sampler: Sampler = "auto",
    backbone: Backbone = "resnet18",
    checkpoint: Checkpoint = None,
    proxy: Proxy = "full",
    rounding: Rounding = "largest_remainder",
    seed: Seed = 0,
    split: Split = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    root: Root = None,
    labels_from: LabelsFrom = "auto",
    embeddings: Embeddings = None,
    labels: Labels = None,
    ids: Ids = None,
    no_exif: NoExif = False,
    max_pixels: MaxPixels = None,
    on_error: OnError = "stop",
    duplicates: Duplicates = None,
    suspects: Suspects = "keep",
    export: Exports = None,
    store: StoreFolder = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 64,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    gpus_per_actor: GpusPerActor = 1.0,
    worker_gb: WorkerGb = 2.0,
    with_features: WithFeatures = False,
) -> None:
    """Choose which images of your own data are kept: `prunetune prune my_photos --keep 0.2 --out pruned`.

    Nothing is trained unless the scorer needs it, there is no test set, and every image is a candidate. The folder
    --out gets kept.txt, kept.csv, all.csv and report.html.
    """
    from prunetune.own import keep as amounts

    amount = amounts.understood(keep, ratio, per_class, KEEP_WORDS)
    print(amount, file=sys.stderr, flush=True)  # This line comes first, since the imports below take seconds.
    from prunetune.api import make_plan
    from prunetune.own import command

    options = _reading(split, image_column, label_column, root, labels_from, no_exif, max_pixels, on_error, out)
    network = _network(backbone, checkpoint)
    on_ray = ray_of(engine, ray_address, gpus_per_actor, worker_gb, with_features)
    duplicates = duplicates or ("one" if on_ray is None else "all")
    treated = {"duplicates": duplicates, "suspects": suspects}
    plan = make_plan(scorer, sampler, network, seed, proxy=proxy, rounding=rounding, **treated)
    plan = replace(plan, device=device, precision=precision, batch_size=batch_size)
    output = command.Output(out, {**_asked(context), "duplicates": duplicates}, export, store, dry_run)
    source = command.Source(data, embeddings, labels, ids, options)
    if on_ray is None:
        command.run(source, amount, plan, output)
        return
    from prunetune.cluster import command as cluster_command

    cluster_command.run(source, amount, plan, output, on_ray, with_features)


def advise(
    context: typer.Context,
    data: Data = None,
    out: AdviceOut = None,
    backbone: Backbone = "resnet18",
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    split: Split = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    root: Root = None,
    labels_from: LabelsFrom = "auto",
    embeddings: Embeddings = None,
    labels: Labels = None,
    ids: Ids = None,
    no_exif: NoExif = False,
    max_pixels: MaxPixels = None,
    on_error: OnError = "stop",
    store: StoreFolder = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 64,
) -> None:
    """Estimate how much of your own data to keep: `prunetune advise my_photos`.

    One pass of the network gives features. Then linear probes on parts of the data are judged by samples that were held
    out, again and again. The estimate is about the default method and such a probe. The report of a later `prunetune
    prune` on the same data and network shows it.
    """
    print("estimating the accuracy by fraction kept", file=sys.stderr, flush=True)
    from prunetune.api import make_plan
    from prunetune.own import command
    from prunetune.own.choose import DEFAULT_METHOD

    options = _reading(split, image_column, label_column, root, labels_from, no_exif, max_pixels, on_error, out)
    plan = make_plan(DEFAULT_METHOD, "auto", _network(backbone, checkpoint), seed)
    plan = replace(plan, device=device, precision=precision, batch_size=batch_size)
    output = command.Output(out, _asked(context), store=store)
    command.advise(command.Source(data, embeddings, labels, ids, options), plan, output)


def ray_of(
    engine: str, address: str | None, gpus_per_actor: float, worker_gb: float = 2.0, with_features: bool = False
) -> Any:
    """Return the settings of Ray, or None for the engine local.

    Raises:
        InputError: there is no such engine, or it has no use for an option.
    """
    from prunetune.cluster.engine import RayEngine, chosen_engine

    if chosen_engine(engine) is None:
        for word, is_given in (("--ray-address", address is not None), ("--with-features", with_features)):
            if is_given:
                raise InputError(f"{word} belongs to --engine ray; add it, or leave {word} out")
        return None
    return RayEngine(address, gpus_per_actor, worker_gb)


def _asked(context: typer.Context) -> dict[str, str]:
    """Return the options that the files of --out depend on."""
    return {name: str(value) for name, value in context.params.items() if name not in NOT_ASKED}


def _network(backbone: str, checkpoint: Path | None) -> Any:
    from prunetune.networks.named import as_backbone

    network = as_backbone(backbone)
    return network if checkpoint is None else replace(network, checkpoint=str(checkpoint))


def _reading(
    split: str | None,
    image_column: str | None,
    label_column: str | None,
    root: Path | None,
    labels_from: str,
    no_exif: bool,
    max_pixels: int | None,
    on_error: str,
    out: Path | None,
) -> Any:
    """Return the options of reading; the arguments are those of the commands."""
    from prunetune.base import words
    from prunetune.own.read import ReadOptions

    return ReadOptions(
        split=split,
        image_column=image_column,
        label_column=label_column,
        root=root,
        labels_from=labels_from,
        exif=not no_exif,
        leave_out=out,
        on_error=on_error,
        words=words.command,
        **({} if max_pixels is None else {"max_pixels": max_pixels}),
    )
