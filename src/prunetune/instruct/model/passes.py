"""One pass of a language model over a corpus, batch by batch on disk: a killed pass goes on where it was.

Every finished batch is a file of its own, written by rename. Which samples a batch holds depends on the corpus alone,
so that a pass taken up again, by as many processes or by fewer, gives bit-equal numbers on the CPU.
"""

import hashlib
import json
import logging
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.publish import new_file, write_json
from prunetune.instruct.model.processes import Processes

log = logging.getLogger(__name__)
Compute = Callable[[nn.Module, Tensor], Tensor]  # model, positions [B] -> [B, W] float64 on the CPU


@dataclass(frozen=True)
class Pass:
    """What a pass has given: values [N, W] float64 in pool order.

    seconds: of all its batches, over all processes. found_seconds: of those of this process' batches that an earlier
    one had left.
    """

    values: Tensor
    seconds: float
    found_seconds: float


def run_pass(
    folder: Path,
    name: str,
    key: dict[str, Any],
    buckets: list[Tensor],
    network: Callable[[], AbstractContextManager[nn.Module]],
    compute: Compute,
    processes: Processes,
) -> Pass:
    """Compute what is not on disk yet, and return all of it, in every process.

    Args:
        folder: where the passes of a score live; processes share it.
        name: for people; what counts is the key.
        key: everything that the numbers depend on, as plain JSON values.
        buckets: the positions of each batch, together 0 to N - 1.
        network: gives the model, masked or as it is, for the time of the pass; not called when all is there.
        compute: what one batch gives.
        processes: the batches are dealt to them.

    Raises:
        InputError: the folder is not writable.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / f"{name}-{digest}"
    share = processes.share(len(buckets))
    found = {index: _read(place, index, buckets[index]) for index in share}
    mine = [index for index in share if found[index] is None]
    if mine:
        try:
            place.mkdir(parents=True, exist_ok=True)
            if processes.is_main:
                write_json(place / "key.json", key)
        except OSError as error:
            raise InputError(f"{place} cannot be written ({error}); pass results_dir=<folder>") from error
        if len(mine) < len(share):
            log.info("%s: goes on, %d of %d batches are there", name, len(share) - len(mine), len(share))
        with network() as model, torch.inference_mode():
            for index in track(mine, name, total=len(mine)):
                start = time.perf_counter()
                values = compute(model, buckets[index])
                _write(place, index, values, time.perf_counter() - start)
    processes.wait()
    return _merged(place, buckets, sum(part[1] for part in found.values() if part is not None))


def _merged(place: Path, buckets: list[Tensor], found_seconds: float) -> Pass:
    parts = [_read(place, index, rows) for index, rows in enumerate(buckets)]
    missing = [index for index, part in enumerate(parts) if part is None]
    if missing:
        raise RuntimeError(f"{place.name}: batches {missing[:5]} are missing: another process has failed")
    values = torch.empty(sum(map(len, buckets)), parts[0][0].shape[1], dtype=torch.float64)
    for rows, (part, _) in zip(buckets, parts, strict=True):
        values[rows] = part
    return Pass(values, sum(seconds for _, seconds in parts), found_seconds)


def _file(place: Path, index: int) -> Path:
    return place / f"batch-{index:06d}.npz"


def _write(place: Path, index: int, values: Tensor, seconds: float) -> None:
    try:
        with new_file(_file(place, index)) as partial, partial.open("wb") as file:
            np.savez(file, values=values.numpy(), seconds=seconds)
    except OSError as error:
        raise InputError(f"{place} could not be written ({error}); free some space and run again") from error


def _read(place: Path, index: int, rows: Tensor) -> tuple[Tensor, float] | None:
    """Return a batch's values [B, W] and seconds; None where they are not there or damaged."""
    try:
        with _file(place, index).open("rb") as file, np.load(file, allow_pickle=False) as content:
            values, seconds = torch.from_numpy(content["values"]), float(content["seconds"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        log.warning("%s is damaged and is computed again", _file(place, index))
        return None
    return (values, seconds) if values.ndim == 2 and len(values) == len(rows) else None
