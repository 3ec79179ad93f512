"""Samplers: scores to a subset."""

from prunetune.samplers.activeft import ActiveFT
from prunetune.samplers.base import Sampler
from prunetune.samplers.beta import Beta
from prunetune.samplers.budgets import class_budgets
from prunetune.samplers.bws import BWS
from prunetune.samplers.ccs import CCS
from prunetune.samplers.d2 import D2
from prunetune.samplers.double_end import DoubleEnd
from prunetune.samplers.easy_diverse import EasyDiverse
from prunetune.samplers.flexrand import FlexRand, FlexRandReleased
from prunetune.samplers.infobatch import InfoBatch
from prunetune.samplers.probcover import ProbCover
from prunetune.samplers.random import RandomSampler
from prunetune.samplers.rs2 import RS2
from prunetune.samplers.topk import TopK, TopKEasiest, TopKFlexible
from prunetune.samplers.typiclust import TypiClust, TypiClustReleased
from prunetune.samplers.window import Window

SAMPLERS: dict[str, type[Sampler]] = {
    "activeft": ActiveFT,
    "beta": Beta,
    "bws": BWS,
    "ccs": CCS,
    "d2": D2,
    "double_end": DoubleEnd,
    "easy_diverse": EasyDiverse,
    "flexrand": FlexRand,
    "flexrand_released": FlexRandReleased,
    "infobatch": InfoBatch,
    "probcover": ProbCover,
    "random": RandomSampler,
    "rs2": RS2,
    "topk": TopK,
    "topk_easiest": TopKEasiest,
    "topk_flexible": TopKFlexible,
    "typiclust": TypiClust,
    "typiclust_released": TypiClustReleased,
    "window": Window,
}

__all__ = [
    "SAMPLERS",
    "ActiveFT",
    "BWS",
    "Beta",
    "CCS",
    "D2",
    "DoubleEnd",
    "EasyDiverse",
    "FlexRand",
    "FlexRandReleased",
    "InfoBatch",
    "ProbCover",
    "RS2",
    "RandomSampler",
    "Sampler",
    "TopK",
    "TopKEasiest",
    "TopKFlexible",
    "TypiClust",
    "TypiClustReleased",
    "Window",
    "class_budgets",
]
