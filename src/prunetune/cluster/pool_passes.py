"""`engine=ray` in a run: the frozen and masked passes over the pool of a run, on the workers of Ray.

The driver cuts the pool into parts of whole batches and sends each worker the images of a part as its reader names
them, such as paths; the worker opens and decodes them. So each forward pass has the images of a pass in one process.
Each part leaves a file of features, so that a worker or a driver that is killed costs the unfinished parts only.

What is kept: 4 L D bytes a row on the disk, for L = 1 or the number of masked networks. The driver holds [N, D]
features of one level at a time, since scorers, samplers and fine-tuning of a run read them in its process. It also
opens each image once, for the fingerprint of the pool.
"""

import copy
import json
import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.devices import Hardware
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.verification import key_digest
from prunetune.cluster.engine import Failure, guarded, library, started
from prunetune.cluster.job import worker_device
from prunetune.cluster.parts import Part
from prunetune.cluster.passes import Crew, streamed
from prunetune.cluster.progress import Progress
from prunetune.cluster.shared import counted, shared_folder, shared_work
from prunetune.cluster.stages import Stage, named_file, sliced
from prunetune.cluster.workers import VIEW_BYTES, Networks, Work
from prunetune.data.images.decode import Images, UnreadableImage, refuse_any
from prunetune.data.images.decoded import shrunk
from prunetune.data.images.rule import DecodeRule
from prunetune.data.images.transforms import evaluation_view, training_view
from prunetune.data.pool import Pool
from prunetune.networks.frozen_pass import RELEASED_VIEW
from prunetune.networks.maskable import maskable
from prunetune.signals.contract import FeatureKind
from prunetune.signals.remote import Asked, RemotePasses

VERSION = 1  # This number must be raised when the files of a part change.
FEATURES = ".npy"  # A file of this ending has the features of a part, [L, n, D] float32.
SENT_ALONE = 1 << 20  # If one image takes more bytes than this, all images of the pool are sent to each worker once.


class RayPasses(RemotePasses):
    """Runs frozen networks over the images of a pool on the workers of Ray.

    It is a context manager: the first pass starts Ray or joins a cluster, and the end of the block leaves it.

    Args:
        address: that of a cluster; None starts Ray on this machine.
        device: auto, cpu or cuda. With auto the workers use GPUs if the cluster has any.
        store: the folder of the store, on a disk that all machines share.
    """

    def __init__(self, address: str | None, device: str, store: Path) -> None:
        self._address, self._device, self._store = address, device, Path(store).absolute()
        self._stack = ExitStack()
        self._is_started = False

    def __enter__(self) -> "RayPasses":
        library()  # Without Ray the run ends here, before anything is read.
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def features(self, asked: Asked) -> Tensor:
        stage, parts = self._run(asked, 1)
        return _gathered(stage, parts, 0)

    def masked_features(self, asked: Asked) -> Iterator[Tensor]:
        path = asked.path
        assert path is not None
        count = path.levels - int(path.include_unmasked)
        if not count:
            return
        if not maskable(asked.network.model, path.modules).is_plain:
            raise InputError(
                f"{asked.network.title} computes its weights from others, which engine=ray cannot mask; "
                "pass engine=local"
            )
        stage, parts = self._run(asked, count)
        for level in range(count):
            yield _gathered(stage, parts, level)

    def _run(self, asked: Asked, count: int) -> tuple[Stage, list[Part]]:
        """Compute the features of all parts that are not finished, and return the stage and the parts."""
        if not self._is_started:
            self._stack.enter_context(started(self._address))
            self._is_started = True
        shown = Shown.of(asked, count)
        parts = [Part(f"{first:010d}", first, rows) for first, rows in sliced(len(asked.pool), shown.rows(asked))]
        key = {"version": VERSION, "features": asked.key, "part": parts[0].count}
        stage = Stage(self._store / "cluster" / f"pool-{key_digest(key)}")
        stage.folder.mkdir(parents=True, exist_ok=True)
        finished = stage.finished(part.name for part in parts)
        todo = [part for part in parts if part.name not in finished]
        if todo:
            passes = replace(asked.passes, hardware=self._hardware(asked))
            network = copy.deepcopy(asked.network).to("cpu")
            collapsed = asked.kind.pooling == "token_collapse"
            work = Work(network, DecodeRule(), passes, asked.path, asked.seed, collapsed)
            self._run_parts(asked.pool, stage, shown, work, todo)
        return stage, parts

    def _hardware(self, asked: Asked) -> Hardware:
        return Hardware(worker_device(self._device), asked.passes.hardware.precision)

    def _run_parts(self, pool: Pool, stage: Stage, shown: "Shown", work: Work, parts: list[Part]) -> None:
        what = f"features of {pool.name}" if work.path is None else f"{len(shown.draws)} masked networks"
        progress = Progress(what, len(pool), len(pool) - sum(part.count for part in parts))
        crew = Crew(_viewed, PoolNetworks, DecodingPoolNetworks, 1.0 if work.passes.hardware.device == "cuda" else 0.0)
        failures: dict[int, UnreadableImage] = {}
        rows = (_row(pool, shown, part) for part in parts)
        with shared_folder(stage, (shown, stage, work)) as place:
            for _, count, record in streamed(rows, place, crew):
                progress.add(count)
                failures |= {row: UnreadableImage(where, reason) for row, where, reason in record["failed"]}
        refuse_any(dict(sorted(failures.items())), len(pool))


@dataclass(frozen=True, eq=False)
class Shown:
    """What the networks see of an image, and where it comes from.

    content: the images of the whole pool as bytes, None if each part brings its own. side: of the views, in pixels.
    short_side: pixels to which decoded images are shrunk, None keeps them. kind: which view. draws: the number of the
    random view that each network sees, ascending.
    """

    content: bytes | None
    side: int
    short_side: int | None
    kind: FeatureKind
    draws: tuple[int, ...]

    @classmethod
    def of(cls, asked: Asked, count: int) -> "Shown":
        """Return what `count` networks see."""
        images = asked.pool.images
        assert images is not None
        is_large = len(_packed(images.take([0]), asked.pool.name)) > SENT_ALONE
        first = 1 if asked.path is not None and asked.path.include_unmasked else 0
        draws = tuple(range(first, first + count))
        content = _packed(images, asked.pool.name) if is_large else None
        return cls(content, asked.network.input_size, asked.short_side, asked.kind, draws)

    @cached_property
    def images(self) -> Images:
        """The images of the whole pool; each process unpacks them once."""
        return pickle.loads(self.content)

    @property
    def is_drawn(self) -> bool:
        """Whether each network sees a view of its own."""
        return self.kind.transform != "evaluation"

    def rows(self, asked: Asked) -> int:
        """Return the rows of a part: whole batches that take at most VIEW_BYTES, but at least one batch."""
        views = len(self.draws) if self.is_drawn else 1
        batch = asked.passes.batch_size
        return max(1, VIEW_BYTES // (3 * self.side**2 * views) // batch) * batch

    def views(self, image: Tensor, sample_id: str, split: str) -> Iterator[Tensor]:
        """Yield the different views [3, S, S] uint8 of an image."""
        if not self.is_drawn or split != "train":
            yield from [evaluation_view(image, self.side)] * (len(self.draws) if self.is_drawn else 1)
            return
        for draw in self.draws:
            yield training_view(image, self.side, stream(RELEASED_VIEW, draw, sample_id))


def _packed(content: Any, name: str) -> bytes:
    """Return an object as bytes, for the workers.

    Raises:
        InputError: the images of the data set cannot be opened by another process.
    """
    try:
        return library("ray.cloudpickle").dumps(content)
    except (TypeError, pickle.PicklingError) as error:
        raise InputError(f"the images of {name} cannot be sent to the workers ({error}); pass engine=local") from None


def _row(pool: Pool, shown: Shown, part: Part) -> dict[str, Any]:
    """Return what a worker gets of a part."""
    rows = slice(part.first, part.first + part.count)
    own = pool.images.take(range(rows.start, rows.stop)) if shown.content is None else None
    content = _packed((own, pool.sample_ids[rows], pool.splits[rows]), pool.name)
    return {"name": part.name, "first": part.first, "count": part.count, "content": content}


def _viewed(batch: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a part with the views of its images, [n, views, 3, S, S] uint8, instead of what the driver has sent."""
    row = {name: values[0] for name, values in batch.items()}
    shown = shared_work(place)[0]
    made = guarded(_counted_views, place, shown, row)
    views, failed = (b"", []) if isinstance(made, Failure) else made
    error = made.text if isinstance(made, Failure) else ""
    row |= {"content": b"", "views": views, "failed": json.dumps(failed), "error": error}
    return {name: [value] for name, value in row.items()}


def _counted_views(place: str, shown: Shown, row: dict[str, Any]) -> tuple[bytes, list[list[Any]]]:
    last = int(row["first"]) + int(row["count"]) - 1
    with counted(place, f"{row['name']}.views", lambda: f"images {row['first']} to {last} of the pool"):
        return _views(shown, row)


def _views(shown: Shown, row: dict[str, Any]) -> tuple[bytes, list[list[Any]]]:
    """Return the views of a part, and the position, place and reason of each image that cannot be read."""
    images, sample_ids, splits = pickle.loads(row["content"])
    first, count = int(row["first"]), int(row["count"])
    if images is None:
        images = shown.images.take(range(first, first + count))
    views, failed = bytearray(), []
    for offset in range(count):
        try:
            image = images.decode(offset)
        except UnreadableImage as error:
            failed.append([first + offset, error.place, error.reason])
            continue
        image = image if images.is_decoded else shrunk(image, shown.short_side)
        for view in shown.views(image, sample_ids[offset], splits[offset]):
            views += view.contiguous().numpy().tobytes()
    return bytes(views), failed


class PoolNetworks(Networks):
    """Runs networks over the views of one part of a pool after another."""

    def _finish(self, part: Part, row: dict[str, Any]) -> dict[str, Any]:
        failed = json.loads(str(row["failed"]))
        if failed:  # The run will end, so the part stays unfinished: the images may be repaired.
            return {"failed": failed}
        shown: Shown = shared_work(self._place)[0]
        views = torch.from_numpy(np.frombuffer(bytearray(row["views"]), dtype=np.uint8))
        views = views.view(part.count, -1, 3, shown.side, shown.side)
        networks = self._levels or [self._network]
        features = np.stack(
            [self._features(one, views[:, i if shown.is_drawn else 0]) for i, one in enumerate(networks)]
        )
        path = self._stage.file(part.name, FEATURES)
        with named_file(path) as file:
            np.save(file, features)
        return self._stage.finish(part.name, [path], {"failed": []})


class DecodingPoolNetworks(PoolNetworks):
    """Networks in a process without a GPU, which decodes the parts itself, so that no CPU waits for another one."""

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Write the features of a part, and yield its record."""
        yield super().__call__(_viewed(batch, self._place))


def _gathered(stage: Stage, parts: list[Part], level: int) -> Tensor:
    """Return the features of all parts at one level, [N, D] float32."""
    files = [stage.file(part.name, FEATURES) for part in parts]
    return torch.from_numpy(np.concatenate([np.load(file, mmap_mode="r")[level] for file in files]))
