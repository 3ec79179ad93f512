"""Training dynamics: a proxy is trained once on the whole pool and recorded, and every score that needs it reads it.

Letters: N pool, B images of a chunk, C classes, D feature width, E epochs; epochs count from 1.
"""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.base.stored_array import StoredArray
from prunetune.networks.backbone import Network
from prunetune.training.recipe import Recipe

EARLY_EPOCH = 5  # Of 50 epochs, grand, grand_last and el2n read this one (docs/method_notes.md, Baselines).
MAPPED = ("logits_*.npy", "features_*.npy")  # `open_recorded` maps these files of the store.
NUMBERS_AT_ONCE = 2**23  # A chunk of logits [E, B, C] has at most this many numbers, which take 32 MiB.
# The function maps logits [E, B, C] float32 and labels [B] int64 to values [B].
Statistic = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProxyRecipe:
    """How a proxy is trained.

    training: epochs, batches and SGD; its `trained` "all" fine-tunes the backbone, "head" a linear probe on the
    features of the evaluation view. initial: "pretrained", or "random" for a fresh network. augment: whether full
    training crops and flips. record: "epoch_end" keeps the logits of the evaluation view after each epoch,
    "online" those of the training batches just before their updates.
    """

    training: Recipe = Recipe("full", trained="all", learning_rate=1e-3, views=0)
    initial: str = "pretrained"
    augment: bool = True
    record: str = "epoch_end"

    def __post_init__(self) -> None:
        checks.choice("proxy.initial", self.initial, ("pretrained", "random"))
        checks.choice("proxy.record", self.record, ("epoch_end", "online"))
        checks.fields("proxy", self)
        if self.training.trained == "head" and (self.initial, self.augment, self.record) != PROBE_HAS:
            raise InputError(
                "a linear-probe proxy reads stored features: proxy.initial, augment and record must be "
                f"pretrained, false and epoch_end, got {self.initial}, {str(self.augment).lower()} and {self.record}"
            )

    def key(self) -> dict[str, Any]:
        """Return what a recorded proxy depends on, except the images, the network and the repeat."""
        training = {k: v for k, v in asdict(self.training).items() if k not in ("name", "views", "evaluate_every")}
        if training["last_batch"] == "keep":
            del training["last_batch"]  # Proxies from before this option have the key of a proxy that keeps it.
        return {**training, "initial": self.initial, "augment": self.augment, "record": self.record}


@dataclass(frozen=True)
class ProxyTraining:
    """One training of a proxy.

    repeat: determines the random head, the order, the crops and, for a fresh network, its weights. until: how many of
    the recipe's epochs are trained, from the first.
    """

    recipe: ProxyRecipe
    repeat: int
    until: int

    @property
    def shortened(self) -> Recipe:
        """The recipe of these epochs alone: their learning rates are those of the whole training."""
        return replace(self.recipe.training, epochs=self.until)


PROBE_HAS = ("pretrained", False, "epoch_end")
FULL_PROXY = ProxyRecipe()
LINEAR_PROBE = ProxyRecipe(Recipe("linear_probe", views=0), augment=False)


class Proxy(ABC):
    """One training of a proxy on a pool of N images, as recorded over `num_epochs` epochs."""

    num_epochs: int
    num_images: int
    num_classes: int

    @abstractmethod
    def logits(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        """Return [n, C] float32 CPU logits after an epoch, of all images or of some positions [n] int64."""

    @abstractmethod
    def features(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        """Return [n, D] float32 CPU: the input of the last linear layer after an epoch.

        Raises:
            InputError: features of this epoch were not kept (a full proxy keeps those of epoch 5 and of the last).
        """

    @abstractmethod
    def head(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C] of the last linear layer after an epoch, where `features` are kept."""

    @abstractmethod
    def model(self, epoch: int) -> nn.Module:
        """Return a copy of the network after an epoch, in eval mode: images [B, 3, S, S] uint8 to logits [B, C].

        Its last linear layer is `model[1]`, what comes before it is the `Network` `model[0]`.
        """

    def snapshot(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        """Return [n, C] float32 logits of the evaluation view after an epoch, for scores that look at one moment.

        If features and head were kept, the logits are computed from them and are exact. The recorded `logits`, which
        are returned otherwise, are rounded to float16 and can be those of training batches.
        """
        try:
            weight, bias = self.head(epoch)
        except InputError:
            return self.logits(epoch, positions)
        return torch.addmm(bias, self.features(epoch, positions), weight.T)

    def statistic(self, function: Statistic, labels: Tensor, epochs: Sequence[int] | None = None) -> Tensor:
        """Return a function of every image's logits over the epochs, [N] float64.

        Args:
            function: logits [E, B, C] float32 and labels [B] of a chunk of images to [B]; rows do not mix.
            labels: [N] int64.
            epochs: the epochs, in this order; by default all.
        """
        epochs = range(1, self.num_epochs + 1) if epochs is None else epochs
        for epoch in epochs:
            self.check_epoch(epoch)
        size = max(1, NUMBERS_AT_ONCE // (len(epochs) * self.num_classes))
        # Results are written in place, since small results between freed chunks would fragment the heap by gigabytes.
        values = torch.empty(self.num_images, dtype=torch.float64)
        for positions in torch.arange(self.num_images).split(size):
            logits = torch.stack([self.logits(epoch, positions) for epoch in epochs])  # [E, B, C]
            values[positions] = function(logits, labels[positions]).double()
        return values

    def check_epoch(self, epoch: int) -> None:
        """Refuse an epoch that was not trained."""
        if not 1 <= epoch <= self.num_epochs:
            raise InputError(
                f"the proxy has epochs 1 to {self.num_epochs}, but epoch {epoch} is needed; lower scorer.epoch"
            )

    def take(self, positions: Tensor) -> "Proxy":
        """Return the same proxy, restricted to some images [n] int64 of its pool."""
        return PartOfProxy(self, positions)


class PartOfProxy(Proxy):
    """A proxy of a pool, restricted to a part of the pool."""

    def __init__(self, whole: Proxy, positions: Tensor) -> None:
        self.num_epochs, self.num_classes, self.num_images = whole.num_epochs, whole.num_classes, len(positions)
        self._whole, self._positions = whole, positions

    def logits(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        return self._whole.logits(epoch, self._of_whole(positions))

    def features(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        return self._whole.features(epoch, self._of_whole(positions))

    def head(self, epoch: int) -> tuple[Tensor, Tensor]:
        return self._whole.head(epoch)

    def model(self, epoch: int) -> nn.Module:
        return self._whole.model(epoch)

    def _of_whole(self, positions: Tensor | None) -> Tensor:
        return self._positions if positions is None else self._positions[positions]


class ProbeProxy(Proxy):
    """Linear probes on stored features: the head of every epoch is kept, logits are made when asked for.

    features [N, D] float32; weights [E, D, C] and biases [E, C] float32, tensors or memory-mapped; network: what
    made the features, for `model`.
    """

    def __init__(self, features: Tensor, weights: Any, biases: Any, network: Network | None = None) -> None:
        self.num_epochs, self.num_classes, self.num_images = len(weights), weights.shape[2], len(features)
        self._features, self._weights, self._biases, self._network = features, weights, biases, network

    def logits(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        weight, bias = self.head(epoch)
        return torch.addmm(bias, self.features(epoch, positions), weight.T)

    def features(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        self.check_epoch(epoch)
        return self._features if positions is None else self._features[positions]

    def head(self, epoch: int) -> tuple[Tensor, Tensor]:
        self.check_epoch(epoch)
        return torch.as_tensor(self._weights[epoch - 1]).T, torch.as_tensor(self._biases[epoch - 1])

    def model(self, epoch: int) -> nn.Module:
        if self._network is None:
            raise InputError("this proxy was made from tensors and has no network; pass proxies with a model")
        weight, bias = self.head(epoch)
        return with_head(self._network, weight, bias)


@dataclass
class RecordedProxy(Proxy):
    """A proxy whose epochs were recorded.

    recorded: E logits [N, C], tensors or stored arrays. kept: features [N, D] by epoch. heads: (weight [C, D],
    bias [C]) by epoch. load_model: gives the network after an epoch.
    """

    recorded: Sequence[Any]
    kept: Mapping[int, Any] = field(default_factory=dict)
    heads: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    load_model: Callable[[int], nn.Module] | None = None

    def __post_init__(self) -> None:
        self.num_epochs, (self.num_images, self.num_classes) = len(self.recorded), self.recorded[0].shape

    def logits(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        self.check_epoch(epoch)
        return _rows(self.recorded[epoch - 1], positions)

    def features(self, epoch: int, positions: Tensor | None = None) -> Tensor:
        return _rows(self._of(self.kept, epoch, "features"), positions)

    def head(self, epoch: int) -> tuple[Tensor, Tensor]:
        return self._of(self.heads, epoch, "the head")

    def model(self, epoch: int) -> nn.Module:
        if self.load_model is None:
            raise InputError("this proxy was made from tensors and has no network; pass load_model")
        self._of(self.kept, epoch, "the network")
        return self.load_model(epoch)

    def _of(self, kept: Mapping[int, Any], epoch: int, what: str) -> Any:
        self.check_epoch(epoch)
        if epoch not in kept:
            have = ", ".join(map(str, sorted(kept))) or "none"
            raise InputError(
                f"the proxy kept {what} of epochs {have}, but epoch {epoch} is needed; change scorer.epoch"
            )
        return kept[epoch]


def _rows(values: Any, positions: Tensor | None) -> Tensor:
    """Return rows of a tensor or stored array as float32."""
    if isinstance(values, Tensor):
        return (values if positions is None else values[positions]).float()
    rows = values[:] if positions is None else values[positions.numpy()]
    return torch.from_numpy(rows.astype(np.float32, copy=False))


def with_head(network: Network, weight: Tensor, bias: Tensor) -> nn.Sequential:
    """Return a copy of a network with this linear layer [C, D], [C] behind it, in eval mode."""
    head = nn.Linear(weight.shape[1], len(weight))
    head.weight.data.copy_(weight)
    head.bias.data.copy_(bias)
    # Some networks keep what they have computed from their weights until they are trained again.
    return nn.Sequential(copy.deepcopy(network).cpu(), head).train().eval()


def moments(num_epochs: int) -> list[int]:
    """Return the epochs of which a full proxy keeps features and network."""
    return sorted({min(EARLY_EPOCH, num_epochs), num_epochs})


class Recorder:
    """Writes a full proxy's training into a folder, epoch by epoch."""

    def __init__(self, folder: Path, num_epochs: int) -> None:
        self.folder, self.moments = folder, moments(num_epochs)
        self.seconds: list[float] = []
        self._start = time.perf_counter()

    def write(self, epoch: int, logits: Tensor, features: Tensor, model: nn.Module) -> None:
        """Keep the logits [N, C] of an epoch in float16, and at some epochs features [N, D] and network."""
        np.save(self.folder / f"logits_{epoch}.npy", logits.half().numpy())
        if epoch in self.moments:
            np.save(self.folder / f"features_{epoch}.npy", features.numpy())
            # Each tensor is a copy, since safetensors refuses tensors that share their memory, as tied weights do.
            copies = {"memory_format": torch.contiguous_format}
            weights = {name: tensor.detach().cpu().clone(**copies) for name, tensor in model.state_dict().items()}
            save_file(weights, self.folder / f"model_{epoch}.safetensors")
        self.seconds.append(time.perf_counter() - self._start)

    def meta(self) -> dict[str, Any]:
        """Return what the store records about the training: seconds from its start to the end of each epoch."""
        return {"seconds": self.seconds[-1], "seconds_by_epoch": self.seconds}


def open_recorded(store: Store, entry: Callable[[], Path], num_epochs: int, network: Network) -> RecordedProxy:
    """Return the first epochs of what a `Recorder` wrote.

    Args:
        store: the store that the recording is in.
        entry: returns the folder of the recording, which is made again if it is damaged.
        num_epochs: E, at most the number of recorded epochs.
        network: one of the same kind, whatever its weights.
    """
    folder = entry()
    recorded = [StoredArray(store, entry, f"logits_{epoch}.npy") for epoch in range(1, num_epochs + 1)]
    epochs = [epoch for epoch in moments(num_epochs) if (folder / f"features_{epoch}.npy").is_file()]
    kept = {epoch: StoredArray(store, entry, f"features_{epoch}.npy") for epoch in epochs}

    def weights_of(epoch: int) -> dict[str, Tensor]:
        return load_file(entry() / f"model_{epoch}.safetensors")

    def load_model(epoch: int) -> nn.Module:
        weights = weights_of(epoch)
        model = with_head(network, weights["1.weight"], weights["1.bias"])
        model.load_state_dict(weights)
        return model

    heads = {epoch: (weights["1.weight"], weights["1.bias"]) for epoch in epochs for weights in [weights_of(epoch)]}
    return RecordedProxy(recorded, kept, heads, load_model)
