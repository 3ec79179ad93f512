"""The signals of a part of a pool."""

from collections.abc import Iterator

from torch import Tensor

from prunetune.networks.backbone import Network
from prunetune.networks.masking import MaskPath
from prunetune.signals.contract import PLAIN, FeatureKind, Signals
from prunetune.signals.proxy import ProbeProxy, Proxy, ProxyRecipe, ProxyTraining
from prunetune.signals.proxy_training import train_probe


class PartSignals(Signals):
    """The signals of a part of a pool, read from the whole pool's.

    Args:
        parent: signals of the whole pool.
        positions: [n] int64, ascending: the images of the part.
    """

    def __init__(self, parent: Signals, positions: Tensor) -> None:
        super().__init__(parent.pool.take(positions))
        self._parent, self._positions = parent, positions

    @property
    def mask_modules(self) -> str:
        return self._parent.mask_modules

    @property
    def device(self) -> str:
        return self._parent.device

    @property
    def network(self) -> Network | None:
        return self._parent.network

    @property
    def proxy_recipe(self) -> ProxyRecipe:
        return self._parent.proxy_recipe

    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        return self._parent.features(kind)[self._positions]

    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        return (level[self._positions] for level in self._parent.masked_features(path, seed, kind))

    def proxy(self, repeat: int = 0, until: int | None = None, logits_only: bool = False) -> Proxy:
        """Train a linear probe anew on the part; for a full proxy, return that of the whole pool, read at the part."""
        whole = self._parent.proxy(repeat, until, logits_only)
        if not isinstance(whole, ProbeProxy):
            return whole.take(self._positions)
        training, num_classes = ProxyTraining(self.proxy_recipe, repeat, whole.num_epochs), len(self.pool.classes)
        return train_probe(self.features(), self.pool.labels, num_classes, training, self.device, self.network)

    def images(self, positions: Tensor | None = None) -> Iterator[Tensor]:
        return self._parent.images(self._positions if positions is None else self._positions[positions])

    def layer_features(self) -> Iterator[Tensor]:
        return (layer[self._positions] for layer in self._parent.layer_features())

    def masked_features_of(
        self, network: Network, path: MaskPath, seed: int = 0, positions: Tensor | None = None
    ) -> Iterator[Tensor]:
        positions = self._positions if positions is None else self._positions[positions]
        return self._parent.masked_features_of(network, path, seed, positions)

    def collapsed_features(self) -> Tensor:
        return self._parent.collapsed_features()[self._positions]
