"""Scores of training dynamics from a training loop that the user writes."""

import csv
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError, suggestion
from prunetune.base.publish import new_file
from prunetune.loop.processes import gathered, num_processes, own_rank
from prunetune.loop.sample_ids import SampleIds
from prunetune.loop.statistics import BY_DEFAULT, RECORDED, statistic_of
from prunetune.scorers.base import Scorer

log = logging.getLogger(__name__)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # The types that labels may have.


@dataclass(frozen=True)
class _Measured:
    """What one process contributes to a batch: rows and labels [B] int64, and the measured values by score."""

    rows: Tensor
    labels: Tensor
    num_classes: int
    values: dict[str, Tensor]


class Recorder:
    """Takes the logits of any training loop batch by batch, and gives the scores that logits alone determine.

    Only running statistics are kept, never the logits of all epochs: about 0.3 kB for each sample with the default
    scores, and with "tdds" 4 bytes more for each class. A score equals that of the scorer of the same name whose proxy
    has recorded the same logits.

    The epochs of a sample are those in which it was recorded. A sample that is missing in an epoch, such as one of the
    batch that `drop_last` drops, has one epoch fewer, and its statistics go on from the last one that it had. EL2N, for
    example, is read after a sample's own fifth epoch.

    In a training with several processes, each makes the same Recorder, calls `record` equally often (if need be with an
    empty batch) with its own samples, and then has the scores of all. A sample that comes twice in an epoch, because
    a DistributedSampler fills up the last batch, counts the first time. The same holds in an epoch that was interrupted
    and goes on from a state: some loops begin such an epoch again, and its samples come in another order.

    Args:
        ids: the ids of all N training samples, texts or whole numbers, in the order in which scores are wanted; or
            their number N, and the ids are then 0 to N - 1.
        num_classes: C; by default the width of the first logits.
        scores: names (forgetting, el2n, aum, dyn_unc, dual, lc_optimisation, least_confidence, entropy, margin, tdds)
            or scorers with their settings, such as `prunetune.scorers.EL2N(epoch=10, repeats=1)`; by default all of
            these names but tdds.

    Raises:
        InputError: ids are not different, or a score is unknown, named twice or needs more than logits.
    """

    def __init__(
        self,
        ids: int | Iterable[str | int],
        num_classes: int | None = None,
        scores: Iterable[str | Scorer] = BY_DEFAULT,
    ) -> None:
        checks.whole_number("num_classes", checks.plain(num_classes), least=2, or_none=True)
        self.ids, self.num_classes = SampleIds(ids), checks.plain(num_classes)
        self.epoch = 0  # The number of epochs that have ended.
        self._scorers = _scorers(scores)
        self._statistics = {name: statistic_of(scorer, len(self.ids)) for name, scorer in self._scorers.items()}
        self._labels = torch.full((len(self.ids),), -1)  # It is -1 until the sample is recorded.
        self._counts = torch.zeros(len(self.ids), dtype=torch.int64)
        self._in_epoch = torch.zeros(len(self.ids), dtype=torch.bool)
        self._num_repeated = 0
        self._was_interrupted = False  # Whether this epoch goes on from a state that was saved within it.

    @torch.no_grad()
    def record(self, ids: Any, logits: Tensor, labels: Any) -> None:
        """Add a batch of B samples to the epoch. A batch that is refused changes nothing.

        Args:
            ids: [B] ids, each of which comes once in an epoch: a list, an array or a tensor.
            logits: [B, C], of any float type, on any device, with or without gradients. They are read as float32.
            labels: [B] whole numbers in 0 .. C - 1.

        Raises:
            InputError: an id is unknown or was recorded in this epoch already (in one process, and in an epoch that
                was not interrupted), a label differs from the one that the sample had, logits are not finite or have
                another width than before.
        """
        parts = gathered(lambda: self._measured(ids, logits, labels))
        widths = sorted({part.num_classes for part in parts})
        if len(widths) > 1:
            raise InputError(f"logits must have one column for each class in all processes, got {widths} columns")
        rows, seen = torch.cat([part.rows for part in parts]), torch.cat([part.labels for part in parts])
        self._check_labels(rows, seen)
        is_new = self._new(rows)
        rows, before = rows[is_new], self._counts[rows[is_new]]
        for name, statistic in self._statistics.items():
            statistic.advance(rows, torch.cat([part.values[name] for part in parts])[is_new], before)
        self.num_classes, self._labels[rows] = widths[0], seen[is_new]
        self._counts[rows] += 1
        self._in_epoch[rows] = True
        self._num_repeated += int((~is_new).sum())

    def end_epoch(self) -> None:
        """End the epoch. One line of the log says how many ids were missing in it, if any were."""
        missing = torch.nonzero(~self._in_epoch).flatten()
        if len(missing) and own_rank() == 0:
            log.warning(
                "epoch %d: %d of %d ids were not recorded, first: %r; their scores do not advance",
                *(self.epoch + 1, len(missing), len(self.ids), self.ids[int(missing[0])]),
            )
        if self._num_repeated and own_rank() == 0:
            level = logging.WARNING if self._was_interrupted else logging.INFO
            log.log(level, "epoch %d: samples that came twice and count once: %d", self.epoch + 1, self._num_repeated)
        self.epoch += 1
        self._in_epoch.zero_()
        self._num_repeated, self._was_interrupted = 0, False

    def scores(self, name: str, missing: str = "raise") -> Tensor:
        """Return the scores of what has been recorded so far, [N] float64 in the order of the ids.

        Args:
            name: one of the scores that this Recorder was made for.
            missing: what an id without a score means: "raise", or "nan" for a score of NaN.

        Raises:
            InputError: the score was not recorded, or an id was recorded in too few epochs for it.
        """
        checks.choice("missing", missing, ("raise", "nan"))
        if name not in self._statistics:
            recorded = ", ".join(self._statistics)
            raise InputError(f"this Recorder has {recorded}, not {name!r}; make it with scores=[{name!r}]")
        statistic = self._statistics[name]
        lacking = torch.nonzero(self._counts < statistic.least).flatten()
        if len(lacking) and missing == "raise":
            raise InputError(
                f"{name} needs every id in {statistic.least} or more epochs, and {len(lacking)} of {len(self.ids)} ids "
                f"have fewer, first: {self.ids[int(lacking[0])]!r}; record them, or pass missing='nan'"
            )
        num_epochs = self.epoch + int(self._in_epoch.any())
        values = statistic.values(self._counts, num_epochs)
        values[lacking] = torch.nan
        return values

    def to_csv(self, path: str | Path, name: str, missing: str = "raise") -> None:
        """Write a file with the columns sample_id and score, in the order of the ids.

        `scorer=from_file scorer.path=<path>` and `prunetune.scorers.FromFile(path)` read it.

        Args:
            path: the file; missing folders are made, and an older file is replaced.
            name: the score, as in `scores`.
            missing: as in `scores`; a NaN is written as an empty score, which from_file refuses for an id of its pool.

        Raises:
            InputError: as in `scores`, or the file cannot be written.
        """
        values = self.scores(name, missing).tolist()
        try:
            with new_file(Path(path)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("sample_id", "score"))
                for row, value in enumerate(values):
                    writer.writerow((self.ids[row], "" if value != value else repr(value)))
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error}); pass another path") from None

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything recorded so far: tensors, numbers and texts, which torch.save can write."""
        return {
            **self._made_with(),
            "num_classes": self.num_classes,
            "epoch": self.epoch,
            "num_repeated": self._num_repeated,
            "labels": self._labels.clone(),
            "counts": self._counts.clone(),
            "in_epoch": self._in_epoch.clone(),
            "statistics": {
                name: {part: tensor.clone() for part, tensor in statistic.state.items()}
                for name, statistic in self._statistics.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned, also within an epoch.

        Raises:
            InputError: the state is that of other ids or scores.
        """
        for part, ours in self._made_with().items():
            if state.get(part) != ours:
                raise InputError(
                    f"the state was recorded with other {part} than this Recorder's; make it with the ids and scores "
                    "of the interrupted training"
                )
        if None not in (self.num_classes, state["num_classes"]) and self.num_classes != state["num_classes"]:
            raise InputError(f"the state has {state['num_classes']} classes, and this Recorder {self.num_classes}")
        self.num_classes = state["num_classes"] or self.num_classes
        self.epoch, self._num_repeated = state["epoch"], state["num_repeated"]
        self._labels, self._counts = state["labels"].cpu().clone(), state["counts"].cpu().clone()
        self._in_epoch = state["in_epoch"].cpu().clone()
        self._was_interrupted = bool(self._in_epoch.any())
        for name, parts in state["statistics"].items():
            self._statistics[name].state = {part: tensor.cpu().clone() for part, tensor in parts.items()}

    def _made_with(self) -> dict[str, Any]:
        return {"ids": self.ids.digest(), "scores": {name: scorer.key() for name, scorer in self._scorers.items()}}

    def _measured(self, ids: Any, logits: Tensor, labels: Any) -> _Measured:
        """Check the batch of this process, and return what it contributes."""
        rows = self.ids.rows(ids)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
            got = f"{tuple(logits.shape)} {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"logits must be a float tensor [samples, classes], got {got}")
        num_classes = logits.shape[1]
        if num_classes != (self.num_classes or max(num_classes, 2)):
            raise InputError(
                f"logits must have {self.num_classes or 'at least 2'} columns, one for each class, got {num_classes}"
            )
        known = _labels(labels, num_classes)
        if not len(rows) == len(logits) == len(known):
            raise InputError(f"got {len(rows)} ids, {len(logits)} rows of logits and {len(known)} labels; pass as many")
        values = logits.detach().to("cpu", torch.float32)
        broken = torch.nonzero(~values.isfinite().all(dim=1)).flatten().tolist()
        if broken:
            first = self.ids[int(rows[broken[0]])]
            raise InputError(
                f"logits of {len(broken)} of {len(rows)} samples are NaN or infinite, first: id {first!r}; the "
                "training has diverged, or the input of this sample is broken"
            )
        measured = {name: statistic.measure(values, known) for name, statistic in self._statistics.items()}
        return _Measured(rows, known, num_classes, measured)

    def _check_labels(self, rows: Tensor, labels: Tensor) -> None:
        before = self._labels[rows]
        changed = torch.nonzero((before >= 0) & (before != labels)).flatten().tolist()
        if changed:
            row, old, new = (int(values[changed[0]]) for values in (rows, before, labels))
            raise InputError(
                f"the labels of {len(changed)} of {len(rows)} samples changed, first: id {self.ids[row]!r} had label "
                f"{old} and now has {new}; pass the label of the data set"
            )

    def _new(self, rows: Tensor) -> Tensor:
        """Return which samples of a batch come for the first time in this epoch, [B] bool."""
        order = torch.argsort(rows, stable=True)
        is_repeated = torch.zeros(len(rows), dtype=torch.bool)
        is_repeated[order[1:]] = rows[order[1:]] == rows[order[:-1]]
        is_new = ~(is_repeated | self._in_epoch[rows])
        if self._was_interrupted:
            return is_new
        # A sampler of several processes repeats samples to fill up the last batch, which has new samples too.
        if not is_new.all() and (num_processes() == 1 or not is_new.any()):
            first = self.ids[int(rows[~is_new][0])]
            raise InputError(
                f"id {first!r} came twice in epoch {self.epoch + 1}; record each sample once in an epoch, and call "
                "end_epoch() after each"
            )
        return is_new


def _scorers(scores: Iterable[str | Scorer]) -> dict[str, Scorer]:
    """Return the scorers by name, from names and scorers."""
    chosen: dict[str, Scorer] = {}
    for score in [scores] if isinstance(scores, str | Scorer) else scores:
        if not isinstance(score, Scorer) and score not in RECORDED:
            known = ", ".join(RECORDED)
            raise InputError(f"there is no recorded score {score!r}; known: {known}.{suggestion(str(score), RECORDED)}")
        scorer = score if isinstance(score, Scorer) else RECORDED[score]
        if scorer.name in chosen:
            raise InputError(f"the score {scorer.name} is named twice; make one Recorder for each of its settings")
        chosen[scorer.name] = scorer
    if not chosen:
        raise InputError(f"scores is empty; name one or more of {', '.join(RECORDED)}")
    return chosen


def _labels(labels: Any, num_classes: int) -> Tensor:
    """Return the labels of a batch, [B] int64 on the CPU."""
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels must be whole numbers, one for each sample, got {labels!r} ({error})") from None
    if values.numel() == 0:  # An empty list becomes a float tensor.
        return torch.empty(0, dtype=torch.int64)
    if values.ndim != 1 or values.dtype not in WHOLE:
        raise InputError(
            f"labels must be whole numbers, one for each sample, got {tuple(values.shape)} {values.dtype}; if a batch "
            "mixes images (mixup, CutMix), record the logits of unmixed images"
        )
    values = values.to("cpu", torch.int64)
    if not 0 <= int(values.min()) <= int(values.max()) < num_classes:
        bad = next(value for value in values.tolist() if not 0 <= value < num_classes)
        raise InputError(f"labels must be in 0..{num_classes - 1}, the columns of the logits, got {bad}")
    return values
