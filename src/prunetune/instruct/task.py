"""The state that the steps of a text run share: the tokenized corpus, the store and the processes."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base.devices import resolve_device
from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.corpora import Corpus
from prunetune.instruct.corpus.encoding import Encoded, encode
from prunetune.instruct.corpus.strata import stratified
from prunetune.instruct.model.language_model import LanguageModel, TinyLanguageModel
from prunetune.instruct.model.processes import Processes, shared_entry
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.parse import TextRun


@dataclass(frozen=True)
class TextTask:
    """The state that the steps share.

    tuned, scoring: readers of the fine-tuned and of the scoring model, with the same samples. pool: these samples, with
    one class per stratum. held_out: samples that are neither scored nor trained on, to measure the loss before and
    after. report: what became of the rows of the corpus. device: that of this process.
    """

    tuned: Reader
    scoring: Reader
    pool: Pool
    held_out: Encoded | None
    report: dict[str, int]
    store: Store
    processes: Processes

    @property
    def device(self) -> str:
        """The device of this process."""
        return self.processes.device

    def entry(self, kind: str, prefix: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return a store entry. All processes compute it together, and the first one writes it."""
        return shared_entry(self.store, self.processes, kind, prefix, key, make)


def open_task(run: TextRun) -> TextTask:
    """Read the corpus with the tokenizers, and set the held-out samples aside."""
    processes = Processes.current(resolve_device(run.device))
    tuned = open_reader(run.llm, run.corpus)
    scoring = tuned if run.scoring_llm is None else open_reader(run.scoring_llm, run.corpus)
    report = asdict(tuned.encoded.report)
    if scoring is not tuned:
        tuned, scoring = _shared(tuned, scoring), _shared(scoring, tuned)
    kept, apart = split(len(tuned.encoded), run.held_out)
    held_out = tuned.encoded.take(apart) if len(apart) else None
    tuned, scoring = (one.of(one.encoded.take(kept)) for one in (tuned, scoring))
    pool = stratified(tuned.encoded, run.strata)
    return TextTask(tuned, scoring, pool, held_out, report, Store(run.results_dir / "store"), processes)


def open_reader(llm: LanguageModel | TinyLanguageModel, corpus: Corpus) -> Reader:
    """Read a corpus with the tokenizer of a language model, which is not loaded.

    Raises:
        InputError: the corpus or the tokenizer cannot be read, or a sample is longer than the model's context.
    """
    context = llm.context_length()  # A model that is not a causal language model is refused here, before the corpus.
    tokenizer = llm.tokenizer()
    encoded = encode(corpus, tokenizer)
    longest = int(encoded.lengths.max())
    if context is not None and longest > context:
        raise InputError(
            f"a sample of {corpus.resolved_name} has {longest} tokens and the language model takes {context}; "
            f"pass corpus.max_length={context}"
        )
    return Reader(llm, tokenizer, encoded)


def _shared(reader: Reader, other: Reader) -> Reader:
    """Return a reader of the samples that both readers have.

    The tokenizers may cut a sample at different places, and only one of them may lose the whole response.
    """
    theirs = set(other.encoded.pool.sample_ids)
    rows = [i for i, sample_id in enumerate(reader.encoded.pool.sample_ids) if sample_id in theirs]
    return reader.of(reader.encoded.take(torch.tensor(rows, dtype=torch.int64)))


def split(size: int, held_out: float) -> tuple[Tensor, Tensor]:
    """Return the positions of the pool and the held-out ones, ascending. They do not depend on the run's seed.

    Raises:
        InputError: the fraction holds out no sample, or all.
    """
    count = round(size * held_out)
    if held_out and not 0 < count < size:
        raise InputError(f"held_out={held_out:g} of {size} samples is {count}; pass another fraction")
    with seeded("held out", size, float(held_out)) as generator:
        apart = torch.randperm(size, generator=generator)[:count].sort().values
    is_kept = torch.ones(size, dtype=torch.bool)
    is_kept[apart] = False
    return torch.nonzero(is_kept).flatten(), apart


def digest(value: Any) -> str:
    """Return the SHA-256 of a value, written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
