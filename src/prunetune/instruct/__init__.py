"""Instruction pruning for language models: corpora, language models and text scorers, loaded when they are asked for.

transformers, datasets, peft, accelerate and lm_eval are the extra `instruct`; nothing outside this folder imports them.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "AlpacaCleaned": "corpora",
    "DLC": "complexity",
    "DollyHHRLHF": "corpora",
    "EmbeddedCorpus": "corpora",
    "EvolInstruct": "corpora",
    "FromFile": "from_file",
    "IFD": "ifd",
    "LCDropout": "complexity",
    "LanguageModel": "language_model",
    "LocalCorpus": "corpora",
    "Longest": "longest",
    "Perplexity": "perplexity",
    "RDSPlus": "rds_plus",
    "Random": "constant",
    "S2L": "s2l",
    "SourceBalancedRandom": "constant",
    "TextScorer": "text_scorer",
    "TinyLanguageModel": "language_model",
    "UltraChat": "corpora",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"prunetune.instruct has no {name!r}")
    return getattr(import_module(f"prunetune.instruct.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
