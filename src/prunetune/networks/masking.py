"""A learning path by capacity: one network with more and more of its pretrained weights at zero.

Source: arXiv 2402.05356; counts and ranking: docs/method_notes.md, Masking. Letters: P maskable weights, T levels.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.networks.maskable import MODULES, given, maskable

MOST_LEVELS = 10_000  # Each level is a forward pass over all samples.


@dataclass(frozen=True)
class MaskPath:
    """Which weights are at zero at each of T levels.

    schedule "compound": level k masks a share `step` of what is left, 1 - (1 - step)^k in all; "linear": k * step of
    the whole. include_unmasked False starts at level 1. masking "l1" takes the smallest |w| first, "random" a seeded
    order; either is one ranking of the weights of all tensors together, cut at exact counts, so that masks are nested.
    """

    schedule: str = "compound"
    levels: int = 5
    step: float = 0.2
    include_unmasked: bool = True
    masking: str = "l1"
    modules: str = "all"

    def __post_init__(self) -> None:
        checks.choice("schedule", self.schedule, ("compound", "linear"))
        checks.choice("masking", self.masking, ("l1", "random"))
        checks.choice("modules", self.modules, tuple(MODULES))
        checks.whole_number("levels", self.levels, most=MOST_LEVELS, what="the number of masked networks")
        checks.number("step", self.step, "(0, 1]", what="the fraction masked at each level")
        last = self.levels - (1 if self.include_unmasked else 0)
        if last > 0 and (self.step == 1 or (self.schedule == "linear" and last * self.step >= 1)):
            raise InputError(
                f"a {self.schedule} path must keep some weights: {self.levels} levels with step {self.step} mask all; "
                "lower levels or step"
            )

    @property
    def masks_any(self) -> bool:
        """Whether any network on the path is masked."""
        return self.levels > 1 or not self.include_unmasked

    def counts(self, total: int) -> list[int]:
        """Return the T masked counts out of `total` weights, not decreasing."""
        steps = range(self.levels if self.include_unmasked else self.levels + 1)
        if self.schedule == "linear":
            path = [round(k * self.step * total) for k in steps]
        else:
            path = [0]
            while len(path) < len(steps):
                path.append(path[-1] + round(self.step * (total - path[-1])))
        return path if self.include_unmasked else path[1:]

    def key(self, seed: int) -> dict[str, Any]:
        """Return everything that the masks depend on, except the weights.

        The key still contains the scope, an option of earlier versions, so that entries of older stores are found.
        """
        return {**asdict(self), "scope": "global", "seed": seed if self.masking == "random" else None}


def first_masked_level(weights: list[Tensor], path: MaskPath, seed: int) -> list[Tensor]:
    """Return for every weight the first level at which it is zero, T where it never is: tensors of their shapes.

    One byte a weight, or int32 where T is above 255.

    Raises:
        InputError: two levels would mask the same weights, or a level would mask none although the unmasked network is
            left out.
    """
    sizes = [weight.numel() for weight in weights]
    counts = path.counts(sum(sizes))
    seen = counts if path.include_unmasked else [0, *counts]
    if len(set(seen)) < len(seen):
        raise InputError(
            f"two of the networks on the path would be the same (masked counts {seen}); raise step or lower levels"
        )
    if path.masking == "random":
        importance = torch.rand(sum(sizes), generator=stream("mask", seed)).to(weights[0].device)  # [P]
    else:
        importance = torch.cat([weight.detach().abs().flatten() for weight in weights]).float()  # [P]
    level = _first_level(importance, counts)  # [P]
    return [part.view_as(weight) for part, weight in zip(level.split(sizes), weights, strict=True)]


def _first_level(importance: Tensor, counts: list[int]) -> Tensor:
    """Return the first level k at which a weight is among the counts[k] least important, [P].

    Only the values at the cuts are needed, and sorting values is many times faster than sorting positions. Weights
    with equal values at a cut are taken in the order of `importance` [P] (at least 0), as a stable sort would rank
    them.
    """
    ascending = _sorted(importance)
    cuts = torch.stack([ascending[count - 1] if count else ascending.new_tensor(-1.0) for count in counts])  # [T]
    # [P]. The level is correct except where a cut splits equal values.
    level = torch.bucketize(importance, cuts, out_int32=True)
    level = level.to(torch.uint8 if len(counts) <= 255 else torch.int32)
    ends = torch.tensor(counts, device=importance.device)
    first, after = torch.searchsorted(ascending, cuts), torch.searchsorted(ascending, cuts, right=True)
    for cut in cuts[(first < ends) & (ends < after)].unique():
        ties = (importance == cut).nonzero().flatten()
        ranks = torch.searchsorted(ascending, cut) + torch.arange(len(ties), device=ties.device)
        level[ties] = torch.bucketize(ranks, ends, right=True).to(level.dtype)
    return level


def _sorted(values: Tensor) -> Tensor:
    """Return [P] float32 ascending; on a CPU by NumPy, which takes a fifteenth of torch's time."""
    return values.sort().values if values.is_cuda else torch.from_numpy(np.sort(values.numpy()))


@contextmanager
def masked_networks(model: nn.Module, path: MaskPath, seed: int = 0) -> Iterator[Iterator[int]]:
    """Mask a network in place, level by level: iterate over what this yields, and use `model` after each step.

    Only the maskable weights are copied, not the network. They are restored bit by bit when the block ends, also after
    an error. Layers that compute their weight from parameters use a masked copy of it until then.

    Raises:
        InputError: the network has no weights of the chosen kind, or two levels would be the same network.
    """
    weights = list(maskable(model, path.modules).weights.values())
    if not weights:
        raise InputError(f"the backbone has no {path.modules} weights to mask; pass scorer.mask_modules=all")
    levels = first_masked_level([weight.tensor.data for weight in weights], path, seed)
    originals = [weight.tensor.detach().clone() for weight in weights]

    def walk() -> Iterator[int]:
        for k in range(path.levels):
            for weight, level in zip(weights, levels, strict=True):
                weight.tensor.data.masked_fill_(level <= k, 0)
            yield k

    try:
        with ExitStack() as stack:
            for weight in weights:
                stack.enter_context(given(weight))
            yield walk()
    finally:
        for weight, original in zip(weights, originals, strict=True):
            weight.tensor.data.copy_(original)
