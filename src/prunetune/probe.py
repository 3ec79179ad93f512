"""Linear probes on a frozen backbone, many of them trained together as one batched problem.

Letters: P probes, B batch, D feature width, C classes, V views, U rows of the view bank.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunetune.recipe import Epoch, FinetuneResult, Recipe, check_loss
from prunetune.schedules import Part, Schedule, Static, Walk
from prunetune.seeding import seeded

GATHERED_BYTES = 256 * 2**20  # of one batch for all probes that are trained together


@dataclass(frozen=True)
class Probe:
    """One head to train. rows: [n] int64 rows of the bank. labels: [n]. test: features [N', D] float32, labels [N'].

    schedule: which of its rows are shown when, and how much each counts; None: every row once an epoch.
    """

    rows: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor
    seed: int
    schedule: Schedule | None = None

    @property
    def plan(self) -> Schedule:
        """The schedule, that of ordinary training where none was given."""
        return self.schedule or Static(len(self.rows))


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
        recipe: how they are trained; a probe with shorter epochs drops out of an epoch's last steps.
        device: cpu or cuda.
    """
    together = max(1, GATHERED_BYTES // (4 * recipe.batch_size * bank.shape[2]))
    results: dict[int, FinetuneResult] = {}
    for group in _groups(probes, together):
        trained = _train(bank, [probes[p] for p in group], num_classes, recipe, device)
        results.update(zip(group, trained, strict=True))
    return [results[p] for p in range(len(probes))]


def _groups(probes: Sequence[Probe], together: int) -> list[list[int]]:
    """Return which probes are trained together, at most `together`, those with the longest epochs first.

    A probe whose schedule reads its losses is alone: their rounding, which the others change, can decide whether an
    image counts as easy, and from there on the training is another one.
    """
    longest_first = sorted(range(len(probes)), key=lambda p: -probes[p].plan.images_per_epoch)
    alone = [p for p in longest_first if probes[p].plan.reads_losses]
    others = [p for p in longest_first if not probes[p].plan.reads_losses]
    return [[p] for p in alone] + [others[start : start + together] for start in range(0, len(others), together)]


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
        FinetuneResult(predicted, tuple(history), seconds, len(probes), walk.uses())
        for predicted, history, walk in zip(predictions, histories, heads.walks, strict=True)
    ]


def head_path(
    features: Tensor, labels: Tensor, num_classes: int, recipe: Recipe, seed: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Train one head on features [N, D] and yield its weight [D, C] and bias [C] on the CPU after every epoch.

    Args:
        features: [N, D] float32.
        labels: [N] int64.
        num_classes: C.
        recipe: epochs, batches, optimiser.
        seed: of the head's initial weights and the batch order.
        device: where it is trained.
    """
    everything = torch.arange(len(labels))
    heads = _Heads([Probe(everything, labels, features[:0], labels[:0], seed)], features.shape[1], num_classes, device)
    features = features.to(device)
    for epoch in range(1, recipe.epochs + 1):
        [loss] = heads.train_epoch(features, recipe, recipe.rate(epoch))
        check_loss(loss, epoch, recipe)
        yield heads.weight[0].cpu().clone(), heads.bias[0, 0].cpu().clone()


class _Heads:
    """P linear heads with their momentum, those with the longest epochs first."""

    def __init__(self, probes: list[Probe], width: int, num_classes: int, device: str) -> None:
        self.probes, self.device = probes, device
        self.walks, weights, biases = [], [], []
        for probe in probes:
            with seeded("finetune", probe.seed) as generator:
                head = nn.Linear(width, num_classes)
            self.walks.append(Walk(probe.plan, generator, device))
            weights.append(head.weight.detach().T)
            biases.append(head.bias.detach())
        self.weight = torch.stack(weights).contiguous().to(device)  # [P, D, C]
        self.bias = torch.stack(biases).unsqueeze(1).to(device)  # [P, 1, C]
        self.momentum = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self.sizes = [walk.images_per_epoch for walk in self.walks]
        self.rows = [probe.rows.to(device) for probe in probes]
        self.labels = [probe.labels.to(device) for probe in probes]

    def train_epoch(self, view: Tensor, recipe: Recipe, rate: float) -> list[float]:
        """Show an epoch's images of every probe and return the P mean losses, weighted as the images are."""
        totals = torch.zeros(len(self.probes), dtype=torch.float64, device=self.device)
        left = list(self.sizes)  # descending, and so it stays: see `Schedule.reads_losses` and `_groups`
        while left[0]:
            active = sum(n > 0 for n in left)
            batch = [walk.draw(min(recipe.batch_size, n)) for walk, n in zip(self.walks[:active], left, strict=False)]
            losses, weights = self._show(view, batch, recipe, rate)
            totals[:active] += (losses * weights).double().sum(dim=1)
            for p, (indices, _) in enumerate(batch):
                left[p] -= len(indices)
                if self.walks[p].reads_losses:
                    self.walks[p].observe(indices, losses[p, : len(indices)])
        return (totals.cpu() / torch.tensor(self.sizes)).tolist()

    def _show(self, view: Tensor, batch: list[Part], recipe: Recipe, rate: float) -> tuple[Tensor, Tensor]:
        """Take a step on each of the first probes' batches; return losses and weights [P, b], 0 where is no image."""
        rows = _padded([own[indices] for own, (indices, _) in zip(self.rows, batch, strict=False)])
        labels = _padded([own[indices] for own, (indices, _) in zip(self.labels, batch, strict=False)])
        counts = torch.tensor([len(indices) for indices, _ in batch], device=self.device).unsqueeze(1)
        weights = (torch.arange(rows.shape[1], device=self.device) < counts).float()
        for p, (_, weighted) in enumerate(batch):
            if weighted is not None:
                weights[p, : len(weighted)] = weighted
        return self._step(view[rows].float(), labels, weights, counts, recipe, rate), weights

    def predict(self) -> list[Tensor]:
        """Return each probe's predictions [N'] int64 of its test set, on the CPU."""
        return [
            (probe.test_features.to(self.device) @ self.weight[p] + self.bias[p]).argmax(dim=1).cpu()
            for p, probe in enumerate(self.probes)
        ]

    def _step(
        self, features: Tensor, labels: Tensor, weights: Tensor, counts: Tensor, recipe: Recipe, rate: float
    ) -> Tensor:
        """Take one SGD step and return the losses [P, b] before it.

        Args:
            features: [P, b, D] float32.
            labels: [P, b] int64.
            weights: [P, b] float32, 0 where a batch is shorter than b.
            counts: [P, 1] int64 images in each batch.
            recipe: momentum and weight decay.
            rate: learning rate.
        """
        active = len(features)
        logits = torch.baddbmm(self.bias[:active], features, self.weight[:active])  # [P, b, C]
        log_p = logits.log_softmax(dim=2)
        losses = -log_p.gather(2, labels.unsqueeze(2)).squeeze(2)
        delta = log_p.exp()
        delta.scatter_add_(2, labels.unsqueeze(2), -torch.ones_like(labels, dtype=delta.dtype).unsqueeze(2))
        delta *= (weights / counts).unsqueeze(2)  # the mean over the probe's own batch
        gradients = [torch.bmm(features.transpose(1, 2), delta), delta.sum(dim=1, keepdim=True)]
        for parameter, momentum, gradient in zip((self.weight, self.bias), self.momentum, gradients, strict=True):
            gradient.add_(parameter[:active], alpha=recipe.weight_decay)
            momentum[:active].mul_(recipe.momentum).add_(gradient)
            update = gradient.add(momentum[:active], alpha=recipe.momentum) if recipe.nesterov else momentum[:active]
            parameter[:active].sub_(update, alpha=rate)
        return losses


def _padded(parts: list[Tensor]) -> Tensor:
    """Return [P, b] filled up with zeros; b is the longest part."""
    return nn.utils.rnn.pad_sequence(parts, batch_first=True)


def share_seconds(results: list[FinetuneResult], seconds: float) -> list[FinetuneResult]:
    """Charge each run its share of a cost that they had together, such as filling the view bank."""
    return [replace(result, seconds=result.seconds + seconds / len(results)) for result in results]
