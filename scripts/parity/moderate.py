"""Moderate against its authors' code."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.samplers import Window
from prunetune.scorers.moderate import Moderate
from prunetune.scorers.picks import class_members
from scripts.parity.agreement import RATIOS, Remarks, Row, compare, kept, made_material, our_scores
from scripts.parity.checkouts import load_file

ENDS = "theirs rounds both ends of the window by themselves, ours the budget and then the first end"
WHOLE_ENDS = 40  # At the three ratios, the window of a class of this size begins and ends at whole numbers.
COMPLEMENT = "its file lists the images outside the window; they were taken out"
BY_CLASS = "theirs ranks the pool at once, so it was called once for each class"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare with the distances of each class to its median, ranked over the pool and class by class."""
    stand_in = SimpleNamespace(get_dataset=None, get_extractor=None)
    script, material = load_file("_parity_moderate", checkout / "selection.py", utils=stand_in), made_material()
    distances = torch.from_numpy(script.get_distance(material.features.numpy(), material.labels.numpy()))
    scores, everyone = our_scores(Moderate(), material), [torch.arange(len(material.labels))]
    for balance, groups in ((True, class_members(material.labels)), (False, everyone)):
        for ratio in RATIOS:
            theirs = torch.cat([_inside(script, distances, group, ratio) for group in groups]).sort().values
            ours = kept(scores, material, ratio, balance, Window(min_per_class=0))
            note = f"{COMPLEMENT}; {BY_CLASS}" if balance else COMPLEMENT
            yield compare("moderate", balance, ratio, theirs, ours, Remarks(note, ENDS))
    [members] = [group for group in class_members(material.labels) if len(group) == WHOLE_ENDS]
    for ratio in RATIOS:
        theirs = _inside(script, distances, members, ratio).sort().values
        ours = members[Window().select(scores[members], torch.zeros_like(members), ratio, stream("parity"))]
        yield compare("moderate where both ends are whole numbers", True, ratio, theirs, ours, Remarks(COMPLEMENT))


def _inside(script: object, distances: Tensor, group: Tensor, ratio: float) -> Tensor:
    outside = script.get_prune_idx(Namespace(rate=ratio), distances[group].numpy())
    return group[torch.from_numpy(np.setdiff1d(np.arange(len(group)), outside))]
