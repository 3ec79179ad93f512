"""What the workers of the second stage do: they decode images, and run frozen and masked networks over them.

The features of a part are written to the disk by the process that computes them, so that neither images nor features
reach the driver.
"""

import copy
import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from prunetune.base.devices import resolve_device
from prunetune.base.errors import InputError
from prunetune.cluster.catalogue import Catalogue
from prunetune.cluster.content import contents
from prunetune.cluster.engine import Failure, guarded
from prunetune.cluster.parts import Part
from prunetune.cluster.shared import counted, shared_work
from prunetune.cluster.stages import Stage, named_file
from prunetune.data.images.decode import UnreadableImage
from prunetune.data.images.rule import DecodeRule
from prunetune.data.images.transforms import CROP_SHARE, evaluation_view
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import Passes, embed
from prunetune.networks.maskable import maskable
from prunetune.networks.masking import MaskPath, masked_networks

VIEW_BYTES = 32 << 20  # The views of one part take at most this many bytes.
MOST_ROWS = 8192  # A part has at most this many rows.
FEATURES, DIGESTS = ".features.npz", ".digests.npy"


@dataclass(frozen=True, eq=False)
class Work:
    """What is run over the images.

    network: pretrained, on the CPU; None only decodes the images, to find those that cannot be read. path: the masks of
    DLC, or None. seed: of random masks. rule: how files become pixels. passes: batch size, device and precision.
    collapsed: whether features are the released code's one number for each image.
    """

    network: Network | None
    rule: DecodeRule
    passes: Passes
    path: MaskPath | None = None
    seed: int = 0
    collapsed: bool = False

    @property
    def side(self) -> int:
        """The side of the network's images in pixels."""
        return 32 if self.network is None else self.network.input_size

    @property
    def rows(self) -> int:
        """The most rows of a part."""
        return rows_of_part(self.side)


def rows_of_part(side: int) -> int:
    """Return the most rows of a part, for views of this many pixels a side; parts are the same on every cluster."""
    return max(1, min(MOST_ROWS, VIEW_BYTES // (3 * side**2)))


def decoded(batch: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Yield the views of each unfinished part of a segment as one row."""
    catalogue, stage, work = shared_work(place)
    segment, listed = pickle.loads(batch["segment"][0])
    catalogue = replace(catalogue, listed=listed)
    parts = contents(catalogue, segment)
    while True:
        outcome = guarded(next, parts, None)
        if outcome is None:
            return
        if isinstance(outcome, Failure):
            yield _row(segment.parts[0], error=outcome.text)
            return
        part, images = outcome
        if stage.record(part.name) is None:
            row = guarded(_counted_views, place, catalogue, stage, work, part, images)
            yield _row(part, error=row.text) if isinstance(row, Failure) else row


def _row(
    part: Part, views: bytes = b"", offsets: Any = (), labels: Any = (), failed: Any = (), error: str = ""
) -> dict[str, Any]:
    """Return the views of a part as one row; offsets, labels: the places and classes of those rows that have a view."""
    row = {"name": part.name, "first": part.first, "count": part.count, "views": views, "error": error}
    row |= {"offsets": np.asarray(offsets, dtype=np.int64).tobytes(), "failed": json.dumps(list(failed))}
    row |= {"labels": np.asarray(labels, dtype=np.int32).tobytes()}
    return {name: [value] for name, value in row.items()}


def _counted_views(
    place: str, catalogue: Catalogue, stage: Stage, work: Work, part: Part, images: Iterator[bytes | OSError]
) -> dict[str, Any]:
    def described() -> str:
        names = catalogue.names(part)
        word = "rows" if catalogue.source.layout == "parquet" else "images"
        return f"part {part.name} ({word} {names[0]} to {names[-1]})"

    with counted(place, f"{part.name}.views", described):
        return _views(catalogue, stage, work, part, images)


def _views(
    catalogue: Catalogue, stage: Stage, work: Work, part: Part, images: Iterator[bytes | OSError]
) -> dict[str, Any]:
    """Decode a part; write the hash of each content where the driver has not listed the files."""
    names, labels = catalogue.names(part), catalogue.labels(part)
    views, offsets, failed, digests = bytearray(), [], [], []
    for offset, content in enumerate(images):
        digests.append(_digest(content, work.rule))
        if labels[offset] < 0:
            continue
        try:
            if isinstance(content, OSError):
                raise UnreadableImage(names[offset], content.strerror or str(content))
            image = work.rule.decode_bytes(content, names[offset])
        except UnreadableImage as error:
            if isinstance(error.__cause__, InputError):  # A worker without an extra says nothing about the image.
                raise error.__cause__ from None
            failed.append([part.first + offset, error.reason])
            continue
        offsets.append(offset)
        if work.network is not None:
            views += _view(image, work.side).numpy().tobytes()
    with named_file(stage.file(part.name, DIGESTS)) as file:
        np.save(file, np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32))
    return _row(part, bytes(views), offsets, labels[offsets], failed)


def _digest(content: bytes | OSError, rule: DecodeRule) -> bytes:
    """Return the hash that `data.images.own` gives to the same content; zeros for a row without content."""
    return bytes(32) if isinstance(content, OSError) else hashlib.sha256(rule.mark.encode() + content).digest()


def _view(image: Tensor, side: int) -> Tensor:
    """Return the evaluation view, made as the in-process engine makes it: it stores large images in a smaller size."""
    short = round(side / CROP_SHARE)
    if min(image.shape[1:]) > short:
        image = functional.resize(image, [short], antialias=True)
    return evaluation_view(image, side).contiguous()


class Networks:
    """Holds the networks of all levels in a process, and runs them over the views of one part after another."""

    def __init__(self, place: str) -> None:
        self._place, self._is_ready = place, False

    def _prepare(self) -> None:
        """Bring the networks to the device; not in __init__, an error of which is a dead worker to Ray."""
        _, self._stage, self._work = shared_work(self._place)
        torch.set_num_threads(1)  # Each CPU has an actor of its own.
        self._device = resolve_device(self._work.passes.hardware.device)
        network = self._work.network
        self._network = None if network is None else copy.deepcopy(network).to(self._device).eval()
        self._levels = self._masked()
        self._is_ready = True

    def _masked(self) -> list[Network]:
        """Return a copy of the network for each level that is not the network itself, so that masks are made once."""
        path = self._work.path
        if path is None or self._network is None:
            return []
        if not maskable(self._network.model, path.modules).is_plain:
            raise InputError(
                f"{self._network.title} computes its weights from others, which engine=ray cannot mask; leave the "
                "engine out"
            )
        skipped = 1 if path.include_unmasked else 0
        with masked_networks(self._network.model, path, self._work.seed) as levels:
            copies = [copy.deepcopy(self._network) if level >= skipped else None for level in levels]
        return [one for one in copies if one is not None]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the features of a part, and return its record."""
        row = {name: values[0] for name, values in batch.items()}
        part = Part(str(row["name"]), int(row["first"]), int(row["count"]))
        record = Failure(str(row["error"])) if row["error"] else guarded(self._done, part, row)
        error = record.text if isinstance(record, Failure) else ""
        return {"name": [part.name], "rows": [part.count], "record": [json.dumps(None if error else record)]} | {
            "error": [error]
        }

    def _done(self, part: Part, row: dict[str, Any]) -> dict[str, Any]:
        described = f"part {part.name} (rows {part.first} to {part.first + part.count - 1})"
        with counted(self._place, f"{part.name}.networks", lambda: described):
            if not self._is_ready:
                self._prepare()
            return self._finish(part, row)

    def _finish(self, part: Part, row: dict[str, Any]) -> dict[str, Any]:
        """Write the files of a part, and return its record."""
        side = self._work.side
        positions = part.first + np.frombuffer(row["offsets"], dtype=np.int64)
        arrays = {"positions": positions, "labels": np.frombuffer(row["labels"], dtype=np.int32)}
        if self._network is not None:
            views = torch.from_numpy(np.frombuffer(bytearray(row["views"]), dtype=np.uint8).reshape(-1, 3, side, side))
            arrays["features"] = self._features(self._network, views)
            if self._work.path is not None:
                arrays["levels"] = np.stack([self._features(one, views) for one in self._levels] or [np.zeros((0, 0))])
        path = self._stage.file(part.name, FEATURES)
        with named_file(path) as file:
            np.savez(file, **arrays)
        digests = self._stage.file(part.name, DIGESTS)
        failed = json.loads(str(row["failed"]))
        return self._stage.finish(part.name, [path, digests], {"failed": failed} if failed else {})

    def _features(self, network: Network, views: Tensor) -> np.ndarray:
        passes = self._work.passes
        if len(views) == 0:
            return np.zeros((0, network.num_features), dtype=np.float32)
        rows = range(len(views))
        features = embed(network, views.__getitem__, rows, passes, "features", collapsed=self._work.collapsed)
        if not features.isfinite().all():
            raise InputError(
                "the backbone gives features that are not finite; check its weights or pass precision=fp32"
            )
        return features.numpy()


class DecodingNetworks(Networks):
    """Networks in a process without a GPU, which decodes the parts itself, so that no CPU waits for another one."""

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Write the features of the parts of a segment, and yield their records."""
        for views in decoded(batch, self._place):
            yield super().__call__(views)
