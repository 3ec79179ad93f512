"""Statistics of a proxy's predictions after one epoch of its training."""

from collections.abc import Callable

import torch
from torch import Tensor

from prunetune.signals.proxy import NUMBERS_AT_ONCE, Proxy

# A snapshot function maps logits [B, C] float32 and labels [B] int64 to one number per image, [B].
Snapshot = Callable[[Tensor, Tensor], Tensor]


def snapshot_statistic(proxy: Proxy, function: Snapshot, labels: Tensor, epoch: int) -> Tensor:
    """Return a function of every image's logits at the end of an epoch, [N] float64.

    Args:
        proxy: a proxy of N images; its `snapshot` is read.
        function: maps logits [B, C] float32 and labels [B] of a chunk to [B]; each image is treated by itself.
        labels: [N] int64.
        epoch: from 1.

    Raises:
        InputError: the proxy has no such epoch.
    """
    proxy.check_epoch(epoch)
    size = max(1, NUMBERS_AT_ONCE // (4 * proxy.num_classes))
    # Results are written in place to avoid fragmented memory, as in `Proxy.statistic`.
    values = torch.empty(proxy.num_images, dtype=torch.float64)
    for rows in torch.arange(proxy.num_images).split(size):
        values[rows] = function(proxy.snapshot(epoch, rows), labels[rows]).double()
    return values
