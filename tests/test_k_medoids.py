"""k-medoids: BUILD and SWAP against slow references that compute whole sums, written from the papers."""

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.data.pool import Pool
from prunetune.runs.scores import check_fit
from prunetune.samplers import TopK
from prunetune.scorers import KMedoids
from prunetune.selection import medoids as module
from prunetune.selection.medoids import swapped
from prunetune.selection.neighbours import Points
from prunetune.signals.tensors import TensorSignals

SIZES = (17, 1, 40, 9)


def made(size: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, width, generator=stream("medoids", size, seed))


def gaps(features: torch.Tensor) -> torch.Tensor:
    """Return all distances, computed from differences."""
    return (features.double().unsqueeze(1) - features.double()).norm(dim=2)


def loss(distances: torch.Tensor, kept: list[int]) -> float:
    """Return the sum over images of the distance to the nearest kept image."""
    return distances[:, kept].min(dim=1).values.sum().item()


def build(distances: torch.Tensor, count: int) -> list[int]:
    """BUILD of Kaufman and Rousseeuw: each pick is the image with which the loss is smallest."""
    picks: list[int] = []
    for _ in range(count):
        rest = [i for i in range(len(distances)) if i not in picks]
        picks.append(min(rest, key=lambda i: (round(loss(distances, [*picks, i]), 9), i)))
    return picks


def exchanges(size: int, kept: list[int]) -> list[list[int]]:
    """Return every set in which one kept image is exchanged for another one."""
    others = [i for i in range(size) if i not in kept]
    return [[*kept[:place], other, *kept[place + 1 :]] for place in range(len(kept)) for other in others]


def swap(distances: torch.Tensor, kept: list[int]) -> list[int]:
    """SWAP of FasterPAM: try the images in their order, and take the best exchange of each if it lowers the loss."""
    is_better = True
    while is_better:
        is_better = False
        for other in range(len(distances)):
            if other in kept:
                continue
            sets = [[*kept[:place], other, *kept[place + 1 :]] for place in range(len(kept))]
            best = min(sets, key=lambda kept: round(loss(distances, kept), 9))
            if loss(distances, best) < loss(distances, kept) - 1e-9:
                kept, is_better = best, True
    return kept


def made_pool() -> tuple[Pool, torch.Tensor]:
    labels = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    labels = labels[torch.randperm(len(labels), generator=stream("labels"))]
    ids = tuple(f"image{i:03d}" for i in range(len(labels)))
    return Pool("made", labels, ids, ("train",) * len(labels), tuple("abcd")), made(len(labels))


def kept_by(scorer: KMedoids, ratio: float) -> torch.Tensor:
    pool, features = made_pool()
    scores = scorer.score(pool, TensorSignals(features, pool=pool), torch.Generator())
    return TopK().select(scores, pool.labels, ratio, torch.Generator())


def test_without_a_fraction_the_scores_are_the_order_of_build():
    pool, features = made_pool()
    scores = KMedoids().score(pool, TensorSignals(features, pool=pool), torch.Generator())
    for label, size in enumerate(SIZES):
        own = pool.labels == label
        order = scores[own].argsort(descending=True).tolist()
        assert order[:12] == build(gaps(features[own]), min(size, 12))
        assert scores[own].sort().values.tolist() == pytest.approx([(i + 1) / size for i in range(size)])


@pytest.mark.parametrize("max_dense", [4096, 1])
@pytest.mark.parametrize("count", [1, 2, 5, 19, 20])
@pytest.mark.parametrize("start", ["build", "first"])
def test_swap_exchanges_what_the_slow_reference_exchanges(count, start, max_dense):
    features = made(20)
    distances = gaps(features)
    before = build(distances, count) if start == "build" else list(range(count))
    found = swapped(Points(features), torch.tensor(before), max_dense).tolist()
    assert found == swap(distances, before)
    assert all(loss(distances, other) >= loss(distances, found) - 1e-9 for other in exchanges(20, found))
    if start == "first" and count in (1, 2, 5):
        assert loss(distances, found) < loss(distances, before)


def test_swap_improves_what_build_began():
    gains = []
    for seed in range(6):
        features = made(30, 2, seed)
        distances = gaps(features)
        before = build(distances, 4)
        gains.append(
            loss(distances, before) - loss(distances, swapped(Points(features), torch.tensor(before)).tolist())
        )
    assert min(gains) >= 0
    assert max(gains) > 0.1


def test_copies_do_not_replace_each_other():
    features = torch.eye(4)[[2, 0, 2, 1, 0, 3, 2]]
    for max_dense in (10, 1):
        assert swapped(Points(features), torch.tensor([4, 6]), max_dense).tolist() == [4, 6]
        assert swapped(Points(torch.ones(5, 3)), torch.tensor([3]), max_dense).tolist() == [3]


def test_distances_in_blocks_give_the_same_medoids(monkeypatch):
    features, before = made(90), torch.arange(12)
    whole = swapped(Points(features), before)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 200)
    assert torch.equal(whole, swapped(Points(features), before, max_dense=1))


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 1.0])
def test_with_a_fraction_no_exchange_in_a_class_lowers_the_sum(fraction):
    pool, features = made_pool()
    subset = kept_by(KMedoids(fraction), fraction)
    for label, size in enumerate(SIZES):
        members = torch.nonzero(pool.labels == label).flatten()
        kept = torch.nonzero(torch.isin(members, subset)).flatten().tolist()
        assert len(kept) == max(1, round(size * fraction))
        distances = gaps(features[members])
        assert all(loss(distances, other) >= loss(distances, kept) - 1e-9 for other in exchanges(size, kept))


def test_a_budget_that_is_rounded_up_gets_the_next_pick_of_build():
    # half_even keeps 4 of 40 and 1 of 9 at 0.11; whoever keeps one more gets an image that BUILD has picked.
    pool, features = made_pool()
    scores = KMedoids(0.11).score(pool, TensorSignals(features, pool=pool), torch.Generator())
    for label, size in enumerate(SIZES):
        assert int((scores[pool.labels == label] > 0).sum()) == min(size, int(size * 0.11) + 1)


def test_the_fraction_must_be_the_ratio():
    check_fit(KMedoids(), TopK(), 0.3)
    check_fit(KMedoids(0.1), TopK(), 0.1)
    check_fit(KMedoids(0.1), TopK(), 1.0)
    with pytest.raises(InputError, match=r"k_medoids selects for scorer\.fraction=0\.1, the ratio is 0\.3; make them"):
        check_fit(KMedoids(0.1), TopK(), 0.3)
    for sampler in (TopK(budgets="equal"), TopK(min_per_class=3)):
        with pytest.raises(InputError, match=r"scorer\.fraction=0\.1 of each class.*pass sampler\."):
            check_fit(KMedoids(0.1), sampler, 0.1)
    for bad in (0, 1.5, "half"):
        with pytest.raises(
            InputError, match=r"scorer\.fraction is the ratio that SWAP improves and must be in \(0, 1\]"
        ):
            KMedoids(bad)
