"""Linear probes on a frozen backbone, many of them trained together as one batched problem.

Letters: P probes, B batch, b images of the longest batch in a step, D feature width, C classes, V views, U rows of the
view bank, M images of an epoch.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunetune.base.devices import exact_float32
from prunetune.base.seeding import seeded
from prunetune.data.images.device_views import sent
from prunetune.training.recipe import Epoch, FinetuneResult, Recipe, check_loss
from prunetune.training.sample_order import SampleOrder, Static, Walk

# A step touches at most this many bytes. On a CPU the caches hold them.
TOGETHER_BYTES = {"cpu": 12 * 2**20, "cuda": 2**31}
LEAST_TOGETHER = 16  # In a group of fewer probes the overhead of Python dominates.
LOGITS_BYTES = {"cpu": 4 * 2**20, "cuda": 2**28}  # Test logits take at most this many bytes at a time.
DRAWING = threading.Lock()  # This lock protects torch's global random state while initial weights are drawn.
Item = TypeVar("Item")


@dataclass(frozen=True)
class Probe:
    """One head to train. rows: [n] int64 rows of the bank. labels: [n]. test: features [N', D] float32, labels [N'].

    sample_order: the order and weights of the rows; None shows every row once in every epoch.
    """

    rows: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor
    seed: int
    sample_order: SampleOrder | None = None

    @property
    def plan(self) -> SampleOrder:
        """The sample order, that of ordinary training where none was given."""
        return self.sample_order or Static(len(self.rows))


def train_probes(
    bank: Tensor, probes: Sequence[Probe], num_classes: int, recipe: Recipe, device: str
) -> list[FinetuneResult]:
    """Train one linear head per probe and return their results in the same order.

    A probe's result does not depend on the others, except for rounding (about 1e-6 in float32). Epoch e shows view
    (e - 1) mod V of every image. The optimiser is torch's SGD, written out for P problems at once, with the gradient
    of the cross-entropy in closed form.

    Args:
        bank: [V, U, D] features of the augmented views, float16 or float32.
        probes: the P heads to train.
        num_classes: C.
        recipe: how they are trained; a probe with shorter epochs drops out of an epoch's last steps.
        device: cpu or cuda.
    """
    width = bank.shape[2]
    # A step of one probe touches this many bytes.
    one = 4 * (recipe.batch_size * (width + num_classes) + 3 * num_classes * width)
    together = max(1, TOGETHER_BYTES[device] // one)
    threads = torch.get_num_threads() if device == "cpu" else 1
    groups = _groups(probes, min(together, max(LEAST_TOGETHER, len(probes) // (2 * threads))))

    def train(group: list[int]) -> list[FinetuneResult]:
        return _train(bank, [probes[p] for p in group], num_classes, recipe, device)

    results: dict[int, FinetuneResult] = {}
    with exact_float32(device):
        all_trained = _trained(train, groups, threads)
    for group, trained in zip(groups, all_trained, strict=True):
        results.update(zip(group, trained, strict=True))
    return [results[p] for p in range(len(probes))]


def _trained(
    train: Callable[[list[int]], list[FinetuneResult]], groups: list[list[int]], threads: int
) -> list[list[FinetuneResult]]:
    """Train the groups, on a CPU one in each thread: threads that share one group wait for each other at every step."""
    if threads == 1 or len(groups) == 1:
        return [train(group) for group in groups]
    start = time.perf_counter()
    with ThreadPoolExecutor(min(threads, len(groups)), initializer=torch.set_num_threads, initargs=(1,)) as workers:
        try:
            trained = list(workers.map(train, groups))
        finally:
            torch.set_num_threads(threads)
    seconds = time.perf_counter() - start
    # The groups ran at the same time, so each result gets a share of the whole duration.
    share = seconds / sum(result.seconds for results in trained for result in results)
    return [[replace(result, seconds=share * result.seconds) for result in results] for results in trained]


def _groups(probes: Sequence[Probe], together: int) -> list[list[int]]:
    """Return which probes are trained together, at most `together`, those with the longest epochs first.

    A probe whose sample order reads its losses is trained alone. Other probes in the batch would change the rounding of
    its losses, which can decide whether an image counts as easy and so change the rest of the training.
    """
    longest_first = sorted(range(len(probes)), key=lambda p: -probes[p].plan.images_per_epoch)
    alone = [p for p in longest_first if probes[p].plan.reads_losses]
    others = [p for p in longest_first if not probes[p].plan.reads_losses]
    return [[p] for p in alone] + [others[start : start + together] for start in range(0, len(others), together)]


def _train(bank: Tensor, probes: list[Probe], num_classes: int, recipe: Recipe, device: str) -> list[FinetuneResult]:
    start = time.perf_counter()
    heads = _Heads(probes, bank.shape[2], num_classes, recipe, device)
    histories: list[list[Epoch]] = [[] for _ in probes]
    for epoch, losses, accuracies in _one_behind(_epochs(heads, bank, recipe, device)):
        rate = recipe.rate(epoch)
        known = [None] * len(probes) if accuracies is None else accuracies.tolist()
        for history, loss, accuracy in zip(histories, losses.tolist(), known, strict=True):
            check_loss(loss, epoch, recipe)
            history.append(Epoch(epoch, rate, loss, accuracy))
    predictions = heads.predict()
    for history, probe, predicted in zip(histories, probes, predictions, strict=True):
        accuracy = (predicted == probe.test_labels).double().mean().item()
        history.append(Epoch(recipe.epochs, recipe.rate(recipe.epochs), history.pop().train_loss, accuracy))
    seconds = (time.perf_counter() - start) / len(probes)
    return [
        FinetuneResult(predicted, tuple(history), seconds, len(probes), walk.uses())
        for predicted, history, walk in zip(predictions, histories, heads.walks, strict=True)
    ]


def _epochs(heads: "_Heads", bank: Tensor, recipe: Recipe, device: str) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield (epoch, mean losses [P], test accuracies [P] or None), float64 on the device."""
    for epoch in range(1, recipe.epochs + 1):
        view = bank[(epoch - 1) % len(bank)].to(device).float()  # [U, D]
        losses = heads.train_epoch(view, recipe.rate(epoch))
        # After the last epoch, `predict` evaluates the test set.
        looks = recipe.evaluates(epoch) and epoch < recipe.epochs
        yield epoch, losses, heads.accuracies() if looks else None


def _one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Yield each item when the next one has been made, so that a GPU works on while the caller reads."""
    behind: list[Item] = []
    for item in items:
        yield from behind
        behind = [item]
    yield from behind


def head_path(
    features: Tensor, labels: Tensor, num_classes: int, recipe: Recipe, seed: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Train one head on features [N, D] and yield its weight [D, C] and bias [C] on the CPU after every epoch.

    Args:
        features: [N, D] float32.
        labels: [N] int64.
        num_classes: C.
        recipe: epochs, batches, optimiser.
        seed: determines the head's initial weights and the batch order.
        device: the device of the training.
    """
    everything = torch.arange(len(labels))
    probe = Probe(everything, labels, features[:0], labels[:0], seed)
    heads = _Heads([probe], features.shape[1], num_classes, recipe, device)
    features = features.to(device)
    for epoch in range(1, recipe.epochs + 1):
        with exact_float32(device):
            [loss] = heads.train_epoch(features, recipe.rate(epoch)).tolist()
        check_loss(loss, epoch, recipe)
        yield heads.weight[0].T.cpu().clone(memory_format=torch.contiguous_format), heads.bias[0, :, 0].cpu().clone()


class _Heads:
    """P linear heads with their momentum, those with the longest epochs first."""

    def __init__(self, probes: list[Probe], width: int, num_classes: int, recipe: Recipe, device: str) -> None:
        self.recipe, self.device = recipe, device
        self.walks, weights, biases = [], [], []
        for probe in probes:
            with DRAWING, seeded("finetune", probe.seed) as generator:
                head = nn.Linear(width, num_classes)
            self.walks.append(Walk(probe.plan, generator, device if probe.plan.reads_losses else "cpu"))
            weights.append(head.weight.detach())
            biases.append(head.bias.detach())
        self.weight = torch.stack(weights).to(device)  # [P, C, D]
        self.bias = torch.stack(biases).unsqueeze(2).to(device)  # [P, C, 1]
        self.states = [(p, torch.zeros_like(p), torch.empty_like(p)) for p in (self.weight, self.bias)]
        self.batches = _Batches.of([recipe.batch_sizes(walk.images_per_epoch) for walk in self.walks], device)
        self.rows = _padded([probe.rows for probe in probes]).to(device)  # [P, n]
        self.labels = _padded([probe.labels for probe in probes]).to(device)  # [P, n]
        self.tests = _tests(probes, device)

    def train_epoch(self, view: Tensor, rate: float) -> Tensor:
        """Show an epoch's images of every probe; return the [P] mean losses, weighted as the images are, on the device.

        Args:
            view: [U, D] float32, on the device.
            rate: learning rate.
        """
        totals, batches = torch.zeros(len(self.walks), dtype=torch.float64, device=self.device), self.batches
        if self.walks[0].reads_losses:
            return self._follow(view, rate, totals)
        indices, weights = self._draw()
        rows, labels = self.rows.gather(1, indices), self.labels.gather(1, indices)  # [P, M']
        weights, shares = (batches.is_shown, batches.share) if weights is None else (weights, weights * batches.share)
        for active, columns in batches.steps:
            here = slice(active), columns
            losses = self._step(view, rows[here], labels[here], shares[here], rate)
            totals[here[0]] += (losses * weights[here]).double().sum(dim=1)
        return totals / torch.tensor(batches.counts).to(self.device)

    def _draw(self) -> tuple[Tensor, Tensor | None]:
        """Return indices [P, M'] int64 of an epoch, by columns, and their weights (None if all are 1)."""
        parts = [walk.draw(walk.images_per_epoch) for walk in self.walks]
        parts = [walk.cut(part, n) for walk, part, n in zip(self.walks, parts, self.batches.counts, strict=True)]
        indices = sent(_padded([indices for indices, _ in parts]), self.device).gather(1, self.batches.places)
        if all(given is None for _, given in parts):
            return indices, None
        weights = _padded([torch.ones(len(i)) if given is None else given for i, given in parts])
        return indices, sent(weights, self.device).gather(1, self.batches.places) * self.batches.is_shown

    def _follow(self, view: Tensor, rate: float, totals: Tensor) -> Tensor:
        """Show an epoch of the one probe whose sample order reads the losses, and return its mean loss [1]."""
        [walk], num_shown = self.walks, 0
        for piece in walk.epoch():
            sizes = self.recipe.batch_sizes(len(piece[0]))
            indices, weights = walk.cut(piece, sum(sizes))
            weights = torch.ones(len(indices), device=self.device) if weights is None else weights
            for some, given in zip(indices.split(sizes), weights.split(sizes), strict=True):
                shares = (given / len(some)).unsqueeze(0)
                losses = self._step(view, self.rows[:, some], self.labels[:, some], shares, rate)
                totals += (losses * given).double().sum(dim=1)
                walk.observe(some, losses[0])
            num_shown += len(indices)
        return totals / num_shown

    def _step(self, view: Tensor, rows: Tensor, labels: Tensor, shares: Tensor, rate: float) -> Tensor:
        """Take one SGD step of the first probes and return their losses [P, b] before it.

        Args:
            view: [U, D] float32.
            rows: [P, b] int64 of the view.
            labels: [P, b] int64.
            shares: [P, b] float32 weights of the losses in the minimised sum, 0 where a batch is shorter than b.
            rate: learning rate.
        """
        active, labels, shares = len(rows), labels.unsqueeze(1), shares.unsqueeze(1)  # [P, 1, b]
        features = view.index_select(0, rows.flatten()).view(*rows.shape, -1)  # [P, b, D]
        logits = torch.baddbmm(self.bias[:active], self.weight[:active], features.transpose(1, 2))  # [P, C, b]
        logits -= logits.amax(dim=1, keepdim=True)
        of_label = logits.gather(1, labels)
        sums = logits.exp_().sum(dim=1, keepdim=True)
        losses = (sums.log() - of_label).squeeze(1)
        delta = logits.mul_(shares / sums).scatter_add_(1, labels, -shares)
        self._descend(active, delta, features, rate)
        return losses

    def _descend(self, active: int, delta: Tensor, features: Tensor, rate: float) -> None:
        """Move the first heads down the gradient; delta [P, C, b] is that of the logits, features [P, b, D]."""
        recipe = self.recipe
        for state, seen in zip(self.states, (features, None), strict=True):
            parameter, momentum, ahead = (tensor[:active] for tensor in state)
            if recipe.nesterov:
                # Nesterov's step is w - rate (g + mu m'), with the parameter w, the gradient g, the momentum factor mu
                # and the new momentum m' = mu m + g. It equals (w + rate mu m) - rate (1 + mu) m'. The bracket needs
                # the old momentum m, so it is kept in `ahead` before the momentum is updated.
                torch.add(parameter, momentum, alpha=rate * recipe.momentum, out=ahead)
            momentum.mul_(recipe.momentum).add_(parameter, alpha=recipe.weight_decay)
            if seen is None:
                momentum.add_(delta.sum(dim=2, keepdim=True))
            else:
                momentum.baddbmm_(delta, seen)
            if recipe.nesterov:
                torch.sub(ahead, momentum, alpha=rate * (1 + recipe.momentum), out=parameter)
            else:
                parameter.sub_(momentum, alpha=rate)

    def accuracies(self) -> Tensor:
        """Return the [P] fractions of the test sets that are right, float64 on the device; a tie counts as right."""
        fractions = []
        for test in self.tests:
            for logits in self._logits(test):  # [p, C, N']
                of_label = logits.gather(1, test.labels.expand(len(logits), 1, -1)).squeeze(1)
                fractions.append((of_label >= logits.amax(dim=1)).sum(dim=1).double() / len(test.labels))
        return torch.cat(fractions)

    def predict(self) -> list[Tensor]:
        """Return each probe's predictions [N'] int64 of its test set, on the CPU."""
        parts = [logits.argmax(dim=1).cpu() for test in self.tests for logits in self._logits(test)]
        return [predictions for part in parts for predictions in part.unbind()]

    def _logits(self, test: "_Test") -> Iterator[Tensor]:
        """Yield logits [p, C, N'] on a test set, for a few of its heads at a time."""
        num_classes = self.weight.shape[1]
        at_once = max(1, LOGITS_BYTES[self.device] // (4 * num_classes * max(1, len(test.features))))
        for first in range(test.first, test.last, at_once):
            some = slice(first, min(first + at_once, test.last))
            logits = self.weight[some].flatten(0, 1) @ test.features.T
            yield logits.view(-1, num_classes, len(test.features)).add_(self.bias[some])


@dataclass(frozen=True)
class _Batches:
    """The batches of P probes side by side: step j shows batch j of every probe that has one.

    M' is the number of columns, the sum over the steps of the longest batch in each; a shorter batch is filled up.

    steps: how many of the probes take part in each step, the first ones, and the step's columns. places: [P, M'] int64,
    which image of the epoch is in a column. is_shown: [P, M'] float32, 0 where a column is filling. share: [P, M']
    float32, the share of an image in the mean over its batch. counts: how many images an epoch of each probe shows.
    """

    steps: tuple[tuple[int, slice], ...]
    places: Tensor
    is_shown: Tensor
    share: Tensor
    counts: list[int]

    @classmethod
    def of(cls, sizes: list[list[int]], device: str) -> "_Batches":
        """Lay out batches of these sizes, those of the probe with most batches first."""
        steps, start = [], 0
        for at_once in itertools.zip_longest(*sizes, fillvalue=0):
            longest = max(at_once)
            steps.append((sum(size > 0 for size in at_once), slice(start, start + longest)))
            start += longest
        starts = [columns.start for _, columns in steps]
        known = {tuple(own): _layout(own, starts, start) for own in sizes}  # Most probes have the sizes of others.
        places, share = (torch.stack(parts).to(device) for parts in zip(*(known[tuple(o)] for o in sizes), strict=True))
        return cls(tuple(steps), places, (share > 0).float(), share, [sum(own) for own in sizes])


def _layout(sizes: list[int], starts: list[int], num_columns: int) -> tuple[Tensor, Tensor]:
    """Return the places [M'] int64 and shares [M'] float32 of one probe, whose batches begin in columns `starts`."""
    counts = torch.tensor(sizes)
    ends = counts.cumsum(0)
    shift = torch.tensor(starts[: len(sizes)]) - (ends - counts)
    columns = torch.arange(int(ends[-1])) + shift.repeat_interleave(counts)
    places, share = torch.zeros(num_columns, dtype=torch.int64), torch.zeros(num_columns)
    places[columns] = torch.arange(len(columns))
    share[columns] = (1 / counts.float()).repeat_interleave(counts)
    return places, share


@dataclass(frozen=True)
class _Test:
    """A test set on the device, and the heads first .. last - 1 that are evaluated on it."""

    features: Tensor
    labels: Tensor
    first: int
    last: int


def _tests(probes: list[Probe], device: str) -> list[_Test]:
    """Return the test sets; successive probes with the same test set share one entry."""
    tests, first = [], 0
    for _, same in itertools.groupby(probes, lambda probe: (id(probe.test_features), id(probe.test_labels))):
        last = first + len(list(same))
        tests.append(_Test(probes[first].test_features.to(device), probes[first].test_labels.to(device), first, last))
        first = last
    return tests


def _padded(parts: list[Tensor]) -> Tensor:
    """Return [P, b] filled up with zeros; b is the longest part."""
    return nn.utils.rnn.pad_sequence(parts, batch_first=True)


def share_seconds(results: list[FinetuneResult], seconds: float) -> list[FinetuneResult]:
    """Charge each run its share of a cost that they had together, such as filling the view bank."""
    return [replace(result, seconds=result.seconds + seconds / len(results)) for result in results]
