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
from collections.abc import Callable
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
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / f"{name}-{digest}"
    share = processes.share(len(buckets))
    found = {index: _read(place, index, buckets[index]) for index in share}
    mine = [index for index in share if found[index] is None]
    if mine:
        with explained(place):
            place.mkdir(parents=True, exist_ok=True)
            if processes.is_main:
                with new_file(place / "key.json") as partial:
                    write_json(partial, key)
        if len(mine) < len(share):
            log.info("%s: continues, %d of %d batches exist", name, len(share) - len(mine), len(share))
        with network() as model, torch.inference_mode():
            for index in track(mine, name, total=len(mine)):
                start = time.perf_counter()
                values = compute(model, buckets[index])
                _write(place, index, buckets[index], values, time.perf_counter() - start)
    processes.wait()
    return _merged(place, buckets, sum(part[1] for part in found.values() if part is not None))


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
