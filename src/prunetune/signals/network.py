"""Signals of a pool of images and a network, kept in the store."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.devices import Hardware, training_device
from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.store import Store, read_meta, write_stack
from prunetune.base.stored_array import StoredArray
from prunetune.data.images import transforms
from prunetune.data.images.decoded import Decoded, Decoding, ShownImages, decode_pool, decoded_key
from prunetune.data.images.evaluation_views import EvaluationViews
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import (
    CPU_PIXELS,
    RELEASED_VIEW,
    ImageAt,
    Passes,
    batches,
    embed,
    in_parts,
    training,
)
from prunetune.networks.maskable import USED_WEIGHTS, maskable
from prunetune.networks.masking import MaskPath, masked_networks
from prunetune.signals.contract import PLAIN, FeatureKind, Signals
from prunetune.signals.proxy import (
    FULL_PROXY,
    MAPPED,
    ProbeProxy,
    Proxy,
    ProxyRecipe,
    ProxyTraining,
    moments,
    open_recorded,
)
from prunetune.signals.proxy_training import open_probe, write_full, write_probe
from prunetune.signals.remote import Asked, RemotePasses

PART = 128  # One entry of the store holds the values of this many images.


@dataclass(frozen=True, eq=False)
class Embedding:
    """How a network is run over images, and where the results are kept; many signals can share one.

    network: pretrained, without head. precision: of forward passes, fp32 or bf16. device: cpu or cuda. batch_size:
    images per forward pass. short_side: pixels to which decoded images are shrunk, None keeps them. training_precision:
    of proxies, fp32 or bf16. overlaps: whether a first pass starts while images are still decoded; its seconds then
    include waiting for images. None: on a GPU only. remote: the other processes that compute features, None for this
    one.
    """

    network: Network
    store: Store
    precision: str = "fp32"
    device: str = "cpu"
    batch_size: int = 64
    short_side: int | None = None
    training_precision: str = "fp32"
    overlaps: bool | None = None
    remote: RemotePasses | None = None
    _decoded: dict[str, tuple[Decoded, float]] = field(default_factory=dict, init=False, repr=False)
    _decoding: dict[str, Decoding] = field(default_factory=dict, init=False, repr=False)
    _views: dict[tuple[str, int], EvaluationViews] = field(default_factory=dict, init=False, repr=False)

    @property
    def passes(self) -> Passes:
        """How frozen networks are run over images."""
        return Passes(self.batch_size, Hardware(self.device, self.precision))

    @property
    def training_hardware(self) -> Hardware:
        """Where proxies are trained."""
        return Hardware(self.training_device, self.training_precision)

    @property
    def training_device(self) -> str:
        """The device on which proxies are trained."""
        return training_device(self.device)

    def decoded(self, pool: Pool, wait: bool = True) -> Decoded:
        """Return the pool's decoded images.

        wait: whether to wait until all are decoded. If not, and if `overlaps` allows it, each image can be read as soon
        as it is decoded, so that a first pass runs at the same time.
        """
        mark = pool.fingerprint
        if mark in self._decoded:
            return self._decoded[mark][0]
        if not wait and self.does_overlap and not pool.images.is_decoded:
            if mark not in self._decoding:
                self._decoding[mark] = Decoding(pool, self.store, self.short_side)
            return self._decoding[mark]
        if mark in self._decoding:
            self._decoding.pop(mark).join()
        self._decoded[mark] = decode_pool(pool, self.store, self.short_side)
        return self._decoded[mark][0]

    @property
    def does_overlap(self) -> bool:
        """Whether a first pass begins while images are still decoded; on a CPU both would compete for the cores."""
        return self.device != "cpu" if self.overlaps is None else self.overlaps

    def evaluation(self, pool: Pool, size: int | None = None) -> EvaluationViews:
        """Return the evaluation view of the pool's images, by default in the network's size; each is made once."""
        key = (pool.fingerprint, size or self.network.input_size)
        if key not in self._views:
            self._views[key] = EvaluationViews(self.decoded(pool, wait=False), len(pool), key[1], self.store.root)
        return self._views[key]

    def decode_seconds(self, pool: Pool) -> float | None:
        """Return the seconds that decoding the pool took when it was done; None if only other processes have done it.

        They decode in their passes, so that the seconds of features include it.
        """
        if self.remote is not None and pool.fingerprint not in self._decoded:
            return None
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
    """Signals of a pool of images and a network, kept in the store.

    These objects are cheap: what is expensive is in the store and in the embedding, which many of them can share.

    Args:
        pool: the N images.
        embedding: the network, and how it is run.
        proxy: how to train the proxy network that EL2N, forgetting and others read.
        keeps_masked: whether masked features are stored too, for a scorer that is asked about parts of the pool.
    """

    def __init__(
        self, pool: Pool, embedding: Embedding, proxy: ProxyRecipe = FULL_PROXY, keeps_masked: bool = False
    ) -> None:
        super().__init__(pool)
        self.embedding = embedding
        self._proxy_recipe, self._keeps_masked = proxy, keeps_masked
        self._features: dict[FeatureKind, Tensor] = {}

    def fresh(self) -> "NetworkSignals":
        """Return the same signals without charges, to see what the next scorer or sampler asks for."""
        return NetworkSignals(self.pool, self.embedding, self._proxy_recipe, self._keeps_masked)

    def proxy_key(self) -> dict[str, Any]:
        """Return what every value read from a proxy depends on, in addition to the key of the embedding."""
        return {**self._proxy_recipe.key(), "precision": self.embedding.training_precision}

    @property
    def mask_modules(self) -> str:
        return self.embedding.network.mask_modules

    @property
    def device(self) -> str:
        return self.embedding.training_device

    @property
    def network(self) -> Network:
        return self.embedding.network

    @property
    def proxy_recipe(self) -> ProxyRecipe:
        return self._proxy_recipe

    def features(self, kind: FeatureKind = PLAIN) -> Tensor:
        if kind not in self._features:
            start = time.perf_counter()
            if self.embedding.remote is None:
                self.embedding.decoded(self.pool, wait=False)  # Decoding is timed separately.
            entry = self.embedding.store.entry(
                "features", self.pool.name, self._feature_key(kind), lambda folder: self._write_features(folder, kind)
            )
            self._features[kind] = torch.from_numpy(np.load(entry / "features.npy"))
            self._charge(f"features {kind}", read_meta(entry)["seconds"], time.perf_counter() - start)
        return self._features[kind]

    def seconds_of_features(self) -> float:
        self.features()
        return self.charges[f"features {PLAIN}"]

    def masked_features(self, path: MaskPath, seed: int = 0, kind: FeatureKind = PLAIN) -> Iterator[Tensor]:
        if path.masks_any:
            self.network.maskable(path.modules)  # Refuse a network before the first pass.
        # A scorer may ask for these features between two levels, so they are computed before any weight is masked.
        self.features(kind)
        embedding, key = self.embedding, self._masked_key(path, seed, kind)
        if self._keeps_masked or embedding.store.place("masked", self.pool.name, key).is_dir():
            start = time.perf_counter()

            def entry() -> Path:
                def make(folder: Path) -> dict[str, Any]:
                    return self._write_masked(folder, path, seed, kind)

                return embedding.store.entry("masked", self.pool.name, key, make, ["masked.npy"])

            self._charge(f"masked {key}", read_meta(entry())["seconds"], time.perf_counter() - start)
            levels = StoredArray(embedding.store, entry, "masked.npy")  # [T, N, D]
            return (torch.from_numpy(levels[level]) for level in range(len(levels)))
        return self._stream(path, seed, kind, f"masked {key}")

    def proxy(self, repeat: int = 0, until: int | None = None, logits_only: bool = False) -> Proxy:
        recipe = self._proxy_recipe
        total = recipe.training.epochs
        until = min(until or total, total)
        is_probe = recipe.training.trained == "head"
        # The features are charged separately, so they are computed before the timer starts.
        features = self.features() if is_probe else None
        if self.embedding.remote is None or not is_probe:
            self.embedding.decoded(self.pool)
        start = time.perf_counter()

        def entry() -> Path:
            return self._proxy_entry(repeat, until, features, logits_only)

        folder = entry()
        seconds = read_meta(folder)["seconds_by_epoch"][until - 1]
        charge = f"proxy {repeat} {recipe}"
        self._charge(charge, max(seconds, self.charges.get(charge, 0.0)), time.perf_counter() - start)
        if is_probe:
            return open_probe(folder, until, features, self.network)
        return open_recorded(self.embedding.store, entry, until, self.network)

    def images(self, positions: Tensor | None = None) -> Iterator[Tensor]:
        embedding = self.embedding
        rows = range(len(self.pool)) if positions is None else positions.tolist()
        view = embedding.evaluation(self.pool)
        return batches(view, rows, embedding.batch_size)

    def per_image(
        self, key: dict[str, Any], function: Callable[[Iterator[Tensor], Tensor], Tensor], description: str
    ) -> Tensor:
        embedding, parts = self.embedding, torch.arange(len(self.pool)).split(PART)
        embedding.decoded(self.pool)  # Decoding is timed separately.
        key = {**embedding.key(self.pool), "proxy": self.proxy_key(), "function": key}

        def values(rows: Tensor) -> Tensor:
            def make(folder: Path) -> dict[str, Any]:
                start = time.perf_counter()
                np.save(folder / "values.npy", function(self.images(rows), rows).numpy())
                return {"seconds": time.perf_counter() - start}

            start, part = time.perf_counter(), {**key, "positions": [int(rows[0]), int(rows[-1])]}
            entry = embedding.store.entry("parts", f"{self.pool.name}-{description}", part, make)
            seconds = self.charges.get("parts", 0.0) + read_meta(entry)["seconds"]
            self._charge("parts", seconds, time.perf_counter() - start)
            return torch.from_numpy(np.load(entry / "values.npy"))

        return torch.cat([values(rows) for rows in track(parts, f"{description}, {PART} images each", len(parts))])

    def _proxy_entry(self, repeat: int, until: int, features: Tensor | None, logits_only: bool) -> Path:
        """Return the recording of the whole training if it exists and holds what is asked for, else a shorter one."""
        embedding, store = self.embedding, self.embedding.store
        total = self._proxy_recipe.training.epochs
        serves = features is not None or logits_only or until in moments(total)
        if serves and store.place("proxies", self.pool.name, self._proxy_key(repeat, total)).is_dir():
            until = total

        def make(folder: Path) -> dict[str, Any]:
            pool, training = self.pool, ProxyTraining(self._proxy_recipe, repeat, until)
            if features is not None:
                return write_probe(folder, features, pool.labels, len(pool.classes), training, self.device)
            whole, views = ShownImages.whole(pool, embedding.decoded(pool)), embedding.evaluation(pool)
            return write_full(folder, embedding.network, whole, views, training, embedding.training_hardware)

        return store.entry("proxies", self.pool.name, self._proxy_key(repeat, until), make, MAPPED)

    def _proxy_key(self, repeat: int, until: int) -> dict[str, Any]:
        key = self.embedding.key(self.pool)
        if self._proxy_recipe.training.trained == "all":
            key["precision"] = self.embedding.training_precision
        return {**key, **self._proxy_recipe.key(), "repeat": repeat, "until": until}

    def _stream(self, path: MaskPath, seed: int, kind: FeatureKind, charge: str) -> Iterator[Tensor]:
        seconds, start = 0.0, time.perf_counter()
        for features in self._levels(path, seed, kind):
            here = time.perf_counter() - start
            seconds += here
            self._charge(charge, seconds, here)
            yield features
            start = time.perf_counter()

    def _levels(self, path: MaskPath, seed: int, kind: FeatureKind) -> Iterator[Tensor]:
        """Compute the features at each level of the path, [N, D] each."""
        embedding = self.embedding
        if embedding.remote is not None:
            if path.include_unmasked:
                yield self.features(kind)
            yield from embedding.remote.masked_features(self._asked(kind, path, seed))
            return
        network = embedding.network.to(embedding.device)
        with masked_networks(network.model, path, seed) as levels:
            for level in levels:
                if level == 0 and path.include_unmasked:
                    yield self.features(kind)
                else:
                    yield self._embed(kind, level, f"masked network {level + 1} of {path.levels}")

    def _asked(self, kind: FeatureKind, path: MaskPath | None = None, seed: int = 0) -> Asked:
        embedding = self.embedding
        key = self._feature_key(kind) if path is None else self._masked_key(path, seed, kind)
        return Asked(self.pool, embedding.network, embedding.passes, embedding.short_side, kind, key, path, seed)

    def _feature_key(self, kind: FeatureKind) -> dict[str, Any]:
        return {**self.embedding.key(self.pool), **asdict(kind)}

    def _embed(self, kind: FeatureKind, level: int, description: str) -> Tensor:
        embedding = self.embedding
        return embed(
            embedding.network.to(embedding.device),
            self._shown(kind, level),
            range(len(self.pool)),
            embedding.passes,
            description,
            collapsed=kind.pooling == "token_collapse",
        )

    def _shown(self, kind: FeatureKind, level: int) -> ImageAt:
        plain = self.embedding.evaluation(self.pool)
        if kind.transform == "evaluation":
            return plain
        images, size = self.embedding.decoded(self.pool), self.embedding.network.input_size
        augmented = training(images, size, self.pool, RELEASED_VIEW, level)
        return lambda position: (augmented if self.pool.splits[position] == "train" else plain)(position)

    def _write_features(self, folder: Path, kind: FeatureKind) -> dict[str, Any]:
        start = time.perf_counter()
        remote = self.embedding.remote
        if remote is None:
            features = self._embed(kind, 0, f"features of {self.pool.name}")
        else:
            features = remote.features(self._asked(kind))
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
        weights = {} if maskable(self.network.model, path.modules).is_plain else USED_WEIGHTS
        return {**self.embedding.key(self.pool), **asdict(kind), "path": path.key(seed), **weights}

    def _charge(self, name: str, seconds: float, here: float) -> None:
        self.charges[name] = seconds
        self.spent[name] = self.spent.get(name, 0.0) + here

    def layer_features(self) -> Iterator[Tensor]:
        embedding = self.embedding
        embedding.decoded(self.pool)
        start = time.perf_counter()

        def entry() -> Path:
            key, name = embedding.key(self.pool), self.pool.name
            return embedding.store.entry("layers", name, key, self._write_layers, ["layers.npy"])

        meta = read_meta(entry())
        self._charge("layers", meta["seconds"], time.perf_counter() - start)
        ends = np.cumsum(meta["widths"]).tolist()
        rows = StoredArray(embedding.store, entry, "layers.npy")  # [N, sum D_l]
        return (torch.from_numpy(rows[:, a:b]) for a, b in zip([0, *ends], ends, strict=False))

    def masked_features_of(
        self, network: Network, path: MaskPath, seed: int = 0, positions: Tensor | None = None
    ) -> Iterator[Tensor]:
        embedding = self.embedding
        view = embedding.evaluation(self.pool, network.input_size)
        rows = range(len(self.pool)) if positions is None else positions.tolist()
        network = network.to(embedding.device)
        with masked_networks(network.model, path, seed) as levels:
            for level in levels:
                yield embed(network, view, rows, embedding.passes, f"masked proxy {level + 1} of {path.levels}")

    def collapsed_features(self) -> Tensor:
        proxy = self.proxy()
        if isinstance(proxy, ProbeProxy):  # The network of such a proxy is the pretrained one.
            return self.features(FeatureKind(pooling="token_collapse"))
        embedding, network = self.embedding, proxy.model(proxy.num_epochs)[0]
        view, text = embedding.evaluation(self.pool, network.input_size), "collapsed features of the proxy"
        network = network.to(embedding.device)
        return embed(network, view, range(len(self.pool)), embedding.passes, text, collapsed=True)

    @torch.inference_mode()
    def _write_layers(self, folder: Path) -> dict[str, Any]:
        start = time.perf_counter()
        embedding, network = self.embedding, self.embedding.network.to(self.embedding.device)
        device, side = embedding.device, network.input_size
        one = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
        widths = [layer.shape[1] for layer in network.forward_layers(one)]
        size = embedding.batch_size if device != "cpu" else min(embedding.batch_size, max(1, CPU_PIXELS // side**2))
        view = embedding.evaluation(self.pool, side)

        def rows() -> Iterator[np.ndarray]:
            parts = batches(view, range(len(self.pool)), size)
            for batch in track(parts, f"layers of {self.pool.name}", math.ceil(len(self.pool) / size)):
                with embedding.passes.hardware.arithmetic():
                    yield in_parts(lambda some: torch.cat(network.forward_layers(some), dim=1), batch, device).numpy()

        write_stack(folder / "layers.npy", rows(), (len(self.pool), sum(widths)), np.float32)
        return {"seconds": time.perf_counter() - start, "widths": widths}
