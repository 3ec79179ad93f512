"""What a scorer or sampler may ask about images: features of the network and of its masked copies."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.backbones.base import Network
from prunetune.datasets.base import Pool
from prunetune.errors import InputError
from prunetune.features import View, embed, evaluation, training
from prunetune.images import transforms
from prunetune.images.decoded import Decoded, decode_pool, decoded_key
from prunetune.masking import MaskPath, masked_networks
from prunetune.store import Store, read_meta, write_stack


@dataclass(frozen=True)
class FeatureKind:
    """Which features are meant.

    transform "training_on_train": images of the train split pass the training transform anew at every level, as in
    the released code. pooling "token_collapse": its one number per image of a token network.
    """

    transform: str = "evaluation"
    pooling: str = "backbone"

    def __post_init__(self) -> None:
        for key, allowed in {
            "transform": ("evaluation", "training_on_train"),
            "pooling": ("backbone", "token_collapse"),
        }.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"scorer.{key} must be one of {', '.join(allowed)}, got {getattr(self, key)!r}")


PLAIN = FeatureKind()


class Signals(ABC):
    """Features of the N images of one pool, computed when asked for and charged in `seconds`."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.products: dict[str, Tensor] = {}  # what a scorer found on its way and wants kept beside the scores
        self.charges: dict[str, float] = {}  # seconds of each signal that was asked for, whoever computed it
        self.spent: dict[str, float] = {}  # seconds that this process waited for it

    @property
    def seconds(self) -> float:
        """Seconds that the signals asked for so far cost when they were computed."""
        return sum(self.charges.values())

    @abstractmethod
    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        """Return [N, D] float32 CPU features of the unmasked network."""

    @abstractmethod
    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        """Yield T tensors [N, D] float32 CPU, one at a time: the features at each level of the path.

        `path.modules` "backbone" is not known here: pass one of conv2d, linear, all, or use `mask_modules`.
        """

    def seconds_of_features(self) -> float:
        """Return what the pass of `features()` cost when it was made; nothing is known of tensors from elsewhere."""
        return 0.0

    @property
    def mask_modules(self) -> str:
        """What the backbone says should be masked."""
        return "all"

    def keep(self, name: str, tensor: Tensor) -> None:
        """Store a tensor beside the scores, as `<name>.npy`."""
        self.products[name] = tensor

    def restricted(self, positions: Tensor) -> "Signals":
        """Return the same signals for some images of the pool [n] int64, ascending."""
        return RestrictedSignals(self, positions)

    @staticmethod
    def from_tensors(
        features: Tensor, masked: list[Tensor] | Tensor | None = None, pool: Pool | None = None
    ) -> "Signals":
        """Return signals that were computed elsewhere.

        Args:
            features: [N, D] of the unmasked network.
            masked: T tensors [N, D], the features at each level of the path that the scorer will ask for.
            pool: the N images, where a scorer or sampler reads more than tensors.
        """
        return TensorSignals(features, masked, pool)


class TensorSignals(Signals):
    """Signals that came as tensors."""

    def __init__(self, features: Tensor, masked: list[Tensor] | Tensor | None, pool: Pool | None) -> None:
        super().__init__(pool)
        self._features, self._masked = features.float(), masked

    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        if kind != PLAIN:
            raise InputError(f"features given as tensors serve the default scorer only, not {kind}")
        return self._features

    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        levels = [self._features] if self._masked is None and path.levels == 1 else self._masked
        if levels is None or len(levels) != path.levels:
            have = 0 if levels is None else len(levels)
            raise InputError(
                f"the scorer reads features of {path.levels} masked networks, got {have}; pass masked=[...]"
            )
        return (level.float() for level in levels)


class RestrictedSignals(Signals):
    """The signals of a part of a pool, read from the whole pool's."""

    def __init__(self, parent: Signals, positions: Tensor) -> None:
        super().__init__(parent.pool.take(positions))
        self._parent, self._positions = parent, positions

    @property
    def mask_modules(self) -> str:
        return self._parent.mask_modules

    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        return self._parent.features(kind)[self._positions]

    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        return (level[self._positions] for level in self._parent.masked_features(path, seed, kind))


@dataclass
class Embedding:
    """How a network is run over a pool's images."""

    network: Network
    store: Store
    precision: str = "fp32"  # resolved: fp32 | bf16
    device: str = "cpu"
    batch_size: int = 64
    short_side: int | None = None
    keep_masked: bool = False  # store the masked features, for scorers that are asked about parts of the pool
    _decoded: dict[str, tuple[Decoded, float]] = field(default_factory=dict)

    def decoded(self, pool: Pool) -> Decoded:
        """Return the pool's decoded images."""
        if pool.fingerprint not in self._decoded:
            self._decoded[pool.fingerprint] = decode_pool(pool, self.store, self.short_side)
        return self._decoded[pool.fingerprint][0]

    def decode_seconds(self, pool: Pool) -> float:
        """Return the seconds that decoding the pool took when it was done."""
        self.decoded(pool)
        return self._decoded[pool.fingerprint][1]

    def key(self, pool: Pool) -> dict[str, Any]:
        """Return what every feature of the pool depends on."""
        return {
            "images": decoded_key(pool, self.short_side),
            "backbone": self.network.identity,
            "precision": self.precision,
            "transforms": transforms.VERSION,
        }


class NetworkSignals(Signals):
    """Signals of a pool of images and a network, kept in the store."""

    def __init__(self, pool: Pool, embedding: Embedding) -> None:
        super().__init__(pool)
        self.embedding = embedding
        self._features: dict[FeatureKind, Tensor] = {}

    @property
    def mask_modules(self) -> str:
        return self.embedding.network.mask_modules

    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        if kind not in self._features:
            start = time.perf_counter()
            self.embedding.decoded(self.pool)  # decoding has its own clock
            key = {**self.embedding.key(self.pool), **asdict(kind)}
            entry = self.embedding.store.entry(
                "features", self.pool.name, key, lambda folder: self._write_features(folder, kind)
            )
            self._features[kind] = torch.from_numpy(np.load(entry / "features.npy"))
            self._charge(f"features {kind}", read_meta(entry)["seconds"], time.perf_counter() - start)
        return self._features[kind]

    def seconds_of_features(self) -> float:
        self.features()
        return self.charges[f"features {PLAIN}"]

    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        self.features(kind)  # before any weight is masked, also for a scorer that asks for it in between
        embedding, key = self.embedding, self._masked_key(path, seed, kind)
        if embedding.keep_masked or embedding.store.place("masked", self.pool.name, key).is_dir():
            start = time.perf_counter()
            entry = embedding.store.entry(
                "masked", self.pool.name, key, lambda folder: self._write_masked(folder, path, seed, kind)
            )
            self._charge(f"masked {key}", read_meta(entry)["seconds"], time.perf_counter() - start)
            levels = np.load(entry / "masked.npy", mmap_mode="r")  # [T, N, D]
            return (torch.from_numpy(np.array(level)) for level in levels)
        return self._stream(path, seed, kind, f"masked {key}")

    def _stream(self, path: MaskPath, seed: int, kind: FeatureKind, charge: str) -> Iterator[Tensor]:
        network = self.embedding.network.to(self.embedding.device)
        seconds, start = 0.0, time.perf_counter()
        with masked_networks(network.model, path, seed) as levels:
            for level in levels:
                if level == 0 and path.include_unmasked:
                    features = self.features(kind)
                else:
                    features = self._embed(kind, level, f"masked network {level + 1} of {path.levels}")
                here = time.perf_counter() - start
                seconds += here
                self._charge(charge, seconds, here)
                yield features
                start = time.perf_counter()

    def _embed(self, kind: FeatureKind, level: int, description: str) -> Tensor:
        embedding = self.embedding
        return embed(
            embedding.network.to(embedding.device),
            self._view(kind, level),
            range(len(self.pool)),
            embedding.batch_size,
            embedding.precision,
            embedding.device,
            description,
            collapsed=kind.pooling == "token_collapse",
        )

    def _view(self, kind: FeatureKind, level: int) -> View:
        images, size = self.embedding.decoded(self.pool), self.embedding.network.input_size
        plain = evaluation(images, size)
        if kind.transform == "evaluation":
            return plain
        augmented = training(images, size, self.pool, "released view", level)
        return lambda position: (augmented if self.pool.splits[position] == "train" else plain)(position)

    def _write_features(self, folder: Path, kind: FeatureKind) -> dict[str, Any]:
        start = time.perf_counter()
        features = self._embed(kind, 0, f"features of {self.pool.name}")
        if not features.isfinite().all():
            raise InputError(
                f"the backbone gives features of {self.pool.name} that are not finite; "
                "check its weights or pass precision=fp32"
            )
        np.save(folder / "features.npy", features.numpy())
        return {"seconds": time.perf_counter() - start}

    def _write_masked(self, folder: Path, path: MaskPath, seed: int, kind: FeatureKind) -> dict[str, Any]:
        charge, shape = "written", (path.levels, *self.features(kind).shape)
        levels = (features.numpy() for features in self._stream(path, seed, kind, charge))
        write_stack(folder / "masked.npy", levels, shape, np.float32)
        del self.spent[charge]
        return {"seconds": self.charges.pop(charge)}

    def _masked_key(self, path: MaskPath, seed: int, kind: FeatureKind) -> dict[str, Any]:
        return {**self.embedding.key(self.pool), **asdict(kind), "path": path.key(seed)}

    def _charge(self, name: str, seconds: float, here: float) -> None:
        self.charges[name] = seconds
        self.spent[name] = self.spent.get(name, 0.0) + here
