"""The evaluation view of every image, made in the first pass and kept for the passes that follow.

Masked networks, proxies and layers read the same views many times. The views take 3 S S bytes an image, in a temporary
file without a name. The system caches the file in memory while there is room, and deletes it when the process ends,
also after a crash. Letters: N images, S side in pixels.
"""

import logging
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunetune.data.images.decoded import Decoded
from prunetune.data.images.transforms import evaluation_view

log = logging.getLogger(__name__)


class EvaluationViews:
    """The evaluation views [3, S, S] uint8 of N images: each is made at its first use and read afterwards.

    Several threads may use it at the same time. If the disk is full, the views are computed again in every pass.
    """

    def __init__(self, images: Decoded, count: int, size: int, folder: Path | None = None) -> None:
        self._images, self._size = images, size
        self._bytes = 3 * size * size  # A view takes one byte for each pixel and channel.
        self._is_kept, self._has_room = np.zeros(count, dtype=bool), True
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=folder)
            weakref.finalize(self, file.close)
            self._descriptor = file.fileno()
        except OSError as error:
            self._stop_keeping(error)

    def __call__(self, position: int) -> Tensor:
        """Return the view of an image, [3, S, S]."""
        if self._is_kept[position]:
            return self._read(position, 1)[0]
        view = evaluation_view(self._images.decode(position), self._size)
        self._keep(position, view)
        return view

    def has(self, positions: Sequence[int]) -> bool:
        """Whether the views of all these images are kept."""
        return bool(self._is_kept[np.asarray(positions, dtype=np.int64)].all())

    def read(self, positions: Sequence[int]) -> Tensor:
        """Return the views [n, 3, S, S] of images that are all kept; successive positions are read at once."""
        wanted = np.asarray(positions, dtype=np.int64)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else []
        pieces = [self._read(int(run[0]), len(run)) for run in runs]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces or [self._read(0, 0)])

    def _read(self, first: int, count: int) -> Tensor:
        views = np.empty((count, 3, self._size, self._size), dtype=np.uint8)
        flat = memoryview(views.reshape(-1))
        done = 0
        while done < len(flat):  # One call reads at most 2 GiB, so that several calls may be needed.
            got = os.preadv(self._descriptor, [flat[done:]], first * self._bytes + done)
            if got == 0:
                raise OSError(f"the file of kept views ends {len(flat) - done} bytes early")
            done += got
        return torch.from_numpy(views)

    def _keep(self, position: int, view: Tensor) -> None:
        if not self._has_room:
            return
        data, start, done = view.contiguous().numpy().tobytes(), position * self._bytes, 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], start + done)
        except OSError as error:
            self._stop_keeping(error)
            return
        self._is_kept[position] = True

    def _stop_keeping(self, error: OSError) -> None:
        if self._has_room:
            log.warning(
                "the views of some of the %d images are computed again in every pass: %s", len(self._is_kept), error
            )
        self._has_room = False
