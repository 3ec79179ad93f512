"""Full fine-tuning: every weight of the backbone and a new linear head."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunetune.backbones.base import Network
from prunetune.datasets.base import Pool
from prunetune.devices import autocast
from prunetune.errors import InputError
from prunetune.features import View, batches, evaluation, in_parts, training
from prunetune.images.decoded import Decoded
from prunetune.progress import track
from prunetune.recipe import Epoch, FinetuneResult, Recipe, check_loss
from prunetune.schedules import Schedule, Static, Walk
from prunetune.seeding import seeded

log = logging.getLogger(__name__)
Watch = Callable[[Tensor, Tensor], None]
BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm,)


def finetune_all(
    network: Network,
    pool: Pool,
    images: Decoded,
    subset: Tensor,
    test: Pool,
    test_images: Decoded,
    recipe: Recipe,
    seed: int,
    precision: str,
    device: str,
    schedule: Schedule | None = None,
) -> FinetuneResult:
    """Train the network and a new head on a subset, and evaluate on test.

    The network is changed: give it a copy that nobody else uses.

    Args:
        network: pretrained, without head.
        pool: N images.
        images: their pixels.
        subset: [M] int64 positions that are trained on.
        test: the test set.
        test_images: its pixels.
        recipe: epochs, batches, optimiser.
        seed: of the head's weights, the batch order and the crops; it does not contain the method's name.
        precision: fp32 or bf16 (autocast).
        device: cpu or cuda.
        schedule: which of the M images are shown when, and how much each counts; None: all of them in every epoch.

    Raises:
        InputError: the loss is not finite, or the device's memory does not hold a batch.
    """
    start = time.perf_counter()
    history: list[Epoch] = []
    with seeded("finetune", seed) as generator:
        model = nn.Sequential(network, nn.Linear(network.num_features, len(pool.classes))).to(device)

        def crops(epoch: int) -> View:
            return training(images, network.input_size, pool, "crop", seed, epoch)

        walk = Walk(schedule or Static(len(subset)), generator)
        epochs = train_epochs(model, pool.labels, subset, crops, recipe, generator, precision, device, walk=walk)
        about = f"fine-tuning on {walk.images_per_epoch} images"
        for epoch, loss in track(epochs, about, recipe.epochs):
            accuracy = None
            if recipe.evaluates(epoch):
                predictions = _predict(model, network, test_images, len(test), recipe.batch_size, precision, device)
                accuracy = (predictions == test.labels).double().mean().item()
            history.append(Epoch(epoch, recipe.rate(epoch), loss, accuracy))
    return FinetuneResult(predictions, tuple(history), time.perf_counter() - start, uses=walk.uses())


def train_epochs(
    model: nn.Module,
    labels: Tensor,
    subset: Tensor,
    view_of: Callable[[int], View],
    recipe: Recipe,
    generator: torch.Generator,
    precision: str,
    device: str,
    watch: Watch | None = None,
    walk: Walk | None = None,
) -> Iterator[tuple[int, float]]:
    """Train a model in place and yield (epoch, mean training loss, weighted as the images are) after every epoch.

    Args:
        model: network and head, on the device.
        labels: [N] int64.
        subset: [M] int64 positions that are trained on.
        view_of: gives the images of an epoch, counted from 1.
        recipe: epochs, batches, optimiser.
        generator: of the batch order.
        precision: fp32 or bf16 (autocast).
        device: cpu or cuda.
        watch: is shown each batch's positions [B] and logits [B, C] as they are before its update.
        walk: gives indices into the subset; None: every image of it once an epoch.

    Raises:
        InputError: the loss is not finite, or the device's memory does not hold a batch.
    """
    optimizer = _optimizer(model, recipe)
    micro_batch = MicroBatch(model, recipe.batch_size)
    walk = walk or Walk(Static(len(subset)), generator)

    def look(indices: Tensor, logits: Tensor) -> None:
        if watch is not None:
            watch(subset[indices], logits.cpu())
        if walk.reads_losses:
            losses = nn.functional.cross_entropy(logits.cpu(), labels[subset[indices]], reduction="none")
            walk.observe(indices, losses)

    for epoch in range(1, recipe.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        view, total = view_of(epoch), 0.0
        for indices, weights in walk.epoch():
            positions = subset[indices]
            shown = batches(view, positions.tolist(), recipe.batch_size)
            part = _Part(shown, indices, labels[positions], weights)
            total += _train_part(model, optimizer, part, micro_batch, precision, device, look)
        loss = total / walk.images_per_epoch
        check_loss(loss, epoch, recipe)
        yield epoch, loss


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


class MicroBatch:
    """How many images go through the network at once.

    When memory runs out it is halved, if that changes nothing: gradients of parts add up to the gradient of the whole
    batch unless a layer reads statistics of the batch.
    """

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        self.size = batch_size
        self.is_exact = not any(isinstance(module, BATCH_STATISTICS) for module in model.modules())

    def shrink(self) -> None:
        """Halve the size.

        Raises:
            InputError: that is not exact for this network, or one image is too much.
        """
        if not self.is_exact or self.size == 1:
            raise InputError(
                f"the device's memory does not hold a batch of {self.size} images; lower finetune.batch_size "
                "(with tag=<name>), pass precision=bf16, or use a device with more memory"
            )
        self.size = math.ceil(self.size / 2)
        log.info("out of memory: going on with parts of %d images, which gives the same gradient", self.size)


@dataclass(frozen=True)
class _Part:
    """A part of an epoch: n images in batches, their indices in the subset, labels, and weights if they have any."""

    images: Iterable[Tensor]
    indices: Tensor
    labels: Tensor
    weights: Tensor | None


def _train_part(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: _Part,
    micro_batch: MicroBatch,
    precision: str,
    device: str,
    look: Watch,
) -> float:
    """Take a step per batch and return the summed loss."""
    model.train()
    total, done = torch.zeros((), dtype=torch.float64, device=device), 0
    for images in part.images:
        here = slice(done, done + len(images))
        weights = None if part.weights is None else part.weights[here]
        loss, logits = _step(model, optimizer, images, part.labels[here], micro_batch, precision, device, weights)
        total += loss
        look(part.indices[here], logits)
        done += len(images)
    return total.item()


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    micro_batch: MicroBatch,
    precision: str,
    device: str,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one optimiser step on a batch and return its summed loss and its logits [B, C] before the step."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            total, seen = torch.zeros((), dtype=torch.float64, device=device), []
            for first in range(0, len(images), micro_batch.size):
                here = slice(first, first + micro_batch.size)
                with autocast(precision, device):
                    logits = model(images[here].to(device, non_blocking=True)).float()
                loss = _summed_loss(logits, targets[here], None if weights is None else weights[here])
                seen.append(logits.detach())
                (loss / len(images)).backward()
                total += loss.detach()
            break
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        micro_batch.shrink()
    optimizer.step()
    return total, torch.cat(seen)


def _summed_loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    targets = targets.to(logits.device)
    if weights is None:
        return nn.functional.cross_entropy(logits, targets, reduction="sum")
    return (nn.functional.cross_entropy(logits, targets, reduction="none") * weights.to(logits.device)).sum()


@torch.inference_mode()
def _predict(
    model: nn.Module, network: Network, images: Decoded, count: int, batch_size: int, precision: str, device: str
) -> Tensor:
    model.eval()
    view, predictions = evaluation(images, network.input_size), []
    for batch in batches(view, range(count), batch_size):
        with autocast(precision, device):
            predictions.append(in_parts(model, batch, device).argmax(dim=1))
    return torch.cat(predictions)  # [N']
