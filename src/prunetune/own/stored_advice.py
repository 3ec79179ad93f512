"""Advice that is kept in the store: `prunetune advise` writes it, and `prunetune prune` shows it in its report.

The key has what is known before a network is loaded and an image is opened, so that a finished command still returns
at once: names, labels, sizes and times of the files, and the settings of the network.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunetune.base.publish import write_json
from prunetune.base.store import Store
from prunetune.networks.backbone import Backbone
from prunetune.own.advice import Advice, advise_data
from prunetune.own.choose import DEFAULT_METHOD, Plan
from prunetune.own.data import OwnData
from prunetune.own.folder import mark
from prunetune.own.learning_curve import Curve
from prunetune.own.read import ReadOptions

VERSION = 2  # It is raised when the same data get other advice.
KIND, FILE = "advice", "advice.json"


def key_of(data: OwnData, plan: Plan, options: ReadOptions) -> dict[str, Any] | None:
    """Return what the advice about data depends on; None if the network is an object that has no settings.

    The scorer and the sampler of the plan do not matter, since advice is about the default method.
    """
    key = {"version": VERSION, "method": DEFAULT_METHOD, "data": mark(data), "seed": plan.seed}
    if data.features is not None:
        return key
    if not isinstance(plan.backbone, Backbone):
        return None
    reading = {"exif": options.exif, "on_error": options.on_error}
    network = json.loads(json.dumps(asdict(plan.backbone), default=str))
    return {**key, **reading, "backbone": network, "weights": _weights(plan.backbone), "precision": plan.precision}


def _weights(backbone: Backbone) -> list[int] | None:
    """Return size and time of a local file of weights."""
    file = Path(backbone.checkpoint or "").expanduser()
    return [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else None


def stored_advice(store: Store, data: OwnData, plan: Plan, options: ReadOptions) -> Advice | None:
    """Return the advice that the store has about the data, or None."""
    key = key_of(data, plan, options)
    place = None if key is None else store.place(KIND, data.pool.name, key)
    return _read(place) if place is not None and store.is_sound(place) else None


def keep_advice(store: Store, data: OwnData, plan: Plan, options: ReadOptions) -> Advice:
    """Return the advice about the data, from the store if it has it, and otherwise make and keep it.

    Raises:
        InputError: as `advise_data`.
    """
    key = key_of(data, plan, options)
    if key is None:
        return advise_data(data, plan, store, options)
    return _read(store.entry(KIND, data.pool.name, key, lambda folder: _write(folder, data, plan, store, options)))


def _write(folder: Path, data: OwnData, plan: Plan, store: Store, options: ReadOptions) -> dict[str, Any]:
    start, advice = time.perf_counter(), advise_data(data, plan, store, options)
    content = {"num_samples": advice.num_samples, "scorer": advice.scorer, "method": advice.method}
    write_json(folder / FILE, {"curve": advice.curve.as_json(), **content})
    return {"seconds": time.perf_counter() - start}


def _read(entry: Path) -> Advice:
    content = json.loads((entry / FILE).read_text(encoding="utf-8"))
    return Advice(**{**content, "curve": Curve.from_json(content["curve"])})
