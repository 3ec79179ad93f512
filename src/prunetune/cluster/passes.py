"""The second stage: images are decoded, and frozen and masked networks are run over them.

With GPUs Ray Data streams the work: tasks on CPUs read and decode a part, actors that hold the networks take it, and no
more parts are decoded than wait for an actor (back-pressure). Without GPUs decoding and networks would compete for the
same CPUs. So one task does both for its parts, in a worker process that runs the other stages too and makes the
networks once: each process more would take several seconds of CPU to import its libraries. The features of a part are
written to the disk by the process that computes them, so that neither images nor features reach the driver.

What is kept between the passes of DLC. The losses need the mean feature of each class, which is known only when all
images have been seen. Between the two, the features of all T levels are kept: 4 T D bytes a row in float32 (10 kB for
five levels of a ResNet-18, D = 512). To keep the decoded views instead would take 3 S S bytes (150 kB for S = 224), and
to keep nothing would decode every image twice and run the unmasked network twice. The features are float32, since
DLC's losses of half precision would change ranks.
"""

import copy
import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from prunetune.base.devices import resolve_device
from prunetune.base.errors import InputError
from prunetune.cluster.catalogue import Catalogue, Listed, Part, Segment
from prunetune.cluster.content import contents
from prunetune.cluster.engine import RETRIES, Failure, died, guarded, kept, library, places, run_tasks
from prunetune.cluster.progress import Progress
from prunetune.cluster.shared import counted, shared_folder, shared_work
from prunetune.cluster.stages import Stage, facts_of, named_file
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
MOST_BLOCKS = 4096  # The segments are handed out in at most this many blocks.
Failures = dict[str, list[list[Any]]]  # Maps a part to the position and reason of each row that cannot be read.


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


def run_passes(catalogue: Catalogue, stage: Stage, work: Work, gpus: float = 1.0) -> tuple[list[Part], Failures]:
    """Run the passes over all rows, and return the parts and the rows that cannot be read.

    Finished parts are not read again. The file <part>.features.npz holds `positions` [n] int64 and `labels` [n] int32
    of the rows that can be read and have a label, `features` [n, D] float32 and, for DLC, `levels` [T - 1 or T, n, D]
    float32.

    Args:
        catalogue: the rows.
        stage: where files and records go.
        work: what is run.
        gpus: how many GPUs an actor takes, such as 0.5 for two actors on each; not read where there are none.

    Raises:
        InputError: a disk is full, object storage fails, or a worker dies again and again.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    segments = catalogue.segments(work.rows)
    parts = [part for segment in segments for part in segment.parts]
    found = stage.finished(part.name for part in parts)
    todo = [_unfinished(segment, found) for segment in segments]
    todo = [segment for segment in todo if segment.parts]
    progress = Progress("scoring", catalogue.total, sum(part.count for part in parts if part.name in found))
    for name, rows, record in _streamed(catalogue, stage, work, todo, gpus) if todo else ():
        found[name] = facts_of(record)
        progress.add(rows)
    for part in parts:  # A worker that died can have finished parts that it did not report.
        if part.name not in found and (record := stage.record(part.name)) is not None:
            found[part.name] = facts_of(record)
    stage.write_manifest(part.name for part in parts)
    return parts, {name: facts["failed"] for name, facts in found.items() if facts}


def _unfinished(segment: Segment, finished: Container[str]) -> Segment:
    """Return a segment without the finished parts at its end; those before an unfinished one are passed over."""
    left = [i for i, part in enumerate(segment.parts) if part.name not in finished]
    return Segment(segment.shard, segment.parts[: left[-1] + 1] if left else (), segment.groups, segment.start)


def _streamed(
    catalogue: Catalogue, stage: Stage, work: Work, segments: Sequence[Segment], gpus: float
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the name, rows and record of each part as it is finished."""
    crew = Crew(_decoded, Networks, DecodingNetworks, gpus if work.network is not None and uses_gpus(work) else 0.0)
    with shared_folder(stage, (catalogue.bare(), stage, work)) as place:
        yield from streamed(rows_of(catalogue, segments), place, crew)


def rows_of(catalogue: Catalogue, segments: Sequence[Segment]) -> Iterator[dict[str, Any]]:
    """Yield what the workers get of each segment. Images that the driver has listed go to one worker only."""
    for segment in segments:
        yield {"segment": pickle.dumps((segment, _listed(catalogue, segment.parts)))}


def _listed(catalogue: Catalogue, parts: Sequence[Part]) -> Listed | None:
    return catalogue.listed_at(parts[0].first, parts[-1].first + parts[-1].count - parts[0].first)


@dataclass(frozen=True)
class Crew:
    """What the workers run on a row. gpus: those that an actor takes, 0 to use none.

    decode: makes views of a row on a CPU. networks: the actors on GPUs that take the views. both: without GPUs does
    both, and yields the record of each part.
    """

    decode: Callable[..., Any]
    networks: type
    both: type
    gpus: float = 0.0


def streamed(items: Iterable[dict[str, Any]], place: Path, crew: Crew) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Run a crew over rows, and yield the name, rows and record of each part as it is finished.

    Args:
        items: at least one row.
        place: the folder of what all workers share, see `shared_folder`; each function and actor gets it as `place`.
        crew: what is run.
    """
    for row in _on_gpus(items, place, crew) if crew.gpus else _on_cpus(items, place, crew):
        if row["error"]:
            raise InputError(row["error"])
        yield row["name"], row["rows"], json.loads(row["record"])


def _on_cpus(items: Iterable[dict[str, Any]], place: Path, crew: Crew) -> Iterator[dict[str, Any]]:
    retries = RETRIES + 1  # `counted` ends such a run first, since it can say which part it was.
    for _, rows in run_tasks(finished_parts, items, crew.both, str(place), retries=retries):
        yield from rows


def finished_parts(item: dict[str, Any], both: type, place: str) -> list[dict[str, Any]]:
    """Return what `both` yields for a row."""
    networks = _made(both, place)
    return [{name: values[0] for name, values in row.items()} for row in networks({key: [item[key]] for key in item})]


@kept
def _made(both: type, place: str) -> Any:
    return both(place)


def _on_gpus(rows: Iterable[dict[str, Any]], place: Path, crew: Crew) -> Iterator[dict[str, Any]]:
    ray, data, items = library(), library("ray.data"), list(rows)
    # Blocks that are there from the start need no tasks of their own, for which actors on all CPUs would leave no room.
    blocks = min(len(items), MOST_BLOCKS)
    actors = data.ActorPoolStrategy(size=min(places("GPU", crew.gpus), len(items)))
    share = {"num_gpus": crew.gpus, "num_cpus": 0.0}  # So that there is always a CPU for decoding.
    words = {"place": str(place)}
    with _quiet(data.DataContext.get_current()):
        views = data.from_items(items, override_num_blocks=blocks).map_batches(
            crew.decode, batch_size=1, fn_kwargs=words, num_cpus=1
        )
        made = views.map_batches(crew.networks, batch_size=1, fn_constructor_kwargs=words, compute=actors, **share)
        try:
            yield from made.iter_rows()
        except ray.exceptions.RayError as error:
            raise _explained(error) from None


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Let Ray Data write no lines of its own inside the block; the settings of the caller come back after it."""
    logger = logging.getLogger("ray.data")
    ours = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "target_max_block_size": VIEW_BYTES,  # So that a decoded part waits as a block of its own.
    }
    before, level = {name: getattr(context, name) for name in ours}, logger.level
    try:
        logger.setLevel(logging.ERROR)
        for name, value in ours.items():
            setattr(context, name, value)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


def uses_gpus(work: Work) -> bool:
    """Return whether the networks run on GPUs, so that other workers decode for them."""
    return work.passes.hardware.device == "cuda"


def _explained(error: BaseException) -> BaseException:
    """Return the error of a worker that died as one line; any other error as it is."""
    names = {type(one).__name__ for one in (error, error.__cause__, getattr(error, "cause", None)) if one is not None}
    known = {"WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "ActorDiedError", "ActorUnavailableError"}
    return died(f"the same work ({type(error).__name__})") if names & known else error


def _decoded(batch: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
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
        for views in _decoded(batch, self._place):
            yield super().__call__(views)
