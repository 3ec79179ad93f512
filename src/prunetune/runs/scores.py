"""Compute, store and read the scores of a pool, of images or text. Each (data, network, scorer) is computed once."""

import csv
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.devices import exact_float32
from prunetune.base.errors import InputError
from prunetune.base.peak_memory import measured
from prunetune.base.seeding import seeded
from prunetune.base.store import Store, read_meta
from prunetune.data.pool import Pool
from prunetune.networks.maskable import USED_WEIGHTS
from prunetune.samplers.base import Sampler
from prunetune.scorers.base import Scorer
from prunetune.scorers.constant import NoScore
from prunetune.signals.network import NetworkSignals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Scores with their cost and their place in the store.

    values: [N] float64 in pool order. seconds: the time that computing them took, without decoding images. peak_memory:
    the largest memory of the process meanwhile, in bytes. signals: the seconds of each signal that `seconds` includes.
    folder: the store entry. is_new: whether this call has computed them.
    """

    values: Tensor
    seconds: float
    peak_memory: int | None
    signals: dict[str, float]
    folder: Path
    is_new: bool


def check_fit(scorer: Scorer, sampler: Sampler, ratio: float | None) -> None:
    """Refuse a sampler that does not fit the scorer.

    ratio: the fraction of each class that is kept; None for a number of images per class.

    Raises:
        InputError: the sampler needs scores, hardness, or more picks than the scorer gives.
    """
    if sampler.reads_hardness and scorer.higher_means == "picked earlier":
        raise InputError(
            f"{scorer.name} gives an order of picks, not the hardness that {type(sampler).__name__} reads; "
            "pass sampler=topk"
        )
    if isinstance(scorer, NoScore) and sampler.reads_scores:
        raise InputError(
            f"scorer none gives every image the same score, and {type(sampler).__name__} picks by the score; "
            "pass another scorer, or a sampler that reads no scores, e.g. sampler=typiclust"
        )
    _check_fraction(scorer, sampler, ratio)
    depth = getattr(scorer, "depth", 1.0)
    if depth < 1 and sampler.budgets != "proportional":
        raise InputError(
            f"with sampler.budgets={sampler.budgets} a class can keep all its images; "
            f"{scorer.name} needs scorer.depth=1, got {depth:g}"
        )
    if depth < 1 and sampler.min_per_class > 1:
        raise InputError(
            f"{scorer.name} orders scorer.depth={depth:g} of each class, which can be fewer than "
            f"sampler.min_per_class={sampler.min_per_class}; pass scorer.depth=1"
        )
    if depth < 1 and ratio is None:
        raise InputError(
            f"with a number of images per class a class can keep all its images; {scorer.name} needs scorer.depth=1, "
            f"got {depth:g}"
        )
    if ratio is not None and depth < ratio < 1:
        raise InputError(
            f"{scorer.name} orders scorer.depth={depth:g} of each class, ratio {ratio:g} keeps more; raise scorer.depth"
        )


def _check_fraction(scorer: Scorer, sampler: Sampler, ratio: float | None) -> None:
    """Refuse a scorer that selects for one fraction (`fraction`, None for any) if the run keeps anything else."""
    fraction = getattr(scorer, "fraction", None)
    if fraction is None or ratio == 1:
        return
    selects = f"{scorer.name} selects for scorer.fraction={fraction:g}"
    if ratio is None:
        raise InputError(f"{selects}, not for a number of images per class; keep that fraction")
    if fraction != ratio:
        raise InputError(f"{selects}, the ratio is {ratio:g}; make them equal")
    for key, only in (("budgets", "proportional"), ("min_per_class", 1)):
        if getattr(sampler, key) not in (only, 0):
            raise InputError(f"{selects} of each class; pass sampler.{key}={only}, got {getattr(sampler, key)}")


def compute_scores(scorer: Scorer, signals: Any, seed: int) -> Tensor:
    """Return the scores [N] float64 of a scorer, after checking them.

    Args:
        scorer: a scorer of images or text.
        signals: `Signals` of images or `TextSignals`.
        seed: the seed of the run. Scorers with uses_seed=False ignore it.

    Raises:
        InputError: a score is not finite.
        TypeError: the scorer returned another shape or dtype, which is a bug of the scorer.
    """
    with seeded("score", *([seed] if scorer.uses_seed else [])) as generator:
        with exact_float32(signals.device):  # Some scorers run networks themselves, and TF32 would change the scores.
            values = scorer.score(signals.pool, signals, generator)
    if values.dtype != torch.float64 or values.shape != (len(signals.pool),):
        raise TypeError(f"{type(scorer).__name__} must return [N] float64, got {list(values.shape)} {values.dtype}")
    if not values.isfinite().all():
        bad = int((~values.isfinite()).sum())
        raise InputError(
            f"{bad} of {len(values)} scores of {scorer.name} are not finite; "
            "check the network's weights or pass precision=fp32 (of text llm.dtype=fp32)"
        )
    return values


class ScoreSource(ABC):
    """A pool to score. The subclasses hold what images and text do differently when scores are stored.

    signals: the signals for the scorer. They have the pool, and `products`: tensors that are stored beside the scores.
    store: the store for the scores.
    """

    signals: Any
    store: Store

    @abstractmethod
    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        """Return everything that scores depend on as JSON values. seed: None if the scorer does not use it."""

    @abstractmethod
    def check(self, scorer: Scorer) -> None:
        """Refuse a scorer that reads what the network cannot give, before anything is computed.

        Raises:
            InputError: the network lacks something that the scorer needs.
        """

    @abstractmethod
    def alone(self, place: Path) -> "ScoreSource":
        """Return a new source for a single scorer, so that the costs of its signals are counted separately.

        place: the folder in which its scores will be stored.
        """

    @abstractmethod
    def cost(self, seconds: float) -> dict[str, Any]:
        """Return the entries of meta.json about cost.

        They are `seconds` (the cost of this score if nothing had been cached), `signals` (seconds of each signal) and
        possibly others.

        seconds: the time that this scoring took.
        """

    def entry(self, prefix: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the store entry with this key. If it does not exist, `make` fills it first."""
        return self.store.entry("scores", prefix, key, make)

    @abstractmethod
    def wait(self) -> None:
        """Wait for the other processes that store these scores."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the scores are in the store, and delete temporary files."""


class ImageSource(ScoreSource):
    """A pool of images that is scored by one process."""

    def __init__(self, signals: NetworkSignals) -> None:
        self.signals, self.store = signals, signals.embedding.store

    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        embedding = self.signals.embedding
        key = {
            "scorer": scorer.key(),  # Nested, since an option of a scorer could have the same name as another key here.
            "mask_modules": self.signals.mask_modules,
            "seed": seed,
            **embedding.key(self.signals.pool),
        }
        masks = scorer.masks(embedding.network)
        if masks is not None and not masks.is_plain:
            key |= USED_WEIGHTS
        return {**key, "proxy": self.signals.proxy_key()} if scorer.uses_proxy else key

    def check(self, scorer: Scorer) -> None:
        network = self.signals.network
        scorer.check_network(network)
        masks = scorer.masks(network)
        if masks is not None:
            log.info("%s can mask %.1f %% of the parameters of %s", scorer.name, 100 * masks.share, network.title)

    def alone(self, place: Path) -> "ImageSource":
        return ImageSource(self.signals.fresh())

    def cost(self, seconds: float) -> dict[str, Any]:
        # Charge a cached signal at its original cost, so that the cost of a score does not depend on what ran before.
        spent = sum(self.signals.spent.values())
        return {"seconds": seconds - spent + self.signals.seconds, "signals": self.signals.charges}

    def wait(self) -> None:
        """Return at once, since there is no other process."""

    def finish(self) -> None:
        """Delete nothing, since other scorers can reuse all signals that are in the store."""


def stored_scores(scorer: Scorer, signals: NetworkSignals | ScoreSource, seed: int) -> Scores:
    """Return a scorer's scores. They are read from the store, or computed and stored.

    Args:
        scorer: a scorer of images or text.
        signals: the signals of images, or a `TextSource` for text. All processes of a `TextSource` must call this.
        seed: the seed of the run. Scorers with uses_seed=False ignore it.
    """
    source = signals if isinstance(signals, ScoreSource) else ImageSource(signals)
    pool = source.signals.pool
    key, prefix = source.key(scorer, seed if scorer.uses_seed else None), f"{pool.name}-{scorer.name}"
    place = source.store.place("scores", prefix, key)
    found = _read_sound(source.store, place, pool)
    source.wait()  # All processes must have looked for the scores before one of them writes.
    if found is None:
        source.check(scorer)
        own = source.alone(place)
        own.entry(prefix, key, lambda folder: _write_new(folder, scorer, own, seed))
        own.finish()
    meta, values = read_meta(place), read_scores(place / "scores.csv", pool) if found is None else found
    peak, charges = meta.get("peak_memory_bytes"), meta.get("signals", {})  # Older stores have neither of them.
    return Scores(values, meta["seconds"], peak, charges, place, found is None)


def _write_new(folder: Path, scorer: Scorer, source: ScoreSource, seed: int) -> dict[str, Any]:
    """Compute scores, write them into a folder, and return the entries of its meta.json."""
    start = time.perf_counter()
    with measured() as peak:
        values = compute_scores(scorer, source.signals, seed)
    seconds = time.perf_counter() - start
    write_scores(folder / "scores.csv", source.signals.pool, values)
    for name, tensor in source.signals.products.items():
        np.save(folder / f"{name}.npy", tensor.numpy())
    return {**source.cost(seconds), "peak_memory_bytes": peak()}


def _read_sound(store: Store, entry: Path, pool: Pool) -> Tensor | None:
    """Return the scores of a store entry, or None if it has none. A damaged entry is discarded with a warning."""
    if not store.is_sound(entry):
        return None
    try:
        return read_scores(entry / "scores.csv", pool)
    except InputError:
        store.discard(entry, "scores.csv cannot be read or belongs to other samples")
        return None


def write_scores(path: Path, pool: Pool, values: Tensor) -> None:
    """Write position, sample_id, label, score: one row per sample in pool order, 17 significant digits."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["position", "sample_id", "label", "score"])
        rows = zip(pool.sample_ids, pool.labels.tolist(), values.tolist(), strict=True)
        writer.writerows([i, sample_id, label, f"{score:.17g}"] for i, (sample_id, label, score) in enumerate(rows))


def read_scores(path: Path, pool: Pool) -> Tensor:
    """Return the [N] float64 scores of a `scores.csv`.

    Raises:
        InputError: the file is damaged or belongs to another pool.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        is_whole = [row["sample_id"] for row in rows] == list(pool.sample_ids)
        values = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete the folder {path.parent.name} and run again") from None
    if not is_whole:
        raise InputError(
            f"{path} is damaged or belongs to other samples; delete the folder {path.parent.name} and run again"
        )
    return values
