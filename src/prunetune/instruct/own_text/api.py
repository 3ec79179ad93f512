"""`prune_text`: prune a user's own text in one call."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunetune.base.disk import explained
from prunetune.base.publish import scratch_folder
from prunetune.base.store import Store
from prunetune.cluster.engine import RayEngine, chosen_engine
from prunetune.instruct.own_text.choose import choose, corpus_of
from prunetune.instruct.own_text.on_ray import on_ray
from prunetune.instruct.own_text.plan import (
    TextPlan,
    language_model,
    mix_of,
    near_of,
    options_of,
    pairs_of,
    sampler_of,
    scorers_of,
)
from prunetune.instruct.own_text.read import Reading, read_rows
from prunetune.instruct.own_text.subset import TextSubset
from prunetune.instruct.own_text.words import Words, python, spoken
from prunetune.own import keep as amounts
from prunetune.samplers import Sampler
from prunetune.scorers import Scorer

KEEP_WORDS = ("keep", "ratio", "per_stratum")


def prune_text(
    data: Any,
    keep: float | int | str | None = None,
    model: Any = None,
    scorer: str | Scorer | Mapping[str, Scorer] = "dlc",
    sampler: str | Sampler = "auto",
    seed: int = 0,
    *,
    ratio: float | None = None,
    per_stratum: int | None = None,
    mix: str | Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    strata: str = "none",
    clusters: int = 10,
    near_duplicates: str | None = None,
    pairs: str = "chosen",
    columns: str | Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    id_column: str | None = None,
    source_column: str | None = None,
    template: str = "auto",
    max_length: int | None = None,
    revision: str | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 16384,
    engine: str | RayEngine = "local",
) -> TextSubset:
    """Choose which rows of your own text are kept. Nothing is fine-tuned, and every row is a candidate.

    Args:
        data: a file (json, jsonl, csv, tsv, parquet; text may be gzipped), a folder of such files or of a saved data
            set, hf:<name>, a Dataset, a frame of pandas or polars, or a list of objects. docs/text.md lists the forms
            of rows.
        keep: how much is kept. A number with a decimal point, or a text with %, is a fraction of each stratum, in
            (0, 1]. A whole number is the number of rows that is kept in all.
        model: the scoring model: a folder, an id of the Hugging Face hub, "tiny" (random weights, to try it), a
            LanguageModel or a TinyLanguageModel.
        scorer: a name of `prunetune list text_scorers`, several names separated by commas of which the first chooses,
            a Scorer, or Scorers by name.
        sampler: a name (auto: the scorer's own; flexrand, topk, random ...), one of k_center, k_medoids,
            facility_location and herding, which cover the space of the model's hidden states instead of reading
            scores, or a Sampler.
        seed: the seed of all random draws.
        ratio: another name of `keep`, for a fraction.
        per_stratum: how many rows each stratum keeps, instead of `keep`.
        mix: chooses by a weighted mean of ranks, such as "dlc:0.5,ifd:0.5".
        options: settings of the named scorers, such as {"levels": 2}.
        strata: none, source (see `source_column`), length (quarters) or cluster (of the hidden states).
        clusters: how many clusters strata="cluster" makes.
        near_duplicates: minhash or embedding, with a threshold if wanted ("minhash:0.8"). Of a group of near-duplicates
            only the first row is a candidate. By default only exact duplicates are dropped.
        pairs: of preference pairs, chosen scores the better answer, and margin the difference of the two scores.
        columns: names the columns, as {"instruction": "Question", "output": "Answer"}.
        split: which split of a data set; by default the one for training.
        limit: read only the first rows.
        id_column: the column of the ids; by default row numbers.
        source_column: the column of the sources.
        template: auto (the tokenizer's chat template if it has one, else alpaca; text and prompt with completion are
            continued as they are), chat, alpaca or released.
        max_length: longer samples are cut after so many tokens; by default 1024, or the model's context if smaller.
        revision: the branch, tag or commit of a model of the hub.
        store: the folder in which scores are kept, so that a killed call goes on. By default they are not kept.
        device: auto, cpu or cuda.
        dtype: the type of the weights, auto, bf16 or fp32.
        max_tokens: tokens per forward pass, with padding. Scores depend on it only by rounding.
        engine: local runs the model in this process; ray runs copies of it on the workers of a Ray cluster, or of this
            machine (docs/clusters.md); a RayEngine has its settings.

    Returns:
        The kept rows: `positions`, `kept_rows`, `scores`, `to_jsonl(path)`, `to_frame()`, `to_folder(path)`.

    Raises:
        InputError: an argument is not allowed, a row cannot be read, or the model cannot be loaded.
    """
    group = "" if strata == "none" else "stratum"
    amount = amounts.understood(keep, ratio, per_stratum, KEEP_WORDS, things="rows", group=group)
    with spoken(python):
        plan = make_plan(
            python,
            scorer,
            sampler,
            mix,
            options,
            llm=language_model(model, dtype, revision),
            seed=seed,
            strata=strata,
            clusters=clusters,
            near=near_of(near_duplicates, python),
            pairs=pairs,
            template=template,
            max_length=max_length,
            device=device,
            max_tokens=max_tokens,
        )
        mapping = pairs_of(columns, "columns")
        reading = Reading(python, mapping, split, limit, id_column, source_column)
        with _store(store) as kept, on_ray(chosen_engine(engine)) as remote:
            rows, plan = read_rows(data, reading), replace(plan, remote=remote)
            return choose(rows, corpus_of(rows, reading, plan), amount, plan, kept)


def make_plan(words: Words, scorer: Any, sampler: Any, mix: Any, options: Any, **settings: Any) -> TextPlan:
    """Return the plan of a door.

    Args:
        words: how the door writes its options.
        scorer: as for `prune_text`.
        sampler: as for `prune_text`.
        mix: as for `prune_text`.
        options: settings of the named scorers, a mapping or texts such as "levels=2".
        settings: the other fields of `TextPlan`.

    Raises:
        InputError: a value is not allowed.
    """
    weights = mix_of(mix, words)
    scorers = scorers_of(scorer, weights, options_of(options, words("option")))
    first = next(iter(scorers))
    chosen, coverage = sampler_of(sampler, first if isinstance(scorer, str) else scorers[first], weights)
    return TextPlan(scorers=scorers, sampler=chosen, coverage=coverage, mix=weights, **settings)


@contextmanager
def _store(folder: str | Path | None) -> Iterator[Store]:
    """Yield the store in a folder, or one that is removed at the end."""
    with ExitStack() as stack:
        if folder is None:
            with explained("a temporary folder", "pass store=<folder>"):
                folder = stack.enter_context(scratch_folder())
        yield Store(Path(folder), "pass store=<another folder>")
