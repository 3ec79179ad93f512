"""A random part of labelled samples that has every class."""

import torch
from torch import Tensor

LEAST_PER_CLASS = 5  # A drawn part has at least this many samples of each class that has them.


def stratified(labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return the ascending positions of about `most` of N samples, the same fraction of each class; at most N.

    Args:
        labels: [N] int64.
        most: how many are drawn, or a little more if classes are small.
        generator: of the draw.
    """
    if len(labels) <= most:
        return torch.arange(len(labels))
    share, drawn = most / len(labels), []
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        count = min(max(round(share * len(members)), LEAST_PER_CLASS), len(members))
        drawn.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(drawn).sort().values
