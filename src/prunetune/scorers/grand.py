"""GraNd: the norm of the gradient of an image's loss, early in training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.networks.gradients import ready_for_gradients
from prunetune.scorers.base import VARIANTS, Scorer
from prunetune.scorers.published.batches import batch_lengths
from prunetune.selection.last_layer_gradients import proxy_gradients
from prunetune.signals.contract import Signals
from prunetune.signals.proxy import Proxy

# The gradients of single images that are in memory at once have at most this many numbers (256 MiB).
NUMBERS_AT_ONCE = 2**26
LOGITS_AT_ONCE = 2**23  # This number limits the size of a chunk of last-layer gradients.


@dataclass(frozen=True)
class Grand(Scorer):
    """Norm of the gradient of an image's cross-entropy, averaged over proxies that differ in head and order.

    Source: Paul et al. 2021 (arXiv 2107.07075), early in training; epoch 5 of 50 and 3 repeats (the original: at least
    10). Eval mode, all parameters of backbone and head; `parameters: last` takes the last layer alone (grand_last),
    which has the closed form ||softmax - onehot|| sqrt(1 + ||h||^2).
    Direction: larger is harder.
    Cost: `epoch` epochs of each proxy; with all parameters also a forward and a backward pass per image and proxy.

    variant "released" (ml-stat-Sustech/Efficient-Dataset-Pruning at 6767d0e) differs in numbers only: epoch 50, 1
    proxy. variant "deepcore" (DeepCore at commit 74ec709): the last layer at the end of the proxy, 10 repeats, the
    norm divided by the length of the batch that holds the image, which raises the scores of a short last batch. So it
    depends on the order of the pool, here that of the sample_ids, and on `batch_size`.

    variant: "fixed", "released" or "deepcore". parameters: "all" or "last". epoch: from 1, null for the last; a proxy
    that ends earlier is read at its end. repeats: proxies. batch_size: read by "deepcore" only.
    """

    variant: str = "fixed"
    parameters: str = "all"
    epoch: int | None = 5
    repeats: int = 3
    batch_size: int = 256

    name: ClassVar[str] = "grand"
    higher_means: ClassVar[str] = "harder"
    version: ClassVar[int] = 1
    reads_proxy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice("scorer.variant", self.variant, VARIANTS)
        checks.choice("scorer.parameters", self.parameters, ("all", "last"))
        checks.whole_number("scorer.epoch", self.epoch, or_none=True)
        checks.whole_number("scorer.repeats", self.repeats)
        checks.whole_number("scorer.batch_size", self.batch_size)
        if self.variant == "deepcore" and self.parameters == "all":
            raise InputError("variant deepcore reads the last layer only; pass scorer.parameters=last")
        super().__post_init__()

    @property
    def reads_images(self) -> bool:
        """True for the gradients of all parameters."""
        return self.parameters == "all"

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        total = torch.zeros(len(pool), dtype=torch.float64)
        for repeat in range(self.repeats):
            proxy = signals.proxy(repeat, self.epoch)
            epoch = min(self.epoch or proxy.num_epochs, proxy.num_epochs)
            if self.parameters == "last":
                total += last_layer_norms(proxy, pool.labels, epoch)
            else:
                total += self._norms(proxy.model(epoch).to(signals.device), pool.labels, signals, repeat)
        if self.variant == "deepcore":
            total /= batch_lengths(len(pool), self.batch_size)
        return total / self.repeats

    def _norms(self, model: nn.Sequential, labels: Tensor, signals: Signals, repeat: int) -> Tensor:
        def norms(batches: Iterator[Tensor], rows: Tensor) -> Tensor:
            return gradient_norms(model, batches, labels[rows])

        return signals.per_image({**self.key(), "repeat": repeat}, norms, f"grand {repeat + 1} of {self.repeats}")


def last_layer_norms(proxy: Proxy, labels: Tensor, epoch: int) -> Tensor:
    """Return ||delta|| sqrt(1 + ||h||^2) of every image after an epoch, [N] float64; labels [N] int64."""
    # Results are written in place to avoid fragmented memory, as in `Proxy.statistic`.
    norms = torch.empty(len(labels), dtype=torch.float64)
    for rows in torch.arange(len(labels)).split(max(1, LOGITS_AT_ONCE // (8 * proxy.num_classes))):
        norms[rows] = proxy_gradients(proxy, labels, epoch, rows).norms().double()
    return norms


def gradient_norms(model: nn.Sequential, batches: Iterator[Tensor], labels: Tensor) -> Tensor:
    """Return the norm of the gradient of each image's cross-entropy with respect to all parameters of a model.

    Args:
        model: a `Network` and a linear layer, in eval mode; images [B, 3, S, S] uint8 to logits [B, C].
        batches: batches of the N images, in order.
        labels: [N] int64.

    Returns:
        [N] float64.
    """
    network, head = model
    ready_for_gradients(model, head.weight.device.type)
    classify = nn.Sequential(network.model, head).requires_grad_(True)
    device = head.weight.device
    size = max(1, NUMBERS_AT_ONCE // sum(parameter.numel() for parameter in classify.parameters()))
    norms, start = [], 0
    for images in batches:
        targets = labels[start : start + len(images)].to(device)
        start += len(images)
        inputs = network.normalise(images.to(device))
        parts = zip(inputs.split(size), targets.split(size), strict=True)
        norms += [per_image_norms(classify, some, goals) for some, goals in parts]
    return torch.cat(norms).cpu()


def per_image_norms(classify: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the norm of each image's gradient, [B] float64, for float inputs [B, ...] and targets [B] int64.

    The gradients of all images are computed at once if every operation of the network allows it, otherwise one by one.
    """
    parameters = {name: parameter.detach() for name, parameter in classify.named_parameters()}
    buffers = dict(classify.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        logits = torch.func.functional_call(classify, (weights, buffers), (image.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, target.unsqueeze(0))

    gradient = torch.func.grad(loss)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # This implementation of attention is known to work with vmap.
            gradients = torch.func.vmap(gradient, in_dims=(None, 0, 0))(parameters, inputs, targets)
    # Some operations fail under vmap, e.g. contiguous() with a memory format or an update in place.
    except RuntimeError:
        rows = [gradient(parameters, image, target) for image, target in zip(inputs, targets, strict=True)]
        return torch.stack([_norm({name: part.unsqueeze(0) for name, part in row.items()})[0] for row in rows])
    return _norm(gradients)


def _norm(gradients: dict[str, Tensor]) -> Tensor:
    """Return the norm over all parameters, [B] float64, of gradients [B, ...] by name; they are never concatenated."""
    return sum(part.flatten(1).double().square().sum(1) for part in gradients.values()).sqrt()
