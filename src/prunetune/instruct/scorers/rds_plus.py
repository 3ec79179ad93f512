"""RDS+: similarity of the hidden states of samples to those of a query set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.corpora import LocalCorpus
from prunetune.instruct.corpus.encoding import Encoded, encode
from prunetune.instruct.scorers.base import in_pick_order
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class RDSPlus(Scorer):
    """An order in which the tasks of a query set take turns, each picking the sample most similar to its queries.

    Source: RDS+, arXiv 2503.01807: mean of the last hidden states weighted by position, cosine similarity, maximum over
    the queries of a task, round robin over tasks.
    Differs from the code: with one task, its queries take turns there; a source_column that names every query does the
    same. A task whose next sample is already taken loses its turn there, and takes the one after it here. The code
    reads every sample as a chat in a format of its own; here corpus and queries keep their templates.
    Cost: one forward pass over the corpus and one over the queries.

    queries: a json, jsonl or parquet file of samples with prompt and response, in a form that `LocalCorpus` reads.
    source_column: the column that names the task of a query; null if all queries are one task. template: the template
    of the queries, best that of the corpus. max_length: longer queries are cut after so many tokens.
    """

    queries: str = ""
    source_column: str | None = None
    template: str = "alpaca"
    max_length: int = 1024

    name: ClassVar[str] = "rds_plus"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.queries or not Path(self.queries).expanduser().is_file():
            raise InputError(
                "text_scorer.queries must be a json, jsonl or parquet file of samples like those that the model should "
                f"learn to answer, got {self.queries!r}"
            )
        self._corpus()

    def score(self, pool: Pool, signals: TextSignals, generator: torch.Generator) -> Tensor:
        queries: Encoded = encode(self._corpus(), signals.tokenizer)
        tasks = sorted(set(queries.sources))
        similarities = signals.similarities(queries, tasks)  # [N, K]
        signals.keep("similarities", similarities)
        return in_pick_order(round_robin(similarities))

    def key(self) -> dict[str, Any]:
        """Return the key with the contents of the query file instead of its path."""
        return {**super().key(), "queries": self._corpus().identity()}

    def _corpus(self) -> LocalCorpus:
        return LocalCorpus(
            name="queries",
            path=self.queries,
            source_column=self.source_column,
            template=self.template,
            max_length=self.max_length,
        )


def round_robin(similarities: Tensor) -> Tensor:
    """Return the order in which K tasks, taking turns, pick all samples, [N] int64.

    A task picks its most similar sample that no task has picked before. Of equally similar ones it picks the first.

    Args:
        similarities: [N, K].
    """
    preferred = (-similarities).argsort(dim=0, stable=True).T.tolist()  # There are K orders of N samples.
    taken, order, at = [False] * len(similarities), [], [0] * len(preferred)
    while len(order) < len(similarities):
        for task, own in enumerate(preferred):
            while at[task] < len(own) and taken[own[at[task]]]:
                at[task] += 1
            if at[task] < len(own):
                taken[own[at[task]]] = True
                order.append(own[at[task]])
    return torch.tensor(order, dtype=torch.int64)
