"""Forgetting against its authors' code."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from prunetune.scorers.forgetting import Forgetting
from scripts.parity.agreement import EPOCHS, RATIOS, Ranking, Remarks, Row, compare, kept, made_material, our_scores
from scripts.parity.checkouts import load_file

RECORDED = "both read recorded accuracies"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare the counts, and the images with most of them."""
    code, material = load_file("_parity_forgetting", checkout / "order_examples_by_forgetting.py"), made_material()
    proxy = material.proxies[0]
    is_right = torch.stack([proxy.logits(epoch).argmax(1) == material.labels for epoch in range(1, EPOCHS + 1)])
    recorded = {image: [[], column.tolist(), []] for image, column in enumerate(is_right.int().T)}
    _, forgotten, _, learned = code.compute_forgetting_statistics(recorded, EPOCHS)
    order, counts = code.sort_examples_by_forgetting([forgotten], [learned], EPOCHS)
    theirs = torch.empty(len(order), dtype=torch.float64)
    theirs[torch.from_numpy(order)] = torch.from_numpy(np.asarray(counts)).double()
    ours = our_scores(Forgetting(), material)
    for balance in (True, False):
        for ratio in RATIOS:
            kept_by = [kept(scores, material, ratio, balance) for scores in (theirs, ours)]
            labels = material.labels if balance else torch.zeros_like(material.labels)
            yield compare("forgetting", balance, ratio, *kept_by, Remarks(RECORDED), Ranking(ours, labels))
    whole = torch.from_numpy(order[::-1].copy())
    for ratio in RATIOS:
        theirs_first = whole[: round(len(whole) * ratio)].sort().values
        ours_kept = kept(ours, material, ratio, False)
        ranking = Ranking(ours, torch.zeros_like(material.labels))
        yield compare("forgetting by their order", False, ratio, theirs_first, ours_kept, Remarks(RECORDED), ranking)
