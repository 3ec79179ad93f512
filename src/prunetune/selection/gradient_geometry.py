"""Distances between the last-layer gradients of images."""

import torch
from torch import Tensor

from prunetune.selection.last_layer_gradients import LastLayerGradients
from prunetune.selection.neighbours import NUMBERS_AT_ONCE, Geometry, check_metric, longest_near, without_own


class GradientPoints(Geometry):
    """Images placed at their last-layer gradients, of which only the factors delta and (1, h) are held.

    gradients: those of N images. metric: "euclidean" or "cosine" (1 - cosine; a gradient of zero has the cosine 0).
    """

    def __init__(self, gradients: LastLayerGradients, metric: str) -> None:
        check_metric(metric)
        self.size, self._is_cosine = len(gradients), metric == "cosine"
        deltas, hidden = gradients.deltas.double(), gradients.hidden.double()
        inputs = torch.cat([torch.ones(self.size, 1, dtype=torch.float64), hidden], dim=1)  # [N, D + 1]
        if self._is_cosine:
            deltas = torch.nn.functional.normalize(deltas, dim=1, eps=1e-30)
            inputs = torch.nn.functional.normalize(inputs, dim=1)
        self._deltas, self._inputs = deltas.float(), inputs.float()
        self._lengths = [factors.double().square().sum(1) for factors in (self._deltas, self._inputs)]  # [N] each
        self._squares = self._lengths[0] * self._lengths[1]  # [N] float64, ||g||^2
        self._lacks = (self._squares == 0).float() / 2

    def closeness(self, rows: Tensor) -> Tensor:
        inner = self._deltas[rows] @ self._deltas.T
        inner *= self._inputs[rows] @ self._inputs.T
        return inner if self._is_cosine else inner.sub_((self._squares / 2).float())

    def noise(self, rows: Tensor, closeness: Tensor) -> Tensor:
        if self._is_cosine:
            return torch.full((len(rows),), 2e-6)
        return 2e-6 * longest_near(self._squares[rows].float(), closeness)

    def distances(self, rows: Tensor, columns: Tensor) -> Tensor:
        size = max(1, NUMBERS_AT_ONCE // (2 * columns.shape[1] * self._inputs.shape[1]))
        chunks = zip(rows.split(size), columns.split(size), strict=True)
        squares = torch.cat([self._squared_gaps(some, others) for some, others in chunks])  # [n, m]
        if not self._is_cosine:
            return squares.sqrt_().float()
        return squares.div_(2).add_(self._lacks[columns]).add_(self._lacks[rows].unsqueeze(1)).float()

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        inner = self._deltas[rows].double() @ self._deltas[columns].double().T
        inner *= self._inputs[rows].double() @ self._inputs[columns].double().T
        if self._is_cosine:  # In float32, the factors have unit length only approximately.
            lengths = self._squares.sqrt().clamp_min(1e-30)
            return 1 - inner / lengths[rows].unsqueeze(1) / lengths[columns]
        squares = self._squares[rows].unsqueeze(1) + self._squares[columns] - 2 * inner
        return without_own(squares.clamp_min_(0).sqrt_(), rows, columns)

    def _squared_gaps(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return ||g - g'||^2, [n, m] float64, from the differences of the factors.

        So small distances are accurate, and the result is symmetric. With u = delta, v = (1, h) and means over the two
        images, g - g' = (u - u') mean(v)^T + mean(u) (v - v')^T.
        """
        gaps_u, u, gap_u = self._gaps(self._deltas, self._lengths[0], rows, columns)
        gaps_v, v, gap_v = self._gaps(self._inputs, self._lengths[1], rows, columns)
        return (gaps_u * v + gaps_v * u - gaps_u * gaps_v / 2 + gap_u * gap_v / 2).clamp_min_(0)

    @staticmethod
    def _gaps(factors: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ||f - f'||^2, the mean of ||f||^2 and ||f'||^2 and their difference, [n, m] float64 each."""
        gaps = factors[columns].sub_(factors[rows].unsqueeze(1)).square_().sum(2, dtype=torch.float64)
        own, others = lengths[rows].unsqueeze(1), lengths[columns]
        return gaps, (own + others) / 2, own - others
