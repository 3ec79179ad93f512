"""D2 against its authors' code: the graph and the picks within a class, and the cut before them."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.samplers import D2
from prunetune.samplers.base import unit
from prunetune.scorers.forgetting import Forgetting
from prunetune.scorers.picks import class_members
from scripts.parity.agreement import RATIOS, Material, Remarks, Row, compare, made_material, our_scores
from scripts.parity.checkouts import load_file

NEIGHBOURS = 5
SETTINGS = {"graph_mode": "sum", "graph_sampling_mode": "weighted", "n_neighbor": NEIGHBOURS}
NOT_PRECOMPUTED = {"precomputed_dists": None, "precomputed_neighbors": None}
UNIT = "theirs got features of unit length and our class budgets"
LEAST = "a score of 0 counts as 1e-7 in their messages, which orders images that have only such neighbours; ours tie"
DIRECTED = "their graph is undirected"
CUT = "theirs cuts int(beta N) of the whole pool, ours round(beta n) of each class"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare on scores above 0, on counts of forgetting, and with the cut."""
    sampling = load_file("_parity_d2_sampling", checkout / "core" / "data" / "sampling.py")
    material = made_material()
    drawn = torch.rand(len(material.labels), generator=stream("parity d2"), dtype=torch.float64) + 0.1
    counts = our_scores(Forgetting(), material)
    for gamma in (1.0, 0.1, 0.0):
        yield from _rows(f"d2 gamma_r {gamma:g}", sampling, material, drawn, D2(gamma_r=gamma, min_per_class=0))
    yield from _rows("d2 of forgetting", sampling, material, counts, D2(min_per_class=0), LEAST)
    directed = D2(graph="directed", min_per_class=0)
    yield from _rows("d2_directed", sampling, material, drawn, directed, DIRECTED)
    yield from _cut_rows(checkout, sampling, material, drawn)


def _rows(
    name: str, sampling: ModuleType, material: Material, scores: Tensor, sampler: D2, cause: str = ""
) -> Iterator[Row]:
    for ratio in RATIOS:
        ours = sampler.select(scores, material.labels, ratio, stream("parity"), material.signals)
        theirs = _theirs(sampling, material, scores, ours, sampler.gamma_r)
        yield compare(name, True, ratio, theirs, ours, Remarks(UNIT, cause))


def _theirs(sampling: ModuleType, material: Material, scores: Tensor, ours: Tensor, gamma: float) -> Tensor:
    """Return their picks of every class, as many as ours."""
    picks = []
    for members in class_members(material.labels):
        features = unit(material.features[members]).double().numpy()
        settings = Namespace(**SETTINGS, **NOT_PRECOMPUTED)
        picker = sampling.GraphDensitySampler(features, None, 0, gamma, scores[members], settings)
        count = int(torch.isin(ours, members).sum())
        picks.append(members[torch.tensor(picker.select_batch_(count), dtype=torch.int64)])
    return torch.cat(picks).sort().values


def _cut_rows(checkout: Path, sampling: ModuleType, material: Material, scores: Tensor) -> Iterator[Row]:
    package = load_file("_parity_d2", checkout / "core" / "data" / "__init__.py")
    sampler = D2(beta=0.4, gamma_r=0.1, min_per_class=0)
    for ratio in RATIOS:
        ours = sampler.select(scores, material.labels, ratio, stream("parity"), material.signals)
        given = {"hardness": scores.clone()}
        _, left = package.CoresetSelection.mislabel_mask(given, "hardness", int(0.4 * len(scores)), True, "hardness")
        part = Material(material.pool, material.features, ())
        is_left = torch.zeros(len(scores), dtype=torch.bool)
        is_left[left] = True
        picks = []
        for members in class_members(part.labels):
            own = members[is_left[members]]
            settings = Namespace(**SETTINGS, **NOT_PRECOMPUTED)
            count = min(int(torch.isin(ours, members).sum()), len(own))
            if len(own) <= NEIGHBOURS:
                picks.append(own[:count])
                continue
            features = unit(part.features[own]).double().numpy()
            picker = sampling.GraphDensitySampler(features, None, 0, 0.1, scores[own], settings)
            picks.append(own[torch.tensor(picker.select_batch_(count), dtype=torch.int64)])
        yield compare("d2_cut", True, ratio, torch.cat(picks).sort().values, ours, Remarks(UNIT, CUT))
