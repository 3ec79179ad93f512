"""The command about your own text: `prunetune prune-text`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunetune.commands.prune import Engine, GpusPerActor, KeepAmount, Out, Ratio, RayAddress, StoreFolder, ray_of
from prunetune.commands.prune import option as _option

METHOD, READING, OUTPUT, MACHINE = "Method", "Reading the data", "Output", "Machine"
KEEP_WORDS = ("--keep", "--ratio", "--per-stratum")
# The files of --out do not depend on these options.
NOT_ASKED = ("out", "store", "dry_run", "device", "engine", "ray_address", "gpus_per_actor")

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A file (json, jsonl, csv, parquet), a folder of shards or of a saved dataset, hf:NAME, or embedded.",
    ),
]
Model = Annotated[
    str, typer.Option("--model", metavar="FOLDER_OR_ID", help="The scoring model: a folder, an id of the hub, or tiny.")
]
PerStratum = Annotated[
    str | None, typer.Option("--per-stratum", metavar="N", help="Keep this many of each stratum, instead of --keep.")
]
ScorerNames = Annotated[
    str, _option("--scorer", panel=METHOD, help="`prunetune list text_scorers`; of several, a,b, the first chooses.")
]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", rich_help_panel=METHOD, metavar="NAME=VALUE", help="A setting of the scorer; repeatable."),
]
Mix = Annotated[
    str | None, _option("--mix", panel=METHOD, metavar="A:W,B:W", help="Choose by a weighted mean of the ranks.")
]
SamplerName = Annotated[
    str,
    _option(
        "--sampler", panel=METHOD, help="auto: the scorer's own; or k_center, k_medoids, facility_location, herding."
    ),
]
Strata = Annotated[str, _option("--strata", panel=METHOD, help="none, source, length (quarters) or cluster.")]
Clusters = Annotated[int, _option("--clusters", panel=METHOD, help="How many clusters --strata cluster makes.")]
NearDuplicates = Annotated[
    str | None,
    _option(
        "--near-duplicates", panel=METHOD, metavar="HOW", help="Keep one of similar rows: minhash:0.8, embedding:0.98."
    ),
]
Pairs = Annotated[
    str, _option("--pairs", panel=METHOD, help="Of preference pairs score the chosen answer, or the margin.")
]
Seed = Annotated[int, _option("--seed", panel=METHOD, help="The seed of all random draws.")]
Columns = Annotated[
    str | None,
    _option("--columns", panel=READING, metavar="NAME=YOURS,...", help="Such as instruction=Question,output=Answer."),
]
Split = Annotated[
    str | None, _option("--split", panel=READING, metavar="NAME", help="The candidates: train, or train,test, or all.")
]
Limit = Annotated[int | None, _option("--limit", panel=READING, help="Read only the first rows.")]
IdColumn = Annotated[str | None, _option("--id-column", panel=READING, help="The column of ids; else row numbers.")]
SourceColumn = Annotated[str | None, _option("--source-column", panel=READING, help="The column for --strata source.")]
Template = Annotated[
    str,
    _option("--template", panel=READING, help="auto: the model's chat template, else alpaca; chat, alpaca, released."),
]
MaxLength = Annotated[
    int | None, _option("--max-length", panel=READING, help="Cut samples after so many tokens; else 1024.")
]
Revision = Annotated[str | None, _option("--revision", panel=MACHINE, help="Branch, tag or commit of a hub model.")]
DryRun = Annotated[bool, _option("--dry-run", panel=OUTPUT, help="Print what was understood, and stop.")]
Device = Annotated[str, _option("--device", panel=MACHINE, help="auto, cpu or cuda.")]
Dtype = Annotated[str, _option("--dtype", panel=MACHINE, help="The type of the weights: auto, bf16 or fp32.")]
MaxTokens = Annotated[int, _option("--max-tokens", panel=MACHINE, help="Tokens per forward pass, with padding.")]


def prune_text(
    context: typer.Context,
    data: Data,
    model: Model,
    keep: KeepAmount = None,
    ratio: Ratio = None,
    per_stratum: PerStratum = None,
    out: Out = Path("pruned"),
    scorer: ScorerNames = "dlc",
    option: Option = None,
    mix: Mix = None,
    sampler: SamplerName = "auto",
    strata: Strata = "none",
    clusters: Clusters = 10,
    near_duplicates: NearDuplicates = None,
    pairs: Pairs = "chosen",
    seed: Seed = 0,
    columns: Columns = None,
    split: Split = None,
    limit: Limit = None,
    id_column: IdColumn = None,
    source_column: SourceColumn = None,
    template: Template = "auto",
    max_length: MaxLength = None,
    store: StoreFolder = None,
    dry_run: DryRun = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_tokens: MaxTokens = 16384,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    gpus_per_actor: GpusPerActor = 1.0,
) -> None:
    """Choose which rows of your own text are kept: `prunetune prune-text my.jsonl --model FOLDER --keep 0.1`.

    A language model scores the rows, and nothing is fine-tuned. The folder --out gets kept.jsonl, the kept rows as they
    are with their score; all.parquet, a line about every row; report.json; and descriptions for two trainers.
    """
    from prunetune.own import keep as amounts

    group = "" if strata == "none" else "stratum"
    amount = amounts.understood(keep, ratio, per_stratum, KEEP_WORDS, things="rows", group=group)
    print(amount, file=sys.stderr, flush=True)  # This line comes first, since the imports below take seconds.
    from prunetune.instruct.own_text import command, words
    from prunetune.instruct.own_text.api import make_plan
    from prunetune.instruct.own_text.plan import language_model, near_of, pairs_of
    from prunetune.instruct.own_text.read import Reading

    with words.spoken(words.command):
        plan = make_plan(
            words.command,
            scorer,
            sampler,
            mix,
            option,
            llm=language_model(model, dtype, revision),
            seed=seed,
            strata=strata,
            clusters=clusters,
            near=near_of(near_duplicates, words.command),
            pairs=pairs,
            template=template,
            max_length=max_length,
            device=device,
            max_tokens=max_tokens,
        )
        reading = Reading(words.command, pairs_of(columns, "--columns"), split, limit, id_column, source_column)
    asked = {name: str(value) for name, value in context.params.items() if name not in NOT_ASKED}
    workers = ray_of(engine, ray_address, gpus_per_actor)
    command.run(data, reading, amount, plan, command.TextOutput(out, asked, store, dry_run, workers))
