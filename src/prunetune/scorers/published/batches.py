"""Gradients as DeepCore takes them: each divided by the length of the batch that its image falls into."""

import torch
from torch import Tensor

from prunetune.selection.last_layer_gradients import LastLayerGradients


def batch_lengths(count: int, batch_size: int) -> Tensor:
    """Return the length of the batch that each of `count` images falls into, [count] int64, taken in order.

    Source: DeepCore at commit 74ec709. It differentiates the mean loss of a batch and so divides every gradient by
    this: the images of a short last batch look larger than they are.
    """
    start = torch.arange(count) // batch_size * batch_size
    return (count - start).clamp_max(batch_size)


def divided_by_batches(gradients: LastLayerGradients, batch_size: int) -> LastLayerGradients:
    """Return the gradients of n images divided by the lengths of their batches."""
    return gradients.scaled(1 / batch_lengths(len(gradients), batch_size))
