"""Samplers: scores to a subset."""

from prunetune.samplers.base import Sampler, class_budgets
from prunetune.samplers.flexrand import FlexRand, FlexRandReleased
from prunetune.samplers.random import RandomSampler
from prunetune.samplers.topk import TopK, TopKEasiest, TopKFlexible

SAMPLERS: dict[str, type[Sampler]] = {
    "flexrand": FlexRand,
    "flexrand_released": FlexRandReleased,
    "random": RandomSampler,
    "topk": TopK,
    "topk_easiest": TopKEasiest,
    "topk_flexible": TopKFlexible,
}

__all__ = [
    "SAMPLERS",
    "FlexRand",
    "FlexRandReleased",
    "RandomSampler",
    "Sampler",
    "TopK",
    "TopKEasiest",
    "TopKFlexible",
    "class_budgets",
]
