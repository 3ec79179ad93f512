"""DeepFool: how far an image is from the nearest class boundary of the network, in pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.networks.gradients import thaw
from prunetune.scorers.base import Scorer
from prunetune.signals.contract import Signals

SMALLEST_NORM = 1e-12  # Smaller norms of a gradient are raised to this value, so that no division by 0 occurs.
# A slope is assumed to grow at most by this factor after its last evaluation.
# With an infinite factor every slope is evaluated at every step.
LONGER = 3.0


@dataclass(frozen=True)
class DeepFool(Scorer):
    """Negative length of the shortest perturbation that DeepFool finds to change an image's predicted class.

    Source: Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599), as an acquisition score by Ducoffe and Precioso 2018
    (arXiv 1802.09841): images near a boundary are kept, so the nearest score highest. At most `iterations` steps lead
    to the nearest linearised boundary, and the overshoot stretches them to cross it. The length is the L2 norm of the
    steps without the overshoot, in the network's normalised input. The `candidates` classes with the highest logits
    are tried.
    Direction: larger is harder.
    Cost: the proxy's last epoch; per image at the first step one backward pass per candidate, at later steps one for
    each class whose boundary could be the nearest if its slope were LONGER times as long as at its last evaluation.

    variant "deepcore" (DeepCore at commit 74ec709): no overshoot, the squared length, all classes (candidates: null).

    variant: "fixed" or "deepcore". iterations: largest number of steps. overshoot: share of the length. candidates: how
    many classes are tried, including the predicted one; null for all.
    """

    variant: str = "fixed"
    iterations: int = 50
    overshoot: float = 0.02
    candidates: int | None = 10

    name: ClassVar[str] = "deepfool"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True
    reads_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, ("fixed", "deepcore"))
        checks.whole_number("scorer.iterations", self.iterations)
        checks.number("scorer.overshoot", self.overshoot, "[0, inf)")
        checks.whole_number("scorer.candidates", self.candidates, least=2, or_none=True)
        super().__post_init__()

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        if len(pool.classes) < 2:
            raise InputError("deepfool needs at least 2 classes, the pool has 1")
        proxy = signals.proxy()
        network, head = proxy.model(proxy.num_epochs).to(signals.device).requires_grad_(False)
        thaw(network)
        device = head.weight.device
        classify = nn.Sequential(network.model, head)

        def lengths(batches: Iterator[Tensor], rows: Tensor) -> Tensor:
            options = (self.iterations, self.overshoot, self.candidates)
            inputs = (network.normalise(images.to(device)) for images in batches)
            return torch.cat([perturbation_lengths(classify, some, *options) for some in inputs]).cpu()

        distances = signals.per_image(self.key(), lengths, "deepfool")
        return -(distances.square() if self.variant == "deepcore" else distances)


def perturbation_lengths(
    classify: Callable[[Tensor], Tensor], images: Tensor, iterations: int, overshoot: float, candidates: int | None
) -> Tensor:
    """Return the length of the perturbation that changes each image's predicted class.

    Args:
        classify: images [B, ...] float32 to logits [B, C], C at least 2; rows must not depend on each other.
        images: [B, ...] float32, as the network reads them.
        iterations: largest number of steps; an image that has crossed no boundary by then gets the length so far.
        overshoot: each point is the image plus (1 + overshoot) times the steps so far.
        candidates: number of classes that are tried; None tries all.

    Returns:
        [B] float64 L2 lengths of the steps.
    """
    total = torch.zeros_like(images)
    remaining = torch.arange(len(images), device=images.device)
    with torch.no_grad():
        logits = classify(images)
    # [B, m]. The predicted class comes first.
    ranking = logits.argsort(dim=1, descending=True, stable=True)[:, :candidates]
    # Each entry is the norm of a slope at its last evaluation. It is infinite before the first evaluation.
    norms = torch.full_like(logits.gather(1, ranking)[:, 1:], torch.inf)
    for _ in range(iterations):
        points = images[remaining] + (1 + overshoot) * total[remaining]
        step, norms[remaining] = _step(classify, points, ranking[remaining], norms[remaining])
        total[remaining] += step
        with torch.no_grad():
            predicted = classify(images[remaining] + (1 + overshoot) * total[remaining]).argmax(1)
        remaining = remaining[predicted == ranking[remaining, 0]]
        if len(remaining) == 0:
            break
    return total.double().flatten(1).norm(dim=1)


def _step(
    classify: Callable[[Tensor], Tensor], points: Tensor, ranking: Tensor, norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the shortest step [B, ...] to a linearised boundary of the first class of ranking [B, m].

    norms: [B, m - 1] lengths of the slopes of the other classes at their last evaluation. They are returned with new
        values where a slope was evaluated, which happens while its boundary may be nearer than the nearest so far.
    """
    rows = torch.arange(len(points), device=points.device)  # These are the images in the autograd graph.
    some, margins = _margins(classify, points, ranking)
    sizes = margins.detach().abs()  # [B, m - 1]
    # The tensor `least` holds lower bounds of the distances. It becomes infinite where a slope has been evaluated.
    norms, least = norms.clone(), sizes / (LONGER * norms)
    best, step = torch.full_like(sizes[:, 0], torch.inf), torch.zeros_like(points)
    while True:
        is_open = least.min(1).values < best
        if not is_open.any():
            return step, norms
        # A new graph of fewer images costs one forward pass, but saves the backward passes of the other images.
        if 2 * is_open.sum() <= len(rows):
            rows = is_open.nonzero().squeeze(1)
            some, margins = _margins(classify, points[rows], ranking[rows])
        columns = least[rows].argmin(1)
        chosen = margins.gather(1, columns.unsqueeze(1)).sum()
        (slopes,) = torch.autograd.grad(chosen, some, retain_graph=True)
        # Only images whose class has not changed yet take a step. The slopes of the others in the batch are ignored.
        asked = is_open[rows]
        images, columns, slopes = rows[asked], columns[asked], slopes[asked]
        lengths = slopes.flatten(1).norm(dim=1).clamp_min(SMALLEST_NORM)
        distances = sizes[images, columns] / lengths
        norms[images, columns], least[images, columns] = lengths, torch.inf
        nearer = distances < best[images]
        best[images[nearer]] = distances[nearer]
        scale = (distances / lengths)[nearer].view(-1, *[1] * (points.ndim - 1))
        step[images[nearer]] = scale * slopes[nearer]


def _margins(classify: Callable[[Tensor], Tensor], points: Tensor, ranking: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points [B, ...] as inputs of a graph, and the other logits minus the first one, [B, m - 1]."""
    inputs = points.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = classify(inputs).gather(1, ranking)  # [B, m]
        return inputs, logits[:, 1:] - logits[:, :1]
