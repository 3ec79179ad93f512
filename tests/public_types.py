"""The types that a type checker sees of the public names; `make lint` checks this file with mypy, and nothing runs it.

A name whose type is not known is Any, and each `assert_type` fails on it.
"""

from typing import assert_type

import torch
from torch import Tensor

from prunetune import (
    DLC,
    Backbone,
    FlexRand,
    InfoBatchSampler,
    Pool,
    ReadOptions,
    Recorder,
    RS2Sampler,
    Signals,
    Subset,
    TensorSignals,
    advise,
    prune,
)
from prunetune.api import Advice

generator, scores = torch.Generator(), torch.zeros(4)
pool = Pool("mine", torch.zeros(4), ("a", "b", "c", "d"), ("train",) * 4, ("one",))
options = assert_type(ReadOptions(split="train"), ReadOptions)
subset = assert_type(prune("photos", keep=0.2, backbone=Backbone(model="resnet18"), read_as=options), Subset)
assert_type(subset.positions, Tensor)
assert_type(advise("photos"), Advice)
signals: Signals = assert_type(TensorSignals(torch.zeros(4, 2), pool=pool), TensorSignals)
assert_type(DLC(levels=3).score(pool, signals, generator), Tensor)
assert_type(FlexRand(gamma=0.3).select(scores, pool.labels, 0.2, generator), Tensor)
assert_type(InfoBatchSampler(4, num_epochs=2), InfoBatchSampler)
assert_type(RS2Sampler(4, ratio=0.5), RS2Sampler)
assert_type(Recorder(["a", "b"], num_classes=2), Recorder)
