"""Read the key `dataset.subpool`: a fraction and a seed, with which the pool is a random part of the training images.

The value is a list, such as [0.8, 3]. On a command line it may be written without brackets (`words.arranged`).
"""

from collections.abc import Mapping
from typing import Any

from prunetune.base import checks
from prunetune.base.errors import InputError

FORM = "a fraction and a seed, such as dataset.subpool=0.8,3, or [0.8,3] in a YAML file or a list of sub-pools"


def subpool_of(dataset: Any) -> tuple[float, int] | None:
    """Return the fraction and the seed in the settings of a data set, None if the pool is all training images.

    Raises:
        InputError: the key `subpool` has another value.
    """
    value = dataset.get("subpool") if isinstance(dataset, Mapping) else None
    if value is None:
        return None
    try:
        fraction, seed = () if isinstance(value, str) else value
    except (TypeError, ValueError):
        raise InputError(f"dataset.subpool must be {FORM}, got {value!r}") from None
    checks.number("the fraction of dataset.subpool", fraction, "(0, 1]")
    checks.whole_number("the seed of dataset.subpool", seed, least=0)
    return float(fraction), seed
