"""CRAIG and GradMatch against CORDS, on the same last-layer gradients, class by class.

Needs the package apricot-select, with which CORDS maximises (extra `parity`).
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.scorers.craig import Craig
from prunetune.scorers.gradmatch import GradMatch
from prunetune.scorers.picks import class_members
from prunetune.selection.gradient_geometry import GradientPoints
from prunetune.selection.last_layer_gradients import LastLayerGradients, proxy_gradients
from prunetune.signals.proxy import RecordedProxy
from scripts.parity.agreement import EPOCHS, RATIOS, Material, Remarks, Row, compare, kept, made_material, our_scores
from scripts.parity.checkouts import load_file

SQUARED = "theirs squares the distances of gradients; its documentation, like ours, writes them unsquared"
MUTUAL = (
    "exact ties: of two images that are left and stand for each other only, either adds the same; both sets have the "
    "same value, rounding decides in theirs and position in ours"
)
SAME_VALUE = 1e-6  # Relative tolerance of its float32 distances.
PURSUIT = (
    "theirs fits the first pick without the ridge and drops picks that get a negative weight for good or picks them "
    "again, so it may keep fewer; ours holds such weights at 0 and fills the budget"
)
FIRST = "theirs keeps ceil(ratio n); it was asked for our budget"
RIDGE = 0.5


def rows(checkout: Path) -> Iterator[Row]:
    """Compare both methods."""
    if find_spec("apricot") is None:
        raise InputError("CORDS needs the package apricot-select; pip install -c constraints.txt -e '.[parity]'")
    folder = checkout / "cords" / "selectionstrategies"
    material = made_material()
    yield from _craig_rows(folder, material)
    solvers = load_file("_parity_omp", folder / "helpers" / "omp_solvers.py")
    yield from _gradmatch_rows(solvers, "gradmatch", material)
    yield from _gradmatch_rows(solvers, "gradmatch where weights become negative", _narrow(material))


def _narrow(material: Material) -> Material:
    """Return the same images with two features, so that their gradients are soon linear combinations of each other."""
    features = material.features[:, :2]
    logits = [material.proxies[0].logits(epoch) for epoch in range(1, EPOCHS + 1)]
    return Material(material.pool, features, (RecordedProxy(logits, {EPOCHS: features}, {}),))


def _gradients(material: Material, members: Tensor) -> LastLayerGradients:
    return proxy_gradients(material.proxies[0], material.labels, positions=members)


def _flat(gradients: LastLayerGradients) -> Tensor:
    """Return whole gradients [n, C (D + 1)] float32, the last layer's bias first."""
    deltas, hidden = gradients.deltas.float(), gradients.hidden.float()
    return torch.cat([deltas, (deltas.unsqueeze(2) * hidden.unsqueeze(1)).flatten(1)], dim=1)


def _craig_rows(folder: Path, material: Material) -> Iterator[Row]:
    base = SimpleNamespace(DataSelectionStrategy=object)
    package = {"_parity_cords": SimpleNamespace(), "_parity_cords.dataselectionstrategy": base}
    module = load_file("_parity_cords.craigstrategy", folder / "SL" / "craigstrategy.py", **package)
    scores = our_scores(Craig(), material)
    squared = _scores_of_squares(material)
    for name, ours_by, cause in (("craig", scores, SQUARED), ("craig, squared on both sides", squared, "")):
        for ratio in RATIOS:
            ours = kept(ours_by, material, ratio, True)
            picks = [_craig_picks(module, material, members, ours) for members in class_members(material.labels)]
            theirs = torch.cat(picks).sort().values
            values = [_squares(material, subset) for subset in (theirs, ours)]
            is_tied = not cause and abs(values[0] - values[1]) <= SAME_VALUE * values[1]
            yield compare(name, True, ratio, theirs, ours, Remarks(FIRST, MUTUAL if is_tied else cause))


def _craig_picks(module: Any, material: Material, members: Tensor, ours: Tensor) -> Tensor:
    strategy = object.__new__(module.CRAIGStrategy)
    gradients = _flat(_gradients(material, members))
    parts = torch.cat([strategy.distance(row.unsqueeze(0), gradients) for row in gradients])
    strategy.selection_type, strategy.optimizer, strategy.num_classes = "PerClass", "naive", 1
    strategy.N_trn, strategy.logger = len(members), SimpleNamespace(debug=lambda *_: None)
    strategy.trainloader = [(None, torch.zeros(len(members), dtype=torch.int64))]

    def given_distances(*_: Any) -> None:
        strategy.const = parts.max().item()
        strategy.dist_mat = (strategy.const - parts).numpy()

    strategy.compute_score = given_distances
    picked, _ = strategy.select(int(torch.isin(ours, members).sum()), None)
    return members[torch.tensor(picked)]


def _scores_of_squares(material: Material) -> Tensor:
    """Return the scores of our CRAIG with squared distances."""

    def squared(points: Any, similarity: Any, *rest: Any) -> Tensor:
        return original(points, lambda distances, farthest: farthest**2 - distances**2, *rest)

    module = import_module("prunetune.scorers.craig")
    original = module.facility_location
    with mock.patch.object(module, "facility_location", squared):
        return our_scores(Craig(), material)


def _squares(material: Material, subset: Tensor) -> float:
    """Return the sum over images of the squared distance to the nearest kept image of their class, in float64."""
    total = 0.0
    for members in class_members(material.labels):
        everyone = torch.arange(len(members))
        distances = GradientPoints(_gradients(material, members), "euclidean").block(everyone, everyone)
        total += float(distances.fill_diagonal_(0).square()[:, torch.isin(members, subset)].min(dim=1).values.sum())
    return total


def _gradmatch_rows(solvers: Any, name: str, material: Material) -> Iterator[Row]:
    scores = our_scores(GradMatch(ridge=RIDGE, growth=0.0), material)
    for ratio in RATIOS:
        ours = kept(scores, material, ratio, True)
        picks = []
        for members in class_members(material.labels):
            gradients = _flat(_gradients(material, members))
            count = int(torch.isin(ours, members).sum())
            weights = solvers.OrthogonalMP_REG_Parallel_V1(
                gradients.T, gradients.sum(0), nnz=count, positive=True, lam=RIDGE
            )
            picks.append(members[torch.nonzero(weights).flatten()])
        theirs = torch.cat(picks).sort().values
        yield compare(name, True, ratio, theirs, ours, Remarks(FIRST, PURSUIT))
