"""Choose what is kept of a user's data: find duplicates, score, select."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.base import checks, words
from prunetune.base.devices import resolve_device, resolve_precision, training_precision
from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.data.images.decoded import Decoded
from prunetune.data.images.transforms import CROP_SHARE
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.named import as_network
from prunetune.own.data import OwnData
from prunetune.own.duplicates import Duplicates, FeaturesOf, find_duplicates, identical_rows, prints_of
from prunetune.own.keep import Keep
from prunetune.own.read import ReadOptions
from prunetune.own.read.unreadable import with_readable
from prunetune.own.subset import Subset
from prunetune.own.suspects import Suspects, suspect_labels
from prunetune.runs.scores import ImageSource, check_fit, compute_scores, stored_scores
from prunetune.runs.weights import weigh
from prunetune.samplers import Sampler, TopK
from prunetune.scorers import Herding, Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.part import PartSignals
from prunetune.signals.proxy import FULL_PROXY, ProxyRecipe
from prunetune.signals.tensors import TensorSignals

log = logging.getLogger(__name__)
# How `prunetune prune` writes what messages about a network's weights call by the keys of a run.
OPTIONS = {"backbone.model and backbone.model_args": "--backbone", "backbone.checkpoint": "--checkpoint"}
# The method for data that nothing is known about: one forward pass, and on the sets that were measured the best of its
# cost (docs/which_method.md). `prunetune prune` and `prune()` both take it from here.
DEFAULT_METHOD = "herding"
# A sampler of these names needs a run: topk_flexible trains probes to choose its end, the others choose in training.
NOT_HERE = ("topk_flexible", "rs2", "infobatch")
# A greedy scorer reads its class once for each pick, so that ordering a class takes time in the square of its size. In
# classes above this size it orders only what is kept. Below it, another amount reuses the scores.
LARGE_CLASS = 5_000


@dataclass(frozen=True)
class Plan:
    """How samples are scored and chosen.

    scorer, sampler: the method. backbone: a module, or a Backbone that is loaded when it is needed. proxy: how to train
    the proxy network that EL2N and others read. seed: of all random draws. rounding: how a fraction of a class becomes
    a number. device, precision: as the user writes them. batch_size: images per forward pass. duplicates: "one" keeps
    at most one of a group of duplicates, "all" treats each as an image of its own. suspects: "keep" treats samples with
    suspect labels as all others, "drop" leaves them out.
    """

    scorer: Scorer = field(default_factory=Herding)
    sampler: Sampler = field(default_factory=TopK)
    backbone: Backbone | nn.Module = field(default_factory=Backbone)
    proxy: ProxyRecipe = FULL_PROXY
    seed: int = 0
    rounding: str = "largest_remainder"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 64
    duplicates: str = "one"
    suspects: str = "keep"

    def __post_init__(self) -> None:
        checks.whole_number("batch_size", self.batch_size)

    @property
    def method(self) -> str:
        """What is run, in words."""
        return f"{_name(self.scorer)} with {_name(self.sampler)}"


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of the candidates that were not set aside.

    signals: of these n candidates. positions: [n] int64, ascending, in the pool of all N. values: [n] float64.
    """

    signals: Signals
    positions: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is kept, and the signals of all candidates that it was chosen by.

    judged: how well labels and features agree, if that was computed.
    """

    subset: Subset
    signals: Signals
    judged: Suspects | None = None

    @cached_property
    def suspects(self) -> tuple[Suspects | None, str]:
        """How well labels and features agree; or None, and why that cannot be said."""
        data = self.subset.data
        if not data.is_labelled:
            return None, "the data have no labels"
        try:
            return self.judged or suspect_labels(self.signals.features(), data.pool.labels), ""
        except InputError as error:
            return None, str(error)

    @property
    def pixels(self) -> Decoded | None:
        """The decoded images; None for embeddings."""
        return self.signals.embedding.decoded(self.signals.pool) if isinstance(self.signals, NetworkSignals) else None


def choose(data: OwnData, keep: Keep, plan: Plan, store: Store, options: ReadOptions) -> Chosen:
    """Return what is kept of a user's data.

    Args:
        data: the N candidates.
        keep: how much is kept of them.
        plan: how they are scored and chosen.
        store: holds decoded images, features and scores.
        options: says whether images that cannot be read stop the work or are left out.

    Raises:
        InputError: the method needs labels or images that the data do not have, or weights cannot be loaded.
    """
    check_plan(data, keep, plan)
    data, signals = read_signals(data, plan, store, options)
    found = duplicates_of(data, signals) if plan.duplicates == "one" else Duplicates()
    judged = suspect_labels(signals.features(), data.pool.labels) if plan.suspects == "drop" else None
    dropped = {} if judged is None else judged.suggestions()
    _report_dropped(dropped, data)
    alone = found.alone(len(data.pool))
    left = alone[[position not in dropped for position in alone.tolist()]]
    sizes = {label: size for label, size in enumerate(data.pool.labels[left].bincount().tolist()) if size}
    plan = as_deep_as_needed(plan, keep, sizes, keep.budgets(data.pool.labels, plan.rounding))
    scored = score(signals, left, plan)
    kept, weights = select(scored, data.pool.labels, keep, plan)
    values = torch.full((len(data.pool),), torch.nan, dtype=torch.float64)
    values[scored.positions] = scored.values
    return Chosen(Subset(data, scored.positions[kept], values, weights, plan.method, found, dropped), signals, judged)


def as_deep_as_needed(plan: Plan, keep: Keep, sizes: Mapping[int, int], budgets: Mapping[int, int]) -> Plan:
    """Return the plan; where classes are large, with a greedy scorer that orders only what is kept of each class.

    The picks are the same. The samples that are not ordered have the score 0.

    Args:
        plan: the method.
        keep: how much is kept.
        sizes: of the classes, without what was set aside.
        budgets: how many each class keeps.
    """
    scorer, sampler, largest = plan.scorer, plan.sampler, max(sizes.values())
    takes_first = type(sampler) is TopK and sampler.budgets == "proportional" and sampler.min_per_class <= 1
    depth = max(keep.fraction or 0.0, *(budgets[label] / size for label, size in sizes.items()))
    is_whole = getattr(scorer, "depth", None) == 1
    if not is_whole or not takes_first or keep.per_class is not None or largest <= LARGE_CLASS or depth >= 1:
        return plan
    log.info(
        "the largest class has %d samples: only what is kept of each class is ordered, the others have the score 0",
        largest,
    )
    return dataclasses.replace(plan, scorer=dataclasses.replace(scorer, depth=depth))


def check_plan(data: OwnData, keep: Keep, plan: Plan) -> None:
    """Refuse what cannot be done, before anything is computed."""
    if _name(plan.sampler) in NOT_HERE:
        raise InputError(f"the sampler {_name(plan.sampler)} chooses during a training; use another one here")
    keep.budgets(data.pool.labels, plan.rounding)
    if plan.suspects == "drop" and not data.is_labelled:
        raise InputError("samples with suspect labels cannot be left out, since these data have no labels")
    needs = [_name(part) for part in (plan.scorer, plan.sampler) if part.needs_labels]
    if needs and not data.is_labelled:
        raise InputError(
            f"{needs[0]} reads labels, and these data have none; give labels, or use a method without: herding, "
            "k_center, facility_location, random"
        )


def _name(part: Scorer | Sampler) -> str:
    """Return the name of a scorer or sampler; a user's own class may have none."""
    return getattr(part, "name", type(part).__name__)


def read_signals(data: OwnData, plan: Plan, store: Store, options: ReadOptions) -> tuple[OwnData, Signals]:
    """Return the candidates that can be read, and their signals: the given embeddings, or those of the plan's network.

    Raises:
        InputError: the network cannot be loaded, or an image cannot be read and `options.on_error` is "stop".
    """
    if data.features is not None:
        return data, TensorSignals(data.features, pool=data.pool)
    network = network_of(plan, options)
    device = resolve_device(plan.device)
    embedding = Embedding(
        network,
        store,
        resolve_precision(plan.precision, device, network),
        device,
        plan.batch_size,
        # Larger images are stored in the size that the evaluation view is cut from, which changes no pixel of the view.
        short_side=round(network.input_size / CROP_SHARE),
        training_precision=training_precision(plan.precision),
    )
    # Items of a data set are read when the first of them is asked for.
    data, _ = with_readable(data, options, store, lambda own: embedding.decoded(own.pool).decode(0))
    return data, NetworkSignals(data.pool, embedding, plan.proxy)


def network_of(plan: Plan, options: ReadOptions) -> Network:
    """Return the network. A message about its weights names the options of the door."""
    try:
        return as_network(plan.backbone)
    except InputError as error:
        text = str(error).replace("backbone.checkpoint=<file>", options.words("checkpoint", "FILE"))
        if options.words is words.command:  # In Python the keys of a run are arguments of Backbone.
            for key, option in OPTIONS.items():
                text = text.replace(key, option)
        raise InputError(text) from None


def score(signals: Signals, positions: Tensor, plan: Plan) -> Scored:
    """Score some of the candidates, [n] positions, ascending, as a pool of their own."""
    is_whole = len(positions) == len(signals.pool)
    part = signals if is_whole else PartSignals(signals, positions)
    if not isinstance(signals, NetworkSignals):
        return Scored(part, positions, compute_scores(plan.scorer, part, plan.seed))
    source = ImageSource(signals) if is_whole else PartSource(signals, positions)
    return Scored(part, positions, stored_scores(plan.scorer, source, plan.seed).values)


def select(scored: Scored, labels: Tensor, keep: Keep, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Return the kept positions [M] among the scored, ascending, and their weights [M] or None.

    Args:
        scored: the n candidates that were not set aside.
        labels: [N] int64 of all candidates: how much a class keeps is counted with those that were set aside.
        keep: how much is kept.
        plan: the method.
    """
    own = scored.signals.pool.labels
    is_plain = keep.fraction is not None and len(own) == len(labels)
    budgets = _at_most(keep.budgets(labels, plan.rounding), own)
    ratio = keep.fraction if is_plain else sum(budgets.values()) / len(own)
    check_fit(plan.scorer, plan.sampler, None if keep.per_class is not None else ratio)
    with seeded("sample", plan.seed, float(ratio)) as generator:
        if is_plain:  # This path also serves samplers that distribute a fraction by a rule of their own.
            kept = plan.sampler.select(scored.values, own, ratio, generator, scored.signals)
        else:
            kept = plan.sampler.select_budgets(scored.values, own, budgets, generator, scored.signals)
    weights = weigh(plan.scorer, plan.sampler, ratio, scored.signals, kept)
    if weights is None:
        return kept, None
    return kept[weights > 0], weights[weights > 0]


def duplicates_of(data: OwnData, signals: Signals) -> Duplicates:
    """Return the groups of duplicates among the candidates; of embeddings, the groups of equal rows."""
    if not isinstance(signals, NetworkSignals):
        return identical_rows(signals.features())
    embedding, own, others = signals.embedding, data.pool, data.others
    found = find_duplicates(
        prints_of(own, embedding.decoded(own), lambda positions: signals.features()[positions]),
        None if others is None else prints_of(others, embedding.decoded(others), _features_of(others, embedding)),
    )
    _report(found, data)
    return found


def _features_of(pool: Pool, embedding: Embedding) -> FeaturesOf:
    """Return a function that gives the features of some images of a pool; a pass over the others is saved."""
    return lambda positions: NetworkSignals(pool.take(positions), embedding).features()


def _report(found: Duplicates, data: OwnData) -> None:
    """Say in the log what was found."""
    names = data.names
    if found.groups:
        first = " = ".join(names[position] for position in found.groups[0][:3])
        log.warning("%d duplicates in %d groups are set aside, such as %s", len(found.copies), len(found.groups), first)
    conflicts = found.conflicts(data.pool.labels)
    if conflicts and data.is_labelled:
        first = " = ".join(names[position] for position in conflicts[0][:3])
        log.warning("%d groups of duplicates have several labels, such as %s", len(conflicts), first)
    if found.leaks:
        position, other = found.leaks[0]
        log.warning(
            "%d candidates are also in another split, such as %s = %s",
            len({position for position, _ in found.leaks}),
            names[position],
            data.others.sample_ids[other],
        )


def _report_dropped(dropped: Mapping[int, int], data: OwnData) -> None:
    """Say in the log how many samples are left out because of their labels."""
    if dropped:
        position, label = next(iter(dropped.items()))
        own, other = data.pool.classes[int(data.pool.labels[position])], data.pool.classes[label]
        log.warning(
            "%d samples with suspect labels are left out, such as %s (%s, looks like %s)",
            len(dropped),
            data.names[position],
            own,
            other,
        )


def _at_most(budgets: dict[int, int], labels: Tensor) -> dict[int, int]:
    """Return budgets that no class exceeds. A WARNING says what is missing.

    Args:
        budgets: how many each class should keep.
        labels: [n] of the candidates that are left.
    """
    sizes = labels.bincount(minlength=max(budgets) + 1).tolist()
    possible = {label: min(budget, sizes[label]) for label, budget in budgets.items()}
    if missing := sum(budgets.values()) - sum(possible.values()):
        log.warning("%d fewer are kept than asked for, since nothing that was set aside is kept", missing)
    return possible


class PartSource(ImageSource):
    """A part of a pool that is scored as a pool of its own; its scores are stored beside those of the whole pool."""

    def __init__(self, signals: NetworkSignals, positions: Tensor) -> None:
        super().__init__(signals)
        self._whole, self._positions = signals, positions
        self.signals = PartSignals(signals, positions)

    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        return {**ImageSource(self._whole).key(scorer, seed), "part": self.signals.pool.listing}

    def alone(self, place: Path) -> "PartSource":
        return PartSource(self._whole.fresh(), self._positions)

    def cost(self, seconds: float) -> dict[str, Any]:
        return {"seconds": seconds, "signals": {}}


def with_rounding(sampler: Sampler, rounding: str) -> Sampler:
    """Return a sampler of a library name with the rounding of own data, unless it rounds by a rule of its own."""
    from prunetune.samplers.flexrand import FlexRandReleased

    return sampler if isinstance(sampler, FlexRandReleased) else dataclasses.replace(sampler, rounding=rounding)
