"""The third stage, for DLC: the prototypes of the classes from sums over all rows, then the loss of each row.

The sums are taken over the same bundles of parts on every cluster and are added in their order, in float64. So the
prototypes do not depend on the number of workers.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.cluster.parts import Bundle, Part, bundles
from prunetune.cluster.stages import Item, Stage, named_file
from prunetune.cluster.workers import FEATURES
from prunetune.scorers.dlc import learning_complexity, prototype_losses

SUM_ROWS = 1 << 19  # The sums of at most this many rows are taken at once.
ROWS = 1 << 16  # A file has the scores of at most this many rows.
SUMS, SCORES = ".sums.npz", ".scores.npy"


def prototypes(parts: Sequence[Part], passes: Stage, stage: Stage, num_classes: int) -> Tensor:
    """Return the mean feature of each class, [C, D] float64, NaN for a class without rows.

    Only sums reach the driver: at most C (8 D + 16) bytes for a bundle.
    """
    items = [Item(bundle.name, bundle.rows, bundle.parts) for bundle in bundles("sums", parts, SUM_ROWS)]
    stage.run(items, class_sums, passes, what="class means")
    total, counts = None, torch.zeros(num_classes, dtype=torch.int64)
    for item in items:
        with np.load(stage.file(item.name, SUMS)) as file:
            labels, sums = torch.from_numpy(file["labels"]), torch.from_numpy(file["sums"])
            total = torch.zeros(num_classes, sums.shape[1], dtype=torch.float64) if total is None else total
            total.index_add_(0, labels, sums)
            counts.index_add_(0, labels, torch.from_numpy(file["counts"]))
    return total / counts.unsqueeze(1)


def class_sums(item: Item, stage: Stage, passes: Stage) -> dict[str, Any]:
    """Write the sum of the features of each class that occurs in a bundle of parts, float64, and its rows."""
    labels, sums, counts = np.zeros(0, dtype=np.int64), None, np.zeros(0, dtype=np.int64)
    for part in item.work:
        with np.load(passes.file(part.name, FEATURES)) as file:
            own, rows = file["labels"].astype(np.int64), torch.from_numpy(file["features"])
        merged = np.union1d(labels, own)
        place = torch.from_numpy(np.searchsorted(merged, labels))
        grown = torch.zeros(len(merged), rows.shape[1], dtype=torch.float64)
        if sums is not None:
            grown[place] = sums
        grown.index_add_(0, torch.from_numpy(np.searchsorted(merged, own)), rows.double())
        more = np.bincount(np.searchsorted(merged, own), minlength=len(merged))
        more[place.numpy()] += counts
        labels, sums, counts = merged, grown, more
    path = stage.file(item.name, SUMS)
    with named_file(path) as file:
        np.savez(file, labels=labels, sums=sums.numpy(), counts=counts)
    return stage.finish(item.name, [path], {})


def score_bundles(of: Sequence[Bundle], passes: Stage, stage: Stage, centres: Tensor, is_first: bool) -> None:
    """Write the learning complexity of every row, <bundle>.scores.npy [n] float64, in the order of `positions`.

    Args:
        of: all parts, in bundles.
        passes: the stage that holds the features.
        stage: where scores go.
        centres: [C, D] float64 prototypes.
        is_first: whether the features of the unmasked network are the first level of the path.
    """
    items = [Item(bundle.name, bundle.rows, bundle.parts) for bundle in of]
    stage.run(items, score_bundle, passes, centres, is_first, what="losses")


def score_bundle(item: Item, stage: Stage, passes: Stage, centres: Tensor, is_first: bool) -> dict[str, Any]:
    """Write the scores of one bundle of parts."""
    values = [_complexity(passes.file(part.name, FEATURES), centres, is_first) for part in item.work]
    path = stage.file(item.name, SCORES)
    with named_file(path) as file:
        np.save(file, torch.cat(values).numpy())
    return stage.finish(item.name, [path], {})


def _complexity(path: Path, centres: Tensor, is_first: bool) -> Tensor:
    """Return the learning complexity of the rows of a part, [n] float64."""
    with np.load(path) as file:
        labels = torch.from_numpy(file["labels"].astype(np.int64))
        losses = [prototype_losses(level, centres, labels) for level in _levels(file, is_first)]
    return learning_complexity(torch.stack(losses)) if len(labels) else torch.zeros(0, dtype=torch.float64)


def _levels(file: Any, is_first: bool) -> Iterator[Tensor]:
    if is_first:
        yield torch.from_numpy(file["features"])
    if "levels" in file and file["levels"].shape[-1]:
        yield from torch.from_numpy(file["levels"])
