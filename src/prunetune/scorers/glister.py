"""GLISTER: images whose gradient step helps the validation loss most."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.picks import check_depth, pick_scores
from prunetune.scorers.published.batches import divided_by_batches
from prunetune.selection.last_layer_gradients import (
    LastLayerGradients,
    best_first,
    logit_gradients,
    proxy_gradients,
)
from prunetune.signals.contract import Signals

# A target maps the summed gradient of the picks [C, D + 1] to the validation gradient [C, D + 1].
Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Glister(Scorer):
    """Order of a greedy run on <g, validation gradient>, computed anew after a gradient step on the picks.

    Source: Killamsetty et al. 2021 (arXiv 2012.10630), Taylor approximation on the last layer of the proxy's last
    epoch, one run per class. Adding image e to the picks S changes the validation loss by about
    -eta <g_e, g_val(theta - eta sum_S g)>; on the last layer the step has a closed form. The paper computes the
    validation gradient anew only a few times (its released code: 15 times for any budget); here it is computed when
    the picks have grown by `growth`, so that the order of the first picks does not depend on the budget. Validation
    data are the images of the class themselves, since every image outside the test set may be kept.
    Direction: larger is picked earlier.
    Cost: the proxy; then per class of n with k picks about log(k) / growth passes of O(n C D).

    variant "deepcore" (DeepCore at commit 74ec709): the step is never taken (its update is passed under a misspelt
    name), which leaves a single ranking by <g, mean g>; gradients are divided by the length of their batch
    (`batch_size`, within the class).

    variant: "fixed" or "deepcore". eta: rate of the step. growth: share by which the picks grow between two
    evaluations, at least one image; 0 computes the gradient anew after every pick. depth: fraction of each class that
    is ordered. batch_size: read by "deepcore" only.
    """

    variant: str = "fixed"
    eta: float = 1e-3
    growth: float = 0.03
    depth: float = 1.0  # The depth must be at least as large as the largest ratio of any run.
    batch_size: int = 256

    name: ClassVar[str] = "glister"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, ("fixed", "deepcore"))
        checks.number("scorer.eta", self.eta, "(0, inf)")
        checks.number("scorer.growth", self.growth, "[0, inf)")
        checks.whole_number("scorer.batch_size", self.batch_size)
        check_depth(self.depth)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        proxy = signals.proxy()

        def pick(members: Tensor, count: int) -> Tensor:
            gradients = proxy_gradients(proxy, pool.labels, positions=members)
            if self.variant == "deepcore":
                gradients = divided_by_batches(gradients, self.batch_size)
                return best_first(gradients.dot(gradients.mean()), count)
            logits, labels = proxy.snapshot(proxy.num_epochs, members), pool.labels[members]
            return order_greedily(
                gradients,
                lambda step: gradient_after(logits, labels, gradients.hidden, step, self.eta),
                count,
                self.growth,
            )

        return pick_scores(pool.labels, self.depth, pick)


def order_greedily(gradients: LastLayerGradients, target: Target, count: int, growth: float) -> Tensor:
    """Order images by their gain, which is computed anew when the picks have grown by a share.

    Args:
        gradients: last-layer gradients of n images.
        target: gives the validation gradient [C, D + 1] float64 after a step along the summed gradient of the picks.
        count: number of images to order, at most n.
        growth: after k picks, max(1, growth k) further picks are made at once.

    Returns:
        [count] int64, first pick first; ties to the smaller index.
    """
    order = torch.empty(0, dtype=torch.int64)
    total = torch.zeros_like(gradients.take(order).weighted_sum())  # [C, D + 1]
    while len(order) < count:
        gains = gradients.dot(target(total))
        gains[order] = -torch.inf
        block = min(count - len(order), max(1, int(growth * len(order))))
        fresh = best_first(gains, block)
        total = total + gradients.take(fresh).weighted_sum()
        order = torch.cat([order, fresh])
    return order


def gradient_after(logits: Tensor, labels: Tensor, hidden: Tensor, step: Tensor, eta: float) -> Tensor:
    """Return the mean last-layer gradient after the layer moved by -eta step, [C, D + 1] float64.

    Args:
        logits: [n, C] before the step.
        labels: [n] int64.
        hidden: [n, D], the layer's input.
        step: [C, D + 1], bias first.
        eta: learning rate of the step.
    """
    step = step.to(hidden.dtype)
    moved = logits - eta * torch.addmm(step[:, 0], hidden, step[:, 1:].T)
    # This line takes most of the time.
    return LastLayerGradients(logit_gradients(moved, labels), hidden).mean(hidden.dtype)
