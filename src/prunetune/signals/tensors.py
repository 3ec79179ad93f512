"""Signals that were computed elsewhere and came as tensors."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.networks.masking import MaskPath
from prunetune.signals.contract import PLAIN, FeatureKind, Signals
from prunetune.signals.proxy import LINEAR_PROBE, Proxy, ProxyRecipe, ProxyTraining
from prunetune.signals.proxy_training import train_probe

ROWS_AT_ONCE = 2**16  # This many rows of features are checked at once.


class TensorSignals(Signals):
    """Signals of N images that were computed elsewhere.

    Args:
        features: [N, D] of the unmasked network, rows in the order of the pool, which sorts itself by sample_id.
        masked: T tensors [N, D], the features at each level of the path that the scorer will ask for.
        pool: the N images, if a scorer or sampler reads more than tensors.
        proxies: recorded trainings, repeat by repeat; without them linear probes are trained on the features, which
            needs the pool's labels.

    Raises:
        InputError: a matrix has another shape, or numbers that are not finite.
    """

    def __init__(
        self,
        features: Tensor,
        masked: Sequence[Tensor] | Tensor | None = None,
        pool: Pool | None = None,
        proxies: Sequence[Proxy] = (),
    ) -> None:
        super().__init__(pool)
        self._features = _matrix(features, "features", None if pool is None else (len(pool), -1))
        levels = None if masked is None else [_matrix(level, "masked", tuple(self._features.shape)) for level in masked]
        self._masked, self._proxies = levels, proxies
        self._trained: dict[tuple[int, int], Proxy] = {}

    @property
    def proxy_recipe(self) -> ProxyRecipe:
        return LINEAR_PROBE

    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        if kind != PLAIN:
            raise InputError(
                f"the scorer reads {kind}, which tensors cannot give; pass a folder or a data set instead of tensors"
            )
        return self._features

    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        levels = [self._features] if self._masked is None and path.levels == 1 else self._masked
        if levels is None or len(levels) != path.levels:
            have = 0 if levels is None else len(levels)
            raise InputError(
                f"the scorer reads features of {path.levels} masked networks, got {have}; pass masked=[...]"
            )
        return iter(levels)

    def proxy(self, repeat: int = 0, until: int | None = None, logits_only: bool = False) -> Proxy:
        if self._proxies:
            if repeat >= len(self._proxies):
                raise InputError(f"the scorer reads {repeat + 1} proxies, got {len(self._proxies)}; pass proxies=[...]")
            return self._proxies[repeat]
        if self.pool is None:
            raise InputError("the scorer reads a proxy; pass proxies=[...], or pool=... to train one on the features")
        until = min(until or LINEAR_PROBE.training.epochs, LINEAR_PROBE.training.epochs)
        if (repeat, until) not in self._trained:
            training, num_classes = ProxyTraining(LINEAR_PROBE, repeat, until), len(self.pool.classes)
            self._trained[repeat, until] = train_probe(self._features, self.pool.labels, num_classes, training, "cpu")
        return self._trained[repeat, until]

    def layer_features(self) -> Iterator[Tensor]:
        """Yield the features: signals that came as tensors have no other layer."""
        return iter([self._features])


def _matrix(values: Tensor, name: str, shape: Sequence[int] | None) -> Tensor:
    """Return [N, D] float32; refuse another shape (-1: any width) and numbers that are not finite."""
    matrix = torch.as_tensor(values)
    rows, width = shape or (-1, -1)
    if matrix.ndim != 2 or rows not in (-1, len(matrix)) or width not in (-1, matrix.shape[1]):
        wanted = "[N, D]" if shape is None else str(list(shape)).replace("-1", "D")
        raise InputError(f"{name} must be {wanted}, one row for each image, got {list(matrix.shape)}")
    matrix = matrix.float()
    bad = sum(int((~part.isfinite()).any(dim=1).sum()) for part in matrix.split(ROWS_AT_ONCE))
    if bad:
        raise InputError(f"{name} must be finite, {bad} of {len(matrix)} rows are not; leave those images out")
    return matrix
