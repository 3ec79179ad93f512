"""Prune a downstream data set before fine-tuning on it.

Shapes use the same letters in all docstrings: N images in the pool, M kept images, C classes, D feature width, B batch
size, E epochs, V augmented views, T masked networks, P probes that are trained together.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunetune.api import Subset, advise, prune
    from prunetune.cluster.engine import RayEngine
    from prunetune.data.pool import Pool
    from prunetune.instruct.own_text.api import prune_text
    from prunetune.loop.recorder import Recorder
    from prunetune.loop.samplers import InfoBatchSampler, RS2Sampler
    from prunetune.networks.backbone import Backbone
    from prunetune.own.read import ReadOptions
    from prunetune.samplers.flexrand import FlexRand
    from prunetune.scorers.dlc import DLC
    from prunetune.signals.contract import Signals
    from prunetune.signals.tensors import TensorSignals

_HOMES = {
    "advise": "prunetune.api",
    "prune": "prunetune.api",
    "prune_text": "prunetune.instruct.own_text.api",
    "Subset": "prunetune.api",
    "Backbone": "prunetune.networks.backbone",
    "RayEngine": "prunetune.cluster.engine",
    "ReadOptions": "prunetune.own.read",
    "Pool": "prunetune.data.pool",
    "Recorder": "prunetune.loop.recorder",
    "InfoBatchSampler": "prunetune.loop.samplers",
    "RS2Sampler": "prunetune.loop.samplers",
    "FlexRand": "prunetune.samplers",
    "DLC": "prunetune.scorers",
    "Signals": "prunetune.signals.contract",
    "TensorSignals": "prunetune.signals.tensors",
}
__all__ = [
    "DLC",
    "Backbone",
    "FlexRand",
    "InfoBatchSampler",
    "Pool",
    "RS2Sampler",
    "RayEngine",
    "ReadOptions",
    "Recorder",
    "Signals",
    "Subset",
    "TensorSignals",
    "advise",
    "prune",
    "prune_text",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import prunetune` alone does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prunetune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
