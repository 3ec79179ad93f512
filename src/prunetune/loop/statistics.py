"""What each score keeps of every sample from epoch to epoch, so that logits of past epochs are not kept.

Letters: N samples, B samples of a batch, C classes, J epochs of a window. The epochs of a sample are those in which it
was recorded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.scorers.aum import AUM, mean_margin, mean_probability_margin
from prunetune.scorers.base import Scorer
from prunetune.scorers.dual import DUAL, uncertain_and_hard
from prunetune.scorers.dyn_unc import DynUnc, mean_deviation
from prunetune.scorers.el2n import EL2N, error_norms
from prunetune.scorers.forgetting import Forgetting, forgetting_events
from prunetune.scorers.lc_optimisation import LCOptimisation
from prunetune.scorers.tdds import LEAST, TDDS, movements, weighted_unevenness
from prunetune.scorers.uncertainty import Entropy, LeastConfidence, Margin
from prunetune.signals.label_odds import label_log_odds, label_losses, label_probabilities

# This function maps logits [B, C] float32 and labels [B] int64 to one number for each sample, [B].
Measure = Callable[[Tensor, Tensor], Tensor]
# This function maps the values of one window, [J, B], to one number for each sample, [B].
OfWindow = Callable[[Tensor], Tensor]
NO_END = 2**62  # A number of epochs that no training reaches.


class Statistic(ABC):
    """The running state of one score for N samples.

    `measure` reads the logits of a batch and no state, so that each process of a distributed training can measure its
    own samples. `advance` then updates the state, in every process with the samples of all.

    least: the number of epochs that a sample needs before it has a score. state: tensors with a row for each sample.
    """

    least: ClassVar[int] = 1

    def __init__(self, **state: Tensor) -> None:
        self.state = state

    @abstractmethod
    def measure(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what the state needs of logits [B, C] float32 and labels [B] int64; the first dimension is B."""

    @abstractmethod
    def advance(self, rows: Tensor, measured: Tensor, before: Tensor) -> None:
        """Add one epoch of some samples.

        Args:
            rows: [B] int64, all different.
            measured: what `measure` returned for these samples.
            before: [B] int64, the number of earlier epochs of each sample.
        """

    @abstractmethod
    def values(self, counts: Tensor, num_epochs: int) -> Tensor:
        """Return the scores, [N] float64; those of samples with fewer than `least` epochs have no meaning.

        Args:
            counts: [N] int64, the number of epochs of each sample.
            num_epochs: the number of epochs of the training so far.
        """


class Events(Statistic):
    """Changes from right to wrong; a sample that was never right scores the number of epochs, or 0 in a variant."""

    def __init__(self, num_samples: int, variant: str) -> None:
        no = torch.zeros(num_samples, dtype=torch.bool)
        super().__init__(events=torch.zeros(num_samples, dtype=torch.int64), was_right=no, ever_right=no.clone())
        self._variant = variant

    def measure(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.argmax(dim=1) == labels

    def advance(self, rows: Tensor, measured: Tensor, before: Tensor) -> None:
        steps = torch.stack([self.state["was_right"][rows], measured])  # [2, B]
        self.state["events"][rows] += forgetting_events(steps, never_learned=0)
        self.state["was_right"][rows] = measured
        self.state["ever_right"][rows] |= measured

    def values(self, counts: Tensor, num_epochs: int) -> Tensor:
        never_learned = torch.tensor(num_epochs if self._variant == "fixed" else 0)
        return self.state["events"].where(self.state["ever_right"], never_learned).double()


class Latest(Statistic):
    """The value of a sample's last epoch, or of its epoch number `until` if it has so many."""

    def __init__(self, num_samples: int, function: Measure, until: int | None = None) -> None:
        super().__init__(latest=torch.zeros(num_samples, dtype=torch.float64))
        self._function, self._until = function, until or NO_END

    def measure(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._function(logits, labels).double()

    def advance(self, rows: Tensor, measured: Tensor, before: Tensor) -> None:
        is_read = before < self._until
        self.state["latest"][rows[is_read]] = measured[is_read]

    def values(self, counts: Tensor, num_epochs: int) -> Tensor:
        return self.state["latest"].clone()


class Mean(Statistic):
    """The mean over epochs of one value, times a sign."""

    def __init__(self, num_samples: int, function: Measure, sign: int = 1) -> None:
        super().__init__(total=torch.zeros(num_samples, dtype=torch.float64))
        self._function, self._sign = function, sign

    def measure(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._function(logits, labels).double()

    def advance(self, rows: Tensor, measured: Tensor, before: Tensor) -> None:
        self.state["total"][rows] += measured

    def values(self, counts: Tensor, num_epochs: int) -> Tensor:
        return self._sign * self.state["total"] / counts


class Windows(Statistic):
    """A weighted mean over all windows of J successive values, which needs the last J values only.

    Args:
        num_samples: N.
        length: J. A sample with fewer values has one window of them all.
        of_window: maps the values of a window to the value of the window; their order must not matter.
        function: gives the value of one epoch.
        until: how many values count, from the first.
        decay: the weight of a window relative to the next one.
    """

    least = 2

    def __init__(
        self,
        num_samples: int,
        length: int,
        of_window: OfWindow,
        function: Measure,
        until: int | None = None,
        decay: float = 1.0,
    ) -> None:
        zeros = torch.zeros(num_samples, dtype=torch.float64)
        ring = torch.zeros(num_samples, length, dtype=torch.float64)
        super().__init__(ring=ring, total=zeros, weight=zeros.clone())
        self._length, self._of_window, self._function = length, of_window, function
        self._until, self._decay = until or NO_END, decay

    def measure(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._function(logits, labels)

    def advance(self, rows: Tensor, measured: Tensor, before: Tensor) -> None:
        is_read = before < self._until
        rows, measured, before = rows[is_read], measured[is_read], before[is_read]
        ring, total, weight = self.state["ring"], self.state["total"], self.state["weight"]
        ring[rows, before % self._length] = measured
        full = rows[before + 1 >= self._length]
        if len(full):
            total[full] = self._decay * total[full] + self._of_window(ring[full].T)
            weight[full] = self._decay * weight[full] + 1

    def values(self, counts: Tensor, num_epochs: int) -> Tensor:
        means = self.state["total"] / self.state["weight"]
        counts = counts.clamp(max=self._until)
        for count in counts[(counts >= 2) & (counts < self._length)].unique().tolist():
            rows = torch.nonzero(counts == count).flatten()
            means[rows] = self._of_window(self.state["ring"][rows, :count].T)
        return means


class Movements(Windows):
    """Windows over the movements between epochs. A movement needs the sample's logits of the epoch before."""

    least = LEAST

    def __init__(self, num_samples: int, scorer: TDDS) -> None:
        until = None if scorer.epochs is None else scorer.epochs - 1
        super().__init__(num_samples, scorer.window - 1, _unevenness, movements, until, scorer.decay)

    def measure(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits

    def advance(self, rows: Tensor, measured: Tensor, before: Tensor) -> None:
        if "logits" not in self.state:
            self.state["logits"] = torch.zeros(len(self.state["ring"]), measured.shape[1])
        last, again = self.state["logits"], before > 0
        moved = movements(torch.stack([last[rows[again]], measured[again]]))[0]
        super().advance(rows[again], moved, before[again] - 1)
        last[rows] = measured

    def values(self, counts: Tensor, num_epochs: int) -> Tensor:
        return super().values(counts - 1, num_epochs)


def statistic_of(scorer: Scorer, num_samples: int) -> Statistic:
    """Return an empty state of a score for N samples.

    Raises:
        InputError: the score reads more than the logits of one training.
    """
    match scorer:
        case Forgetting():
            return Events(num_samples, scorer.variant)
        case EL2N(repeats=1):
            return Latest(num_samples, error_norms, scorer.epoch)
        case EL2N():
            raise InputError(
                f"a Recorder sees one training, so EL2N needs repeats=1, got {scorer.repeats}; to average over several "
                "trainings, take the mean of the scores of one Recorder for each"
            )
        case AUM():
            margin = mean_margin if scorer.of == "logits" else mean_probability_margin
            return Mean(num_samples, lambda logits, labels: margin(logits.unsqueeze(0), labels), sign=-1)
        case LCOptimisation():
            return Mean(num_samples, _of_one(label_losses))
        case DynUnc():
            return Windows(num_samples, scorer.window, _deviation, _of_one(label_probabilities))
        case DUAL():
            return Windows(num_samples, scorer.window, _uncertain_and_hard, _of_one(label_log_odds), scorer.epochs)
        case TDDS():
            return Movements(num_samples, scorer)
        case LeastConfidence() | Entropy() | Margin():
            return Latest(num_samples, lambda logits, _: scorer.values(logits))
        case _:
            raise InputError(
                f"a Recorder sees logits only, and {scorer.name} reads more of a network; record one of "
                f"{', '.join(RECORDED)}"
            )


def _of_one(function: Measure) -> Measure:
    """Return a function of logits [E, B, C] as a function of the logits [B, C] of one epoch."""
    return lambda logits, labels: function(logits.unsqueeze(0), labels)[0]


def _deviation(probabilities: Tensor) -> Tensor:
    return mean_deviation(probabilities, len(probabilities))


def _uncertain_and_hard(log_odds: Tensor) -> Tensor:
    return uncertain_and_hard(log_odds, len(log_odds))


def _unevenness(moved: Tensor) -> Tensor:
    return weighted_unevenness(moved, len(moved) + 1, decay=1.0)


# Each score that logits alone determine, with its default settings.
RECORDED: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Forgetting(),
        EL2N(repeats=1),
        AUM(),
        DynUnc(),
        DUAL(),
        LCOptimisation(),
        LeastConfidence(),
        Entropy(),
        Margin(),
        TDDS(),
    )
}
# TDDS also keeps the last logits of each sample, and is recorded only if it is named.
BY_DEFAULT = tuple(name for name in RECORDED if name != TDDS.name)
