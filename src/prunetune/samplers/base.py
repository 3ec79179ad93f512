"""The contract of a sampler."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.samplers.amount import check_ratio
from prunetune.samplers.budgets import BUDGETS, ROUNDINGS, class_budgets
from prunetune.signals.contract import Signals
from prunetune.signals.label_odds import label_probabilities
from prunetune.training.sample_order import SampleOrder

# This text belongs to error messages about settings that a run can choose on held-out images.
AUTO = " or (in a run) auto"


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Chooses which images are kept, given their scores. Unrelated to torch's Sampler.

    name: its name in `sampler=<name>`. reads_scores: whether the scores matter; if not, scorer=none goes with it.
    reads_hardness: whether scores must measure hardness; False: any order is allowed. needs: what it reads in addition:
    "nothing", the "features" [N, D] of the pool, or its "probabilities" [N] float64, each image's mean probability of
    its label over the first `epochs` of the proxy (None: all of them). in_runs: values that a run's configuration has
    instead of a default. The defaults of the fields and of these class variables must be literals, since
    `prunetune.config` reads them from the source of the class.

    min_per_class: the least that a class keeps (0 restores the sources, where a small class can vanish). rounding:
    "half_even" rounds each class by itself, "largest_remainder" meets the total round(N * ratio). budgets:
    "proportional" to the size of a class; "equal" for all; "drop": a class with a lower recall on held-out images keeps
    more (DRoP). The last two keep as many images in all as the first: other classes get what a class cannot use.
    """

    name: ClassVar[str]
    reads_hardness: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = True
    needs: ClassVar[str] = "nothing"
    epochs: ClassVar[int | None] = None
    in_runs: ClassVar[dict[str, Any]] = {}

    min_per_class: int = 1
    rounding: str = "half_even"
    budgets: str = "proportional"

    def __post_init__(self) -> None:
        checks.choice("sampler.rounding", self.rounding, ROUNDINGS)
        checks.choice("sampler.budgets", self.budgets, BUDGETS)
        checks.whole_number("sampler.min_per_class", self.min_per_class, least=0)
        checks.fields("sampler", self)

    @property
    def needs_labels(self) -> bool:
        """Whether the choice means nothing without labels. Without labels, all samples count as one class."""
        return self.needs == "probabilities" or self.budgets == "drop"

    def select(
        self, scores: Tensor, labels: Tensor, ratio: float, generator: torch.Generator, signals: Signals | None = None
    ) -> Tensor:
        """Return the positions that are kept, [M] int64, ascending and unique.

        Args:
            scores: [N] float64, larger = harder (or picked earlier), in sample_id order; ties to the smaller.
            labels: [N] int64 class indices.
            ratio: fraction of each class that is kept, in (0, 1]. 1 keeps all and draws nothing.
            generator: source of all random draws.
            signals: signals of these N images. Only samplers that read more than the scores need them.

        Raises:
            InputError: the ratio is outside (0, 1], scores and labels do not fit, a score is not finite, or signals are
                missing.
        """
        check_ratio(ratio)
        check_shapes(scores, labels)
        if ratio == 1:
            return torch.arange(len(labels))
        budgets = self._class_budgets(scores, labels, ratio, signals)
        return self._select(
            scores, labels, budgets, ratio if self.budgets == "proportional" else None, generator, signals
        )

    def select_budgets(
        self,
        scores: Tensor,
        labels: Tensor,
        budgets: dict[int, int],
        generator: torch.Generator,
        signals: Signals | None = None,
    ) -> Tensor:
        """Return the positions that are kept, [M] int64, ascending and unique, for numbers that were set outside.

        Args:
            scores: as for `select`.
            labels: as for `select`.
            budgets: how many images each class keeps; a class that is not named keeps none.
            generator: as for `select`.
            signals: as for `select`.

        Raises:
            InputError: scores and labels do not fit, a score is not finite, signals are missing, or the sampler sets
                its budgets by a rule of its own.
        """
        check_shapes(scores, labels)
        self.check_budgets()
        return self._select(scores, labels, budgets, None, generator, signals)

    def check_budgets(self) -> None:
        """Refuse budgets that were set outside, as `select_budgets` takes them, if the sampler's rule needs a fraction.

        Raises:
            InputError: the sampler sets its budgets by a rule of its own.
        """
        if self.budgets != "proportional":
            raise InputError(f"sampler.budgets={self.budgets} distributes a fraction, not a number of images; pass one")

    def _select(
        self,
        scores: Tensor,
        labels: Tensor,
        budgets: dict[int, int],
        ratio: float | None,
        generator: torch.Generator,
        signals: Signals | None,
    ) -> Tensor:
        """Select in each class. ratio: the fraction that is kept; None takes that of each class."""
        needed = self._needed(labels, signals)
        sampler = self.settled(scores.double(), labels, budgets, needed)
        # Images are marked in place. Small results between large arrays would fragment the heap by gigabytes.
        is_kept = torch.zeros(len(labels), dtype=torch.bool)
        for label, budget in budgets.items():
            members = torch.nonzero(labels == label).flatten()  # [n]. Positions are ascending.
            if 0 < budget < len(members):
                own = budget / len(members) if ratio is None else ratio
                rows = None if needed is None else needed[members]
                members = members[sampler.select_in_class(scores[members].double(), budget, own, generator, rows)]
            if budget:
                is_kept[members] = True
        return torch.nonzero(is_kept).flatten()

    @abstractmethod
    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        """Return indices into one class's scores [n] float64: `budget` of them, 0 < budget < n, in any order.

        Args:
            scores: [n] float64.
            budget: number of images that are kept.
            ratio: the fraction that is kept. If budgets are not proportional, it is the fraction of this class.
            generator: source of all random draws.
            needed: features [n, D] or probabilities [n] of the class, as `needs` says.
        """

    def draw_sizes(self, size: int, ratio: float) -> tuple[int, ...] | None:
        """Return the lengths of the permutations that `select_in_class` draws in a class, one after another.

        With them a generator can be brought to where it stands after a class whose scores are not at hand. None: the
        draws depend on the scores, or on data beside them.

        Args:
            size: n, the images of the class, more than its budget.
            ratio: as for `select_in_class`.
        """
        return None

    def settled(self, scores: Tensor, labels: Tensor, budgets: dict[int, int], needed: Tensor | None) -> "Sampler":
        """Return the sampler with its numbers that depend on the whole pool; most have none and return themselves.

        Args:
            scores: [N] float64.
            labels: [N] int64.
            budgets: number of kept images of each class that occurs.
            needed: features [N, D] or probabilities [N], as `needs` says.
        """
        return self

    def _needed(self, labels: Tensor, signals: Signals | None) -> Tensor | None:
        if self.needs == "nothing":
            return None
        if signals is None:
            raise InputError(
                f"{type(self).__name__} reads {self.needs} beside the scores; pass signals, "
                "e.g. TensorSignals(features, pool=pool)"
            )
        if self.needs == "features":
            needed = signals.features()
        else:
            proxy = signals.proxy(until=self.epochs, logits_only=True)
            last = min(self.epochs or proxy.num_epochs, proxy.num_epochs)
            needed = proxy.statistic(mean_label_probability, labels, range(1, last + 1))
        if len(needed) != len(labels):
            raise InputError(f"scores and signals must be of the same images, got {len(labels)} and {len(needed)}")
        return needed

    def _class_budgets(self, scores: Tensor, labels: Tensor, ratio: float, signals: Signals | None) -> dict[int, int]:
        recall = None
        if self.budgets == "drop":
            if signals is None:
                raise InputError(
                    "sampler.budgets=drop reads the recall of held-out images; pass signals, "
                    "e.g. TensorSignals(features, pool=pool)"
                )
            recall = signals.class_recall()
        return class_budgets(labels, ratio, self.min_per_class, self.rounding, self.budgets, recall)

    def sample_order(self, labels: Tensor, ratio: float, epochs: int) -> SampleOrder | None:
        """Return the order in which training shows the kept images; None shows each image once per epoch."""
        return None


def mean_label_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over epochs of the label's probability, [B] float64, of logits [E, B, C] and labels [B]."""
    return label_probabilities(logits, labels).mean(dim=0)


def check_shapes(scores: Tensor, labels: Tensor) -> None:
    """Raise an error unless there is one finite score for each label and all labels are class indices."""
    for name, values in (("scores", scores), ("labels", labels)):
        if not isinstance(values, Tensor):
            raise InputError(f"{name} must be a tensor [N], got {type(values).__name__}; pass torch.as_tensor({name})")
    if labels.is_floating_point() or (labels < 0).any():
        raise InputError(f"labels must be class indices, int64 from 0, got {labels.dtype} from {labels.min().item()}")
    if scores.shape != labels.shape or scores.ndim != 1:
        raise InputError(
            f"scores and labels must be [N] and as long, got {list(scores.shape)} and {list(labels.shape)}"
        )
    if not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise InputError(f"scores must be finite, got {bad} of {len(scores)} that are not; leave those images out")


def easiest_first(scores: Tensor) -> Tensor:
    """Return the indices that sort [n] scores from smallest to largest; ties stay in the order of the sample_ids."""
    return scores.argsort(stable=True)


def hardest_first(scores: Tensor) -> Tensor:
    """Return the indices that sort [n] scores from largest to smallest; ties stay in the order of the sample_ids."""
    return easiest_first(-scores)


def draw(part: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of the entries of part [n], uniformly and without replacement."""
    return part[torch.randperm(len(part), generator=generator)[:count]]


def unit(features: Tensor) -> Tensor:
    """Return features [n, D] scaled to length 1, float32; a zero feature stays zero."""
    return torch.nn.functional.normalize(features.float(), dim=1)
