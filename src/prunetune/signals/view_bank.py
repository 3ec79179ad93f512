"""The bank of augmented views: their features are stored, since a frozen backbone never changes them.

View v of image i is drawn from (v, sample_id) alone, so that all scorers, ratios and seeds share it. Rows are filled
when a run needs them: every fill is one more entry of the store, and a reader puts the entries together.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.store import read_meta, write_stack
from prunetune.base.stored_array import StoredArray
from prunetune.networks.frozen_pass import embed, training
from prunetune.signals.contract import Signals
from prunetune.signals.network import NetworkSignals

VIEWS = "views.npy"


@dataclass(frozen=True)
class ViewBank:
    """Features of V views of some images: values [V, U, D] float16 or float32, positions [U] int64 ascending.

    seconds: the time that these rows cost when they were computed.
    """

    values: Tensor
    positions: Tensor
    seconds: float

    def rows(self, positions: Tensor) -> Tensor:
        """Return where these pool positions [M] are in the bank."""
        return torch.searchsorted(self.positions, positions)


def view_bank(signals: Signals, positions: Tensor, num_views: int) -> ViewBank:
    """Return the features of augmented views, computing those that the store lacks.

    Args:
        signals: the signals of the backbone that is fine-tuned.
        positions: [U] int64 pool positions, ascending.
        num_views: V; 0 takes the evaluation view alone, which costs nothing more.

    Returns:
        V = num_views views in float16 (which is precise enough for augmented features), or one in float32 for 0.
    """
    if num_views == 0:
        bank = signals.features()[positions].unsqueeze(0)  # [1, U, D]
        return ViewBank(bank, positions, signals.seconds_of_features() * len(positions) / len(signals.pool))
    parts, missing = _missing(signals, positions, num_views)
    if len(missing):
        _fill(signals, missing, num_views)
        parts, _ = _missing(signals, positions, num_views)
    return _assemble(signals, parts, positions, num_views)


def _key(signals: NetworkSignals) -> dict[str, Any]:
    return {**signals.embedding.key(signals.pool), "stream": "view"}


def _folder(signals: NetworkSignals) -> Path:
    return signals.embedding.store.place("views", signals.pool.name, _key(signals))


def _missing(signals: NetworkSignals, positions: Tensor, num_views: int) -> tuple[list[Path], Tensor]:
    """Return the parts that have enough views, and the positions that none of them holds."""
    wide = sorted(part for part in _folder(signals).glob("part-*") if _num_views(part) >= num_views)
    parts = [part for part in wide if signals.embedding.store.is_sound(part, [VIEWS])]
    held = [torch.from_numpy(np.load(part / "positions.npy")) for part in parts]
    missing = positions[~torch.isin(positions, torch.cat(held))] if held else positions
    return parts, missing


def _num_views(part: Path) -> int:
    return int(part.name.split("-")[1])


def _fill(signals: NetworkSignals, positions: Tensor, num_views: int) -> Path:
    """Return the part that has these views of these positions. It is computed if the store does not have it."""
    embedding, pool, rows = signals.embedding, signals.pool, positions.tolist()

    def make(folder: Path) -> dict[str, Any]:
        images, size = embedding.decoded(pool), embedding.network.input_size
        network = embedding.network.to(embedding.device)

        def features_of(v: int) -> np.ndarray:
            view = training(images, size, pool, "view", v)
            about = f"view {v + 1} of {num_views} of {len(rows)} images"
            return embed(network, view, rows, embedding.passes, about).half().numpy()

        start = time.perf_counter()
        shape = (num_views, len(rows), network.num_features)
        write_stack(folder / VIEWS, (features_of(v) for v in range(num_views)), shape, np.float16)
        np.save(folder / "positions.npy", positions.numpy())
        return {"seconds": time.perf_counter() - start}

    key = {**_key(signals), "views": num_views, "positions": rows}
    return embedding.store.entry(f"views/{_folder(signals).name}", f"part-{num_views}", key, make, [VIEWS])


def _assemble(signals: NetworkSignals, parts: Sequence[Path], positions: Tensor, num_views: int) -> ViewBank:
    """Put the parts together; each row is charged its original cost, whichever run computed it."""
    values = torch.empty(num_views, len(positions), signals.embedding.network.num_features, dtype=torch.float16)
    is_missing = torch.ones(len(positions), dtype=torch.bool)
    seconds = 0.0
    for part in parts:
        held = torch.from_numpy(np.load(part / "positions.npy"))
        wanted = torch.isin(held, positions[is_missing])
        if not wanted.any():
            continue
        stored = StoredArray(signals.embedding.store, partial(_fill, signals, held, _num_views(part)), VIEWS)
        places = torch.searchsorted(positions, held[wanted])
        values[:, places] = torch.from_numpy(stored[:num_views, wanted.numpy()])  # The file has [V', U', D].
        is_missing[places] = False
        seconds += read_meta(part)["seconds"] * num_views * len(places) / (stored.shape[0] * stored.shape[1])
    return ViewBank(values, positions, seconds)
