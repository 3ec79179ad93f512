"""Prune a downstream data set before fine-tuning on it.

Letters, as everywhere in the code: N images in the pool, M kept, C classes, D feature width, B batch, E epochs,
V augmented views, T masked networks, P probes trained together.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunetune.api import Subset, prune
    from prunetune.backbones import Backbone
    from prunetune.datasets.base import Pool
    from prunetune.samplers import FlexRand
    from prunetune.scorers import DLC
    from prunetune.signals import Signals

_HOMES = {
    "prune": "prunetune.api",
    "Subset": "prunetune.api",
    "Backbone": "prunetune.backbones",
    "Pool": "prunetune.datasets.base",
    "FlexRand": "prunetune.samplers",
    "DLC": "prunetune.scorers",
    "Signals": "prunetune.signals",
}
__all__ = ["DLC", "Backbone", "FlexRand", "Pool", "Signals", "Subset", "prune"]


def __getattr__(name: str) -> Any:
    """Import what is asked for; `import prunetune` alone loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prunetune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
