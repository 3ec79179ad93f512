"""Instruction pruning for language models: corpora, language models and text scorers, loaded when they are asked for.

transformers, datasets, peft, accelerate and lm_eval are the extra `instruct`; nothing outside this folder imports them.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "AlpacaCleaned": "corpus.corpora",
    "DLC": "scorers.complexity",
    "DollyHHRLHF": "corpus.corpora",
    "EmbeddedCorpus": "corpus.corpora",
    "EvolInstruct": "corpus.corpora",
    "IFD": "scorers.ifd",
    "LCDropout": "scorers.complexity",
    "LanguageModel": "model.language_model",
    "LocalCorpus": "corpus.corpora",
    "Longest": "scorers.longest",
    "Perplexity": "scorers.perplexity",
    "RDSPlus": "scorers.rds_plus",
    "S2L": "scorers.s2l",
    "SourceBalancedRandom": "scorers.source_balanced",
    "TinyLanguageModel": "model.language_model",
    "UltraChat": "corpus.corpora",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"prunetune.instruct has no {name!r}")
    return getattr(import_module(f"prunetune.instruct.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
