"""Instruction pruning for language models: corpora, language models and text scorers, each imported on first use.

The extra `instruct` installs transformers, datasets, peft, accelerate and lm_eval. Only this package imports them.
"""

from prunetune.base.lazy import attach

MODULES = {
    "AlpacaCleaned": "corpus.corpora",
    "DLC": "scorers.complexity",
    "DollyHHRLHF": "corpus.corpora",
    "EmbeddedCorpus": "corpus.corpora",
    "EvolInstruct": "corpus.corpora",
    "FromFile": "prunetune.scorers.from_file",  # This scorer works for images and text.
    "IFD": "scorers.ifd",
    "LCDropout": "scorers.complexity",
    "LanguageModel": "model.language_model",
    "LocalCorpus": "corpus.corpora",
    "Longest": "scorers.longest",
    "Perplexity": "scorers.perplexity",
    "RDSPlus": "scorers.rds_plus",
    "Random": "prunetune.scorers.constant",  # This scorer works for images and text.
    "S2L": "scorers.s2l",
    "SourceBalancedRandom": "scorers.source_balanced",
    "TinyLanguageModel": "model.language_model",
    "UltraChat": "corpus.corpora",
}

__getattr__, __dir__, __all__ = attach(__name__, MODULES)
