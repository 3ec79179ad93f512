"""Last-layer gradients, and the scorers that read them: GradMatch, GLISTER, CAL; DeepFool reads those of the input."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.data.pool import Pool
from prunetune.scorers import deepfool as deepfool_module
from prunetune.scorers import gradmatch as gradmatch_module
from prunetune.scorers.cal import CAL, mean_divergence
from prunetune.scorers.deepfool import DeepFool, perturbation_lengths
from prunetune.scorers.glister import Glister, gradient_after, order_greedily
from prunetune.scorers.gradmatch import GradMatch, matching_weights, pursue
from prunetune.scorers.published.batches import batch_lengths
from prunetune.scorers.published.gradmatch import deepcore_weights
from prunetune.selection import last_layer_gradients as gradients_module
from prunetune.selection.last_layer_gradients import LastLayerGradients, logit_gradients, proxy_gradients
from prunetune.signals.contract import Signals
from prunetune.signals.proxy import RecordedProxy
from prunetune.signals.tensors import TensorSignals

SIZES = (13, 1, 8, 5)  # These are the class sizes.


def made_gradients(count: int = 37, classes: int = 4, width: int = 6, label: int = 1, spread: float = 2.0):
    generator = stream("gradients", count, classes, width)
    logits = spread * torch.randn(count, classes, generator=generator)
    hidden = torch.randn(count, width, generator=generator) + 0.3
    return LastLayerGradients(logit_gradients(logits, torch.full((count,), label)), hidden)


def in_full(gradients: LastLayerGradients) -> Tensor:
    """Return every gradient as a row [n, C (D + 1)], matrix by matrix as the module lays them out."""
    with_one = torch.cat([torch.ones(len(gradients), 1), gradients.hidden], dim=1).double()
    return (gradients.deltas.double().unsqueeze(2) * with_one.unsqueeze(1)).flatten(1)


def made_case(num_epochs: int = 2) -> tuple[Pool, Signals, RecordedProxy]:
    """Return a pool of four unequal classes and a proxy whose logits follow from its features."""
    generator = stream("case")
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    hidden = torch.randn(len(labels), 5, generator=generator)
    weight, bias = torch.randn(4, 5, generator=generator), torch.randn(4, generator=generator)
    logits = hidden @ weight.T + bias
    ids = tuple(f"{i:02d}" for i in range(len(labels)))
    pool = Pool("case", labels, ids, ("train",) * len(labels), tuple("abcd"))
    proxy = RecordedProxy(
        [torch.randn(len(labels), 4, generator=generator), logits][-num_epochs:],
        {num_epochs: hidden},
        {num_epochs: (weight, bias)},
    )
    return pool, TensorSignals(hidden + 100, pool=pool, proxies=[proxy]), proxy


def order_of(scores: Tensor, members: Tensor) -> list[int]:
    """Return the picks of a class in their order. In these scores 0 means not picked."""
    own = scores[members]
    return members[own.argsort(descending=True, stable=True)][: int((own > 0).sum())].tolist()


def test_products_of_the_factors_are_those_of_the_whole_gradients(monkeypatch):
    monkeypatch.setattr(gradients_module, "ROWS", 5)  # The 37 images are seven chunks and two further images.
    gradients, others = made_gradients().double(), made_gradients(11).double()
    whole, other = in_full(gradients), in_full(others)
    matrix = torch.randn(4, 7, generator=stream("matrix"), dtype=torch.float64)
    weights = torch.rand(37, generator=stream("weights"), dtype=torch.float64)
    assert torch.allclose(gradients.inner(others), whole @ other.T)
    assert torch.allclose(gradients.squared_distances(others), torch.cdist(whole, other) ** 2)
    assert torch.allclose(gradients.norms(), whole.norm(dim=1))
    assert torch.allclose(gradients.dot(matrix), whole @ matrix.flatten())
    assert torch.allclose(gradients.mean().flatten(), whole.mean(0))
    assert torch.allclose(gradients.weighted_sum(weights).flatten(), weights @ whole)
    assert torch.allclose(gradients.scaled(weights).norms(), weights * whole.norm(dim=1))
    assert gradients.dot(matrix).shape == (37,)


def test_the_factors_in_float32_give_what_autograd_gives():
    layer, hidden = nn.Linear(3, 4), torch.randn(6, 3, generator=stream("hidden"))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    gradients = LastLayerGradients(logit_gradients(layer(hidden).detach(), labels), hidden)
    for i in range(6):
        layer.zero_grad()
        nn.functional.cross_entropy(layer(hidden[i : i + 1]), labels[i : i + 1]).backward()
        expected = torch.cat([layer.bias.grad.unsqueeze(1), layer.weight.grad], dim=1)
        assert torch.allclose(gradients.take(torch.tensor([i])).weighted_sum().float(), expected, atol=1e-6)


def test_the_gradient_of_a_confident_prediction_keeps_its_digits():
    # The probability p_1 is 2.0611536e-9, which float32 cannot compute as 1 - p_0.
    logits = torch.tensor([[20.0, 0.0]])
    deltas = logit_gradients(logits, torch.tensor([0]))
    assert deltas.dtype == torch.float32
    assert deltas[0].tolist() == pytest.approx([-2.0611536e-9, 2.0611536e-9], rel=1e-6)


def test_an_empty_set_has_no_gradients():
    nothing = made_gradients().take(torch.empty(0, dtype=torch.int64))
    assert nothing.norms().shape == (0,)
    assert nothing.weighted_sum().eq(0).all()


def test_the_last_batch_of_deepcore_may_be_shorter():
    assert batch_lengths(10, 4).tolist() == [4] * 8 + [2] * 2
    assert batch_lengths(8, 4).tolist() == [4] * 8
    assert batch_lengths(3, 256).tolist() == [3] * 3


def test_gradients_of_a_proxy_are_those_of_the_epoch_that_was_asked_for():
    pool, _, proxy = made_case()
    positions = torch.tensor([3, 20])
    some = proxy_gradients(proxy, pool.labels, positions=positions)
    expected = logit_gradients(proxy.logits(2), pool.labels)[positions]
    assert torch.allclose(some.deltas, expected)
    assert torch.equal(some.hidden, proxy.features(2)[positions])
    with pytest.raises(InputError, match="kept features of epochs 2"):
        proxy_gradients(proxy, pool.labels, epoch=1)


# GradMatch


def pursue_slowly(rows: Tensor, target: Tensor, count: int, ridge: float) -> tuple[list[int], np.ndarray]:
    """Non-negative orthogonal matching pursuit that solves the non-negative least squares again at every step."""
    rows, target = rows.numpy(), target.numpy()
    order, weights = [], np.zeros(0)
    while len(order) < count:
        correlations = rows @ (target - weights @ rows[order])
        correlations[order] = -np.inf
        best = int(correlations.argmax())
        if not correlations[best] > 0:
            rest = np.argsort(-correlations, kind="stable")[: count - len(order)]
            return order + rest.tolist(), np.concatenate([weights, np.zeros(len(rest))])
        order.append(best)
        system = np.vstack([rows[order].T, np.sqrt(ridge) * np.eye(len(order))])
        weights = nnls(system, np.concatenate([target, np.zeros(len(order))]), maxiter=10_000)[0]
    return order, weights


@pytest.mark.parametrize("columns", [2**25, 0], ids=["kept columns", "factors only"])
@pytest.mark.parametrize("target", ["mean", "another"])
@pytest.mark.parametrize("shape", [(37, 4, 6), (45, 3, 3), (80, 5, 16), (1, 3, 2)])
def test_gradmatch_is_matching_pursuit_with_fresh_non_negative_fits(shape, target, columns, monkeypatch):
    monkeypatch.setattr(gradmatch_module, "COLUMNS", columns)
    gradients = made_gradients(*shape, spread=4.0)
    goal = gradients.mean()
    # Most images point away from this goal, so weights fall to 0 and some images are never picked.
    if target == "another":
        goal = torch.randn(goal.shape, generator=stream("goal"), dtype=torch.float64)
    expected, expected_weights = pursue_slowly(in_full(gradients), goal.flatten(), shape[0], 0.05)
    order, weights = pursue(gradients, goal, shape[0], 0.05)
    assert order.tolist() == expected
    assert torch.allclose(weights, torch.from_numpy(expected_weights), atol=1e-6)
    assert bool((weights >= 0).all())
    if target == "another" and shape[0] > 1:
        assert bool((weights == 0).any())


def test_a_pick_that_fell_to_zero_comes_back_when_the_residual_asks_for_it():
    fit = gradmatch_module._RidgeFit(3, 0.1)
    gradients = LastLayerGradients(torch.tensor([[1.0, 0.9], [1.0, 1.0], [-0.2, 1.0]]), torch.zeros(3, 1))
    goal = torch.zeros(2, 2, dtype=torch.float64)
    goal[:, 0] = torch.tensor([1.0, 0.0])
    picks = gradmatch_module._Columns(gradients, goal, 3)
    for image in range(3):
        fit.extend(*picks.add(torch.tensor([image])))
        gradmatch_module._settle(fit, picks)
    rows, expected = in_full(gradients).numpy(), np.zeros(3)
    system = np.vstack([rows.T, np.sqrt(0.1) * np.eye(3)])
    expected = nnls(system, np.concatenate([goal.flatten().numpy(), np.zeros(3)]))[0]
    assert np.allclose(fit.weights.numpy(), expected)
    fit.hold(torch.tensor([0]))
    assert fit.weights[0] == 0
    gradmatch_module._settle(fit, picks)
    assert np.allclose(fit.weights.numpy(), expected), "image 0 was held at 0 and should be free again"


def test_gradmatchs_error_falls_with_every_pick_and_a_budget_is_a_prefix():
    gradients = made_gradients(60, 4, 12)
    goal, order = gradients.mean(), pursue(gradients, gradients.mean(), 60, 0.5)[0]
    errors = []
    for count in range(1, 41):
        picks, weights = pursue(gradients, goal, count, 0.5)
        assert torch.equal(picks, order[:count])
        residual = goal - gradients.take(picks).weighted_sum(weights)
        errors.append(float(residual.square().sum() + 0.5 * weights.square().sum()))
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))
    shuffled = torch.randperm(60, generator=stream("random subset"))[:20]
    chosen = gradients.take(order[:20]).mean() - goal
    assert chosen.norm() < 2 * (gradients.take(shuffled).mean() - goal).norm()
    assert sorted(order.tolist()) == list(range(60))


def test_the_updated_inverse_stays_accurate_over_many_picks():
    gradients = made_gradients(400, 5, 30, spread=1.0)
    order, weights = pursue(gradients, gradients.mean(), 300, 0.5)
    picked = gradients.take(order).double()
    # The slopes are those of the squared error, halved and negated.
    slopes = picked.dot(gradients.mean() - picked.weighted_sum(weights))
    assert torch.allclose(slopes[weights > 0], 0.5 * weights[weights > 0], atol=1e-9)
    assert bool((slopes[weights == 0] <= 1e-9).all())


def test_gradmatchs_weights_are_positive_and_stand_for_the_whole_class():
    gradients = made_gradients(50, 4, 6, spread=1.0)
    kept = pursue(gradients, gradients.mean(), 20, 0.5)[0].sort().values
    weights = matching_weights(gradients, kept, 0.5)
    assert bool((weights > 0).all())
    gap = gradients.take(kept).weighted_sum(weights) - gradients.weighted_sum()
    assert gap.norm() < 0.2 * gradients.weighted_sum().norm()
    away = LastLayerGradients(torch.tensor([[1.0], [-1.0], [0.9]]), torch.zeros(3, 1))
    weights = matching_weights(away, torch.tensor([0, 1]), 0.5)  # The gradient of image 1 points away from the mean.
    assert weights[0] > 0
    assert weights[1] == pytest.approx(1e-3 * float(weights[0]) / 2)
    nothing = LastLayerGradients(torch.zeros(3, 2), torch.zeros(3, 1))
    assert matching_weights(nothing, torch.tensor([0, 2]), 0.5).tolist() == [1, 1]


def pursue_as_deepcore(rows: Tensor, target: Tensor, count: int) -> list[int]:
    """Signed matching pursuit with ridge 1, whose first fit alone has none."""
    order, residual = [], target.clone()
    for _ in range(count):
        correlations = rows @ residual
        correlations[order] = -torch.inf
        order.append(int(correlations.argmax()))
        picked = rows[order]
        if len(order) == 1:
            weights = picked @ target / picked.square().sum()
        else:
            weights = torch.linalg.solve(picked @ picked.T + torch.eye(len(order)).double(), picked @ target)
        residual = target - weights @ picked
    return order


@pytest.mark.parametrize("columns", [2**25, 0], ids=["kept columns", "factors only"])
def test_gradmatch_deepcore_is_signed_and_its_first_fit_has_no_ridge(columns, monkeypatch):
    monkeypatch.setattr(gradmatch_module, "COLUMNS", columns)
    # The gradients are large, so that some weights become negative.
    gradients = made_gradients(41, 3, 12, spread=6.0).scaled(torch.full((41,), 30.0))
    rows = in_full(gradients)
    order, _ = pursue(gradients, gradients.mean(), 30, 1.0, is_nonnegative=False)
    assert order.tolist() == pursue_as_deepcore(rows, rows.mean(0), 30)
    assert order.tolist() != pursue(gradients, gradients.mean(), 30, 1.0)[0].tolist()


def test_deepcores_weights_are_zero_for_what_it_drops():
    gradients = made_gradients(41, 3, 12).scaled(torch.full((41,), 5.0))
    kept = pursue(gradients, gradients.mean(), 30, 1.0, is_nonnegative=False)[0].sort().values
    weights = deepcore_weights(gradients, kept, 1.0)
    rows = in_full(gradients)
    normal = rows[kept] @ rows[kept].T + torch.eye(30)
    expected = nnls(normal.numpy(), (rows[kept] @ rows.mean(0)).numpy())[0]
    assert np.allclose(weights.numpy(), expected, atol=1e-8)
    assert 0 < int((weights == 0).sum()) < 30
    assert deepcore_weights(gradients, torch.tensor([7]), 1.0).tolist() == [1]


def test_gradmatch_orders_each_class_by_itself_and_weighs_what_is_kept():
    pool, signals, proxy = made_case()
    scorer = GradMatch()
    scores = scorer.score(pool, signals, torch.Generator())
    for label, size in enumerate(SIZES):
        members = torch.nonzero(pool.labels == label).flatten()
        own = proxy_gradients(proxy, pool.labels, positions=members)
        expected = members[pursue(own, own.mean(), size, 0.5)[0]].tolist()
        assert order_of(scores, members) == expected
    subset = torch.nonzero(scores > 0.6).flatten()
    weights = scorer.weights(pool, signals, subset)
    members = torch.nonzero(pool.labels == 2).flatten()
    kept = torch.tensor([i for i, member in enumerate(members.tolist()) if member in subset])
    own = proxy_gradients(proxy, pool.labels, positions=members)
    assert torch.allclose(weights[pool.labels[subset] == 2], matching_weights(own, kept, 0.5))
    assert weights.dtype == torch.float64
    assert bool((weights > 0).all())


def test_gradmatch_deepcore_divides_by_the_batch_within_the_class():
    pool, signals, proxy = made_case()
    scores = GradMatch("deepcore", 1.0, 0.0, batch_size=4).score(pool, signals, torch.Generator())
    members = torch.nonzero(
        pool.labels == 0
    ).flatten()  # The 13 images are three batches and one image, whose gradient looks four times larger.
    rows = in_full(proxy_gradients(proxy, pool.labels, positions=members))
    rows[:12] /= 4
    assert order_of(scores, members) == members[pursue_as_deepcore(rows, rows.mean(0), 13)].tolist()
    assert order_of(scores, members) != order_of(GradMatch("deepcore", 1.0, 0.0).score(pool, signals, None), members)


def test_only_the_depth_of_a_class_is_ordered():
    pool, signals, _ = made_case()
    for scorer in (GradMatch, Glister):
        whole = scorer().score(pool, signals, torch.Generator())
        part = scorer(depth=0.3).score(pool, signals, torch.Generator())
        members = torch.nonzero(pool.labels == 0).flatten()
        assert len(order_of(part, members)) == 4  # The number of picks is floor(13 * 0.3) + 1.
        assert order_of(part, members) == order_of(whole, members)[:4]


# GLISTER


def test_the_gradient_after_a_step_is_that_of_a_layer_that_took_it():
    generator = stream("step")
    layer, hidden = nn.Linear(3, 4), torch.randn(7, 3, generator=generator)
    labels, step = torch.tensor([0, 1, 2, 3, 0, 1, 3]), torch.randn(4, 4, generator=generator)
    found = gradient_after(layer(hidden).detach(), labels, hidden, step, 0.3)
    with torch.no_grad():
        layer.bias -= 0.3 * step[:, 0]
        layer.weight -= 0.3 * step[:, 1:]
    nn.functional.cross_entropy(layer(hidden), labels).backward()
    expected = torch.cat([layer.bias.grad.unsqueeze(1), layer.weight.grad], dim=1)
    assert torch.allclose(found.float(), expected, atol=1e-6)


def glister_slowly(hidden: Tensor, logits: Tensor, labels: Tensor, eta: float, count: int, growth: float) -> list[int]:
    """Greedy picks with whole gradients, the validation gradient by autograd after the step."""
    count_classes, width = logits.shape[1], hidden.shape[1]
    with_one = torch.cat([torch.ones(len(hidden), 1), hidden], dim=1)
    deltas = logits.softmax(1) - nn.functional.one_hot(labels, count_classes)
    rows = (deltas.unsqueeze(2) * with_one.unsqueeze(1)).flatten(1)
    order = []
    while len(order) < count:
        moved = -eta * rows[order].sum(0).view(count_classes, width + 1)
        moved.requires_grad_(True)
        nn.functional.cross_entropy(logits + with_one @ moved.T, labels).backward()
        gains = rows @ moved.grad.flatten()
        gains[order] = -torch.inf
        block = min(max(1, int(growth * len(order))), count - len(order))
        order += gains.argsort(descending=True, stable=True)[:block].tolist()
    return order


@pytest.mark.parametrize("growth", [0.0, 0.4])
def test_glister_is_greedy_on_a_validation_gradient_after_the_step(growth):
    pool, signals, proxy = made_case()
    scores = Glister(eta=0.05, growth=growth).score(pool, signals, torch.Generator())
    one_shot = Glister("deepcore").score(pool, signals, torch.Generator())
    for label, size in enumerate(SIZES):
        members = torch.nonzero(pool.labels == label).flatten()
        hidden, logits = proxy.features(2, members).double(), proxy.logits(2, members).double()
        expected = glister_slowly(hidden, logits, pool.labels[members], 0.05, size, growth)
        assert order_of(scores, members) == members[expected].tolist()
    assert not torch.equal(scores, one_shot), "the step must matter"


def test_glister_computes_the_gradient_again_when_the_picks_have_grown():
    gradients, sizes = made_gradients(100), []

    def target(step: Tensor) -> Tensor:
        sizes.append(step)
        return gradients.mean()

    order = order_greedily(gradients, target, 100, 0.1)
    assert sorted(order.tolist()) == list(range(100))
    # The groups are 20 of one image, 5 of two, 4 of three, 2 each of four, five and six, and 7, 7, 8 and 6.
    assert len(sizes) == 39
    assert torch.equal(sizes[0], torch.zeros_like(sizes[0]))
    first = gradients.take(order[:1]).weighted_sum()
    assert torch.allclose(sizes[1], first)


def test_glister_deepcore_is_one_ranking_by_the_mean_gradient():
    pool, signals, proxy = made_case()
    for batch_size in (256, 4):
        scores = Glister("deepcore", batch_size=batch_size).score(pool, signals, torch.Generator())
        for label in range(4):
            members = torch.nonzero(pool.labels == label).flatten()
            rows = in_full(proxy_gradients(proxy, pool.labels, positions=members))
            rows /= batch_lengths(len(members), batch_size).unsqueeze(1)
            expected = (rows @ rows.mean(0)).argsort(descending=True, stable=True)
            assert order_of(scores, members) == members[expected].tolist()


# CAL


def test_cal_is_the_mean_divergence_of_the_neighbours_predictions():
    logits = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]]).log()
    neighbours = torch.tensor([[1], [0], [1]])
    # The divergences are KL((.9, .1), (.5, .5)) = .368064 and KL((.5, .5), (.9, .1)) = .510826.
    assert mean_divergence(logits, neighbours).tolist() == pytest.approx([0.368064, 0.510826, 0.368064], abs=1e-6)
    assert mean_divergence(logits, neighbours, True).tolist() == pytest.approx([0.439445] * 3, abs=1e-6)
    both = torch.tensor([[1, 2], [0, 2], [0, 1]])
    assert mean_divergence(logits, both).tolist() == pytest.approx([0.184032, 0.510826, 0.184032], abs=1e-6)


def test_a_divergence_is_finite_where_a_probability_is_exactly_zero():
    logits = torch.tensor([[500.0, -500.0], [-500.0, 500.0]])
    assert logits.softmax(1)[0, 1] == 0
    divergences = mean_divergence(logits, torch.tensor([[1], [0]]))
    assert divergences.tolist() == pytest.approx([1000.0, 1000.0])


def test_cal_does_not_depend_on_chunks(monkeypatch):
    generator = stream("cal")
    logits, neighbours = torch.randn(23, 3, generator=generator), torch.randint(0, 23, (23, 4), generator=generator)
    at_once = mean_divergence(logits, neighbours)
    monkeypatch.setattr("prunetune.scorers.cal.NUMBERS_AT_ONCE", 60)  # Five images are processed at a time.
    assert torch.equal(mean_divergence(logits, neighbours), at_once)


def contrastive_case() -> tuple[Pool, Signals]:
    """Return a class of two groups of similar images. The prediction for image 2 differs from its group."""
    hidden = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [5.0]])
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1])
    pool = Pool("groups", labels, tuple("abcdefg"), ("train",) * 7, ("x", "y"))
    return pool, TensorSignals(-hidden, pool=pool, proxies=[RecordedProxy([logits], {1: hidden})])


def test_cal_keeps_the_image_with_another_prediction_and_deepcore_drops_it():
    pool, signals = contrastive_case()
    fixed = CAL(neighbours=2).score(pool, signals, torch.Generator())
    deepcore = CAL("deepcore", 2, "pretrained").score(pool, signals, torch.Generator())
    assert int(fixed[:6].argmax()) == 2
    assert int(deepcore[:6].argmin()) == 2
    assert fixed[6] == 0, "an image that is alone in its class"
    assert fixed[3:6].tolist() == pytest.approx([0, 0, 0])
    # The neighbours are then all five other images of the class.
    more = CAL(neighbours=50).score(pool, signals, torch.Generator())
    assert int(more[:6].argmax()) == 2


def test_cal_looks_for_neighbours_where_it_is_told_to():
    pool, signals, proxy = made_case()
    generator = stream("elsewhere")
    elsewhere = TensorSignals(torch.randn(len(pool), 5, generator=generator), pool=pool, proxies=[proxy])
    own, other = CAL(neighbours=2), CAL(neighbours=2, features="pretrained")
    assert torch.equal(own.score(pool, signals, None), own.score(pool, elsewhere, None))
    assert not torch.equal(other.score(pool, signals, None), other.score(pool, elsewhere, None))


# DeepFool


class Plain(nn.Module):
    """A `Network` whose body passes 1 x 1 images through."""

    num_features = 3
    input_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Flatten()

    def normalise(self, images: Tensor) -> Tensor:
        return images.float() / 255


class WithImages(TensorSignals):
    """Signals of tensors that also have images."""

    pictures: Tensor
    batch_size = 4

    def images(self, positions: Tensor | None = None):
        return iter(self.pictures.split(self.batch_size))


def linear_case(num_classes: int = 3) -> tuple[nn.Linear, Tensor]:
    generator = stream("linear")
    layer = nn.Linear(3, num_classes)
    layer.weight.data = torch.randn(num_classes, 3, generator=generator)
    layer.bias.data = 0.1 * torch.randn(num_classes, generator=generator)
    return layer, torch.rand(11, 3, generator=generator)


def exact_distances(layer: nn.Linear, images: Tensor) -> Tensor:
    """Return the distance of each image to the nearest boundary of its predicted class."""
    logits = layer(images).detach()
    predicted = logits.argmax(1)
    gaps = logits.gather(1, predicted[:, None]) - logits  # [B, C]
    slopes = (layer.weight[predicted].unsqueeze(1) - layer.weight).norm(dim=2).detach()
    return (gaps / slopes).masked_fill(slopes == 0, torch.inf).min(1).values.double()


@pytest.mark.parametrize("overshoot", [0.02, 0.5])
def test_deepfool_of_a_linear_classifier_is_the_distance_to_its_boundary(overshoot):
    layer, images = linear_case()
    lengths = perturbation_lengths(layer, images, 50, overshoot, None)
    assert torch.allclose(lengths, exact_distances(layer, images), rtol=1e-4)


def deepfool_slowly(classify: nn.Module, image: Tensor, iterations: int, overshoot: float) -> float:
    """DeepFool of one image with all classes, written out."""
    total = torch.zeros_like(image)
    first = int(classify(image[None])[0].argmax())
    for _ in range(iterations):
        point = image + (1 + overshoot) * total
        slopes = torch.autograd.functional.jacobian(lambda x: classify(x[None])[0], point)  # [C, ...]
        logits = classify(point[None])[0].detach()
        best = None
        for other in range(len(logits)):
            if other != first:
                slope, gap = slopes[other] - slopes[first], abs(float(logits[other] - logits[first]))
                if best is None or gap / slope.norm() < best[0]:
                    best = (gap / slope.norm(), gap / slope.norm() ** 2 * slope)
        total = total + best[1]
        if int(classify((image + (1 + overshoot) * total)[None])[0].argmax()) != first:
            break
    return float(total.norm())


def test_deepfool_of_many_images_is_deepfool_of_each():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classify = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).requires_grad_(False)
    images = torch.randn(9, 3, 2, 2, generator=stream("images"))
    for iterations in (1, 50):
        expected = [deepfool_slowly(classify, image, iterations, 0.02) for image in images]
        lengths = perturbation_lengths(classify, images, iterations, 0.02, None)
        assert lengths.tolist() == pytest.approx(expected, rel=1e-4)
    few = perturbation_lengths(classify, images, 50, 0.02, 2)
    assert bool((few >= lengths * 0.999).all()), "fewer candidates can only be farther, here"
    assert not torch.allclose(few, lengths)


def test_deepfool_computes_gradients_again_only_where_they_can_matter(monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classify = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 20)).requires_grad_(False)
    images, taken, gradient = torch.randn(40, 12, generator=stream("images")), [], torch.autograd.grad

    def counted(outputs: Tensor, inputs: Tensor, **options):
        taken.append(len(inputs))
        return gradient(outputs, inputs, **options)

    def lengths(longer: float) -> tuple[Tensor, int]:
        taken.clear()
        monkeypatch.setattr(deepfool_module, "LONGER", longer)
        return perturbation_lengths(classify, images, 50, 0.0, None), sum(taken)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    (whole, all_slopes), (found, slopes) = lengths(torch.inf), lengths(3.0)
    assert torch.allclose(found, whole, rtol=1e-5)
    first = 40 * 19
    assert first < slopes < first + 0.3 * (all_slopes - first), "each once, few of them again"
    alone = [perturbation_lengths(classify, image, 50, 0.0, None) for image in images.split(1)]
    assert torch.allclose(torch.cat(alone), found, rtol=1e-5)


def test_deepfool_scores_images_near_a_boundary_highest():
    layer, _ = linear_case()
    pictures = torch.randint(0, 256, (11, 3, 1, 1), generator=stream("pictures"), dtype=torch.uint8)
    labels = torch.arange(11) % 3
    pool = Pool("pictures", labels, tuple("abcdefghijk"), ("train",) * 11, ("x", "y", "z"))
    logits, hidden = torch.zeros(11, 3), torch.zeros(11, 3)
    proxy = RecordedProxy([logits], {1: hidden}, {}, lambda epoch: nn.Sequential(Plain(), layer))
    signals = WithImages(hidden, None, pool, [proxy])
    signals.pictures = pictures
    distances = exact_distances(layer, pictures.float().flatten(1) / 255)
    scores = DeepFool().score(pool, signals, torch.Generator())
    assert torch.allclose(scores, -distances, rtol=1e-4)
    squared = DeepFool("deepcore", overshoot=0.0, candidates=None).score(pool, signals, torch.Generator())
    assert torch.allclose(squared, -(distances**2), rtol=1e-3)
    signals.batch_size = 11
    assert torch.allclose(DeepFool().score(pool, signals, torch.Generator()), scores, rtol=1e-5)
    one_class = Pool("one", torch.zeros(11, dtype=torch.int64), pool.sample_ids, pool.splits, ("x",))
    with pytest.raises(InputError, match="at least 2 classes"):
        DeepFool().score(one_class, signals, torch.Generator())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradMatch("released"), "one of fixed, deepcore"),
        (lambda: GradMatch(ridge=0.0), "ridge must be a number above 0"),
        (lambda: GradMatch(growth=-0.1), "growth"),
        (lambda: GradMatch(depth=1.5), "depth"),
        (lambda: GradMatch(batch_size=0), "batch_size"),
        (lambda: Glister("naive"), "one of fixed, deepcore"),
        (lambda: Glister(eta=0.0), "eta must be a number above 0"),
        (lambda: Glister(growth=-1.0), "growth"),
        (lambda: Glister(depth=0.0), "depth"),
        (lambda: CAL(neighbours=0), "neighbours"),
        (lambda: CAL(features="proxy"), "finetuned, pretrained"),
        (lambda: DeepFool(iterations=0), "iterations"),
        (lambda: DeepFool(overshoot=-0.1), "overshoot"),
        (lambda: DeepFool(candidates=1), "candidates"),
        (lambda: DeepFool("released"), "one of fixed, deepcore"),
    ],
)
def test_bad_hyperparameters_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_too_many_picks_for_a_dense_fit_are_refused(monkeypatch):
    monkeypatch.setattr(gradmatch_module, "MOST_PICKS", 10)
    gradients = made_gradients(20)
    with pytest.raises(InputError, match="at most 10 images of a class, but 11 are needed; lower scorer.depth"):
        pursue(gradients, gradients.mean(), 11, 0.5)
