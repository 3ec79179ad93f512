"""Scores of a corpus: computed once per (corpus, model, scorer), then read."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.peak_memory import measured
from prunetune.base.seeding import seeded
from prunetune.base.store import Store, discard, is_sound, read_meta
from prunetune.instruct.scorers.base import TextScorer
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.runs.scores import Scores, read_scores, write_scores


def compute_text_scores(scorer: TextScorer, signals: TextSignals, seed: int) -> Tensor:
    """Return a scorer's [N] float64 scores, checked.

    Raises:
        InputError: a score is not finite.
    """
    with seeded("score", *([seed] if scorer.uses_seed else [])) as generator:
        values = scorer.score(signals, generator)
    if values.dtype != torch.float64 or values.shape != (len(signals),):
        raise TypeError(f"{type(scorer).__name__} must return [N] float64, got {list(values.shape)} {values.dtype}")
    if not values.isfinite().all():
        bad = int((~values.isfinite()).sum())
        raise InputError(
            f"{bad} of {len(values)} scores of {scorer.name} are not finite; "
            "check the language model's weights or pass llm.dtype=fp32"
        )
    return values


def stored_text_scores(scorer: TextScorer, signals: TextSignals, store: Store, seed: int) -> Scores:
    """Return a scorer's scores, from the store or computed into it; its passes are deleted once they are in.

    Several processes call this together: all compute, the first one writes.
    """
    pool, processes = signals.pool, signals.processes
    key = {"text_scorer": scorer.key(), "seed": seed if scorer.uses_seed else None, **scorer.signals_key(signals)}
    prefix = f"{pool.name}-{scorer.name}"
    place = store.place("scores", prefix, key)
    is_new = not _is_readable(place, signals)
    processes.wait()  # all have looked before the first one writes
    if is_new:
        own = signals.for_score(store.root / "passes" / place.name)
        values, meta = _computed(scorer, own, seed)
        processes.wait()  # all have read the last pass before the first one deletes it
        if processes.is_main:
            store.entry("scores", prefix, key, lambda folder: _fill(folder, own, values, meta))
            shutil.rmtree(own.passes, ignore_errors=True)
        processes.wait()
    meta = read_meta(place)
    return Scores(
        read_scores(place / "scores.csv", pool),
        meta["seconds"],
        meta["peak_memory_bytes"],
        meta["signals"],
        place,
        is_new,
    )


def _computed(scorer: TextScorer, signals: TextSignals, seed: int) -> tuple[Tensor, dict[str, Any]]:
    start = time.perf_counter()
    with measured() as peak:
        values = compute_text_scores(scorer, signals, seed)
    return values, {
        # with the time of batches that a killed process had finished: a score costs what it costs at one go
        "seconds": time.perf_counter() - start + signals.found_seconds,
        "peak_memory_bytes": peak(),
        "signals": signals.charges,
        "tokens_per_second": signals.tokens_per_second,
        "tokens": signals.tokens,
        "processes": signals.processes.size,
    }


def _fill(folder: Path, signals: TextSignals, values: Tensor, meta: dict[str, Any]) -> dict[str, Any]:
    write_scores(folder / "scores.csv", signals.pool, values)
    for name, tensor in signals.products.items():
        np.save(folder / f"{name}.npy", tensor.numpy())
    return meta


def _is_readable(entry: Path, signals: TextSignals) -> bool:
    """Whether scores are there and whole; damaged ones are named and removed."""
    if not is_sound(entry):
        return False
    try:
        read_scores(entry / "scores.csv", signals.pool)
    except InputError:
        discard(entry, "scores.csv cannot be read or belongs to other samples")
        return False
    return True
