"""The checkpoint of an interrupted fine-tuning. It is one file, which is replaced as a whole.

It holds the adapter, the state of the optimiser, the history and the number of steps taken. The learning rate, the
order of samples and the dropout of a step depend only on its number and the seed, so no random state is stored.
"""

import hashlib
import json
import logging
import pickle
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.base import leftovers
from prunetune.base.disk import ANOTHER_RESULTS_DIR, explained
from prunetune.base.errors import InputError
from prunetune.base.publish import new_file
from prunetune.instruct.tuning.adapter import adapter_state, load_adapter_state

log = logging.getLogger(__name__)
NAME = "sft-checkpoint.pt"
# Reading a damaged file raises one of these errors.
DAMAGES = (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError, pickle.UnpicklingError)
DAMAGES += (zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Checkpoint:
    """The place of a checkpoint. key: all that the training depends on, as plain JSON."""

    folder: Path
    key: dict[str, Any]


@dataclass
class Position:
    """The progress of a training: number of steps, their history, and seconds and tokens (without padding) so far."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def digest(key: dict[str, Any]) -> str:
    """Return the SHA-256 of a key, written as JSON."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def save(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the checkpoint under another name and rename it, so that the file is always complete.

    Raises:
        InputError: the disk is full or not writable.
    """
    file = checkpoint.folder / NAME
    content = {
        "key": digest(checkpoint.key),
        "adapter": adapter_state(model),
        "optimizer": optimizer.state_dict(),
        "position": vars(position),
    }
    try:
        with explained(f"the checkpoint {file}"), new_file(file, synced=True) as partial, partial.open("wb") as opened:
            torch.save(content, opened)
    except RuntimeError as error:  # torch raises this error if the disk is full.
        raise InputError(
            f"the checkpoint {file} could not be written ({error}); free some space or {ANOTHER_RESULTS_DIR}"
        ) from error


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position | None:
    """Restore adapter and optimiser from the checkpoint and return its position; None if there is no usable one.

    A checkpoint with another key or a damaged one gives a warning and is not used.
    """
    file = checkpoint.folder / NAME
    content = _read(file)
    if content is None:
        return None
    if content["key"] != digest(checkpoint.key):
        log.warning("%s belongs to another training (model, subset or settings) and is not used", file)
        return None
    load_adapter_state(model, content["adapter"])
    optimizer.load_state_dict(content["optimizer"])
    return Position(**content["position"])


def forget(folder: Path) -> None:
    """Delete the checkpoint of a folder, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    leftovers.remove_from(folder)
    with suppress(OSError):  # The training is done, and nobody reads the checkpoint again.
        (folder / NAME).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        _check_bytes(path)
        content: dict[str, str | dict[str, Tensor]] = torch.load(path, map_location="cpu", weights_only=True)
        if {"key", "adapter", "optimizer", "position"} <= set(content):
            return content
        fault = "parts are missing"
    except DAMAGES as error:
        fault = " ".join(str(error).split())[:200]
    log.warning("%s is damaged (%s); the fine-tuning starts again", path, fault)
    return None


def _check_bytes(path: Path) -> None:
    """Compare the checksums in the file with its content. The file is a zip archive, and torch does not look at them.

    Raises:
        ValueError: a byte has changed.
    """
    with zipfile.ZipFile(path) as archive:
        if changed := archive.testzip():
            raise ValueError(f"{changed} has changed")
