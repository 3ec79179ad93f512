"""Choose what is kept of a user's text: score, set near-duplicates aside, select."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base.devices import resolve_device
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.encoding import Encoded
from prunetune.instruct.corpus.strata import stratified
from prunetune.instruct.corpus.templates import prompt_of, response_of
from prunetune.instruct.model.processes import Processes, shared_entry
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.own_text.mix import Mixed, mixed
from prunetune.instruct.own_text.near import by_minhash, by_states
from prunetune.instruct.own_text.plan import TextPlan, coverage_scorer
from prunetune.instruct.own_text.read import Reading, RowsCorpus, TextRows
from prunetune.instruct.own_text.subset import TextSubset
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.instruct.task import open_reader
from prunetune.own.choose import Scored, select
from prunetune.own.data import OwnData
from prunetune.own.duplicates import Duplicates
from prunetune.own.keep import Keep
from prunetune.runs.scores import Scores, compute_scores, stored_scores
from prunetune.samplers.clusters import k_means
from prunetune.signals.tensors import TensorSignals

log = logging.getLogger(__name__)
MOST_TOKENS = 1024  # The default length at which samples are cut, as in a run.


@dataclass(frozen=True)
class PoolOnly:
    """What samplers that read only scores need of signals."""

    pool: Pool


def choose(data: TextRows, corpus: RowsCorpus, keep: Keep, plan: TextPlan, store: Store) -> TextSubset:
    """Return what is kept of a user's text.

    Args:
        data: the rows.
        corpus: the same rows as `corpus_of` reads them.
        keep: how much is kept of the candidates.
        plan: how they are scored and chosen.
        store: holds scores and unfinished passes, so that a killed call goes on.

    Raises:
        InputError: a row cannot be read, the model cannot be loaded, or the method does not fit.
    """
    source = _source(open_reader(plan.llm, corpus), plan, store)
    encoded: Encoded = source.signals.encoded
    scores = _scores(source, plan)
    if plan.pairs == "margin":
        encoded, source, scores = _margins(corpus, source, scores, plan, store)
    values = {name: one.values for name, one in scores.items()}
    if plan.mix:
        values = {"mix": mixed(values, plan.mix), **values}
    states = _states(source, store) if plan.needs_states else None
    pool = _strata(encoded, states, plan)
    duplicates = _near_duplicates(corpus, encoded, states, plan)
    kept = _select(pool, next(iter(values.values())), states, duplicates, keep, plan)
    costs = {name: {"seconds": one.seconds, "is_new": one.is_new} for name, one in scores.items()}
    return TextSubset(
        data=_own_data(data, corpus, encoded, pool, plan),
        kept=kept,
        pool_scores=next(iter(values.values())),
        method=plan.method,
        duplicates=duplicates,
        encoded=encoded,
        rows=data.rows,
        ids=[corpus.sample_id(row) for row in range(len(data.rows))],
        all_scores=values,
        name=data.name,
        form=corpus.form.name,
        columns=dict(corpus.columns or {}),
        costs=costs,
    )


def corpus_of(data: TextRows, reading: Reading, plan: TextPlan) -> RowsCorpus:
    """Return the rows as a corpus. Samples are cut at the model's context if no length is given."""
    length = plan.max_length
    if length is None:
        length = min(MOST_TOKENS, plan.llm.context_length() or MOST_TOKENS)
        log.info("longer samples are cut after %d tokens", length)
    return RowsCorpus(
        name=data.name,
        rows=data.rows,
        where=data.where,
        columns=reading.columns,
        id_column=reading.id_column,
        source_column=reading.source_column,
        option=reading.words("columns", ""),
        template=plan.template,
        max_length=length,
    )


def _source(reader: Reader, plan: TextPlan, store: Store) -> TextSource:
    processes = Processes.current(resolve_device(plan.device))
    if processes.size > 1 and plan.remote is not None:
        raise InputError("several processes were started, and engine=ray starts its own; start one process")
    dtype = plan.llm.resolved_dtype(processes.device)
    given = (store.root / "passes", plan.max_tokens, None, plan.remote)
    return TextSource(TextSignals(reader, dtype, processes, *given), store)


def _scores(source: TextSource, plan: TextPlan) -> dict[str, Scores]:
    found = {}
    for name, scorer in plan.scorers.items():
        found[name] = one = stored_scores(scorer, source, plan.seed)
        told = f"in {one.seconds:.1f} s" if one.is_new else "before, the scores were in the store"
        log.info("scored %d samples with %s %s", len(one.values), name, told)
    return found


def _margins(
    corpus: RowsCorpus, source: TextSource, scores: Mapping[str, Scores], plan: TextPlan, store: Store
) -> tuple[Encoded, TextSource, dict[str, Scores]]:
    """Return the candidates of which both answers can be scored, and the scores of chosen minus rejected."""
    if corpus.form.kind != "pair":
        raise InputError(f"pairs=margin needs the columns chosen and rejected, and these rows have {corpus.form.name}")
    reader = source.signals.reader
    other = _source(open_reader(plan.llm, replace(corpus, side="rejected")), plan, store)
    theirs = {row: position for position, row in enumerate(other.signals.encoded.rows)}
    own = [position for position, row in enumerate(reader.encoded.rows) if row in theirs]
    if not own:
        raise InputError("of no row both answers can be scored; check the columns chosen and rejected")
    encoded = reader.encoded.take(own)
    outcomes = {row: "the other answer cannot be scored" for row in set(reader.encoded.rows) - set(encoded.rows)}
    encoded = replace(encoded, outcomes={**encoded.outcomes, **outcomes})
    there = torch.tensor([theirs[row] for row in encoded.rows])
    source.signals.release()  # Two models at once could be too large for the memory.
    rejected = _scores(other, plan)
    other.signals.release()
    margins = {}
    for name, one in scores.items():
        two = rejected[name]
        margins[name] = replace(one, values=one.values[own] - two.values[there], seconds=one.seconds + two.seconds)
    return encoded, _source(reader.of(encoded), plan, store), margins


def _states(source: TextSource, store: Store) -> Tensor:
    """Return the pooled hidden states, [N, D] float32, from the store or from a pass."""
    signals, prefix = source.signals, source.signals.pool.name
    key = {"of": "states", **signals.key()}
    place = store.place("text_states", prefix, key)

    def make(folder: Path) -> dict[str, Any]:
        own = source.alone(place)
        torch.save(own.signals.states(), folder / "states.pt")
        own.finish()
        return {"signals": own.signals.charges}

    shared_entry(store, signals.processes, "text_states", prefix, key, make)
    signals.processes.wait()
    return torch.load(place / "states.pt", weights_only=True)


def _strata(encoded: Encoded, states: Tensor | None, plan: TextPlan) -> Pool:
    """Return the candidates with one class for each stratum."""
    if plan.strata != "cluster":
        return stratified(encoded, plan.strata)
    count = min(plan.clusters, len(encoded))
    labels = k_means(states, count, stream("strata", plan.seed))
    pool = encoded.pool
    return Pool(pool.name, labels, pool.sample_ids, pool.splits, tuple(f"cluster {number}" for number in range(count)))


def _near_duplicates(corpus: RowsCorpus, encoded: Encoded, states: Tensor | None, plan: TextPlan) -> Duplicates:
    if plan.near is None:
        return Duplicates()
    if plan.near.method == "embedding":
        found = by_states(states, plan.near.threshold)
    else:
        texts = {example.row: f"{prompt_of(example)}\n{response_of(example)}" for example in corpus.examples()}
        found = by_minhash([texts[row] for row in encoded.rows], plan.near.threshold)
    if found.groups:
        rows = " = ".join(str(encoded.rows[position]) for position in found.groups[0][:3])
        log.warning(
            "%d near-duplicates in %d groups are set aside, such as rows %s", len(found.copies), len(found.groups), rows
        )
    return found


def _select(
    pool: Pool, values: Tensor, states: Tensor | None, duplicates: Duplicates, keep: Keep, plan: TextPlan
) -> Tensor:
    """Return the kept positions [M] in the pool, ascending."""
    positions = duplicates.alone(len(pool))
    own, values = pool.take(positions), values[positions]
    signals = PoolOnly(own) if states is None else TensorSignals(states[positions], pool=own)
    method = replace(plan, scorers={"mix": Mixed(), **plan.scorers}) if plan.mix else plan
    if plan.coverage is not None:
        budgets = keep.budgets(pool.labels, plan.rounding)
        sizes = own.labels.bincount(minlength=len(pool.classes)).tolist()
        depth = max(budget / max(1, sizes[label]) for label, budget in budgets.items())
        cover = coverage_scorer(plan.coverage, depth)
        values = compute_scores(cover, signals, plan.seed)
        method = replace(plan, scorers={plan.coverage: cover})
    kept, _ = select(Scored(signals, positions, values), pool.labels, keep, method)
    if not len(kept):
        raise InputError(f"nothing is kept of {len(pool)} samples; keep more")
    return positions[kept]


def _own_data(data: TextRows, corpus: RowsCorpus, encoded: Encoded, pool: Pool, plan: TextPlan) -> OwnData:
    there = set(encoded.rows)
    return OwnData(
        pool=pool,
        rows=torch.tensor(encoded.rows, dtype=torch.int64),
        num_rows=len(data.rows),
        names=pool.sample_ids,
        paths=(None,) * len(pool),
        layout="text",
        is_labelled=plan.strata != "none",
        left_out={corpus.sample_id(row): reason for row, reason in encoded.outcomes.items() if row not in there},
        source=data.source,
        notes=data.notes,
    )
