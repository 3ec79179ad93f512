"""One pass of a language model over a corpus. Each batch is saved to disk, so that a killed pass can continue.

Every finished batch is one file, written under another name and then renamed. The samples of a batch depend only on the
corpus. So a pass that continues, with as many processes or with fewer, gives bit-equal numbers on the CPU.
"""

import hashlib
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.disk import explained
from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.publish import new_file, write_json
from prunetune.instruct.model.processes import Processes

log = logging.getLogger(__name__)
# Reading a damaged file raises one of these errors.
DAMAGES = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
Compute = Callable[[nn.Module, Tensor], Tensor]  # Maps model and positions [B] to [B, W] float64 on the CPU.
Computed = Callable[[Sequence[int]], Iterable[tuple[int, Tensor, float]]]


@dataclass(frozen=True)
class Pass:
    """The outcome of a pass.

    values: [N, W] float64 in pool order. seconds: time of all batches, summed over all processes. found_seconds: time
    of those batches of this process that an earlier attempt has computed.
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
    """Compute the batches that are not on disk yet, and return the values of all batches in every process.

    Args:
        folder: the folder of the passes of a score, which all processes share.
        name: a readable name. The key identifies the pass.
        key: everything that the numbers depend on, as plain JSON values.
        buckets: the positions of each batch, together 0 to N - 1.
        network: returns the model, masked or not, for the duration of the pass. It is not called if all batches exist.
        compute: returns the values of one batch.
        processes: the processes that share the batches.

    Raises:
        InputError: the folder is not writable, or files of another process are missing.
    """
    place = _place(folder, name, key)
    share = processes.share(len(buckets))
    found = {index: _read(place, index, buckets[index]) for index in share}
    mine = [index for index in share if found[index] is None]
    if mine:
        _begin(place, key if processes.is_main else None)
        if len(mine) < len(share):
            log.info("%s: continues, %d of %d batches exist", name, len(share) - len(mine), len(share))
        with network() as model, torch.inference_mode():
            for index in track(mine, name, total=len(mine)):
                start = time.perf_counter()
                values = compute(model, buckets[index])
                _write(place, index, buckets[index], values, time.perf_counter() - start)
    processes.wait()
    return _merged(place, buckets, sum(part[1] for part in found.values() if part is not None))


def fill_pass(folder: Path, name: str, key: dict[str, Any], buckets: list[Tensor], computed: Computed) -> float:
    """Let other processes compute the batches of a pass whose files do not exist, so that `run_pass` finds them all.

    Args:
        folder: as for `run_pass`, and so are name, key and buckets.
        name: the name of the pass.
        key: everything that the numbers depend on.
        buckets: the positions of each batch.
        computed: maps the indices of batches to the index, values and seconds of each, in any order.

    Returns:
        The seconds of the batches that were computed, summed over all processes.

    Raises:
        InputError: the folder is not writable, or the other processes fail.
    """
    place = _place(folder, name, key)
    missing = [index for index, rows in enumerate(buckets) if _read(place, index, rows) is None]
    if not missing:
        return 0.0
    _begin(place, key)
    if len(missing) < len(buckets):
        log.info("%s: continues, %d of %d batches exist", name, len(buckets) - len(missing), len(buckets))
    total = 0.0
    for index, values, seconds in computed(missing):
        _write(place, index, buckets[index], values, seconds)
        total += seconds
    return total


def _place(folder: Path, name: str, key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{name}-{digest}"


def _begin(place: Path, key: dict[str, Any] | None) -> None:
    """Make the folder of a pass. key: is written too, unless another process does it."""
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
        if key is not None:
            with new_file(place / "key.json") as partial:
                write_json(partial, key)


def _merged(place: Path, buckets: list[Tensor], found_seconds: float) -> Pass:
    parts = [_read(place, index, rows) for index, rows in enumerate(buckets)]
    missing = [index for index, part in enumerate(parts) if part is None]
    if missing:
        raise InputError(
            f"{place}: the files of batches {missing[:5]} are missing, since another process has failed, or has "
            "finished these scores and removed them; run the same command again"
        )
    values = torch.empty(sum(map(len, buckets)), parts[0][0].shape[1], dtype=torch.float64)
    for rows, (part, _) in zip(buckets, parts, strict=True):
        values[rows] = part
    return Pass(values, sum(seconds for _, seconds in parts), found_seconds)


def _file(place: Path, index: int) -> Path:
    return place / f"batch-{index:06d}.npz"


def _write(place: Path, index: int, rows: Tensor, values: Tensor, seconds: float) -> None:
    with explained(place), new_file(_file(place, index)) as partial, partial.open("wb") as file:
        np.savez(file, values=values.numpy(), seconds=seconds, rows=rows.numpy(), of=place.name)


def _read(place: Path, index: int, rows: Tensor) -> tuple[Tensor, float] | None:
    """Return the values [B, W] and seconds of a batch, or None if its file is missing or damaged.

    The file is a zip archive with checksums, which are compared here. It names its pass and its positions, so that an
    exchanged file is detected. Files of earlier versions do not name them.
    """
    try:
        with _file(place, index).open("rb") as file, np.load(file, allow_pickle=False) as content:
            values, seconds = torch.from_numpy(content["values"]), float(content["seconds"])
            if "of" in content and (str(content["of"]), content["rows"].tolist()) != (place.name, rows.tolist()):
                raise ValueError("it is the file of another batch")
    except FileNotFoundError:
        return None
    except DAMAGES:
        log.warning("%s is damaged and is computed again", _file(place, index))
        return None
    return (values, seconds) if values.ndim == 2 and len(values) == len(rows) else None
