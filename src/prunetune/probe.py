"""Linear probes on a frozen backbone, many of them trained together as one batched problem.

Letters: P probes, B batch, D feature width, C classes, V views, U rows of the view bank.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunetune.recipe import Epoch, FinetuneResult, Recipe, check_loss
from prunetune.seeding import seeded

GATHERED_BYTES = 256 * 2**20  # of one batch for all probes that are trained together


@dataclass(frozen=True)
class Probe:
    """One head to train. rows: [M] int64 rows of the bank. labels: [M]. test: features [N', D] float32, labels [N']."""

    rows: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor
    seed: int


def train_probes(
    bank: Tensor, probes: Sequence[Probe], num_classes: int, recipe: Recipe, device: str
) -> list[FinetuneResult]:
    """Train one linear head per probe and return their results in the same order.

    A probe's result does not depend on the others but for rounding (about 1e-6 in float32). Epoch e shows view
    (e - 1) mod V of every image. The optimiser is torch's SGD, written out for P problems at once, with the gradient
    of the cross-entropy in closed form.

    Args:
        bank: [V, U, D] features of the augmented views, float16 or float32.
        probes: P heads.
        num_classes: C.
        recipe: how they are trained; a probe with a smaller subset drops out of an epoch's last steps.
        device: cpu or cuda.
    """
    if not probes:
        return []
    together = max(1, GATHERED_BYTES // (4 * recipe.batch_size * bank.shape[2]))
    largest_first = sorted(range(len(probes)), key=lambda p: -len(probes[p].rows))
    results: dict[int, FinetuneResult] = {}
    for start in range(0, len(probes), together):
        chunk = largest_first[start : start + together]
        trained = _train(bank, [probes[p] for p in chunk], num_classes, recipe, device)
        results.update(zip(chunk, trained, strict=True))
    return [results[p] for p in range(len(probes))]


def _train(bank: Tensor, probes: list[Probe], num_classes: int, recipe: Recipe, device: str) -> list[FinetuneResult]:
    start = time.perf_counter()
    heads = _Heads(probes, bank.shape[2], num_classes, device)
    histories: list[list[Epoch]] = [[] for _ in probes]
    for epoch in range(1, recipe.epochs + 1):
        view = bank[(epoch - 1) % len(bank)].to(device)  # [U, D]
        losses = heads.train_epoch(view, recipe, recipe.rate(epoch))
        predictions = heads.predict() if recipe.evaluates(epoch) else [None] * len(probes)
        for history, probe, loss, predicted in zip(histories, probes, losses, predictions, strict=True):
            check_loss(loss, epoch, recipe)
            accuracy = None if predicted is None else (predicted == probe.test_labels).double().mean().item()
            history.append(Epoch(epoch, recipe.rate(epoch), loss, accuracy))
    seconds = (time.perf_counter() - start) / len(probes)
    return [
        FinetuneResult(predicted, tuple(history), seconds, len(probes))
        for predicted, history in zip(predictions, histories, strict=True)
    ]


class _Heads:
    """P linear heads with their momentum, largest subset first."""

    def __init__(self, probes: list[Probe], width: int, num_classes: int, device: str) -> None:
        self.probes, self.device = probes, device
        self.generators, weights, biases = [], [], []
        for probe in probes:
            with seeded("finetune", probe.seed) as generator:
                head = nn.Linear(width, num_classes)
            self.generators.append(generator)
            weights.append(head.weight.detach().T)
            biases.append(head.bias.detach())
        self.weight = torch.stack(weights).contiguous().to(device)  # [P, D, C]
        self.bias = torch.stack(biases).unsqueeze(1).to(device)  # [P, 1, C]
        self.momentum = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self.sizes = [len(probe.rows) for probe in probes]
        self.rows = [probe.rows.to(device) for probe in probes]
        self.labels = [probe.labels.to(device) for probe in probes]

    def train_epoch(self, view: Tensor, recipe: Recipe, rate: float) -> list[float]:
        """Show every image of every subset once and return the P mean losses."""
        size = recipe.batch_size
        orders = [
            torch.randperm(n, generator=g).to(self.device) for n, g in zip(self.sizes, self.generators, strict=True)
        ]
        totals = torch.zeros(len(self.probes), dtype=torch.float64, device=self.device)
        for first in range(0, self.sizes[0], size):
            active = sum(n > first for n in self.sizes)
            chosen = [order[first : first + size] for order in orders[:active]]
            rows, real = self._pad([r[c] for r, c in zip(self.rows, chosen, strict=False)], size)
            labels, _ = self._pad([y[c] for y, c in zip(self.labels, chosen, strict=False)], size)
            totals[:active] += self._step(view[rows].float(), labels, real, recipe, rate)
        return (totals.cpu() / torch.tensor(self.sizes)).tolist()

    def predict(self) -> list[Tensor]:
        """Return each probe's predictions [N'] int64 of its test set, on the CPU."""
        return [
            (probe.test_features.to(self.device) @ self.weight[p] + self.bias[p]).argmax(dim=1).cpu()
            for p, probe in enumerate(self.probes)
        ]

    def _pad(self, parts: list[Tensor], size: int) -> tuple[Tensor, Tensor]:
        """Return [P, b] indices filled up with zeros, and which of them are real; b is the longest part."""
        longest = max(len(part) for part in parts)
        padded = torch.zeros(len(parts), longest, dtype=torch.int64, device=self.device)
        real = torch.zeros(len(parts), longest, device=self.device)
        for p, part in enumerate(parts):
            padded[p, : len(part)] = part
            real[p, : len(part)] = 1
        return padded, real

    def _step(self, features: Tensor, labels: Tensor, real: Tensor, recipe: Recipe, rate: float) -> Tensor:
        """Take one SGD step with features [P, b, D], labels [P, b], real [P, b]; return the P summed losses."""
        active = len(features)
        logits = torch.baddbmm(self.bias[:active], features, self.weight[:active])  # [P, b, C]
        log_p = logits.log_softmax(dim=2)
        losses = -log_p.gather(2, labels.unsqueeze(2)).squeeze(2) * real  # [P, b]
        delta = log_p.exp()
        delta.scatter_add_(2, labels.unsqueeze(2), -torch.ones_like(labels, dtype=delta.dtype).unsqueeze(2))
        delta *= (real / real.sum(dim=1, keepdim=True)).unsqueeze(2)  # the mean over the probe's own batch
        gradients = [torch.bmm(features.transpose(1, 2), delta), delta.sum(dim=1, keepdim=True)]
        for parameter, momentum, gradient in zip((self.weight, self.bias), self.momentum, gradients, strict=True):
            gradient.add_(parameter[:active], alpha=recipe.weight_decay)
            momentum[:active].mul_(recipe.momentum).add_(gradient)
            update = gradient.add(momentum[:active], alpha=recipe.momentum) if recipe.nesterov else momentum[:active]
            parameter[:active].sub_(update, alpha=rate)
        return losses.double().sum(dim=1)


def share_seconds(results: list[FinetuneResult], seconds: float) -> list[FinetuneResult]:
    """Charge each run its share of a cost that they had together, such as filling the view bank."""
    return [replace(result, seconds=result.seconds + seconds / len(results)) for result in results]
