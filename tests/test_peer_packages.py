"""Facility location picks what apricot-select and submodlib-py pick; each test skips where its package is missing."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prunetune.selection.greedy import facility_location
from prunetune.selection.neighbours import Points

COUNT = 40


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """Return 300 images of digits, [300, 64] float32; their squared distances are whole numbers."""
    return torch.from_numpy(load_digits().data[:300]).float()


@pytest.mark.slow  # apricot compiles its functions first, which takes most of the time.
def test_squared_distances_give_the_ranking_of_apricot(digits):
    apricot = pytest.importorskip("apricot", reason="needs apricot-select, of the extra parity")
    theirs = apricot.FacilityLocationSelection(COUNT, "euclidean", optimizer="naive").fit(digits.double().numpy())
    ours = facility_location(Points(digits), lambda distances, farthest: farthest**2 - distances**2, COUNT)
    # Whole numbers have exact ties, which apricot breaks as we do only by chance: the gains must be the same.
    assert gains(digits, ours) == gains(digits, torch.from_numpy(np.asarray(theirs.ranking)).long())
    assert len(set(ours.tolist()) ^ set(theirs.ranking.tolist())) <= 2


def gains(digits: torch.Tensor, ranking: torch.Tensor) -> list[int]:
    """Return what each pick adds to the sum over images of the similarity to the nearest pick."""
    squares = torch.cdist(digits.double(), digits.double()).square().round()
    covered = (squares.max() - squares[:, ranking]).cummax(dim=1).values.sum(dim=0)
    return covered.diff(prepend=covered.new_zeros(1)).tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # submodlib imports from old places of SciPy.
def test_cosines_give_the_picks_of_submodlib(digits):
    submodlib = pytest.importorskip("submodlib", reason="needs submodlib-py, of the extra parity")
    directions = torch.nn.functional.normalize(digits.double(), dim=1)
    cosines = (directions @ directions.T).numpy()
    function = submodlib.FacilityLocationFunction(n=len(digits), mode="dense", sijs=cosines, separate_rep=False)
    theirs = function.maximize(
        budget=COUNT, optimizer="NaiveGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, verbose=False
    )
    ours = facility_location(Points(digits, "cosine"), lambda distances, farthest: 1 - distances, COUNT)
    assert ours.tolist() == [image for image, _ in theirs]
