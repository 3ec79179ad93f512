"""Last-layer gradients of many images, held as their two factors.

With p = softmax(logits), delta = p - onehot(label) and h the input of the last linear layer, the gradient of an
image's cross-entropy is g = [delta ; delta h^T], C (D + 1) numbers. With a 1 put in front of h this is the outer
product delta (1, h)^T, so that <g, g'> = <delta, delta'> (1 + <h, h'>), and g itself is never computed for all images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunetune.signals.proxy import Proxy

ROWS = 4096  # This many images are processed at once.


@dataclass(frozen=True)
class LastLayerGradients:
    """The last-layer gradients of n images.

    deltas: [n, C] float32 (or float64), the gradients of the bias. hidden: [n, D], the inputs of the layer. A matrix
    [C, D + 1] has the gradient of the bias in column 0, followed by that of the weight.
    """

    deltas: Tensor
    hidden: Tensor

    def __post_init__(self) -> None:
        if self.deltas.ndim != 2 or self.hidden.ndim != 2 or len(self.deltas) != len(self.hidden):
            shapes = f"{list(self.deltas.shape)} and {list(self.hidden.shape)}"
            raise ValueError(f"deltas and hidden must be [n, C] and [n, D], got {shapes}")

    def __len__(self) -> int:
        return len(self.deltas)

    def take(self, positions: Tensor) -> "LastLayerGradients":
        """Return the gradients of some images [m] int64."""
        return LastLayerGradients(self.deltas[positions], self.hidden[positions])

    def double(self) -> "LastLayerGradients":
        """Return the same gradients in float64."""
        return LastLayerGradients(self.deltas.double(), self.hidden.double())

    def scaled(self, factors: Tensor) -> "LastLayerGradients":
        """Return the gradients times one factor for each image, [n]."""
        return LastLayerGradients(self.deltas * factors.to(self.deltas.dtype).unsqueeze(1), self.hidden)

    def chunks(self) -> Iterator["LastLayerGradients"]:
        """Yield the images in order, ROWS at a time, without copying them."""
        for deltas, hidden in zip(self.deltas.split(ROWS), self.hidden.split(ROWS), strict=True):
            yield LastLayerGradients(deltas, hidden)

    def squared_norms(self) -> Tensor:
        """Return ||g||^2 = ||delta||^2 (1 + ||h||^2), [n] float64."""
        parts = [
            part.deltas.double().square().sum(1) * (1 + part.hidden.double().square().sum(1)) for part in self.chunks()
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def norms(self) -> Tensor:
        """Return ||g||, [n] float64."""
        return self.squared_norms().sqrt()

    def inner(self, others: "LastLayerGradients") -> Tensor:
        """Return <g_i, g'_j>, [n, m], in the dtype of the gradients; take chunks of rows where n x m is large."""
        return (self.deltas @ others.deltas.T) * (1 + self.hidden @ others.hidden.T)

    def squared_distances(self, others: "LastLayerGradients") -> Tensor:
        """Return ||g_i - g'_j||^2 >= 0, [n, m], in the dtype of the gradients.

        It is computed from norms and inner products: a float32 distance is accurate to about 3e-4 of the norms.
        """
        norms = self.squared_norms().unsqueeze(1) + others.squared_norms()
        return (norms.to(self.deltas.dtype) - 2 * self.inner(others)).clamp_min_(0)

    def dot(self, matrix: Tensor) -> Tensor:
        """Return <g_i, matrix>, [n] in the dtype of the gradients, for a matrix [C, D + 1]."""
        matrix = matrix.to(self.deltas.dtype)
        bias, weight = matrix[:, 0], matrix[:, 1:].T.contiguous()  # [C], [D, C]
        dots = self.deltas.new_empty(len(self))
        for rows, part in zip(dots.split(ROWS), self.chunks(), strict=True):
            torch.sum(torch.addmm(bias, part.hidden, weight).mul_(part.deltas), dim=1, out=rows)
        return dots

    def weighted_sum(self, weights: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return sum_i weights_i g_i, [C, D + 1] float64; without weights [n] each counts once.

        dtype: the dtype of the products of a chunk; chunks are added up in float64.
        """
        total = torch.zeros(self.deltas.shape[1], self.hidden.shape[1] + 1, dtype=torch.float64)
        for part, rows in zip(self.chunks(), torch.arange(len(self)).split(ROWS), strict=True):
            deltas = part.deltas if weights is None else part.deltas.double() * weights[rows].double().unsqueeze(1)
            deltas = deltas.to(dtype)
            total[:, 0] += deltas.sum(0, dtype=torch.float64)
            total[:, 1:] += deltas.T @ part.hidden.to(dtype)
        return total

    def mean(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the mean gradient, [C, D + 1] float64; `dtype` is that of the products."""
        return self.weighted_sum(dtype=dtype) / len(self)


def logit_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """Return delta = softmax(logits) - onehot(label), [n, C] in the dtype of the logits.

    The difference is taken in float64: for a sure prediction, 1 - p would keep few digits in float32.

    Args:
        logits: [n, C].
        labels: [n] int64.
    """
    deltas = torch.empty_like(logits)
    for part, rows, own in zip(deltas.split(ROWS), logits.split(ROWS), labels.split(ROWS), strict=True):
        exact = rows.double().softmax(dim=1)
        exact[torch.arange(len(own)), own] -= 1
        part.copy_(exact)
    return deltas


def proxy_gradients(
    proxy: Proxy, labels: Tensor, epoch: int | None = None, positions: Tensor | None = None
) -> LastLayerGradients:
    """Return the last-layer gradients of a proxy after an epoch (by default its last).

    Args:
        proxy: a proxy of N images.
        labels: [N] int64.
        epoch: the epoch, counted from 1.
        positions: [n] int64, the images; by default all.
    """
    epoch = proxy.num_epochs if epoch is None else epoch
    labels = labels if positions is None else labels[positions]
    deltas = logit_gradients(proxy.snapshot(epoch, positions), labels)
    return LastLayerGradients(deltas, proxy.features(epoch, positions))


def best_first(gains: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest of [n], largest first, [count] int64; ties go to the smaller index."""
    if count == 1:
        return gains.argmax().unsqueeze(0)
    return gains.argsort(descending=True, stable=True)[:count]
