"""Gradients as DeepCore computes them: each is divided by the length of the batch that holds its image."""

import torch
from torch import Tensor

from prunetune.selection.last_layer_gradients import LastLayerGradients


def batch_lengths(count: int, batch_size: int) -> Tensor:
    """Return the length of the batch that holds each of `count` images in order, [count] int64.

    Source: DeepCore at commit 74ec709. It differentiates the mean loss of a batch and so divides every gradient by
    this length, which makes the gradients of a short last batch too large.
    """
    start = torch.arange(count) // batch_size * batch_size
    return (count - start).clamp_max(batch_size)


def divided_by_batches(gradients: LastLayerGradients, batch_size: int) -> LastLayerGradients:
    """Return the gradients of n images divided by the lengths of their batches."""
    return gradients.scaled(1 / batch_lengths(len(gradients), batch_size))
