"""The description of text runs for `prunetune.config.sweeps`. Each job of such a sweep is one run."""

from prunetune.config.sweeps import SingleRuns
from prunetune.instruct import registration  # noqa: F401  registers the schema, which composing needs
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
