"""Sweeps of text runs, as `prunetune.config.sweeps` reads them: each job is one run."""

from prunetune.config.sweeps import SingleRuns
from prunetune.instruct import registration  # noqa: F401  their sweeps are composed with their schema
from prunetune.instruct.identity import text_recorded
from prunetune.instruct.names import resolve_text_names
from prunetune.instruct.schema import ROOT

TEXT_RUNS = SingleRuns(
    root=ROOT,
    groups=frozenset(["corpus", "llm", "text_scorer", "text_method", "sft"]),
    last_step="evaluate",
    names=resolve_text_names,
    recorded=text_recorded,
)
