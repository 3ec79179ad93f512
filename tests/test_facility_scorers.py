"""Facility location, MaxHerding, CRAIG and the submodular functions: slow references, bounds and hand-made cases."""

from itertools import combinations

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.config import named
from prunetune.data.pool import Pool
from prunetune.samplers import TopK
from prunetune.scorers.craig import Craig, cell_sizes
from prunetune.scorers.facility_location import FacilityLocation, cosine_similarity
from prunetune.scorers.maxherding import MaxHerding, gaussian
from prunetune.scorers.picks import class_members
from prunetune.scorers.published.batches import batch_lengths
from prunetune.scorers.submodular import Submodular
from prunetune.selection import greedy
from prunetune.selection.gradient_geometry import GradientPoints
from prunetune.selection.greedy import facility_location, graph_cut, log_determinant
from prunetune.selection.last_layer_gradients import LastLayerGradients, logit_gradients, proxy_gradients
from prunetune.selection.neighbours import Points
from prunetune.signals.contract import Signals
from prunetune.signals.proxy import RecordedProxy
from prunetune.signals.tensors import TensorSignals

SIZES = (17, 1, 40, 9)  # These are the class sizes, 67 images in all.
WIDTH = 6
SCORERS = [
    FacilityLocation(),
    MaxHerding(),
    Craig(),
    Craig("deepcore", batch_size=16),
    *(Submodular(function, variant) for function in ("fl", "gc", "logdet") for variant in ("fixed", "deepcore")),
]
SPARSE = [
    FacilityLocation(5, 12),
    MaxHerding(0.5, 5, 12),
    Craig(neighbours=5, max_dense=12),
    *(Submodular(f, max_dense=12, neighbours=5) for f in ("fl", "gc", "logdet")),
]


def made(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=stream("facility", *shape))


def made_gradients(count: int, num_classes: int = 4, label: int | None = 0) -> LastLayerGradients:
    labels = torch.full((count,), label)
    return LastLayerGradients(logit_gradients(made(count, num_classes), labels), made(count, WIDTH)).double()


def made_pool(order: list[int] | None = None) -> tuple[Pool, Signals]:
    """Return a pool whose images are listed in some order, and its signals in the order of the pool."""
    labels = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    size = len(labels)
    labels = labels[torch.randperm(size, generator=stream("labels"))]
    order = list(range(size)) if order is None else order
    ids = tuple(f"image{i:03d}" for i in order)
    pool = Pool("made", labels[order], ids, ("train",) * size, tuple("abcd"))
    logits, features = made(2, size, len(SIZES)), made(size, WIDTH)
    proxy = RecordedProxy(logits, {2: features + 1})
    return pool, TensorSignals(features, pool=pool, proxies=[proxy])


def whole(gradients: LastLayerGradients) -> torch.Tensor:
    """Return the gradients as rows [n, C (D + 1)]."""
    products = gradients.deltas.unsqueeze(2) * gradients.hidden.unsqueeze(1)
    return torch.cat([gradients.deltas, products.flatten(1)], dim=1)


def half_cosines(gradients: LastLayerGradients) -> torch.Tensor:
    unit = torch.nn.functional.normalize(whole(gradients), dim=1)
    return (1 + unit @ unit.T) / 2


def cover(similarities: torch.Tensor, picks: list[int]) -> float:
    return similarities[:, picks].max(dim=1).values.sum().item()


def naive(value, size: int, count: int) -> list[int]:
    """Pick greedily by the value of the whole set, as a slow reference. Values within 1e-9 count as equal."""
    picks: list[int] = []
    for _ in range(count):
        rest = [i for i in range(size) if i not in picks]
        values = torch.tensor([value([*picks, i]) for i in rest], dtype=torch.float64)
        picks.append(rest[int((values >= values.max() - 1e-9).double().argmax())])
    return picks


def cosines(features: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return unit @ unit.T


def kernel_of(name: str, features: torch.Tensor):
    """Return the similarities [n, n] of a slow reference, the points and the similarity of the fast one."""
    if name == "cosine":
        return cosines(features).clamp_min(0), Points(features, "cosine"), cosine_similarity
    if name == "gaussian":
        unit = torch.nn.functional.normalize(features.double(), dim=1)
        gaps = (unit.unsqueeze(1) - unit).norm(dim=2)
        return torch.exp(-((gaps / 0.7) ** 2)), Points(features, "cosine"), gaussian(0.7)
    gaps = (features.double().unsqueeze(1) - features.double()).norm(dim=2)
    return gaps.max() - gaps, Points(features), lambda distances, farthest: farthest - distances


KERNELS = ("cosine", "gaussian", "distance")


@pytest.mark.parametrize("kernel", KERNELS)
def test_facility_location_picks_what_the_slow_reference_picks(kernel):
    similarities, points, similarity = kernel_of(kernel, made(31, 5))
    picks = facility_location(points, similarity, 12).tolist()
    reference = naive(lambda kept: cover(similarities, kept), 31, 12)
    assert picks == reference


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(4))
def test_greedy_facility_location_is_within_its_bound_of_the_best_set(kernel, seed):
    features = torch.randn(11, 3, generator=stream("small", seed))
    similarities, points, similarity = kernel_of(kernel, features)
    for count in (2, 3, 4):
        best = max(cover(similarities, list(kept)) for kept in combinations(range(11), count))
        ours = cover(similarities, facility_location(points, similarity, count).tolist())
        assert (1 - 1 / torch.e) * best <= ours <= best + 1e-6


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_graph_with_all_neighbours_gives_the_picks_of_all_pairs(kernel):
    _, points, similarity = kernel_of(kernel, made(41, 5))
    everything = facility_location(points, similarity, 41)
    graph = facility_location(points, similarity, 41, neighbours=40, max_dense=1)
    assert sorted(everything.tolist()) == list(range(41))
    assert everything.tolist() == graph.tolist()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_graph_of_few_neighbours_covers_nearly_as_well_as_all_pairs(kernel):
    centres = 2 * made(9, 8)
    features = made(300, 8) + centres[torch.arange(300) % 9]
    similarities, points, similarity = kernel_of(kernel, features)
    for count in (9, 30, 90):
        dense = cover(similarities, facility_location(points, similarity, count).tolist())
        sparse = cover(similarities, facility_location(points, similarity, count, 40, max_dense=1).tolist())
        random = cover(similarities, torch.randperm(300, generator=stream("random"))[:count].tolist())
        assert (sparse - random) > 0.85 * (dense - random) > 0


def test_the_graph_keeps_the_gains_of_a_slow_reference():
    features = made(30, 4)
    points, k = Points(features, "cosine"), 6
    near = greedy.nearest_in(points, k)
    similarities = cosines(features)
    usual = similarities.clamp_min(0).mean(dim=1)
    covers = torch.zeros(30, 30, dtype=torch.bool)
    covers[torch.arange(30).unsqueeze(1), near.indices] = True
    covers |= torch.eye(30, dtype=torch.bool)
    known = torch.where(covers, similarities.clamp_min(0), 0)

    def value(kept: list[int]) -> float:
        return torch.maximum(usual, known[:, kept].max(dim=1).values).sum().item()

    reference = naive(value, 30, 15)
    assert facility_location(points, cosine_similarity, 15, neighbours=k, max_dense=1).tolist() == reference


def test_copies_are_picked_last_and_in_the_order_of_the_pool():
    # The third kind of image occurs three times, and the first kind twice.
    features = torch.eye(4)[[2, 0, 2, 1, 0, 3, 2]]
    for max_dense in (10, 1):
        picks = facility_location(Points(features, "cosine"), cosine_similarity, 7, 6, max_dense)
        assert picks.tolist() == [0, 1, 3, 5, 2, 4, 6]


def test_picks_do_not_depend_on_the_size_of_chunks(monkeypatch):
    features, gradients = made(90, 5), made_gradients(90)

    def picks() -> list[list[int]]:
        points = Points(features, "cosine")
        return [
            facility_location(points, cosine_similarity, 60).tolist(),
            facility_location(points, cosine_similarity, 60, 7, 1).tolist(),
            graph_cut(gradients, 2.0, 60).tolist(),
        ]

    before = picks()
    monkeypatch.setattr(greedy, "ROWS", 7)
    monkeypatch.setattr(greedy, "PERIOD", 5)
    assert picks() == before


@pytest.mark.parametrize("weight", [2.0, 1.0])
@pytest.mark.parametrize("period", [1, 7, 64])
def test_graph_cut_picks_what_the_slow_reference_picks(weight, period, monkeypatch):
    monkeypatch.setattr(greedy, "PERIOD", period)
    gradients = made_gradients(37)
    similarities = half_cosines(gradients)

    def value(kept: list[int]) -> float:
        rows = similarities[:, kept]
        return (weight * rows.sum() - rows[kept].sum()).item()

    reference = naive(value, 37, 20)
    assert graph_cut(gradients, weight, 20).tolist() == reference
    assert sorted(graph_cut(gradients, weight, 37).tolist()) == list(range(37))


def test_graph_cut_looks_at_the_images_at_the_top_only(monkeypatch):
    looked_at = []
    real = greedy._cut
    monkeypatch.setattr(greedy, "_cut", lambda unit, *rest: looked_at.append(len(unit)) or real(unit, *rest))
    monkeypatch.setattr(greedy, "PERIOD", 2)
    gradients = made_gradients(600)
    picks = graph_cut(gradients, 2.0, 20).tolist()
    assert max(looked_at) < 300
    monkeypatch.setattr(greedy, "PERIOD", 600)
    assert picks == graph_cut(gradients, 2.0, 20).tolist()


def test_log_determinant_gains_are_those_of_torch():
    gradients = made_gradients(23)
    kernel = half_cosines(gradients)

    def value(kept: list[int]) -> float:
        return torch.logdet(kernel[kept][:, kept] + 1e-6 * torch.eye(len(kept), dtype=torch.float64)).item()

    picks = log_determinant(gradients, 15).tolist()
    assert picks == naive(value, 23, 15)
    in_float32 = LastLayerGradients(gradients.deltas.float(), gradients.hidden.float())
    assert log_determinant(in_float32, 15).tolist()[:8] == picks[:8]


def test_log_determinant_looks_at_the_images_at_the_top_only(monkeypatch):
    made = []
    real = greedy._pivots
    monkeypatch.setattr(greedy, "_pivots", lambda *args: made.append(real(*args)) or made[-1])
    gradients = made_gradients(600)
    monkeypatch.setattr(greedy, "CANDIDATES", 1)
    one_by_one = log_determinant(gradients, 60).tolist()
    assert len(made) == 60
    for candidates, period in ((24, 64), (600, 7), (600, 600)):
        made.clear()
        monkeypatch.setattr(greedy, "CANDIDATES", candidates)
        monkeypatch.setattr(greedy, "PERIOD", period)
        assert log_determinant(gradients, 60).tolist() == one_by_one
        assert len(made) < 40


def test_log_determinant_with_the_wrong_sign_picks_the_most_redundant_image():
    gradients = made_gradients(19)
    kernel, picks = half_cosines(gradients), [0]
    for _ in range(7):
        explained = (kernel[:, picks] @ torch.linalg.pinv(kernel[picks][:, picks]) * kernel[:, picks]).sum(1)
        explained[picks] = -1
        picks.append(int(explained.argmax()))
    order = Submodular("logdet", "deepcore")
    assert order.order(gradients, 8).tolist() == picks
    assert Submodular("logdet", "deepcore", "lazy").order(gradients, 8).tolist() == list(range(8))
    assert order.order(gradients, 8).tolist() != Submodular("logdet").order(gradients, 8).tolist()


def test_log_determinant_continues_when_no_gain_is_left():
    gradients = made_gradients(5)
    copies = gradients.take(torch.arange(5).repeat(4))
    picks = log_determinant(copies, 20).tolist()
    assert sorted(picks) == list(range(20))
    assert sorted(picks[:5]) == list(range(5))


def test_a_gradient_of_zero_has_the_same_distance_to_every_other():
    gradients = made_gradients(12)
    gradients.deltas[3] = 0
    points = GradientPoints(gradients, "cosine")
    assert points.block(torch.tensor([3]), torch.arange(12)).tolist() == [[1.0] * 12]
    for scorer in (Submodular("fl"), Submodular("gc"), Submodular("logdet")):
        assert sorted(scorer.order(gradients, 12).tolist()) == list(range(12))


def test_submodular_facility_location_uses_half_of_one_plus_the_cosine():
    gradients = made_gradients(29)
    similarities = half_cosines(gradients)
    reference = naive(lambda kept: cover(similarities, kept), 29, 10)
    assert Submodular("fl").order(gradients, 10).tolist() == reference


def test_facility_location_by_hand():
    angles = torch.tensor([0.0, 10, 20, 90, 100, 250]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    pool = Pool("made", torch.zeros(6, dtype=torch.int64), tuple("abcdef"), ("train",) * 6, ("x",))
    scores = FacilityLocation().score(pool, TensorSignals(features), torch.Generator())
    # The order is the image in the middle of all, then the pair, then the distant one.
    assert scores.argsort(descending=True)[:3].tolist() == [2, 3, 5]
    assert scores.max() == 1
    assert scores.min() == pytest.approx(1 / 6)


@pytest.mark.parametrize("scorer", [*SCORERS, *SPARSE], ids=str)
def test_scores_are_pick_orders_of_each_class_whatever_the_listing_order(scorer):
    pool, signals = made_pool()
    scores = scorer.score(pool, signals, torch.Generator())
    assert scores.dtype == torch.float64
    for members in class_members(pool.labels):
        size = len(members)
        assert scores[members].sort().values.tolist() == pytest.approx([(i + 1) / size for i in range(size)])
    backwards = made_pool(list(reversed(range(len(pool)))))
    assert torch.equal(scores, scorer.score(*backwards, torch.Generator()))


@pytest.mark.parametrize("scorer", [*SCORERS, *SPARSE], ids=str)
def test_a_smaller_depth_is_a_prefix(scorer):
    pool, signals = made_pool()
    whole_order = scorer.score(pool, signals, torch.Generator())
    part = type(scorer)(**{**vars(scorer), "depth": 0.3}).score(pool, signals, torch.Generator())
    assert 0 < int((part > 0).sum()) < len(pool)
    assert torch.equal(part[part > 0], whole_order[part > 0])
    assert (
        TopK().select(part, pool.labels, 0.3, None).tolist()
        == TopK().select(whole_order, pool.labels, 0.3, None).tolist()
    )


@pytest.mark.parametrize(("variant", "per_image"), [("fixed", 0), ("deepcore", 1)])
@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0])
def test_craigs_weights_are_the_sizes_of_cells(variant, per_image, ratio):
    pool, signals = made_pool()
    scorer = Craig(variant, batch_size=16)
    subset = TopK().select(scorer.score(pool, signals, torch.Generator()), pool.labels, ratio, torch.Generator())
    weights = scorer.weights(pool, signals, subset)
    assert weights.dtype == torch.float64
    for label, size in enumerate(SIZES):
        kept = subset[pool.labels[subset] == label]
        assert weights[pool.labels[subset] == label].sum() == size + per_image * len(kept)
        members = torch.nonzero(pool.labels == label).flatten()
        gradients = proxy_gradients(signals.proxy(), pool.labels, positions=members)
        if variant == "deepcore":
            gradients = gradients.scaled(1 / batch_lengths(size, 16))
        g = whole(gradients).double()
        owners = torch.cdist(g, g[torch.isin(members, kept)]).argmin(1)
        cells = torch.bincount(owners, minlength=len(kept)).double() + per_image
        assert weights[pool.labels[subset] == label].tolist() == cells.tolist()


def test_a_class_without_kept_images_has_no_weights_and_copies_have_their_own_cell():
    pool, signals = made_pool()
    subset = torch.nonzero(pool.labels == 2).flatten()[[3, 8]]
    assert Craig().weights(pool, signals, subset).sum() == 40
    points = Points(torch.tensor([[0.0], [0], [5], [1]]))
    assert cell_sizes(points, torch.tensor([0, 1, 2])).tolist() == [2, 1, 1]
    assert cell_sizes(points, torch.tensor([0, 1, 2]), keeps_own=False).tolist() == [3, 0, 1]


def test_deepcores_craig_inflates_the_gradients_of_a_short_last_batch():
    pool, signals = made_pool()
    plain, inflated, one_batch = (
        Craig(variant, batch_size=size).score(pool, signals, torch.Generator())
        for variant, size in (("fixed", 16), ("deepcore", 39), ("deepcore", 256))
    )
    assert not torch.equal(plain, inflated)
    # This class fits into one batch, so the picks agree but for the constant that DeepCore adds.
    small = pool.labels == 0
    assert torch.equal(plain[small], one_batch[small])


@pytest.mark.parametrize("name", [name for name in named.SCORERS if name.startswith("submodular")])
def test_the_name_of_a_submodular_scorer_has_its_function_and_variant(name):
    scorer = named.SCORERS[name]
    words = name.split("_")
    assert scorer.function == words[1]
    assert scorer.variant == (words[2] if len(words) == 3 else "fixed")
    assert scorer.greedy == ("lazy" if name == "submodular_logdet_deepcore" else "naive")


@pytest.mark.parametrize(
    ("scorer", "options", "message"),
    [
        (FacilityLocation, {"neighbours": 0}, r"scorer\.neighbours must be a whole number"),
        (FacilityLocation, {"max_dense": 1.5}, r"scorer\.max_dense must be a whole number"),
        (MaxHerding, {"bandwidth": 0}, "bandwidth must be a number above 0, got 0"),
        (MaxHerding, {"bandwidth": "wide"}, "bandwidth must be a number above 0, got 'wide'"),
        (MaxHerding, {"depth": 0}, r"scorer\.depth"),
        (Craig, {"variant": "released"}, "one of fixed, deepcore, got 'released'"),
        (Craig, {"batch_size": 0}, "at least 1, got 0"),
        (Submodular, {"function": "cut"}, "fl, gc, logdet, got 'cut'"),
        (Submodular, {"greedy": "eager"}, "naive, lazy, got 'eager'"),
        (Submodular, {"depth": 2}, r"scorer\.depth"),
    ],
)
def test_a_setting_that_a_scorer_does_not_know_is_refused(scorer, options, message):
    with pytest.raises(InputError, match=message):
        scorer(**options)
