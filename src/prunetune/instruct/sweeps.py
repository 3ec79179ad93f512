"""Sweeps of text runs, as `prunetune.runs.sweeps` reads them: each job is one run."""

from prunetune.instruct.identity import text_recorded
from prunetune.instruct.names import text_names
from prunetune.instruct.schema import ROOT
from prunetune.runs.sweeps import SingleRuns

TEXT_RUNS = SingleRuns(
    root=ROOT,
    groups=frozenset(["corpus", "llm", "text_scorer", "text_method", "sft"]),
    last_step="evaluate",
    names=text_names,
    recorded=text_recorded,
)
