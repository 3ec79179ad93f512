"""The last stage: every class is selected by a worker, with the draws that the in-process engine would make.

In one process, a generator goes from class to class. Here the driver replays its draws, of which it needs only the
sizes of the classes, and sends each class the state at which the generator arrives there. So the draws do not depend on
the number of workers or blocks, or on their order.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.seeding import derive_seed
from prunetune.cluster.by_class import POSITIONS, ROWS, VALUES, Runs, write_run
from prunetune.cluster.room import row_bytes
from prunetune.cluster.stages import Item, Stage, bundled, named_file
from prunetune.cluster.two_level import Loss, measure_loss, order_of, part_of, parts_of, picks_of_part
from prunetune.data.pool import Pool
from prunetune.runs.scores import compute_scores
from prunetune.samplers import Sampler
from prunetune.scorers import Scorer
from prunetune.signals.tensors import TensorSignals

log = logging.getLogger(__name__)
TOLERANCE = 1e-6  # Scores of two engines differ by at most this share of themselves.
TASK_ROWS = 200_000  # Small classes are selected together, up to this many rows.
GREEDY_ROWS = 20_000  # The same for greedy scorers, which take much longer, so that all workers end at the same time.
TASK_CLASSES = 64
PIECE = 1 << 20  # A file has what was chosen of at most about this many rows, so that the driver holds no whole class.
CHOICE_BYTES = 21  # What is written of a row: its position, score, rank, and whether it is kept.
PICKS, CHOICE = ".picks.npz", ".choice.npz"


@dataclass(frozen=True)
class ClassWork:
    """One class: its index, how many rows it has and keeps, the fraction, and the state of the generator [5056] uint8.

    state: None if nothing is drawn.
    """

    label: int
    size: int
    budget: int
    ratio: float
    state: bytes | None = None


@dataclass(frozen=True, eq=False)
class Chooser:
    """How classes are selected.

    runs: the rows in the order of classes. scorer: computes the scores of a class from its features; None if it need
    not. sampler: chooses. classes: their names. seed: of the scorer's draws. has_scores: whether the runs have scores;
    without them and without a scorer all scores are 0.
    """

    runs: Runs
    scorer: Scorer | None
    sampler: Sampler
    classes: tuple[str, ...]
    seed: int
    has_scores: bool = True


def class_works(
    sampler: Sampler, sizes: Mapping[int, int], budgets: Mapping[int, int], ratio: float, is_plain: bool, seed: int
) -> list[ClassWork]:
    """Return the work of each class, with the state that the generator of one process has when it comes to the class.

    Args:
        sampler: its `draw_sizes` says what it draws.
        sizes: rows of each class that has any, by ascending label.
        budgets: rows that each class keeps.
        ratio: the fraction of all rows that is kept.
        is_plain: whether each class is given this fraction; else its own.
        seed: of all draws.
    """
    generator = torch.Generator().manual_seed(derive_seed("sample", seed, float(ratio)))
    works: list[ClassWork] = []
    before: tuple[int, ...] = ()  # What the last class has drawn; nobody reads what comes after the last draw of all.
    for label, size in sizes.items():
        budget = budgets[label] if ratio < 1 or not is_plain else size
        own = ratio if is_plain else budget / size
        state = None
        if 0 < budget < size and (draws := sampler.draw_sizes(size, own)):
            for length in before:
                torch.randperm(length, generator=generator)
            state, before = generator.get_state().numpy().tobytes(), draws
        works.append(ClassWork(label, size, budget, own, state))
    return works


def choose_all(
    works: Sequence[ClassWork], chooser: Chooser, stage: Stage, width: int, worker_bytes: int
) -> tuple[list[str], list[Loss]]:
    """Select all classes in the workers. Return the names of what was chosen, and what two levels lose.

    Args:
        works: the classes.
        chooser: how they are selected.
        stage: where choices go.
        width: D, the length of a feature; 0 if none is read.
        worker_bytes: memory of a worker.
    """
    held = max(1, worker_bytes // row_bytes(width))

    def is_large(work: ClassWork) -> bool:
        return work.size > held and 0 < work.budget < work.size

    large, small = [work for work in works if is_large(work)], [work for work in works if not is_large(work)]
    most = GREEDY_ROWS if width else TASK_ROWS
    together = bundled(small, lambda work: work.size, most, TASK_CLASSES)
    items = [Item(f"classes-{i:06d}", sum(work.size for work in some), some) for i, some in enumerate(together)]
    largest = max((work.size for work in small), default=0)
    memory = max(64 << 20, largest * row_bytes(width) + min(PIECE, most + largest) * CHOICE_BYTES)
    done = stage.run(items, choose_classes, chooser, what="selecting", memory=min(memory, worker_bytes))
    names = [name for facts in done.values() for name in facts["choices"]]
    more, losses = _choose_large(large, chooser, stage, width, worker_bytes)
    return names + more, losses


def read_choices(stage: Stage, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """Yield what was chosen, a few classes at a time.

    Each yield has `positions` [n] int64, `scores` [n] float64, `ranks` [n] int32 (how many rows of the class have no
    larger score), `kept` [n] bool and `near` [1] int64 (how many rows lie so near a cut that another engine may put
    them on its other side).
    """
    for name in names:
        with np.load(stage.file(name, CHOICE)) as file:
            yield {key: file[key] for key in file.files}


def choose_classes(item: Item, stage: Stage, chooser: Chooser) -> dict[str, Any]:
    """Select some classes, and write what was chosen, a file for each PIECE of the rows."""
    pieces = (piece for work in item.work for piece in _choose(work, chooser))
    names, paths = [], []
    for some in bundled(pieces, lambda piece: len(piece["positions"]), PIECE):
        names.append(f"{item.name}-{len(names):04d}")
        paths.append(_written(names[-1], stage, {key: np.concatenate([one[key] for one in some]) for key in some[0]}))
    return stage.finish(item.name, paths, {"choices": names})


def _written(name: str, stage: Stage, choice: Mapping[str, np.ndarray]) -> Path:
    path = stage.file(name, CHOICE)
    written = {**choice, "near": choice["near"].sum(keepdims=True)}
    with named_file(path) as file:
        np.savez(file, **written)
    return path


def _choose(work: ClassWork, chooser: Chooser) -> Iterator[dict[str, np.ndarray]]:
    """Yield what was chosen of a class, PIECE after PIECE."""
    if chooser.scorer is not None:
        scores = class_scores(chooser, work)
    elif chooser.has_scores:
        scores = torch.from_numpy(chooser.runs.whole(work.label, VALUES))
    else:
        scores = torch.zeros(work.size, dtype=torch.float64)
    kept = selected(work, chooser.sampler, scores)
    near = near_cuts(work, chooser.sampler, scores, kept) if chooser.scorer is None else 0
    ranked, first = torch.from_numpy(np.sort(scores.numpy())), 0
    for positions in _in_pieces(chooser.runs.read(work.label, POSITIONS), PIECE):
        rows = slice(first, first + len(positions))
        ranks = torch.searchsorted(ranked, scores[rows], right=True, out_int32=work.size < 2**31)
        yield {
            "positions": np.asarray(positions),
            "scores": scores[rows].numpy(),
            "ranks": ranks.numpy().astype(np.int32),
            "kept": kept[rows].numpy(),
            "near": np.array([near]),
        }
        near, first = 0, rows.stop


def class_scores(chooser: Chooser, work: ClassWork) -> Tensor:
    """Return the scores [n] float64 of a scorer that looks at each class by itself."""
    features = torch.from_numpy(chooser.runs.whole(work.label, ROWS)).float()
    ids = tuple(f"{row:012d}" for row in range(work.size))
    labels = torch.full((work.size,), work.label, dtype=torch.int64)
    pool = Pool("class", labels, ids, ("train",) * work.size, chooser.classes)
    return compute_scores(chooser.scorer, TensorSignals(features, pool=pool), chooser.seed)


def selected(work: ClassWork, sampler: Sampler, scores: Tensor) -> Tensor:
    """Return which rows of a class are kept, [n] bool, for its scores [n] float64."""
    if not 0 < work.budget < work.size:
        return torch.full((work.size,), work.budget > 0)
    generator = torch.Generator()
    if work.state is not None:
        generator.set_state(torch.frombuffer(bytearray(work.state), dtype=torch.uint8))
    kept = torch.zeros(work.size, dtype=torch.bool)
    kept[sampler.select_in_class(scores, work.budget, work.ratio, generator, None)] = True
    return kept


def near_cuts(work: ClassWork, sampler: Sampler, scores: Tensor, kept: Tensor) -> int:
    """Return how many rows could be on the other side of a cut if each score changed by the share TOLERANCE.

    If it is 0, scores that differ by no more choose the same rows. FlexRand draws from each of its two parts in the
    order of the rows: if a row changes sides, the draws of its class can move to the neighbours of the drawn rows.
    """
    draws = sampler.draw_sizes(work.size, work.ratio) if 0 < work.budget < work.size else None
    if draws is None or len(draws) == 1:
        return 0
    ranked, order = scores.sort(stable=True)
    cuts = [draws[0]] if draws else (torch.nonzero(kept[order].diff()).flatten() + 1).tolist()
    return sum(_near(ranked, cut) for cut in cuts if 0 < cut < work.size)


def _near(ranked: Tensor, cut: int) -> int:
    """Return how many of the ascending scores [n] are near the gap between cut - 1 and cut."""
    below, above = float(ranked[cut - 1]), float(ranked[cut])
    reach = 2 * TOLERANCE * max(abs(below), abs(above))
    if above - below > reach or above == below == 0:  # Equal scores of 0 are no sums, so that no rounding moves them.
        return 0
    first = torch.searchsorted(ranked, above - reach)
    last = torch.searchsorted(ranked, below + reach, right=True)
    return int(last - first)


def _choose_large(
    works: Sequence[ClassWork], chooser: Chooser, stage: Stage, width: int, worker_bytes: int
) -> tuple[list[str], list[Loss]]:
    """Select classes that no worker holds, in two levels; return the names of their choices, and the losses.

    All classes take each step together, so that no worker waits for the last one of a class.
    """
    if not works:
        return [], []
    held = worker_bytes // row_bytes(width)
    classes = _cut(works, chooser, stage, held)
    parts = [item for one in classes for item in one.items(held)]
    stage.run(parts, pick_part, chooser, what="first level", memory=worker_bytes)
    unions = [Item(f"{one.name}-union", one.work.size, (one.work, one.picks)) for one in classes]
    done = stage.run(unions, pick_union, chooser, what="second level", memory=worker_bytes)
    measured = [Item(f"{one.name}-loss", one.work.size // one.parts, one) for one in classes]
    facts = stage.run(measured, part_loss, chooser, what="loss of two levels", memory=worker_bytes)
    losses = [Loss(**one["loss"]) for one in facts.values()]
    for loss in losses:
        log.info("%s", loss.line)
    return [name for one in done.values() for name in one["choices"]], losses


@dataclass(frozen=True, eq=False)
class LargeClass:
    """A class that no worker holds. parts: how many it is cut into. runs: its rows in the order of the parts."""

    work: ClassWork
    parts: int
    runs: Runs

    @property
    def name(self) -> str:
        """How the names of its files begin."""
        return f"large-{self.work.label:06d}"

    @property
    def picks(self) -> tuple[str, ...]:
        """The names of what its parts pick."""
        return tuple(f"{self.name}-{part:04d}" for part in range(self.parts))

    def items(self, held: int) -> Iterator[Item]:
        """Yield the work of the first level. held: how many rows a worker holds."""
        count = picks_of_part(self.work.budget, self.parts, held)
        for part, name in enumerate(self.picks):
            yield Item(name, self.work.size // self.parts, (self, part, count))


def _cut(works: Sequence[ClassWork], chooser: Chooser, stage: Stage, held: int) -> list[LargeClass]:
    """Write the rows of large classes in the order of their parts, so that each part is read without the others."""
    items, classes = [], []
    for work in works:
        parts, first = parts_of(work.size, held), len(items)
        for run, rows in chooser.runs.with_class(work.label):
            items.append(Item(f"large-{work.label:06d}-cut-{len(items) - first:06d}", rows, (work, parts, run)))
        names = tuple(item.name for item in items[first:])
        classes.append(LargeClass(work, parts, Runs(stage, names, np.zeros(0, dtype=np.int64))))
    stage.run(items, cut_run, chooser.seed, what="cutting large classes")
    return classes


def cut_run(item: Item, stage: Stage, seed: int) -> dict[str, Any]:
    """Sort those rows of a run that are of a large class by their part."""
    work, parts, run = item.work
    columns = {what: list(run.read(work.label, what)) for what in (POSITIONS, ROWS)}
    return write_run(item.name, stage, part_of(np.concatenate(columns[POSITIONS]), parts, seed), parts, columns)


def pick_part(item: Item, stage: Stage, chooser: Chooser) -> dict[str, Any]:
    """Let one part of a large class pick, and write the positions and features of its picks.

    A part picks at least its share of the budget, rounded up, since parts differ in size: so all together have enough.
    """
    large, part, picks = item.work
    positions = large.runs.whole(part, POSITIONS)
    features = torch.from_numpy(large.runs.whole(part, ROWS)).float()
    share = -(-large.work.budget * len(features) // large.work.size)
    order = order_of(chooser.scorer, features, max(share, min(picks, len(features)))).numpy()
    path = stage.file(item.name, PICKS)
    with named_file(path) as file:
        np.savez(file, positions=positions[order], features=features.numpy()[order])
    return stage.finish(item.name, [path], {})


def part_loss(item: Item, stage: Stage, chooser: Chooser) -> dict[str, Any]:
    """Measure on the first part of a large class what two levels lose."""
    work, parts, runs = item.work.work, item.work.parts, item.work.runs
    features = torch.from_numpy(runs.whole(0, ROWS)).float()
    kept = max(1, round(work.budget * len(features) / work.size))
    loss = measure_loss(chooser.scorer, features, kept, parts, chooser.classes[work.label])
    return stage.finish(item.name, [], {"loss": asdict(loss)})


def pick_union(item: Item, stage: Stage, chooser: Chooser) -> dict[str, Any]:
    """Pick among the picks of all parts, and write the choice of the whole class, piece by piece."""
    work, names = item.work
    positions, rows = [], []
    for name in names:
        with np.load(stage.file(name, PICKS)) as file:
            positions.append(file["positions"])
            rows.append(file["features"])
    joined = np.concatenate(positions)
    sequence = joined.argsort()  # In the order of positions, so that ties go to the smaller one.
    features, joined = torch.from_numpy(np.concatenate(rows)[sequence]), joined[sequence]
    order = order_of(chooser.scorer, features, work.budget, class_mean(chooser.runs, work)).numpy()
    ranks = dict(zip(joined[order].tolist(), range(work.budget), strict=True))
    choices, paths = [], []
    for number, some in enumerate(chooser.runs.read(work.label, POSITIONS)):
        choices.append(f"{item.name}-{number:04d}")
        paths.append(_written(choices[-1], stage, _choice_of(some, ranks, work)))
    return stage.finish(item.name, paths, {"choices": choices})


def class_mean(runs: Runs, work: ClassWork) -> Tensor:
    """Return the mean feature of a class, [D] float64, without holding the class."""
    total = sum(
        np.asarray(some, dtype=np.float64).sum(axis=0) for some in _in_pieces(runs.read(work.label, ROWS), 8192)
    )
    return torch.from_numpy(np.asarray(total)) / work.size


def _in_pieces(arrays: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    for array in arrays:
        for start in range(0, len(array), rows):
            yield array[start : start + rows]


def _choice_of(positions: np.ndarray, ranks: Mapping[int, int], work: ClassWork) -> dict[str, np.ndarray]:
    """Return the choice among some rows: picks have the score (n - rank) / n, other rows have 0."""
    rank = np.array([ranks.get(position, -1) for position in positions.tolist()])
    kept, size = rank >= 0, work.size
    scores = np.where(kept, (size - rank) / size, 0.0)
    return {
        "positions": np.asarray(positions),
        "scores": scores,
        "ranks": np.where(kept, size - rank, size - len(ranks)).astype(np.int32),
        "kept": kept,
        "near": np.zeros(1, dtype=np.int64),
    }
