"""Instruction pruning for language models: corpora, language models and text scorers, loaded when they are asked for.

transformers, datasets, peft, accelerate and lm_eval are the extra `instruct`; nothing outside this folder imports them.
"""

from prunetune.base.lazy import attach

MODULES = {
    "AlpacaCleaned": "corpus.corpora",
    "DLC": "scorers.complexity",
    "DollyHHRLHF": "corpus.corpora",
    "EmbeddedCorpus": "corpus.corpora",
    "EvolInstruct": "corpus.corpora",
    "FromFile": "scorers.from_file",
    "IFD": "scorers.ifd",
    "LCDropout": "scorers.complexity",
    "LanguageModel": "model.language_model",
    "LocalCorpus": "corpus.corpora",
    "Longest": "scorers.longest",
    "Perplexity": "scorers.perplexity",
    "RDSPlus": "scorers.rds_plus",
    "Random": "scorers.constant",
    "S2L": "scorers.s2l",
    "SourceBalancedRandom": "scorers.constant",
    "TextScorer": "scorers.base",
    "TinyLanguageModel": "model.language_model",
    "UltraChat": "corpus.corpora",
}

__getattr__, __dir__, __all__ = attach(__name__, MODULES)
