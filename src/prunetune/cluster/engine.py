"""Ray: join a cluster or start it on this machine, and run tasks of which only some wait at a time."""

import functools
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prunetune.base import checks
from prunetune.base.devices import ENGINES
from prunetune.base.disk import fault_of, reason
from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.base.store import Store

RETRIES = 5  # A task whose worker dies is tried again this many times.
LOOPBACK = "127.0.0.1"
SECONDS_TO_ANSWER = 10
STARTS = 3  # Ray waits 30 seconds for its own processes. On a busy machine it is started up to this many times.
OBJECT_STORE = 1 << 30  # Bytes of shared memory on one machine. Decoded images wait there until a network is free.
_kept: list[Any] = []  # The caches of this process that `kept` has made.
_last: list[Any] = []  # The function of its last task.
AHEAD = 2  # For each CPU this many tasks are handed out, so that no worker waits for the driver.


def library(name: str = "ray") -> Any:
    """Return Ray or one of its modules.

    Raises:
        InputError: the extra `cluster` is not installed.
    """
    return needed(name, "cluster", "runs on Ray")


@contextmanager
def started(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray inside the block. A connection that the caller has made already is used and stays open.

    Ray on this machine gets no dashboard, sends no usage statistics, and uses no address but 127.0.0.1.

    Args:
        address: that of a cluster, such as "auto" or "10.0.0.1:6379"; None starts Ray on this machine.
        num_cpus: how many CPUs Ray on this machine uses; by default all of them.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads these when it is first imported.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = library()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None  # Ray's own variable, which scripts/slurm sets.
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            _check_answers(address)
            ray.init(address=address, **quiet)
        else:
            _start_here(ray, num_cpus, quiet)
    except Exception as error:  # Ray raises bare Exceptions too, such as for a machine that is too busy to start it.
        if address is None:
            text = f"Ray could not be started here ({_first_line(error)}); try again when the machine is less busy"
        else:
            text = f"there is no Ray cluster at {address} ({_first_line(error)}); check it, or leave it out"
        raise InputError(text) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise an OSError if nothing listens at an address; Ray would try for minutes, and say so in many lines."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def _start_here(ray: Any, num_cpus: int | None, quiet: dict[str, Any]) -> None:
    shared = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    room = OBJECT_STORE if shared is None else min(OBJECT_STORE, shared.f_bavail * shared.f_frsize // 2)
    with _on_loopback():
        for left in reversed(range(STARTS)):
            try:
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=room,
                    _node_ip_address=LOOPBACK,
                    **quiet,
                )
            except Exception:
                ray.shutdown()
                if not left:
                    raise
            else:
                return


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 as the address of this machine inside the block, and so listen on no other.

    On Linux Ray replaces this address by that of the route to the outside, so that other machines could join, and then
    listens on all addresses. With the constant below it does what it does on macOS and Windows, where none can join.
    """
    constants = library("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@dataclass(frozen=True)
class RayEngine:
    """How a pruning runs on Ray.

    address: that of a cluster, such as "auto" or "10.0.0.1:6379"; None takes the environment variable RAY_ADDRESS, and
    starts Ray on this machine if that is not set. gpus_per_actor: the GPUs that one copy of the network takes, such as
    0.5 for two copies on each; it is not read where there are none. worker_gb: the memory in GB that a worker may use
    for one class; larger classes are selected in two levels.
    """

    address: str | None = None
    gpus_per_actor: float = 1.0
    worker_gb: float = 2.0

    def __post_init__(self) -> None:
        checks.number("gpus_per_actor", self.gpus_per_actor, "(0, inf)")
        if self.gpus_per_actor > 1 and self.gpus_per_actor != int(self.gpus_per_actor):
            raise InputError(f"gpus_per_actor above 1 must be a whole number, got {self.gpus_per_actor:g}")
        checks.number("worker_gb", self.worker_gb, "(0, inf)")

    @property
    def worker_bytes(self) -> int:
        """The memory of a worker in bytes."""
        return int(self.worker_gb * 1e9)


def places(kind: str, share: float) -> int:
    """Return for how many actors the machines of the cluster have room.

    Args:
        kind: what an actor takes, "CPU" or "GPU".
        share: how much of it.

    Raises:
        InputError: no machine has as much.
    """
    machines = [node["Resources"].get(kind, 0) for node in library().nodes() if node["Alive"]]
    found = sum(int(has / share + 1e-9) for has in machines)  # 0.3 of a GPU fits three times, 0.1 ten times.
    if not found:
        raise InputError(
            f"no machine of the Ray cluster has {share:g} {kind}, the most is {max(machines, default=0):g}; take less, "
            "another device, or another cluster"
        )
    return found


@dataclass(frozen=True)
class Cluster:
    """Where one pruning runs. store: holds finished shards, on a disk that all machines share. engine: its settings."""

    store: Store
    engine: RayEngine = RayEngine()


def chosen_engine(engine: Any) -> RayEngine | None:
    """Return the settings of Ray for "ray" or a RayEngine, and None for "local".

    Raises:
        InputError: there is no such engine.
    """
    if isinstance(engine, RayEngine):
        return engine
    checks.choice("engine", engine, ENGINES)
    return RayEngine() if engine == "ray" else None


class Failure:
    """What a task returns instead of an error that a user can repair: the one line that says so."""

    def __init__(self, text: str) -> None:
        self.text = text


def guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or a Failure for an error of the input, of the disk or of object storage."""
    try:
        return function(*arguments)
    except InputError as error:
        return Failure(str(error))
    except Exception as error:
        text = storage_fault(error)
        if text is None:
            raise
        return Failure(text)


def storage_fault(error: BaseException) -> str | None:
    """Return one line about an error of a disk or of object storage; None for an error of another kind."""
    family = type(error).__module__.split(".")[0]
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError") or isinstance(error, PermissionError):
        return f"no access to the data or the store ({_first_line(error)}); check the credentials and permissions"
    if isinstance(error, FileNotFoundError):
        missing = f"{error.filename} is missing" if error.filename else _first_line(error)
        return f"{missing}; check the path, or copy the file again"
    fault = fault_of(error)
    if fault is not None:
        return f"a worker could not read or write ({reason(fault)}); free some space or check the path"
    if family in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "s3fs"):
        return f"object storage does not answer as it should ({name}: {_first_line(error)}); check address and access"
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else type(error).__name__


def run_tasks(
    function: Callable[..., Any],
    items: Iterable[Any],
    *shared: Any,
    memory: int | None = None,
    retries: int = RETRIES,
) -> Iterator[tuple[Any, Any]]:
    """Run a function on every item in the workers, and yield (item, outcome) as the tasks finish.

    Only AHEAD tasks for each CPU of the cluster are handed out at a time, so that nothing piles up. A task whose
    worker dies is run again.

    Args:
        function: maps an item and the shared arguments to an outcome; a module-level function.
        items: one for each task.
        shared: further arguments, which are sent to each machine once.
        memory: bytes that one task needs, so that not too many run on one machine.
        retries: how often a task whose worker dies is tried again.

    Raises:
        InputError: a task failed because of its input, of the disk or of object storage, or its worker died again and
            again.
    """
    ray = library()
    held = [ray.put(argument) for argument in shared]
    wanted = {} if memory is None else {"memory": min(memory, _largest_memory(ray))}
    # Ray shows the name in its lists of tasks and as the title of a worker that is at work.
    remote = ray.remote(max_retries=retries, num_cpus=1, name=function.__name__, **wanted)(_task)
    limit = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: dict[Any, Any] = {}
    left = iter(items)
    try:
        while True:
            while len(waiting) < limit and (item := next(left, None)) is not None:
                waiting[remote.remote(function, item, *held)] = item
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            item = waiting.pop(done[0])
            yield item, _outcome(ray, done[0], item)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=False)


def _largest_memory(ray: Any) -> int:
    """Return the memory of the largest machine; Ray would wait for ever for a machine that has more."""
    return int(max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]))


def kept(make: Callable[..., Any]) -> Callable[..., Any]:
    """Let a process keep what a function has returned last, such as networks, until a task of another stage comes."""
    cached = functools.lru_cache(maxsize=1)(make)
    _kept.append(cached)
    return cached


def _task(function: Callable[..., Any], item: Any, *shared: Any) -> Any:
    if _last != [function]:
        _last[:] = [function]
        for cached in _kept:
            cached.cache_clear()
    return guarded(function, item, *shared)


def _outcome(ray: Any, reference: Any, item: Any) -> Any:
    try:
        outcome = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
        raise died(f"{getattr(item, 'name', 'the same work')} ({type(error).__name__})") from None
    if isinstance(outcome, Failure):
        raise InputError(outcome.text)
    return outcome


def died(what: str) -> InputError:
    """Return the error that says on what workers died again and again."""
    return InputError(
        f"workers died {RETRIES + 1} times on {what}, which memory that is too small or a file that crashes its reader "
        "can cause; what is finished is kept: give the workers more memory, or remove the file, and give the same "
        "command again"
    )
