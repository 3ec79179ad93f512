"""InfoBatch against its authors' code: which images a pass leaves out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from prunetune.base.seeding import stream
from prunetune.training.sample_order import thinned_weights
from scripts.parity.agreement import Remarks, Row, compare
from scripts.parity.checkouts import load_file

SIZES = range(200, 210)
FLOOR = "theirs keeps int(half) of an odd number of easy images, ours leaves int(half) out"
SAME_DRAW = "both draws were replaced by the first easy images, so this compares who is easy and how many are kept"
DROPPED = 0.5


def rows(checkout: Path) -> Iterator[Row]:
    """Compare one thinned pass over pools of several sizes; the ratio is the share of images that stay."""
    code = load_file("_parity_infobatch", checkout / "infobatch" / "infobatch.py")
    for size in SIZES:
        losses = torch.rand(size, generator=stream("parity infobatch", size))
        passes = code.InfoBatch(range(size), num_epochs=8, prune_ratio=DROPPED)
        passes.scores = losses.clone()
        with mock.patch("numpy.random.choice", _first), mock.patch("numpy.random.shuffle"):
            theirs = torch.tensor(passes.prune()).sort().values
        with mock.patch("torch.randperm", lambda count, generator=None: torch.arange(count).flip(0)):
            weights = thinned_weights(losses, DROPPED, stream("parity"))
        ours = torch.nonzero(weights).flatten()
        number = "odd" if int((losses < losses.mean()).sum()) % 2 else "even"
        name, cause = f"infobatch, {number} number of easy images", FLOOR if number == "odd" else ""
        yield compare(name, False, 1 - DROPPED, theirs, ours, Remarks(SAME_DRAW, cause))


def _first(values: Any, size: int, replace: bool) -> np.ndarray:
    return np.asarray(values)[:size]
