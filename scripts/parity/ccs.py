"""CCS against its authors' code: the cut and the strata, with the same draws."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.samplers.ccs import CCS, num_cut, strata_of
from prunetune.scorers.aum import AUM
from scripts.parity.agreement import RATIOS, Remarks, Row, compare, made_material, our_scores
from scripts.parity.checkouts import load_file

POOL = "theirs selects from the whole pool, so ours got a single class"
SAME_DRAW = "both draws were replaced by the first of each stratum in the order of the score"
HARDNESS = "theirs got our scores, so that strata lie alike"
CUT = "theirs cuts int(beta N), ours round(beta N)"
EDGES = (
    "their last stratum ends at 1.0001 times the largest score, which moves all edges, and of strata of equal size an "
    "unstable sort decides which is served first, while ours serves the lower"
)
WIDER = 1.0001


def rows(checkout: Path) -> Iterator[Row]:
    """Compare the cut alone, the selection with and without it, and the scores that its code computes."""
    package = load_file("_parity_ccs", checkout / "core" / "data" / "__init__.py")
    material = made_material()
    scores = our_scores(AUM(of="probabilities"), material)
    for beta in (0.1, 0.2, 0.3):
        yield _cut_row(package, scores, beta)
    same_cut = 48.4 / len(scores)  # Both cut 48 images.
    for name, beta, cause in (
        ("ccs without a cut", 0.0, EDGES),
        ("ccs where both cut alike", same_cut, EDGES),
        ("ccs, the same cut, edges and order of strata", same_cut, ""),
        ("ccs", 0.2, f"{CUT}; {EDGES}"),
    ):
        for ratio in RATIOS:
            yield _row(package, scores, beta, ratio, name, cause)


def _cut_row(package: Any, scores: Tensor, beta: float) -> Row:
    _, left = _left(package, scores, beta)
    kept = len(scores) - num_cut(len(scores), 1, beta)
    ours = scores.argsort(stable=True)[:kept].sort().values
    return compare("ccs, the cut alone", False, 1 - beta, left.sort().values, ours, Remarks("", CUT))


def _left(package: Any, scores: Tensor, beta: float) -> tuple[dict[str, Tensor], Tensor]:
    given = {"hardness": scores.clone()}
    return package.CoresetSelection.mislabel_mask(given, "hardness", int(beta * len(scores)), True, "hardness")


def _row(package: Any, scores: Tensor, beta: float, ratio: float, name: str, cause: str) -> Row:
    ours_all = CCS(beta=beta, min_per_class=0)
    in_order = lambda part, count, generator: part[scores[part].argsort(stable=True)][:count]  # noqa: E731
    edges = strata_of if cause else _their_strata
    with mock.patch("prunetune.samplers.ccs.draw", in_order), mock.patch("prunetune.samplers.ccs.strata_of", edges):
        ours = ours_all.select(scores, torch.zeros(len(scores), dtype=torch.int64), ratio, stream("parity"))
    given, left = _left(package, scores, beta)
    order = given["hardness"].argsort()  # The draws of a stratum then are its first images in this order.
    given["hardness"] = given["hardness"][order]
    sort = torch.argsort if cause else lambda sizes: sizes.argsort(stable=True)
    with mock.patch("torch.randperm", torch.arange), mock.patch("torch.argsort", sort):
        picked, _ = package.CoresetSelection.stratified_sampling(given, "hardness", len(ours))
    theirs = left[order][torch.tensor(picked)].sort().values
    return compare(name, False, ratio, theirs, ours, Remarks("; ".join([POOL, SAME_DRAW, HARDNESS]), cause))


def _their_strata(scores: Tensor, num_strata: int) -> Tensor:
    """Return the stratum of each score [n] with the last one widened as theirs is."""
    low, high = scores.min(), scores.max() * WIDER
    return ((scores - low) / ((high - low) / num_strata)).long()
