"""`engine=ray` for text: the passes of the language model, on the workers of Ray.

The driver reads the rows and cuts them into the batches of a pass in one process. Each actor holds one copy of the
model, takes one batch of tokens after another and returns the values of its samples, which the driver writes to the
store. So a killed worker costs the batches that it had, and a killed driver those of all workers.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.cluster.engine import RETRIES, Failure, RayEngine, died, guarded, library, places, started
from prunetune.cluster.progress import Progress
from prunetune.instruct.model.batches import Batch
from prunetune.instruct.scorers.signals import RemotePass

AHEAD = 2  # Each actor has this many batches, so that none waits for the driver.
COPIES = 2  # A model takes the memory of so many while it is loaded or masked.
BYTES = {"bf16": 2, "fp32": 4}


@contextmanager
def on_ray(engine: RayEngine | None) -> Iterator["RayBatches | None"]:
    """Yield the workers of Ray, which is started or joined when the first pass needs it; None if there is no engine.

    Raises:
        InputError: Ray is not installed.
    """
    if engine is None:
        yield None
        return
    library()  # Without Ray the call ends here, before anything is read.
    workers = RayBatches(engine)
    try:
        yield workers
    finally:
        workers.close()


class RayBatches:
    """Actors of Ray, each with one copy of a language model; see `RemoteBatches`."""

    def __init__(self, engine: RayEngine) -> None:
        self._engine = engine
        self._actors: list[Any] = []
        self._model: Any = None
        self._ray = ExitStack()
        self._is_started = False

    def size(self, work: RemotePass) -> int:
        """Return how many actors there are: one on each GPU or share of one, else as many as CPUs and memory allow.

        Raises:
            InputError: there is no cluster at the address.
        """
        if not self._is_started:
            self._ray.enter_context(started(self._engine.address))
            self._is_started = True
        model = (work.llm, work.device, work.dtype)
        if model != self._model:
            self._end_actors()
            self._model = model
            resources, count = self._room(work)
            actor = library().remote(max_restarts=RETRIES, max_task_retries=RETRIES, **resources)(TextActor)
            self._actors = [actor.remote() for _ in range(count)]
        return len(self._actors)

    def compute(
        self, work: RemotePass, batches: Iterator[tuple[int, Batch]], total: int
    ) -> Iterator[tuple[int, Tensor, float]]:
        """Yield the index, values and seconds of each batch; an actor has at most AHEAD batches at a time."""
        self.size(work)
        ray, progress = library(), Progress(work.name, total)
        packed = ray.put(library("ray.cloudpickle").dumps(_with_whole_path(work)))
        free = self._actors * AHEAD
        waiting: dict[Any, tuple[Any, int]] = {}
        while True:
            while free and (item := next(batches, None)) is not None:
                actor = free.pop()
                waiting[actor.run.remote(packed, item[1])] = (actor, item[0])
            if not waiting:
                return
            [done], _ = ray.wait(list(waiting), num_returns=1)
            actor, index = waiting.pop(done)
            free.insert(0, actor)
            values, seconds = _outcome(ray, done)
            progress.add(len(values))
            yield index, torch.from_numpy(values.copy()), seconds  # Ray's own memory is not writable.

    def close(self) -> None:
        """End the actors, and leave Ray."""
        self._end_actors()
        self._ray.close()

    def _end_actors(self) -> None:
        for actor in self._actors:
            library().kill(actor)
        self._actors, self._model = [], None

    def _room(self, work: RemotePass) -> tuple[dict[str, float], int]:
        """Return what an actor takes, and for how many of them there is room."""
        found = library().cluster_resources()
        if work.device.startswith("cuda"):
            share = self._engine.gpus_per_actor
            return {"num_gpus": share, "num_cpus": 0}, places("GPU", share)
        size = COPIES * BYTES[work.dtype] * sum(one.numel() for one in work.llm.skeleton().parameters())
        most = int(found.get("memory", 0) / size) or 1
        return {"num_cpus": 1}, max(1, min(most, int(found.get("CPU", 1))))


def _with_whole_path(work: RemotePass) -> RemotePass:
    """Return a pass whose model is found from another working folder too."""
    folder = Path(getattr(work.llm, "model", "")).expanduser()
    if not getattr(work.llm, "model", "") or not folder.is_dir():
        return work
    return replace(work, llm=replace(work.llm, model=str(folder.absolute())))


def _outcome(ray: Any, reference: Any) -> tuple[np.ndarray, float]:
    try:
        outcome = ray.get(reference)
    except ray.exceptions.RayActorError as error:
        raise died(f"the same work ({type(error).__name__})") from None
    if isinstance(outcome, Failure):
        raise InputError(outcome.text)
    return outcome


class TextActor:
    """A process that holds a language model. The model stays masked until another pass begins."""

    def __init__(self) -> None:
        torch.set_num_threads(1)  # Each CPU has an actor of its own.
        self._loaded: Any = None
        self._packed, self._work, self._altered = b"", None, ExitStack()

    def run(self, packed: bytes, batch: Batch) -> tuple[np.ndarray, float] | Failure:
        """Return the values [B, W] float64 of a batch and the seconds that they took. packed: a `RemotePass`."""
        return guarded(self._run, packed, batch)

    def _run(self, packed: bytes, batch: Batch) -> tuple[np.ndarray, float]:
        if packed != self._packed:
            self._begin(packed)
        start = time.perf_counter()
        with torch.inference_mode():
            values = self._work.values(self._network, batch)
        return values.numpy(), time.perf_counter() - start

    def _begin(self, packed: bytes) -> None:
        self._altered.close()
        self._work = library("ray.cloudpickle").loads(packed)
        if self._loaded is None:
            self._loaded = self._work.llm.load(self._work.device, self._work.dtype)
        self._network = self._altered.enter_context(self._work.level.alter(self._loaded))
        self._packed = packed
