"""Full fine-tuning: every weight of the backbone and a new linear head."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunetune.base.devices import Hardware, exact_float32, has_batch_norm
from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.seeding import seeded
from prunetune.data.images.decoded import ShownImages
from prunetune.data.images.device_views import DeviceView, Source, free_share, sent
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import ImageAt, Passes, batches, evaluation, in_parts, training
from prunetune.networks.gradients import ready_for_gradients
from prunetune.training.recipe import Epoch, FinetuneResult, Recipe, check_loss
from prunetune.training.sample_order import SampleOrder, Static, Walk

log = logging.getLogger(__name__)
Watch = Callable[[Tensor, Tensor], None]
# A CPU keeps the test set's views if they take at most this many bytes, since every epoch reads them.
KEPT_BYTES = 2**28
# In trainings of at most this many steps, another learning rate changed the accuracy by 10 points and more
# (results/LOG.md, the entry "The recipe on few images").
FEW_STEPS = 200


def finetune_all(
    network: Network,
    shown: ShownImages,
    test: ShownImages,
    recipe: Recipe,
    seed: int,
    hardware: Hardware,
    sample_order: SampleOrder | None = None,
) -> FinetuneResult:
    """Train the network and a new head on the shown images, the subset, and evaluate on test.

    The network is changed: give it a copy that nobody else uses. A GPU holds the decoded images of the subset, makes
    the training views itself, and waits for this process once an epoch.

    Args:
        network: pretrained, without head.
        shown: the pool, with the M positions that are trained on.
        test: the test set.
        recipe: epochs, batches, optimiser.
        seed: determines the head's weights, the batch order and the crops; it does not depend on the method's name.
        hardware: device and precision of the training.
        sample_order: the order and weights of the M images; None shows all of them once in every epoch.

    Raises:
        InputError: the loss is not finite, or the device's memory does not hold a batch.
    """
    start = time.perf_counter()
    history: list[Epoch] = []
    with seeded("finetune", seed) as generator:
        model = nn.Sequential(network, nn.Linear(network.num_features, len(shown.pool.classes)))
        model = model.to(hardware.device)
        crops = training_views(shown, network.input_size, hardware.device, "crop", seed)
        walk = Walk(sample_order or Static(len(shown.positions)), generator, hardware.device)
        judge = _Judge(model, network.input_size, test, Passes(recipe.batch_size, hardware))
        epochs = train_epochs(model, shown, crops, recipe, walk, hardware)
        about = f"fine-tuning on {walk.images_per_epoch} images"
        _hint_at_few_steps(recipe, walk.images_per_epoch)
        for epoch, loss in track(epochs, about, recipe.epochs):
            accuracy = None
            if recipe.evaluates(epoch):
                predictions = judge.predict()
                accuracy = (predictions == test.pool.labels[test.positions]).double().mean().item()
            history.append(Epoch(epoch, recipe.rate(epoch), loss, accuracy))
    return FinetuneResult(predictions, tuple(history), time.perf_counter() - start, uses=walk.uses())


def _hint_at_few_steps(recipe: Recipe, images_per_epoch: int) -> None:
    """Say in the log that a small number of images makes so few steps that the learning rate decides the result."""
    steps = recipe.epochs * len(recipe.batch_sizes(images_per_epoch))
    if steps <= FEW_STEPS:
        log.info(
            "the training has only %d steps, so that the result depends much on finetune.learning_rate, here %g "
            "(docs/method_notes.md, Fine-tuning)",
            steps,
            recipe.learning_rate,
        )


def training_views(
    shown: ShownImages, size: int, device: str, *names: str | int
) -> Callable[[int], ImageAt | DeviceView]:
    """Return the training views of every epoch, drawn from (names, epoch, sample_id).

    Args:
        shown: the images.
        size: side of a view in pixels.
        device: the device of the training; a GPU makes the views itself, on a CPU threads make them.
        names: the names that identify the training.
    """
    if device == "cpu":
        return lambda epoch: training(shown.pixels, size, shown.pool, *names, epoch)
    source = Source.of(shown.pixels, shown.positions, device)
    return lambda epoch: DeviceView(source, size, shown.pool.sample_ids, (*names, epoch))


def train_epochs(
    model: nn.Module,
    shown: ShownImages,
    view_of: Callable[[int], ImageAt | DeviceView],
    recipe: Recipe,
    walk: Walk,
    hardware: Hardware,
    watch: Watch | None = None,
) -> Iterator[tuple[int, float]]:
    """Train a model in place and yield (epoch, mean training loss, weighted as the images are) after every epoch.

    Args:
        model: network and head, on the device.
        shown: the pool, with the M positions that are trained on.
        view_of: gives the images of an epoch, counted from 1.
        recipe: epochs, batches, optimiser.
        walk: gives the order, as indices into the M positions.
        hardware: device and precision of the training.
        watch: called with each batch's positions [B] and its logits [B, C] before the update.

    Raises:
        InputError: the loss is not finite, or the device's memory does not hold a batch.
    """
    optimizer = _optimizer(model, recipe)
    micro_batch = MicroBatch(model, recipe.batch_size)
    joins_single = has_batch_norm(model)
    device = hardware.device

    def look(indices: Tensor, targets: Tensor, logits: Tensor) -> None:
        if watch is not None:
            watch(shown.positions[indices.cpu()], logits.cpu())
        if walk.reads_losses:
            walk.observe(indices, nn.functional.cross_entropy(logits, targets, reduction="none"))

    for epoch in range(1, recipe.epochs + 1):
        ready_for_gradients(model, device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        view, total, num_shown = view_of(epoch), torch.zeros((), dtype=torch.float64, device=device), 0
        for piece in walk.epoch(joins_single):
            sizes = recipe.batch_sizes(len(piece[0]), joins_single)
            indices, weights = walk.cut(piece, sum(sizes))
            positions = shown.positions[indices.cpu()]
            images = _batches(view, positions.tolist(), sizes)
            part = _Part(images, indices, sent(shown.pool.labels[positions], device), weights)
            total += _train_part(model, optimizer, part, micro_batch, hardware, look)
            num_shown += len(indices)
        loss = total.item() / num_shown  # This is the only place where an epoch waits for the GPU.
        check_loss(loss, epoch, recipe)
        yield epoch, loss


def _batches(view: ImageAt | DeviceView, positions: list[int], sizes: list[int]) -> Iterator[Tensor]:
    """Yield batches [B, 3, S, S] uint8 of a view, with these sizes."""
    begun = 0
    for size, same in itertools.groupby(sizes):
        count = size * len(list(same))
        some = positions[begun : begun + count]
        yield from view.batches(some, size) if isinstance(view, DeviceView) else batches(view, some, size)
        begun += count


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True if next(model.parameters()).is_cuda else None,  # One kernel updates all parameters.
    )


class MicroBatch:
    """How many images go through the network at once.

    When memory runs out the number is halved, if that does not change the result: gradients of parts add up to the
    gradient of the whole batch, unless a layer reads statistics of the batch.
    """

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        self.size = batch_size
        self.is_exact = not has_batch_norm(model)

    def shrink(self) -> None:
        """Halve the size.

        Raises:
            InputError: halving would change the result for this network, or even one image does not fit.
        """
        if not self.is_exact or self.size == 1:
            raise InputError(
                f"the device's memory does not hold a batch of {self.size} images; lower finetune.batch_size "
                "(with tag=<name>), pass precision=bf16, or use a device with more memory"
            )
        self.size = math.ceil(self.size / 2)
        log.info("out of memory: continuing with parts of %d images, which gives the same gradient", self.size)


@dataclass(frozen=True)
class Batch:
    """Images of one optimiser step.

    images: [B, 3, S, S]. labels: [B] int64. weights: [B], or None if all images count equally.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor | None = None

    def take(self, here: slice) -> "Batch":
        """Return some of the images, with their labels and weights."""
        return Batch(self.images[here], self.labels[here], None if self.weights is None else self.weights[here])


@dataclass(frozen=True)
class _Part:
    """A part of an epoch: n images in batches; their indices in the subset, labels, weights if any, on the device."""

    images: Iterable[Tensor]
    indices: Tensor
    labels: Tensor
    weights: Tensor | None


def _train_part(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: _Part,
    micro_batch: MicroBatch,
    hardware: Hardware,
    look: Callable[[Tensor, Tensor, Tensor], None],
) -> Tensor:
    """Take a step per batch and return the summed loss, float64 on the device."""
    model.train()
    total, done = torch.zeros((), dtype=torch.float64, device=hardware.device), 0
    with exact_float32(hardware.device):  # This also holds for the crops that a GPU makes and for the backward pass.
        for images in part.images:
            here = slice(done, done + len(images))
            batch = Batch(images, part.labels[here], None if part.weights is None else part.weights[here])
            loss, logits = _step(model, optimizer, batch, micro_batch, hardware)
            total += loss
            look(part.indices[here], part.labels[here], logits)
            done += len(images)
    return total


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, micro_batch: MicroBatch, hardware: Hardware
) -> tuple[Tensor, Tensor]:
    """Take one optimiser step on a batch and return its summed loss and its logits [B, C] before the step."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            total, seen = torch.zeros((), dtype=torch.float64, device=hardware.device), []
            size = micro_batch.size if micro_batch.is_exact else len(batch.images)
            for first in range(0, len(batch.images), size):
                part = batch.take(slice(first, first + size))
                with hardware.arithmetic():
                    logits = _logits(model, part.images.to(hardware.device, non_blocking=True))
                loss = _summed_loss(logits, part.labels, part.weights)
                seen.append(logits.detach())
                (loss / len(batch.images)).backward()
                total += loss.detach()
            break
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        micro_batch.shrink()
    optimizer.step()
    return total, torch.cat(seen)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits [B, C] float32 of images in training mode.

    Raises:
        InputError: one image alone cannot be normalised.
    """
    try:
        return model(images).float()
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
    raise InputError(
        "the network normalises over the images of a batch and cannot be trained on one image alone; raise "
        "finetune.batch_size (of a proxy proxy.batch_size) or ratio, or pass a larger backbone.input_size"
    )


def _summed_loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    targets = targets.to(logits.device)
    if weights is None:
        return nn.functional.cross_entropy(logits, targets, reduction="sum")
    return (nn.functional.cross_entropy(logits, targets, reduction="none") * weights.to(logits.device)).sum()


class _Judge:
    """Evaluates the test set after an epoch; its views are made once and kept on the device, if they fit."""

    def __init__(self, model: nn.Module, size: int, test: ShownImages, passes: Passes) -> None:
        self.model, self.hardware = model, passes.hardware
        rows, device = test.positions.tolist(), passes.hardware.device
        self._made = lambda: batches(evaluation(test.pixels, size), rows, passes.batch_size)
        limit = KEPT_BYTES if device == "cpu" else free_share(device) / 2
        self._keeps, self._kept = 3 * size**2 * len(rows) <= limit, []

    @torch.inference_mode()
    def predict(self) -> Tensor:
        """Return the predictions [N'] int64 on the CPU."""
        self.model.eval()
        predictions, made = [], self._kept or self._made()
        kept = []
        for batch in made:
            batch = batch.to(self.hardware.device, non_blocking=True)
            if self._keeps:
                kept.append(batch)
            with self.hardware.arithmetic():
                predictions.append(self._classes(batch))
        self._kept = kept if self._keeps else []
        return torch.cat(predictions).cpu()

    def _classes(self, batch: Tensor) -> Tensor:
        try:
            return self.model(batch).float().argmax(dim=1)
        except torch.OutOfMemoryError:
            self._keeps = False
        return in_parts(self.model, batch, self.hardware.device).argmax(dim=1).to(self.hardware.device)
