"""Nearest neighbours against sorting all distances, ties, and the recall of the inverted file."""

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.selection import neighbours
from prunetune.selection.gradient_geometry import GradientPoints
from prunetune.selection.last_layer_gradients import LastLayerGradients, logit_gradients
from prunetune.selection.neighbours import METRICS, Points, nearest, nearest_in


def made(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=stream("points", *shape))


def all_distances(features: torch.Tensor, metric: str) -> torch.Tensor:
    """Return all distances [N, N] in float64, computed by a slow reference."""
    features = features.double()
    if metric == "cosine":
        unit = features / features.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return 1 - unit @ unit.T
    return (features.unsqueeze(1) - features).norm(dim=2)


def slow(distances: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    distances = distances.clone().fill_diagonal_(torch.inf)
    values, order = distances.sort(dim=1, stable=True)
    k = min(k, len(distances) - 1)
    return values[:, :k], order[:, :k]


def recall(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return (found.unsqueeze(2) == wanted.unsqueeze(1)).any(2).double().mean().item()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("size", "width", "k"), [(401, 17, 10), (7, 3, 20), (2, 5, 1), (90, 2, 60)])
def test_the_nearest_are_those_of_sorting_all_distances(size, width, k, metric):
    features = made(size, width) + 5
    found = nearest(features, k, metric)
    distances, indices = slow(all_distances(features, metric), k)
    assert found.distances.dtype == torch.float32
    assert torch.equal(found.indices, indices)
    assert torch.allclose(found.distances.double(), distances, rtol=1e-5, atol=1e-8)


def test_nearest_by_hand():
    found = nearest(torch.tensor([[0.0], [1], [3], [10]]), 2)
    assert found.indices.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert found.distances.flatten().tolist() == pytest.approx([1, 3, 1, 2, 2, 3, 7, 9])


def test_equal_distances_go_to_the_smaller_index_however_many_there_are():
    # There are 20 copies of each row, which is more than the number of candidates measured again.
    features = made(30, 8).repeat(20, 1)
    found = nearest(features, 10)
    assert found.distances.max() == 0
    copies = [[j for j in range(i % 30, 600, 30) if j != i][:10] for i in range(600)]
    assert found.indices.tolist() == copies


def test_images_far_from_the_origin_are_told_apart():
    features = made(200, 6) * 1e-2 + 100
    _, indices = slow(all_distances(features, "euclidean"), 5)
    assert torch.equal(nearest(features, 5).indices, indices)


@pytest.mark.parametrize("kind", ["points", "gradients"])
def test_one_long_row_does_not_make_all_others_look_alike(kind, monkeypatch):
    looks = []
    real = neighbours._ranked
    monkeypatch.setattr(neighbours, "_ranked", lambda *args: looks.append(args) or real(*args))
    features, scale = made(600, 12), torch.ones(600, 1)
    scale[5], scale[6:] = 300, 0.01
    if kind == "points":
        geometry, made_rows = Points(features * scale), features * scale
    else:
        deltas = made(600, 4) * scale
        geometry = GradientPoints(LastLayerGradients(deltas, features), "euclidean")
        inputs = torch.cat([torch.ones(600, 1), features], dim=1)
        made_rows = (deltas.unsqueeze(2) * inputs.unsqueeze(1)).flatten(1)
    found = nearest_in(geometry, 10)
    distances, _ = slow(all_distances(made_rows, "euclidean"), 10)
    assert torch.allclose(found.distances.double(), distances, rtol=1e-4)
    assert len(looks) < 10


def test_neighbours_do_not_depend_on_the_size_of_chunks(monkeypatch):
    features = made(153, 9)
    whole = {metric: nearest(features, 6, metric) for metric in METRICS}
    monkeypatch.setattr(neighbours, "NUMBERS_AT_ONCE", 400)
    for metric in METRICS:
        parts = nearest(features, 6, metric)
        assert torch.equal(parts.indices, whole[metric].indices)
        assert torch.equal(parts.distances, whole[metric].distances)


def test_no_chunk_of_distances_is_larger_than_it_may_be(monkeypatch):
    class Watched(Points):
        rows = 0

        def closeness(self, rows):
            Watched.rows = max(Watched.rows, len(rows))
            return super().closeness(rows)

    monkeypatch.setattr(neighbours, "NUMBERS_AT_ONCE", 1000)
    nearest_in(Watched(made(100, 4)), 3)
    assert Watched.rows == 10


def test_a_row_of_zeros_has_the_cosine_zero():
    features = torch.tensor([[0.0, 0], [2, 0], [-1, 0], [3, 0]])
    found = nearest(features, 3, "cosine")
    assert found.indices.tolist() == [[1, 2, 3], [3, 0, 2], [0, 1, 3], [1, 0, 2]]
    assert found.distances.tolist() == [[1, 1, 1], [0, 1, 2], [1, 2, 2], [0, 1, 2]]
    assert Points(features, "cosine").block(torch.arange(4), torch.tensor([0, 1])).tolist() == [
        [1, 1],
        [1, 0],
        [1, 2],
        [1, 0],
    ]


def test_one_image_has_no_neighbours():
    found = nearest(made(1, 4), 3)
    assert (found.distances.shape, found.indices.shape) == ((1, 0), (1, 0))


@pytest.mark.parametrize("metric", METRICS)
def test_the_inverted_file_finds_most_neighbours_and_true_distances(metric, monkeypatch):
    monkeypatch.setattr(neighbours, "CELL", 50)
    monkeypatch.setattr(neighbours, "PROBES", 8)
    centres = 2 * made(40, 16)
    features = made(3001, 16) + centres[torch.arange(3001) % 40] + 3
    wanted, found = nearest(features, 10, metric, exact=True), nearest(features, 10, metric, exact=False)
    assert recall(found.indices, wanted.indices) > 0.98
    truth = all_distances(features, metric).gather(1, found.indices)
    assert torch.allclose(found.distances.double(), truth, rtol=1e-4, atol=1e-7)
    assert (found.distances[:, 1:] >= found.distances[:, :-1]).all()
    assert (found.indices != torch.arange(3001).unsqueeze(1)).all()
    assert all(len(set(row)) == 10 for row in found.indices.tolist())


def test_the_inverted_file_looks_at_a_part_of_the_pool(monkeypatch):
    monkeypatch.setattr(neighbours, "CELL", 50)
    monkeypatch.setattr(neighbours, "PROBES", 4)
    sizes = []
    real = neighbours._search
    monkeypatch.setattr(neighbours, "_search", lambda space, *a: sizes.append(space.size) or real(space, *a))
    nearest(made(2000, 8), 5, exact=False)
    assert len(sizes) > 30
    assert max(sizes) < 1000


def test_the_inverted_file_searches_more_cells_where_few_images_are_near(monkeypatch):
    monkeypatch.setattr(neighbours, "CELL", 5)
    monkeypatch.setattr(neighbours, "PROBES", 1)
    features = made(200, 3)
    found = nearest(features, 50, exact=False)
    assert found.indices.shape == (200, 50)
    assert recall(found.indices, nearest(features, 50).indices) > 0.8


def test_a_large_pool_is_searched_by_inverted_file(monkeypatch):
    def refuse(*args):
        raise AssertionError("searched")

    monkeypatch.setattr(neighbours, "_inverted_file", refuse)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 100)
    nearest(made(100, 3), 2)
    nearest(made(101, 3), 2, exact=True)
    with pytest.raises(AssertionError, match="searched"):
        nearest(made(101, 3), 2)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_of_gradients_equal_those_of_explicit_gradients(metric):
    labels = torch.arange(61) % 4
    gradients = LastLayerGradients(logit_gradients(made(61, 4), labels), made(61, 5))
    gradients.deltas[7] = 0
    whole = torch.cat([gradients.deltas, (gradients.deltas.unsqueeze(2) * gradients.hidden.unsqueeze(1)).flatten(1)], 1)
    truth, points = all_distances(whole, metric), GradientPoints(gradients, metric)
    everyone = torch.arange(61)
    assert torch.allclose(points.block(everyone, everyone), truth, rtol=1e-4, atol=1e-5)
    found = nearest_in(points, 9)
    distances, indices = slow(truth, 9)
    assert torch.allclose(found.distances.double(), distances, rtol=1e-5, atol=1e-6)
    told_apart = torch.arange(61) != 7  # A gradient of zero has the cosine 0 to all others.
    assert torch.equal(found.indices[told_apart], indices[told_apart])


def test_gradients_that_nearly_coincide_have_small_and_symmetric_distances():
    deltas, hidden = made(20, 3).repeat(2, 1), 50 + made(20, 6).repeat(2, 1)
    hidden[20:, 0] += 1e-3
    points = GradientPoints(LastLayerGradients(deltas, hidden), "euclidean")
    found = points.distances(torch.arange(40), torch.cat([torch.arange(20, 40), torch.arange(20)]).unsqueeze(1))[:, 0]
    expected = deltas.double().norm(dim=1) * (hidden[20:, 0].double() - hidden[:20, 0].double()).repeat(2)
    assert torch.allclose(found.double(), expected, rtol=1e-2)
    assert torch.equal(found[:20], found[20:])


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_an_invalid_number_of_neighbours_is_refused(k):
    with pytest.raises(InputError, match="at least 1, got"):
        nearest(made(9, 2), k)


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match="euclidean, cosine, got 'dot'"):
        nearest(made(9, 2), 2, "dot")
