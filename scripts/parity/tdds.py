"""TDDS against its authors' script."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunetune.scorers.tdds import TDDS
from scripts.parity.agreement import (
    EPOCHS,
    RATIOS,
    Material,
    Ranking,
    Remarks,
    Row,
    compare,
    kept,
    made_material,
    our_scores,
)
from scripts.parity.checkouts import arguments, load_file

WINDOW = 5
FACTOR = "their window weighs .1 of the next one, ours .9; tdds_released follows theirs"
ADDED = "theirs adds 1e-8 to probabilities in float32"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare at our default weight of windows with theirs, and at equal weights."""
    material = made_material()
    for name, decay, factor, cause in (
        ("tdds", 0.9, 0.1, FACTOR),
        ("tdds_released", 0.1, 0.1, ""),
        ("tdds decay 0.9 on both sides", 0.9, 0.9, ""),
    ):
        theirs = _their_scores(checkout, material, factor)
        ours = our_scores(TDDS(window=WINDOW, decay=decay), material)
        for balance in (True, False):
            for ratio in RATIOS:
                kept_by = [kept(scores, material, ratio, balance) for scores in (theirs, ours)]
                labels = material.labels if balance else torch.zeros_like(material.labels)
                yield compare(name, balance, ratio, *kept_by, Remarks(ADDED, cause), Ranking(ours, labels))


def _their_scores(checkout: Path, material: Material, factor: float) -> Tensor:
    """Return their scores [N]; their argument is 1 minus the weight of a window relative to the next."""
    proxy = material.proxies[0]
    logits = np.stack([proxy.logits(epoch).numpy() for epoch in range(1, EPOCHS + 1)])
    order = np.tile(np.arange(len(material.labels)), (EPOCHS, 1))
    with tempfile.TemporaryDirectory() as folder:
        words = {"trajectory_len": EPOCHS, "window_size": WINDOW, "decay": 1 - factor, "mask_path": f"{folder}/"}
        with arguments(*[word for key, value in words.items() for word in (f"--{key}", str(value))]):
            script = load_file("_parity_tdds", checkout / "importance_evaluation.py")
        script.generate(logits, None, order)
        ranked, values = (np.load(f"{folder}/{what}_win{WINDOW}_ep{EPOCHS}.npy") for what in ("data_mask", "score"))
    scores = torch.empty(len(order[0]), dtype=torch.float64)
    scores[torch.from_numpy(ranked)] = torch.from_numpy(values).double()
    return scores
