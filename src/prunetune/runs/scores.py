"""Scores of a pool of images or text: computed once per (data, network, scorer), then read."""

import csv
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
from prunetune.base.store import Store, discard, is_sound, read_meta
from prunetune.data.pool import Pool
from prunetune.samplers.base import Sampler
from prunetune.scorers.base import Scorer
from prunetune.scorers.constant import NoScore
from prunetune.signals.network import NetworkSignals


@dataclass(frozen=True)
class Scores:
    """Scores and where they are.

    values: [N] float64 in pool order. seconds: what they cost when computed, decoding apart. peak_memory: the most
    that the process held then, in bytes. signals: seconds of each signal that is in `seconds`. folder: the store entry.
    is_new: whether they were computed just now.
    """

    values: Tensor
    seconds: float
    peak_memory: int | None
    signals: dict[str, float]
    folder: Path
    is_new: bool


def check_fit(scorer: Scorer, sampler: Sampler, ratio: float) -> None:
    """Refuse a sampler that reads what the scorer does not give: a score, hardness, an order of picks long enough.

    Raises:
        InputError: they do not fit.
    """
    if sampler.reads_hardness and scorer.higher_means == "picked earlier":
        raise InputError(
            f"{scorer.name} gives an order of picks, not the hardness that {type(sampler).__name__} reads; "
            "pass sampler=topk"
        )
    if isinstance(scorer, NoScore) and sampler.reads_scores:
        raise InputError(
            f"scorer none gives every image the same score, and {type(sampler).__name__} picks by the score; "
            "pass another scorer, or a sampler that reads none, e.g. sampler=typiclust"
        )
    fraction = getattr(scorer, "fraction", ratio)
    if fraction != ratio and ratio < 1:
        raise InputError(
            f"{scorer.name} selects for scorer.fraction={fraction:g}, the ratio is {ratio:g}; make them equal"
        )
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
    if depth < ratio < 1:
        raise InputError(
            f"{scorer.name} orders scorer.depth={depth:g} of each class, ratio {ratio:g} keeps more; raise scorer.depth"
        )


def compute_scores(scorer: Scorer, signals: Any, seed: int) -> Tensor:
    """Return a scorer's [N] float64 scores, checked.

    Args:
        scorer: of images or text.
        signals: `Signals` of images or `TextSignals`.
        seed: of the run; it counts where the scorer uses it.

    Raises:
        InputError: a score is not finite.
    """
    with seeded("score", *([seed] if scorer.uses_seed else [])) as generator:
        with exact_float32(signals.device):  # some scorers run networks of their own
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
    """A pool that is scored, and what images and text do differently when scores are stored.

    signals: what the scorer asks; it has the pool, and `products`: tensors that are kept beside the scores. store:
    where the scores go.
    """

    signals: Any
    store: Store

    @abstractmethod
    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        """Return all that stored scores depend on, as plain JSON values; seed: None where the scorer uses none."""

    @abstractmethod
    def alone(self, place: Path) -> "ScoreSource":
        """Return a source of its own for one score, charged with all that the score asks for.

        place: where its scores will be.
        """

    @abstractmethod
    def cost(self, seconds: float) -> dict[str, Any]:
        """Return what meta.json notes: `seconds`, what the score costs on its own, `signals`, and further entries.

        seconds: between the start and the end of the scoring.
        """

    def entry(self, prefix: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the entry with this key, which `make` has filled if it was not there."""
        return self.store.entry("scores", prefix, key, make)

    @abstractmethod
    def wait(self) -> None:
        """Wait for the other processes that store these scores."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the scores are in the store, and delete what was kept until then."""


class ImageSource(ScoreSource):
    """A pool of images that is scored by one process."""

    def __init__(self, signals: NetworkSignals) -> None:
        self.signals, self.store = signals, signals.embedding.store

    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        embedding = self.signals.embedding
        key = {
            "scorer": scorer.key(),  # nested: a scorer's own option may bear any name
            "mask_modules": self.signals.mask_modules,
            "seed": seed,
            **embedding.key(self.signals.pool),
        }
        return {**key, "proxy": self.signals.proxy_key()} if scorer.uses_proxy else key

    def alone(self, place: Path) -> "ImageSource":
        return ImageSource(self.signals.fresh())

    def cost(self, seconds: float) -> dict[str, Any]:
        # a signal that the store already had is charged what it cost then: a score costs what it costs on its own
        spent = sum(self.signals.spent.values())
        return {"seconds": seconds - spent + self.signals.seconds, "signals": self.signals.charges}

    def wait(self) -> None:
        """There is no other process."""

    def finish(self) -> None:
        """Nothing was kept: what the signals have stored serves other scorers too."""


def stored_scores(scorer: Scorer, signals: NetworkSignals | ScoreSource, seed: int) -> Scores:
    """Return a scorer's scores, from the store or computed into it.

    Args:
        scorer: of images or text.
        signals: of images; for text a `TextSource`, whose processes call this together.
        seed: of the run; it counts where the scorer uses it.
    """
    source = signals if isinstance(signals, ScoreSource) else ImageSource(signals)
    pool = source.signals.pool
    key, prefix = source.key(scorer, seed if scorer.uses_seed else None), f"{pool.name}-{scorer.name}"
    place = source.store.place("scores", prefix, key)
    found = _read_sound(place, pool)
    source.wait()  # every process has looked before one of them writes
    if found is None:
        own = source.alone(place)
        own.entry(prefix, key, lambda folder: _write_new(folder, scorer, own, seed))
        own.finish()
    meta, values = read_meta(place), read_scores(place / "scores.csv", pool) if found is None else found
    peak, charges = meta.get("peak_memory_bytes"), meta.get("signals", {})  # older stores note neither
    return Scores(values, meta["seconds"], peak, charges, place, found is None)


def _write_new(folder: Path, scorer: Scorer, source: ScoreSource, seed: int) -> dict[str, Any]:
    """Compute scores into a folder, and return what meta.json notes of them."""
    start = time.perf_counter()
    with measured() as peak:
        values = compute_scores(scorer, source.signals, seed)
    seconds = time.perf_counter() - start
    write_scores(folder / "scores.csv", source.signals.pool, values)
    for name, tensor in source.signals.products.items():
        np.save(folder / f"{name}.npy", tensor.numpy())
    return {**source.cost(seconds), "peak_memory_bytes": peak()}


def _read_sound(entry: Path, pool: Pool) -> Tensor | None:
    """Return the scores of an entry, None where there are none; damaged ones are named and removed."""
    if not is_sound(entry):
        return None
    try:
        return read_scores(entry / "scores.csv", pool)
    except InputError:
        discard(entry, "scores.csv cannot be read or belongs to other samples")
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
        InputError: the file is damaged or is not this pool's.
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
