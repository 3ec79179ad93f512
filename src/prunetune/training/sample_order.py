"""Which images a training shows, in which order and with which weights.

A `SampleOrder` is the plan, and a `Walk` follows it in one training. Every epoch of a plan shows the same number of
images, M, so that two plans with the same M cost the same. Letters: n images to choose from, M shown per epoch, E
epochs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

# A part holds indices in 0 .. n - 1, in the order in which they are shown, and weights (None if all are 1).
Part = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class SampleOrder(ABC):
    """A plan over n images, which any number of trainings can use.

    reads_losses: whether what is shown depends on the losses so far. If not, every part is an epoch of M images.
    """

    reads_losses: ClassVar[bool] = False

    num_images: int

    @property
    @abstractmethod
    def images_per_epoch(self) -> int:
        """M, the number of images that an epoch shows."""

    @abstractmethod
    def parts(self, generator: torch.Generator, losses: Tensor) -> Iterator[Part]:
        """Yield one part of the order after another, without end; no batch spans two parts.

        Args:
            generator: draws the order.
            losses: [n] float32, the loss of each image when it was last shown, NaN before that. The training
                changes these values.
        """


@dataclass(frozen=True, eq=False)
class Static(SampleOrder):
    """Every image once in each epoch, in a new order: ordinary training on a subset.

    weights: [n] float64 > 0 or None. They are divided by their mean, so that an epoch's sum to n.
    """

    weights: Tensor | None = None

    @property
    def images_per_epoch(self) -> int:
        return self.num_images

    def parts(self, generator: torch.Generator, losses: Tensor) -> Iterator[Part]:
        relative = None if self.weights is None else (self.weights / self.weights.mean()).float()
        while True:
            order = torch.randperm(self.num_images, generator=generator)
            yield order, None if relative is None else relative[order]


@dataclass(frozen=True, eq=False)
class Slices(SampleOrder):
    """In each epoch the next M images of a permutation of all n; when it is used up, a new permutation follows.

    An epoch that spans two permutations shows no image twice: its images from the old permutation come last in the new
    one. With M = n this is `Static`.
    """

    size: int

    @property
    def images_per_epoch(self) -> int:
        return self.size

    def parts(self, generator: torch.Generator, losses: Tensor) -> Iterator[Part]:
        rest = torch.empty(0, dtype=torch.int64)
        while True:
            if len(rest) < self.size:
                fresh = torch.randperm(self.num_images, generator=generator)
                is_shown = torch.isin(fresh, rest)
                rest = torch.cat([rest, fresh[~is_shown], fresh[is_shown]])
            yield rest[: self.size], None
            rest = rest[self.size :]


@dataclass(frozen=True, eq=False)
class ThinnedPasses(SampleOrder):
    """Passes over all n images, each of which leaves out some images that are easy when it begins.

    Epochs are cut from the sequence of passes, so that a pass rarely begins where an epoch does. From image
    `whole_from` of the training on, passes are whole: a thinned pass ends there, and a whole one begins.

    size: M. dropped: fraction of the easy images that a pass leaves out. whole_from: number of images shown before
    the whole passes.
    """

    reads_losses: ClassVar[bool] = True

    size: int
    dropped: float
    whole_from: int

    @property
    def images_per_epoch(self) -> int:
        return self.size

    def parts(self, generator: torch.Generator, losses: Tensor) -> Iterator[Part]:
        shown = 0
        while True:
            weights = torch.ones(self.num_images)
            if shown < self.whole_from:
                weights = thinned_weights(losses.cpu(), self.dropped, generator)
            order = torch.randperm(self.num_images, generator=generator)
            order = order[weights[order] > 0]
            if len(order) == self.num_images:
                yield order, None
            else:
                order = order[: self.whole_from - shown]
                yield order, weights[order]
            shown += len(order)


def thinned_weights(losses: Tensor, dropped: float, generator: torch.Generator) -> Tensor:
    """Return the weights of a pass that leaves out a random part of the easy images and makes up for it.

    Args:
        losses: [n] float32, NaN where an image has not been shown yet: such an image is not easy.
        dropped: fraction of the easy images, those below the mean loss, that is left out; rounded down.
        generator: draws the images that are left out.

    Returns:
        [n] float32: 0 left out, 1 / (1 - dropped) the other easy images where any is left out, 1 the rest.
    """
    easy = torch.nonzero(losses.double() < losses.double().nanmean()).flatten()
    num_dropped = int(len(easy) * dropped)
    weights = torch.ones(len(losses))
    if num_dropped:
        weights[easy] = 1 / (1 - dropped)
        weights[easy[torch.randperm(len(easy), generator=generator)[:num_dropped]]] = 0
    return weights


class Walk:
    """One training's way through a sample order, batch by batch."""

    def __init__(self, order: SampleOrder, generator: torch.Generator, device: str = "cpu") -> None:
        self.images_per_epoch, self.reads_losses = order.images_per_epoch, order.reads_losses
        self._device = device
        self._losses = torch.full((order.num_images if self.reads_losses else 0,), torch.nan, device=device)
        self._parts = order.parts(generator, self._losses)
        self._indices, self._weights, self._at = torch.empty(0, dtype=torch.int64), None, 0
        # Each value counts the parts so far that contain the image.
        self._begun = torch.zeros(order.num_images, dtype=torch.int64)

    def draw(self, count: int) -> Part:
        """Return the next images, at most `count` and fewer where a part ends, and their weights, on the device."""
        if self._at == len(self._indices):
            indices, weights = next(self._parts)
            if len(indices) == len(self._begun):  # No part contains an image twice, so this part contains all images.
                self._begun += 1
            else:
                self._begun[indices] += 1
            self._indices, self._at = indices.to(self._device), 0
            self._weights = None if weights is None else weights.to(self._device)
        here = slice(self._at, self._at + count)
        self._at = min(self._at + count, len(self._indices))
        return self._indices[here], None if self._weights is None else self._weights[here]

    def epoch(self, joins_single: bool = False) -> Iterator[Part]:
        """Yield what is left of an epoch, M images in all, in as few pieces as there are parts in it.

        joins_single: no piece is a single image, unless the epoch has one image only. Such an image joins the part
        after it or, at the end of the epoch, the one before it. That part or image is then drawn before the losses of
        the batches in between are known.
        """
        left = self.images_per_epoch
        while left:
            piece = self.draw(left)
            left -= len(piece[0])
            while joins_single and left and (left == 1 or len(piece[0]) == 1):
                more = self.draw(left)
                left -= len(more[0])
                piece = _joined(piece, more)
            yield piece

    def cut(self, part: Part, count: int) -> Part:
        """Return the first `count` images of a part that was drawn. The others then count as not shown."""
        indices, weights = part
        self._begun[indices[count:].cpu()] -= 1
        return indices[:count], None if weights is None else weights[:count]

    def observe(self, indices: Tensor, losses: Tensor) -> None:
        """Record the unweighted losses [b] of images that have been shown; they date from before the update."""
        if self.reads_losses:
            self._losses[indices] = losses

    def uses(self) -> Tensor:
        """Return how many times each image has been shown, [n] int64."""
        ahead = torch.bincount(self._indices[self._at :].cpu(), minlength=len(self._begun))
        return self._begun - ahead


def _joined(first: Part, second: Part) -> Part:
    """Return two parts as one."""
    indices = torch.cat([first[0], second[0]])
    if first[1] is None and second[1] is None:
        return indices, None
    ones = [
        torch.ones(len(some), device=some.device) if weights is None else weights for some, weights in (first, second)
    ]
    return indices, torch.cat(ones)
