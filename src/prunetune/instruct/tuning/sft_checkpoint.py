"""Where a fine-tuning was when it was stopped: one file, replaced as a whole.

It holds the adapter, the optimiser's state, the history and the number of steps taken. The learning rate, the order of
the samples and the dropout of a step follow from its number and the seed, so no state of a random generator is stored.
"""

import hashlib
import json
import logging
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.publish import new_file
from prunetune.instruct.tuning.adapter import adapter_state, load_adapter_state

log = logging.getLogger(__name__)
NAME = "sft-checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is kept, and what it belongs to: `key` is all that the training depends on, as plain JSON."""

    folder: Path
    key: dict[str, Any]


@dataclass
class Position:
    """How far a training is: steps taken, one history entry for each, seconds and real tokens so far."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def digest(key: dict[str, Any]) -> str:
    """Return the SHA-256 of a JSON key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def save(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the checkpoint beside its place and rename it into it, so that it is either the old one or the new one.

    Raises:
        InputError: the folder's disk is full or not writable.
    """
    folder = checkpoint.folder
    content = {
        "key": digest(checkpoint.key),
        "adapter": adapter_state(model),
        "optimizer": optimizer.state_dict(),
        "position": vars(position),
    }
    try:
        with new_file(folder / NAME, synced=True) as partial, partial.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise InputError(f"the checkpoint could not be written to {folder} ({error}); free some space") from error


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position | None:
    """Put adapter and optimiser back to the checkpoint and return where it was; None if there is none of this key.

    A checkpoint of another training (key) or a damaged one is named in a warning and not used.
    """
    file = checkpoint.folder / NAME
    content = _read(file)
    if content is None:
        return None
    if content["key"] != digest(checkpoint.key):
        log.warning("%s is of another training (model, subset or settings) and is not used", file)
        return None
    load_adapter_state(model, content["adapter"])
    optimizer.load_state_dict(content["optimizer"])
    return Position(**content["position"])


def forget(folder: Path) -> None:
    """Delete the checkpoint of a folder, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    for path in (folder / NAME, *folder.glob(f".{NAME}-*")):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content: dict[str, str | dict[str, Tensor]] = torch.load(path, map_location="cpu", weights_only=True)
        if {"key", "adapter", "optimizer", "position"} <= set(content):
            return content
        fault = "parts are missing"
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        fault = " ".join(str(error).split())[:200]
    log.warning("%s is damaged (%s); the fine-tuning starts again", path, fault)
    return None
