"""What is done when images turn out, while they are decoded, to be unreadable."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import PIL
import torch

from prunetune.base.publish import write_json
from prunetune.base.store import Store
from prunetune.data.images.decode import UnreadableImages
from prunetune.own.data import OwnData
from prunetune.own.read.options import ReadOptions, by_reason, leave_out

log = logging.getLogger(__name__)
Outcome = TypeVar("Outcome")


def with_readable(
    data: OwnData, options: ReadOptions, store: Store, work: Callable[[OwnData], Outcome]
) -> tuple[OwnData, Outcome]:
    """Do some work on the images that can be read; return these images and the outcome.

    If images cannot be read, the work is done again without them. The store remembers which they are, so that the same
    data need not be decoded to find them again.

    Args:
        data: the candidates.
        options: says whether unreadable images stop the work or are left out.
        store: the store that the work decodes into.
        work: decodes the images and returns any outcome.

    Raises:
        InputError: images cannot be read and `options.on_error` is "stop"; it names them all.
    """
    if data.pool.images is not None and (known := _remembered(data, options, store)):
        data = without(data, known, options)
    try:
        return data, work(data)
    except UnreadableImages as error:
        failures = {position: failure.reason for position, failure in error.failures.items()}
    if options.on_error == "skip":
        _remember(data, options, store, failures)
    data = without(data, failures, options)
    return data, work(data)


def without(data: OwnData, failures: Mapping[int, str], options: ReadOptions) -> OwnData:
    """Return the data without the images at some positions, with a WARNING that counts and names them.

    Args:
        data: the N candidates.
        failures: maps the positions of unreadable images in the pool to the reasons.
        options: says whether they are left out.

    Raises:
        InputError: `options.on_error` is "stop"; the message names all of them.
    """
    named = {data.names[position]: reason for position, reason in sorted(failures.items())}
    leave_out(named, len(data.pool), "images", options)
    listed = by_reason(named)
    log.warning("%d of %d images cannot be read and are left out: %s", len(named), len(data.pool), listed)
    stay = torch.tensor([position for position in range(len(data.pool)) if position not in failures], dtype=torch.int64)
    return data.take(stay, named)


def _key(data: OwnData, options: ReadOptions) -> dict[str, Any]:
    # Another version of Pillow may read what this one does not.
    return {"dataset": data.pool.fingerprint, "max_pixels": options.max_pixels, "pillow": PIL.__version__}


def _remembered(data: OwnData, options: ReadOptions, store: Store) -> dict[int, str]:
    """Return the positions and reasons of images that an earlier call could not read."""
    if options.on_error != "skip":
        return {}
    place = store.place("unreadable", data.pool.name, _key(data, options))
    if not store.is_sound(place):
        return {}
    found = json.loads((place / "failures.json").read_text(encoding="utf-8"))
    return {int(position): reason for position, reason in found.items()}


def _remember(data: OwnData, options: ReadOptions, store: Store, failures: Mapping[int, str]) -> None:
    def make(folder: Any) -> dict[str, Any]:
        write_json(folder / "failures.json", {str(position): reason for position, reason in failures.items()})
        return {"images": len(failures)}

    store.entry("unreadable", data.pool.name, _key(data, options), make)
