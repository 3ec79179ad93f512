"""GradMatch: images whose weighted last-layer gradients add up to the mean gradient of their class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, class_members, pick_scores
from prunetune.scorers.published.batches import divided_by_batches
from prunetune.scorers.published.gradmatch import deepcore_weights
from prunetune.selection.last_layer_gradients import LastLayerGradients, best_first, proxy_gradients
from prunetune.signals.contract import Signals
from prunetune.signals.proxy import Proxy

# The columns of inner products of a class are stored if they have at most this many numbers in all (256 MiB).
# Otherwise each column is computed when it is needed.
COLUMNS = 2**25
LONGEST_COLUMN = 2**13
# At most this many images of one class are picked. The inverse matrix [picks, picks] then takes 3.2 GB.
MOST_PICKS = 20_000
# A correlation counts as 0 if it is smaller than this share of the largest inner product with the target.
ROUNDING = 1e-10
# This growth is used when only weights are fitted. The order of the picks does not change those weights.
FIT_GROWTH = 0.03
# Fitted weights below this share of the mean weight are raised to it, so that no kept image is lost.
LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class GradMatch(Scorer):
    """Order in which non-negative orthogonal matching pursuit picks gradients that make up their class's mean.

    Source: Killamsetty et al. 2021 (arXiv 2103.00123), per class, on the last-layer gradients of the proxy's last
    epoch, ridge 0.5. Each step picks the image whose gradient has the largest inner product with the residual, then
    fits non-negative ridge weights of all picks anew. When no inner product is above 0 any more, the other images
    follow in the order of the inner product; the original fills up at random. In large classes several picks are made
    at once (`growth`).
    Direction: larger is picked earlier.
    Cost: the proxy; then per class of n with k picks O(n C D) for every fit, O(k^3) in all, and a matrix [k, k].

    variant "deepcore" (DeepCore at commit 74ec709, its NumPy path): the weights may be negative while picking, ridge 1
    whatever its argument says, gradients divided by the length of their batch (`batch_size`, within the class).
    DeepCore then drops the picks that get weight 0 in a non-negative least-squares fit. That depends on the class
    budget, so a score cannot express it: scores are the order before the drop, and `weights` is 0 for dropped images.

    variant: "fixed" or "deepcore". ridge: factor of the squared weights that are added to the squared error.
    growth: share by which the picks of a class grow before they are fitted anew, at least one image (so 0.01 is exact
    for 200 picks); 0 is exact for all. depth: fraction of each class that is ordered. batch_size: read by "deepcore"
    only.
    """

    variant: str = "fixed"
    ridge: float = 0.5
    growth: float = 0.01
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.
    batch_size: int = 256

    name: ClassVar[str] = "gradmatch"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, ("fixed", "deepcore"))
        checks.number("scorer.ridge", self.ridge, "(0, inf)")
        checks.number("scorer.growth", self.growth, "[0, inf)")
        checks.whole_number("scorer.batch_size", self.batch_size)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()

        def pick(members: Tensor, count: int) -> Tensor:
            gradients = self._gradients(proxy, pool.labels, members)
            return pursue(gradients, gradients.mean(), count, self.ridge, self.growth, self.variant == "fixed")[0]

        return pick_scores(pool.labels, self.depth, pick)

    def weights(self, pool: Pool, signals: Signals, subset: Tensor) -> Tensor:
        """Return the ridge weights of the kept images, [M] float64.

        "fixed": non-negative weights times the size of the class, so that each class represents its whole gradient,
        and at least a thousandth of the mean of the class, so that no kept image is lost. "deepcore": its own weights,
        where 0 marks an image that DeepCore drops.
        """
        proxy, weights = signals.proxy(), torch.zeros(len(pool), dtype=torch.float64)
        is_kept = torch.zeros(len(pool), dtype=torch.bool)
        is_kept[subset] = True
        fit = matching_weights if self.variant == "fixed" else deepcore_weights
        for members in class_members(pool.labels):
            kept = torch.nonzero(is_kept[members]).flatten()
            if len(kept):
                weights[members[kept]] = fit(self._gradients(proxy, pool.labels, members), kept, self.ridge)
        return weights[subset]

    def _gradients(self, proxy: Proxy, labels: Tensor, members: Tensor) -> LastLayerGradients:
        gradients = proxy_gradients(proxy, labels, positions=members)
        if self.variant == "deepcore":
            return divided_by_batches(gradients, self.batch_size)
        return gradients


def matching_weights(gradients: LastLayerGradients, kept: Tensor, ridge: float) -> Tensor:
    """Return non-negative ridge weights with which kept images make up the sum of all gradients.

    Args:
        gradients: last-layer gradients of the n images of a class.
        kept: [k] int64 indices of the images that are kept.
        ridge: factor of the ridge penalty, above 0.

    Returns:
        [k] float64 > 0.
    """
    target = gradients.mean()
    order, weights = pursue(gradients.take(kept), target, len(kept), ridge, FIT_GROWTH)
    fitted = torch.zeros(len(kept), dtype=torch.float64)
    fitted[order] = weights * len(gradients)
    mean = fitted.mean()
    return fitted.clamp_min(LEAST_WEIGHT * mean) if mean > 0 else torch.ones_like(fitted)


def pursue(
    gradients: LastLayerGradients,
    target: Tensor,
    count: int,
    ridge: float,
    growth: float = 0.0,
    is_nonnegative: bool = True,
) -> tuple[Tensor, Tensor]:
    """Order images by orthogonal matching pursuit of a target gradient.

    Args:
        gradients: last-layer gradients of n images.
        target: [C, D + 1] float64.
        count: number of images to order, at most n.
        ridge: above 0; the weights w minimise ||target - sum_i w_i g_i||^2 + ridge ||w||^2.
        growth: after k picks, max(1, growth k) further picks are made before the weights are fitted again.
        is_nonnegative: whether weights are kept at 0 or above while picking. False reproduces DeepCore, where
            only the first pick is fitted without the ridge.

    Returns:
        order [count] int64, first pick first, ties to the smaller index; weights [count] float64 of the picks in this
        order.

    Raises:
        InputError: there are too many picks for a dense fit.
    """
    if count > MOST_PICKS:
        raise InputError(
            f"gradmatch picks at most {MOST_PICKS} images of a class, but {count} are needed; lower scorer.depth"
        )
    is_small = count * len(gradients) <= COLUMNS and len(gradients) <= LONGEST_COLUMN
    picks = (_Columns if is_small else _Factors)(gradients, target, count)
    fit, is_picked = _RidgeFit(count, ridge), torch.zeros(len(gradients), dtype=torch.bool)
    while fit.size < count:
        weights = fit.unridged() if fit.size == 1 and not is_nonnegative else fit.weights
        correlations = picks.correlations(weights).masked_fill_(is_picked, -torch.inf)
        block = min(count - fit.size, max(1, int(growth * fit.size)))
        best = best_first(correlations, block)
        if is_nonnegative:
            best = best[correlations[best] > 0]
        if len(best) == 0:
            rest = best_first(correlations, count - fit.size)
            return torch.cat([picks.order, rest]), torch.cat([fit.weights, fit.weights.new_zeros(len(rest))])
        is_picked[best] = True
        fit.extend(*picks.add(best))
        if is_nonnegative:
            _settle(fit, picks)
    return picks.order, fit.weights


def _settle(fit: "_RidgeFit", picks: "_Columns | _Factors") -> None:
    """Free picks that are held at 0 while they correlate with the residual (the outer loop of Lawson and Hanson)."""
    fit.keep_nonnegative()
    for _ in range(3 * fit.size):
        if bool(fit.is_free.all()):
            return
        correlations = picks.correlations_of_picks(fit.weights).masked_fill(fit.is_free, -torch.inf)
        slots = torch.nonzero(correlations > ROUNDING * fit.scale).flatten()
        if len(slots) == 0:
            return
        fit.free(slots, picks.inner(slots))
        fit.keep_nonnegative()


class _RidgeFit:
    """The ridge weights of the picks and the inverse of their normal matrix. Some weights are held at 0.

    Adding or removing b picks changes the inverse by a matrix of rank b, so that no full linear system is solved again.
    """

    def __init__(self, count: int, ridge: float) -> None:
        self.size, self.scale, self._ridge = 0, 0.0, ridge
        # If the weight of a pick is held at 0, its row contains only zeros.
        self._inverse = torch.zeros(count, count, dtype=torch.float64)
        self._weights, self._goals = torch.zeros(2, count, dtype=torch.float64)
        self._is_free = torch.zeros(count, dtype=torch.bool)
        self._first_norm = 0.0  # This is the squared gradient norm of the first pick.

    @property
    def weights(self) -> Tensor:
        """The weights of the picks, [k] float64."""
        return self._weights[: self.size]

    @property
    def is_free(self) -> Tensor:
        """Whether each pick is free, that is, not held at 0, [k] bool."""
        return self._is_free[: self.size]

    def unridged(self) -> Tensor:
        """Return the weight of a single pick that is fitted without the ridge, [k]."""
        return self._goals[: self.size] / self._first_norm if self._first_norm > 0 else self.weights

    def extend(self, inner: Tensor, goals: Tensor) -> None:
        """Add b picks by their inner products [k + b, b] with all picks, old ones first, and [b] with the target."""
        self._first_norm = self._first_norm if self.size else float(inner[0, 0])
        fresh = torch.arange(self.size, self.size + len(goals))
        self._goals[fresh] = goals
        self.size += len(goals)
        self.scale = max(self.scale, float(goals.abs().max()))
        self.free(fresh, inner)

    def free(self, slots: Tensor, inner: Tensor) -> None:
        """Include the weights of picks [b] in the fit, given their inner products [k, b]."""
        others = inner * self.is_free.unsqueeze(1)
        # Each column says how the other weights change when the weight of one freed pick grows by 1.
        change = -self._inverse[: self.size, : self.size] @ others
        identity = torch.eye(len(slots), dtype=torch.float64)
        change[slots] = identity
        schur = self._ridge * identity + inner[slots] + others.T @ change  # [b, b]
        factor = torch.linalg.cholesky(schur)
        change = torch.linalg.solve_triangular(factor, change.T, upper=False)  # [b, k]
        errors = (self._goals[slots] - others.T @ self.weights).unsqueeze(1)
        steps = torch.linalg.solve_triangular(factor, errors, upper=False)
        self._inverse[: self.size, : self.size].addmm_(change.T, change)
        self._is_free[slots] = True
        self._previous = self.weights.clone()
        self.weights.add_((change.T @ steps).squeeze(1))

    def keep_nonnegative(self) -> None:
        """Hold picks at 0 until all other weights are above 0 (the inner loop of Lawson and Hanson)."""
        previous = self._previous
        while bool((below := self.is_free & (self.weights <= 0)).any()):
            ratios = (previous / (previous - self.weights)).nan_to_num(0.0).masked_fill(~below, torch.inf)
            share = ratios.min()
            previous = previous + share * (self.weights - previous)
            reached = torch.nonzero(ratios == share).flatten()
            self.hold(reached)
            previous[reached] = 0

    def hold(self, slots: Tensor) -> None:
        """Exclude picks [b] from the fit; their weights become 0."""
        inverse = self._inverse[: self.size, : self.size]
        columns = inverse[:, slots]  # [k, b]
        factor = torch.linalg.cholesky(columns[slots])
        change = torch.linalg.solve_triangular(factor, columns.T, upper=False)  # [b, k]
        steps = torch.linalg.solve_triangular(factor, self.weights[slots].unsqueeze(1), upper=False)
        self.weights.sub_((change.T @ steps).squeeze(1))
        inverse.addmm_(change.T, change, alpha=-1)
        inverse[slots], inverse[:, slots] = 0, 0
        self.weights[slots] = 0
        self._is_free[slots] = False


class _Columns:
    """The picks, stored with their inner products with all n images."""

    def __init__(self, gradients: LastLayerGradients, target: Tensor, count: int) -> None:
        self.order = torch.empty(0, dtype=torch.int64)
        self._gradients = gradients.double()
        self._goals = self._gradients.dot(target)  # [n]
        self._columns = torch.zeros(count, len(gradients), dtype=torch.float64)

    def add(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Add images [b] and return their inner products with all picks [k, b], old ones first, and with the target."""
        fresh = torch.arange(len(self.order), len(self.order) + len(images))
        self._columns[fresh] = self._gradients.take(images).inner(self._gradients)
        self.order = torch.cat([self.order, images])
        return self.inner(fresh), self._goals[images]

    def inner(self, slots: Tensor) -> Tensor:
        """Return the inner products of picks [b] with all picks, [k, b]."""
        return self._columns[slots][:, self.order].T

    def correlations(self, weights: Tensor) -> Tensor:
        """Return every image's inner product with the residual, [n] float64."""
        return self._goals - weights @ self._columns[: len(weights)]

    def correlations_of_picks(self, weights: Tensor) -> Tensor:
        """Return the picks' inner products with the residual, [k] float64."""
        return self.correlations(weights)[self.order]


class _Factors:
    """The picks, stored as float64 factors only. Inner products use the dtype of the gradients."""

    def __init__(self, gradients: LastLayerGradients, target: Tensor, count: int) -> None:
        self.order = torch.empty(0, dtype=torch.int64)
        self._gradients, self._target = gradients, target
        self._deltas = torch.zeros(count, gradients.deltas.shape[1], dtype=torch.float64)
        # Each row is (1, h): the 1 stands for the bias.
        self._hidden = torch.ones(count, gradients.hidden.shape[1] + 1, dtype=torch.float64)

    def add(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Add images [b] and return their inner products with all picks [k, b], old ones first, and with the target."""
        fresh = torch.arange(len(self.order), len(self.order) + len(images))
        self._deltas[fresh] = self._gradients.deltas[images].double()
        self._hidden[fresh, 1:] = self._gradients.hidden[images].double()
        self.order = torch.cat([self.order, images])
        return self.inner(fresh), ((self._deltas[fresh] @ self._target) * self._hidden[fresh]).sum(1)

    def inner(self, slots: Tensor) -> Tensor:
        """Return the inner products of picks [b] with all picks, [k, b]."""
        size = len(self.order)
        return (self._deltas[:size] @ self._deltas[slots].T) * (self._hidden[:size] @ self._hidden[slots].T)

    def correlations(self, weights: Tensor) -> Tensor:
        """Return every image's inner product with the residual, [n]."""
        return self._gradients.dot(self._residual(weights))

    def correlations_of_picks(self, weights: Tensor) -> Tensor:
        """Return the picks' inner products with the residual, [k] float64."""
        size = len(self.order)
        return ((self._hidden[:size] @ self._residual(weights).T) * self._deltas[:size]).sum(1)

    def _residual(self, weights: Tensor) -> Tensor:
        size = len(weights)
        return self._target - (self._deltas[:size] * weights.unsqueeze(1)).T @ self._hidden[:size]
