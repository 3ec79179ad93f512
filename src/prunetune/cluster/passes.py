"""The second stage: images are decoded, and frozen and masked networks are run over them.

With GPUs Ray Data streams the work: tasks on CPUs read and decode a part, actors that hold the networks take it, and no
more parts are decoded than wait for an actor (back-pressure). Without GPUs decoding and networks would compete for the
same CPUs. So one task does both for its parts, in a worker process that runs the other stages too and makes the
networks once: each process more would take several seconds of CPU to import its libraries.

What is kept between the passes of DLC. The losses need the mean feature of each class, which is known only when all
images have been seen. Between the two, the features of all T levels are kept: 4 T D bytes a row in float32 (10 kB for
five levels of a ResNet-18, D = 512). To keep the decoded views instead would take 3 S S bytes (150 kB for S = 224), and
to keep nothing would decode every image twice and run the unmasked network twice. The features are float32, since
DLC's losses of half precision would change ranks.
"""

import json
import logging
import pickle
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.cluster.catalogue import Catalogue, Listed
from prunetune.cluster.engine import RETRIES, died, kept, library, places, run_tasks
from prunetune.cluster.parts import Part, Segment
from prunetune.cluster.progress import Progress
from prunetune.cluster.shared import shared_folder
from prunetune.cluster.stages import Stage, facts_of
from prunetune.cluster.workers import VIEW_BYTES, DecodingNetworks, Networks, Work, decoded

MOST_BLOCKS = 4096  # The segments are handed out in at most this many blocks.
Failures = dict[str, list[list[Any]]]  # Maps a part to the position and reason of each row that cannot be read.


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
    """Return a segment up to its last unfinished part. Finished parts before that one are skipped by the reader."""
    left = [i for i, part in enumerate(segment.parts) if part.name not in finished]
    return Segment(segment.shard, segment.parts[: left[-1] + 1] if left else (), segment.groups, segment.start)


def _streamed(
    catalogue: Catalogue, stage: Stage, work: Work, segments: Sequence[Segment], gpus: float
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the name, rows and record of each part as it is finished."""
    crew = Crew(decoded, Networks, DecodingNetworks, gpus if work.network is not None and uses_gpus(work) else 0.0)
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
    """What the workers run on a row.

    decode: the function that makes the views of a row on a CPU. networks: the class of the actors on GPUs, which take
    the views. both: the class that does both in one process where no GPU is used; it yields the record of each part.
    gpus: how many GPUs an actor takes; 0 to use none.
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


def uses_gpus(work: Work) -> bool:
    """Return whether the networks run on GPUs, so that other workers decode for them."""
    return work.passes.hardware.device == "cuda"


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


def _explained(error: BaseException) -> BaseException:
    """Return the error of a worker that died as one line; any other error as it is."""
    names = {type(one).__name__ for one in (error, error.__cause__, getattr(error, "cause", None)) if one is not None}
    known = {"WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "ActorDiedError", "ActorUnavailableError"}
    return died(f"the same work ({type(error).__name__})") if names & known else error
