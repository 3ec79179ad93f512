"""Samplers: scores to a subset. A class is imported when it is asked for, so that one loads no other."""

from prunetune.base.lazy import attach

MODULES = {
    "ActiveFT": "activeft",
    "BWS": "bws",
    "Beta": "beta",
    "CCS": "ccs",
    "D2": "d2",
    "DoubleEnd": "double_end",
    "EasyDiverse": "easy_diverse",
    "FlexRand": "flexrand",
    "FlexRandReleased": "flexrand",
    "InfoBatch": "infobatch",
    "NUCS": "nucs",
    "ProbCover": "probcover",
    "RS2": "rs2",
    "RandomSampler": "random",
    "Sampler": "base",
    "TopK": "topk",
    "TopKEasiest": "topk",
    "TopKFlexible": "topk",
    "TypiClust": "typiclust",
    "TypiClustReleased": "typiclust",
    "Window": "window",
    "class_budgets": "budgets",
}

__getattr__, __dir__, __all__ = attach(__name__, MODULES)
