"""ActiveFT against its authors' code, from the same first centres."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.samplers.activeft import ActiveFT
from prunetune.samplers.base import unit
from prunetune.scorers.picks import class_members
from scripts.parity.agreement import RATIOS, Material, Remarks, Row, compare, made_material
from scripts.parity.checkouts import load_file

STEPS = 300
SAME_START = "both started from the same images of each class"
LENGTH = "ours scales the centres to length 1 after every step of Adam, theirs only where it reads them"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare class by class."""
    folder = checkout / "data_selection" / "sample_tools"
    helpers = load_file("_parity_activeft_utils", folder / "utils.py")
    code = load_file("_parity_activeft", folder / "ActiveFT_CIFAR.py", utils=helpers)
    material = made_material()
    settings = Namespace(
        temperature=0.07, init="random", distance="euclidean", balance=1.0, lr=1e-3, scheduler="none", max_iter=STEPS
    )
    sampler = ActiveFT(steps=STEPS, batch_size=len(material.labels), min_per_class=0)
    for name, adam, cause in (("activeft", torch.optim.Adam, LENGTH), ("activeft, both scaled", _Scaling, "")):
        with mock.patch.object(code.optim, "Adam", adam):
            yield from _rows(code, settings, material, sampler, name, cause)


class _Scaling(torch.optim.Adam):
    """Adam that scales the centres to length 1 after every step, as ours does."""

    def step(self) -> None:
        super().step()
        for group in self.param_groups:
            for centres in group["params"]:
                centres.data = unit(centres.data)


def _rows(
    code: ModuleType, settings: Namespace, material: Material, sampler: ActiveFT, name: str, cause: str
) -> Iterator[Row]:
    for ratio in RATIOS:
        picks = [], []
        for members in class_members(material.labels):
            count, features = round(len(members) * ratio), unit(material.features[members])
            order = torch.randperm(len(members), generator=stream("parity activeft"))
            with mock.patch("random.sample", lambda ids, size, order=order: order[:size].tolist()):
                theirs = code.optimize_dist(features, count, settings)
            ours = sampler.select_in_class(_none(members), count, ratio, stream("parity activeft"), features)
            picks[0].append(members[torch.tensor(theirs)])
            picks[1].append(members[ours])
        sets = [torch.cat(parts).sort().values for parts in picks]
        yield compare(name, True, ratio, *sets, Remarks(SAME_START, cause))


def _none(members: Tensor) -> Tensor:
    return torch.zeros(len(members), dtype=torch.float64)
