"""ZCore against its authors' code, from the same planes, points and initial scores."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.scorers.zcore import coverage_less_redundancy, draw_points
from scripts.parity.agreement import CLASS_SIZES, RATIOS, Ranking, Remarks, Row, compare, kept, made_material
from scripts.parity.checkouts import load_file

REPEATS, NEIGHBOURS, EXPONENT = 3000, 50, 4
SAME_DRAW = "both were given the same planes, points and initial scores"
PLACES = "where several images lie in one place of a plane, which of them loses is arbitrary in theirs (unstable sort)"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare on features that differ in every dimension, and on features with many zeros."""
    code = load_file("_parity_zcore", checkout / "core" / "coreset" / "zcore.py")
    material = made_material()
    dense = torch.randn(sum(CLASS_SIZES), 16, generator=stream("parity zcore"))
    for name, features, cause in (("zcore", dense, ""), ("zcore of features with zeros", material.features, PLACES)):
        planes, points = draw_points(features, REPEATS, stream("parity zcore planes"))
        ours = coverage_less_redundancy(features, planes, points, NEIGHBOURS, EXPONENT)
        start = torch.rand(len(features), generator=stream("parity zcore start"), dtype=torch.float64)
        theirs = start + _theirs(code, features, planes, points)
        for balance in (True, False):
            for ratio in RATIOS:
                kept_by = [kept(scores, material, ratio, balance) for scores in (theirs, start + ours)]
                labels = material.labels if balance else torch.zeros_like(material.labels)
                yield compare(name, balance, ratio, *kept_by, Remarks(SAME_DRAW, cause), Ranking(start + ours, labels))


def _theirs(code: object, features: Tensor, planes: Tensor, points: Tensor) -> Tensor:
    code.init_worker(features.numpy())
    settings = Namespace(sample_dim=2, redund_nn=NEIGHBOURS, redund_exp=EXPONENT, dataset="", trial=0)
    info = code.embedding_preprocess(features.numpy())
    with (
        mock.patch("numpy.random.choice", side_effect=list(planes.numpy())),
        mock.patch("numpy.random.triangular", side_effect=list(points.numpy())),
    ):
        return torch.from_numpy(code.sample_score(settings, info, len(planes)))
