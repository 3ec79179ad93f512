"""Full fine-tuning: every weight of the backbone and a new linear head."""

import logging
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunetune.backbones.base import Network
from prunetune.datasets.base import Pool
from prunetune.devices import autocast
from prunetune.errors import InputError
from prunetune.features import batches, evaluation, in_parts, training
from prunetune.images.decoded import Decoded
from prunetune.progress import track
from prunetune.recipe import Epoch, FinetuneResult, Recipe, check_loss
from prunetune.seeding import seeded

log = logging.getLogger(__name__)
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

    Raises:
        InputError: the loss is not finite, or the device's memory does not hold a batch.
    """
    start = time.perf_counter()
    with seeded("finetune", seed) as generator:
        head = nn.Linear(network.num_features, len(pool.classes))
        model = nn.Sequential(network, head).to(device)
        optimizer = _optimizer(model, recipe)
        micro_batch = MicroBatch(model, recipe.batch_size)
        history: list[Epoch] = []
        for epoch in track(range(1, recipe.epochs + 1), f"fine-tuning on {len(subset)} images", recipe.epochs):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch)
            order = subset[torch.randperm(len(subset), generator=generator)].tolist()
            view = training(images, network.input_size, pool, "crop", seed, epoch)
            loss = _train_epoch(
                model,
                optimizer,
                batches(view, order, recipe.batch_size),
                order,
                pool.labels,
                micro_batch,
                precision,
                device,
            )
            check_loss(loss, epoch, recipe)
            accuracy = None
            if recipe.evaluates(epoch):
                predictions = _predict(model, network, test_images, len(test), recipe.batch_size, precision, device)
                accuracy = (predictions == test.labels).double().mean().item()
            history.append(Epoch(epoch, recipe.rate(epoch), loss, accuracy))
    return FinetuneResult(predictions, tuple(history), time.perf_counter() - start)


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


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    image_batches: Sequence[Tensor],
    order: list[int],
    labels: Tensor,
    micro_batch: MicroBatch,
    precision: str,
    device: str,
) -> float:
    model.train()
    total, done = torch.zeros((), dtype=torch.float64, device=device), 0
    for images in image_batches:
        targets = labels[order[done : done + len(images)]]
        total += _step(model, optimizer, images, targets, micro_batch, precision, device)
        done += len(images)
    return total.item() / done


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    micro_batch: MicroBatch,
    precision: str,
    device: str,
) -> Tensor:
    """Take one optimiser step on a batch and return its summed loss."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            total = torch.zeros((), dtype=torch.float64, device=device)
            for part, part_targets in zip(images.split(micro_batch.size), targets.split(micro_batch.size), strict=True):
                with autocast(precision, device):
                    logits = model(part.to(device, non_blocking=True))
                loss = nn.functional.cross_entropy(logits.float(), part_targets.to(device), reduction="sum")
                (loss / len(images)).backward()
                total += loss.detach()
            break
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        micro_batch.shrink()
    optimizer.step()
    return total


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
