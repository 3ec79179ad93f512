"""One pass of a frozen network over images."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from prunetune.base.devices import Hardware
from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.seeding import stream
from prunetune.data.images.decoded import Decoded
from prunetune.data.images.evaluation_views import EvaluationViews
from prunetune.data.images.transforms import evaluation_view, training_view
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Network

# A batch on a CPU has at most this many pixels. MobileNetV2 is then three times faster than with 64 images.
CPU_PIXELS = 8 * 224 * 224
FETCHED_AT_ONCE = 8192  # Copying features to the CPU blocks the process, so it is done once for this many images.
MOST_THREADS = 16  # Each thread processes its own part. With more threads than this, the GIL is the bottleneck.
RELEASED_VIEW = "released view"  # The crops of the released code are drawn from this name.
ImageAt = Callable[[int], Tensor]  # The function maps a position to an image [3, S, S] uint8.


@dataclass(frozen=True)
class Passes:
    """How frozen networks are run over images: batch_size images per forward pass, on this hardware."""

    batch_size: int = 64
    hardware: Hardware = Hardware()


def evaluation(images: Decoded, size: int) -> ImageAt:
    """Return the evaluation view of every image."""
    return lambda position: evaluation_view(images.decode(position), size)


def training(images: Decoded, size: int, pool: Pool, *names: str | int) -> ImageAt:
    """Return one augmented view of every image: its crop is drawn from (names, sample_id) and nothing else."""

    def view(position: int) -> Tensor:
        return training_view(images.decode(position), size, stream(*names, pool.sample_ids[position]))

    return view


def batches(image_at: ImageAt, positions: Sequence[int], batch_size: int, pinned: bool = False) -> Iterator[Tensor]:
    """Yield [B, 3, S, S] uint8; the next batch is prepared by threads while the caller computes on this one.

    pinned: put them into page-locked memory, from which a GPU copies without blocking the caller.
    """
    chunks = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    with ThreadPoolExecutor() as workers:

        def prepare(chunk: Sequence[int]) -> Callable[[], Tensor]:
            if isinstance(image_at, EvaluationViews) and image_at.has(chunk):
                return workers.submit(lambda: _pinned(image_at.read(chunk), pinned)).result
            futures = [workers.submit(image_at, position) for position in chunk]
            return lambda: _pinned(torch.stack([future.result() for future in futures]), pinned)

        ahead = prepare(chunks[0]) if chunks else None
        for next_chunk in [*chunks[1:], None]:
            ready, ahead = ahead, None if next_chunk is None else prepare(next_chunk)
            if ready is not None:
                yield ready()


def _pinned(images: Tensor, pinned: bool) -> Tensor:
    return images.pin_memory() if pinned else images


def in_parts(forward: Callable[[Tensor], Tensor], images: Tensor, device: str) -> Tensor:
    """Return the outputs of a frozen network for images [B, 3, S, S], [B, ...] float32 on the CPU.

    If the device runs out of memory the batch is split into halves, which does not change the outputs in eval mode.

    Raises:
        InputError: not even one image fits.
    """
    return _on_device(forward, images, device).cpu()


def _on_device(forward: Callable[[Tensor], Tensor], images: Tensor, device: str) -> Tensor:
    """Return the same outputs, still on the device, so that this process need not wait for them."""
    try:
        return forward(images.to(device, non_blocking=True)).float()
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise InputError("the device's memory does not hold one image; use another device or backbone") from None
    torch.cuda.empty_cache()
    return torch.cat([_on_device(forward, half, device) for half in images.split((len(images) + 1) // 2)])


def _images_at_once(batch: Tensor, device: str) -> int:
    """Return how many images of [B, 3, S, S] go through the network at once; on a CPU they must fit its caches."""
    return len(batch) if device != "cpu" else max(1, CPU_PIXELS // (batch.shape[2] * batch.shape[3]))


def embed(
    network: Network,
    image_at: ImageAt,
    positions: Sequence[int],
    passes: Passes,
    description: str,
    collapsed: bool = False,
) -> Tensor:
    """Return the features [len(positions), D] float32 on the CPU of these images.

    Args:
        network: on the device of the passes, in eval mode.
        image_at: gives the image [3, S, S] uint8 at a position.
        positions: those of the images.
        passes: batch size, device and precision.
        description: what is computed, for the progress line.
        collapsed: return the released code's [.., 1] feature of token networks instead.

    Raises:
        InputError: the device's memory does not hold one image.
    """
    forward = network.forward_collapsed if collapsed else network.forward
    batch_size, device = passes.batch_size, passes.hardware.device
    shown = batches(image_at, positions, batch_size, pinned=device == "cuda")
    parts = _parts(track(shown, description, math.ceil(len(positions) / batch_size)), device)
    features = _Rows(len(positions), network.num_features)
    threads = torch.get_num_threads() if device == "cpu" else 1
    if threads == 1:
        _run(forward, parts, features, passes.hardware)
    else:
        _run_in_threads(forward, parts, features, passes.hardware, threads)
    return features.values


Part = tuple[int, Tensor]  # A part holds its first row, and images [b, 3, S, S] or their features [b, D].


def _parts(shown: Iterator[Tensor], device: str) -> Iterator[Part]:
    """Yield the parts that go through the network at once."""
    start = 0
    for batch in shown:
        for part in batch.split(_images_at_once(batch, device)):
            yield start, part
            start += len(part)


class _Rows:
    """Rows that threads fill in any order; the first ones determine the width."""

    def __init__(self, count: int, width_if_none: int) -> None:
        self.values, self._count, self._lock = torch.empty(0, width_if_none), count, threading.Lock()

    def put(self, found: Iterable[Part]) -> None:
        for start, rows in found:
            with self._lock:
                if len(self.values) == 0:
                    self.values = torch.empty(self._count, rows.shape[1])
            self.values[start : start + len(rows)] = rows.cpu()


def _run(forward: Callable[[Tensor], Tensor], parts: Iterable[Part], features: _Rows, hardware: Hardware) -> None:
    """Run every part through the network; features stay on the device until FETCHED_AT_ONCE images are done."""
    waiting: list[Part] = []
    num_waiting = 0
    # The context encloses all parts, so that autocast casts the weights only once.
    with torch.inference_mode(), hardware.arithmetic():
        for start, images in parts:
            waiting.append((start, _on_device(forward, images, hardware.device)))
            num_waiting += len(images)
            if num_waiting >= FETCHED_AT_ONCE:
                features.put(waiting)
                waiting, num_waiting = [], 0
        features.put(waiting)


def _run_in_threads(
    forward: Callable[[Tensor], Tensor], parts: Iterator[Part], features: _Rows, hardware: Hardware, threads: int
) -> None:
    """Do the same on a CPU with as many parts at a time as it has threads, one thread each (up to MOST_THREADS parts).

    Threads that share a part wait for each other after every operation, and longest with small parts or on a busy
    machine. With one thread per part the rounding also does not depend on the number of threads.
    """
    num_workers = min(threads, MOST_THREADS)
    lock, is_over = threading.Lock(), threading.Event()

    def take() -> Iterator[Part]:
        while not is_over.is_set():
            with lock:
                part = next(parts, None)
            if part is None:
                return
            yield part

    def work() -> None:
        # This holds for this thread and for those that start before the reset.
        torch.set_num_threads(threads // num_workers)
        try:
            _run(forward, take(), features, hardware)
        finally:
            is_over.set()

    try:
        with ThreadPoolExecutor(num_workers) as workers:
            for future in [workers.submit(work) for _ in range(num_workers)]:
                future.result()
    finally:
        torch.set_num_threads(threads)
