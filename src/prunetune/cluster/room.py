"""How many rows of one class a worker holds. The sizes of the classes are known before any image is read."""

import math
from collections.abc import Mapping
from typing import Any

from prunetune.base.errors import InputError
from prunetune.base.words import Words
from prunetune.cluster.two_level import TWO_LEVEL, parts_of, picks_of_part

COPIES = 4  # A greedy scorer holds this many float32 copies of the features of a class.
ROW_BYTES = 40  # With given scores a row takes this: its score, its place in the order, and draws (37 with FlexRand).


def row_bytes(width: int) -> int:
    """Return the bytes that a row of a class takes. width: D if the scorer reads the features of a class, else 0."""
    return 4 * COPIES * width or ROW_BYTES


def check_room(
    scorer: Any,
    sizes: Mapping[int, tuple[int, int]],
    classes: tuple[str, ...],
    width: int,
    worker_bytes: int,
    words: Words,
) -> None:
    """Refuse a class that cannot be selected with the memory of a worker.

    Args:
        scorer: whose scores are selected.
        sizes: rows of each class, and how many of them are kept.
        classes: their names.
        width: see `row_bytes`.
        worker_bytes: memory of a worker.
        words: how the door that was used writes its options.

    Raises:
        InputError: the message names the memory that is enough, or another way.
    """
    held = worker_bytes // row_bytes(width)
    for label, (size, budget) in sizes.items():
        if size <= held:
            continue
        if width and isinstance(scorer, TWO_LEVEL):
            picks_of_part(budget, parts_of(size, held), held)
            continue
        way = "use herding, k_center or facility_location, which select in two levels, or " if width else ""
        enough = math.ceil(size * row_bytes(width) / 1e7) / 100
        raise InputError(
            f"class {classes[label]} has {size} rows, and a worker of {worker_bytes / 1e9:g} GB holds {held} of one "
            f"class; {way}give the workers more memory with {words('worker_gb', f'{enough:g}')}"
        )
