"""One pruning on a cluster, stage by stage, from DATA to what is kept."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from prunetune.base.devices import Hardware, resolve_device, resolve_precision
from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed
from prunetune.base.verification import key_digest
from prunetune.cluster import catalogue as catalogues
from prunetune.cluster.by_class import Runs, sort_by_class
from prunetune.cluster.catalogue import Catalogue
from prunetune.cluster.embeddings import read_all
from prunetune.cluster.engine import Cluster, library
from prunetune.cluster.listing import list_shards
from prunetune.cluster.parts import Part, bundles
from prunetune.cluster.passes import Failures, run_passes
from prunetune.cluster.room import check_room
from prunetune.cluster.scores import ROWS as SCORE_ROWS
from prunetune.cluster.scores import prototypes, score_bundles
from prunetune.cluster.selecting import Chooser, ClassWork, choose_all, class_works, read_choices
from prunetune.cluster.sources import Source
from prunetune.cluster.stages import Stage
from prunetune.cluster.two_level import Loss
from prunetune.cluster.workers import FEATURES, Work
from prunetune.data.images import transforms
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import Passes
from prunetune.own.choose import Plan, as_deep_as_needed, network_of
from prunetune.own.folder import mark
from prunetune.own.keep import Keep
from prunetune.own.read import ReadOptions
from prunetune.own.read.options import MOST_NAMED, by_reason
from prunetune.runs.scores import check_fit
from prunetune.samplers.base import Sampler
from prunetune.samplers.budgets import size_budgets
from prunetune.samplers.flexrand import FlexRandReleased
from prunetune.scorers import DLC, FacilityLocation, Herding, KCenter, MaxHerding, Moderate, NoScore, Random, Scorer

log = logging.getLogger(__name__)
VERSION = 3  # This number must be raised when what a stage writes changes.
NONE_READ = (Random, NoScore)  # These scorers read nothing, so that images are only decoded.
BY_CLASS = (Herding, KCenter, FacilityLocation, MaxHerding, Moderate)  # Each class is scored by itself.


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was chosen of N rows. All arrays are in the order of positions.

    catalogue: the rows. parts: how they were cut. passes: the stage of features and digests. scores: [N] float64, NaN
    for a row that is no candidate. ranks: [N] int32, how many rows of the class have no larger score. kept: [N] bool.
    sizes, budgets: of each class. failed: how many images cannot be read. near: rows that another engine may put on the
    other side of a cut. key: of all that the choice depends on. losses: of classes that were selected in two levels.
    method: in words. reasons: maps the positions of a part's rows that cannot be read to the reason.
    """

    catalogue: Catalogue
    parts: tuple[Part, ...]
    passes: Stage
    scores: np.ndarray
    ranks: np.ndarray
    kept: np.ndarray
    sizes: Mapping[int, int]
    budgets: Mapping[int, int]
    failed: int
    near: int
    key: str
    losses: tuple[Loss, ...] = ()
    method: str = ""
    reasons: Callable[[Part], dict[int, str]] = field(default=lambda part: {}, repr=False)


def check_plan(plan: Plan, keep: Keep, options: ReadOptions) -> None:
    """Refuse a method that the cluster engine does not run, before anything is read.

    Raises:
        InputError: the message names what it runs.
    """
    scorer, sampler, word = plan.scorer, plan.sampler, options.words("engine", "ray")
    known = (DLC, *BY_CLASS, *NONE_READ)
    if type(scorer) not in known:
        names = ", ".join(sorted(one.name for one in known))
        raise InputError(f"{word} runs the scorers {names}, not {_name(scorer)}; leave {word} out for others")
    if getattr(scorer, "features", "pretrained") == "finetuned" or getattr(scorer, "variant", "fixed") == "released":
        raise InputError(f"{word} trains no proxy, which these settings of {_name(scorer)} read; use the defaults")
    if isinstance(scorer, DLC) and scorer.transform != "evaluation":
        raise InputError(f"{word} runs DLC on evaluation views; pass transform='evaluation'")
    if not _is_known(sampler):
        raise InputError(
            f"{word} runs the samplers random, topk, topk_easiest, flexrand, window and double_end with budgets in "
            f"proportion, not {_name(sampler)} with budgets={sampler.budgets}; leave {word} out for others"
        )
    if plan.duplicates == "one":
        raise InputError(f"{word} does not look for duplicates; pass {options.words('duplicates', 'all')}")
    if plan.suspects == "drop":
        raise InputError(f"{word} does not judge labels; leave {options.words('suspects', 'drop')} out")
    if keep.fraction is not None:
        check_fit(scorer, sampler, keep.fraction)


def _is_known(sampler: Sampler) -> bool:
    has_known_draws = sampler.needs == "nothing" and sampler.draw_sizes(100, 0.1) is not None
    return has_known_draws and sampler.budgets == "proportional" and not isinstance(sampler, FlexRandReleased)


def _name(part: Scorer | Sampler) -> str:
    return getattr(part, "name", type(part).__name__)


def list_rows(source: Source, cluster: Cluster, options: ReadOptions) -> Catalogue:
    """List the rows of a source, and say what was understood.

    Raises:
        InputError: a shard cannot be read, or a label is missing or wrong.
    """
    if source.held is not None:
        return catalogues.of_held(source)
    key = {
        "version": VERSION,
        "files": [asdict(file) for file in source.files],
        "layout": source.layout,
        "columns": [options.image_column, options.label_column, options.labels_from],
    }
    stage = Stage(_folder(cluster, "lists", key))
    header, records = list_shards(source, stage, options)
    return catalogues.of_shards(source, header, records, stage.folder, options)


def _folder(cluster: Cluster, kind: str, key: Any) -> Path:
    return cluster.store.root / "cluster" / f"{kind}-{key_digest(key)}"


def prune_rows(catalogue: Catalogue, keep: Keep, plan: Plan, cluster: Cluster, options: ReadOptions) -> Outcome:
    """Choose what is kept of the rows of a catalogue.

    Raises:
        InputError: images cannot be read, the method needs labels that the data do not have, or a worker fails.
    """
    needs = [_name(part) for part in (plan.scorer, plan.sampler) if part.needs_labels]
    if needs and not catalogue.is_labelled:
        raise InputError(f"{needs[0]} reads labels, and these data have none; give labels, or use herding or k_center")
    check = partial(_check_room, catalogue, keep, plan, cluster, options)
    passes, parts, failures, key = _pass(catalogue, plan, cluster, options, check)
    failed = sum(map(len, failures.values()))
    _check_failures(catalogue, parts, failures, failed, options)
    runs, width = _sorted(catalogue, parts, passes, plan, cluster, key)
    works, stage, names, losses = _chosen(runs, catalogue, keep, plan, cluster, options, width)
    arrays, near = _gathered(read_choices(stage, names), catalogue.total)
    return Outcome(
        catalogue,
        tuple(parts),
        passes,
        *arrays,
        sizes={work.label: work.size for work in works},
        budgets={work.label: work.budget for work in works},
        failed=failed,
        near=near,
        key=stage.folder.name,
        losses=tuple(losses),
        method=plan.method,
        reasons=lambda part: dict(map(tuple, failures.get(part.name, ()))),
    )


def products_folder(outcome: Outcome, cluster: Cluster, with_features: bool) -> Path:
    """Return where the products of a run go."""
    return _folder(cluster, "products", {"choices": outcome.key, "features": with_features})


def _sorted(
    catalogue: Catalogue, parts: list[Part], passes: Stage, plan: Plan, cluster: Cluster, key: dict[str, Any]
) -> tuple[Runs, int]:
    """Return the rows in the order of classes, and D if a scorer reads the features of a class, else 0."""
    by_class = isinstance(plan.scorer, BY_CLASS)
    width = _width(parts, passes) if by_class else 0
    together = bundles("scores", parts, 1 if by_class else SCORE_ROWS)
    scores = None
    if isinstance(plan.scorer, DLC):
        scores = Stage(_folder(cluster, "scores", {"passes": key, "scorer": plan.scorer.key()}))
        centres = prototypes(parts, passes, scores, len(catalogue.classes))
        score_bundles(together, passes, scores, centres, plan.scorer.include_unmasked)
    runs_key = {"passes": key, "scores": None if scores is None else scores.folder.name, "features": by_class}
    stage = Stage(_folder(cluster, "runs", runs_key))
    return sort_by_class(together, passes, scores, stage, len(catalogue.classes), 4 * width), width


def _chosen(
    runs: Runs,
    catalogue: Catalogue,
    keep: Keep,
    plan: Plan,
    cluster: Cluster,
    options: ReadOptions,
    width: int,
) -> tuple[list[ClassWork], Stage, list[str], list[Loss]]:
    """Return what each class keeps, where the choices are and their names, and what two levels lose."""
    sizes = {label: int(size) for label, size in enumerate(runs.sizes) if size}
    budgets, ratio = _budgets(sizes, keep, plan)
    plan = as_deep_as_needed(plan, keep, sizes, budgets)
    is_plain, worker_bytes = keep.fraction is not None, cluster.engine.worker_bytes
    check_room(plan.scorer, _with_budgets(sizes, budgets), catalogue.classes, width, worker_bytes, options.words)
    works = class_works(plan.sampler, sizes, budgets, ratio, is_plain, plan.seed)
    has_scores = isinstance(plan.scorer, DLC)
    chooser = Chooser(runs, plan.scorer if width else None, plan.sampler, catalogue.classes, plan.seed, has_scores)
    key = {
        "runs": runs.stage.folder.name,
        "scorer": plan.scorer.key(),
        "sampler": [type(plan.sampler).__name__, asdict(plan.sampler)],
        "seed": plan.seed,
        "budgets": list(budgets.items()),
        "ratio": [ratio, is_plain],
        "worker_bytes": worker_bytes,
    }
    stage = Stage(_folder(cluster, "choices", key))
    return works, stage, *choose_all(works, chooser, stage, width, worker_bytes)


def _pass(
    catalogue: Catalogue, plan: Plan, cluster: Cluster, options: ReadOptions, check: Callable[[int], None]
) -> tuple[Stage, list[Part], Failures, dict[str, Any]]:
    """Return the stage of features, all parts, the rows that cannot be read, and what the features depend on.

    check: is called with the width of the features that a scorer reads, before anything is read; that of embeddings is
    not known then.
    """
    by_class = isinstance(plan.scorer, BY_CLASS)
    if catalogue.source.layout == "embeddings":
        if not by_class:
            check(0)
        if isinstance(plan.scorer, DLC) and plan.scorer.path("all").masks_any:
            raise InputError("embeddings come from one network; pass scorer=DLC(levels=1), or another scorer")
        key = {"version": VERSION, "rows": _rows_key(catalogue)}
        passes = Stage(_folder(cluster, "passes", key))
        return passes, read_all(catalogue, passes), {}, key
    work, key = _work(catalogue, plan, options)
    check(work.network.num_features if by_class else 0)
    passes = Stage(_folder(cluster, "passes", key))
    return passes, *run_passes(catalogue, passes, work, cluster.engine.gpus_per_actor), key


def _work(catalogue: Catalogue, plan: Plan, options: ReadOptions) -> tuple[Work, dict[str, Any]]:
    """Return what is run over the images, and all that its outcome depends on."""
    reads = not isinstance(plan.scorer, NONE_READ)
    network = network_of(plan, options) if reads else None
    device = worker_device(plan.device)
    precision = "fp32" if network is None else _precision(plan.precision, device, network)
    path, seed, collapsed = None, 0, False
    if isinstance(plan.scorer, DLC):
        modules = plan.scorer.mask_modules or network.mask_modules
        path = plan.scorer.path(modules)
        seed = derive_seed("score", plan.seed) if plan.scorer.uses_seed else 0
        collapsed = plan.scorer.pooling == "token_collapse"
        plan.scorer.check_network(network)
    elif network is not None:
        plan.scorer.check_network(network)
    work = Work(network, options.rule, Passes(plan.batch_size, Hardware(device, precision)), path, seed, collapsed)
    return work, {
        "version": VERSION,
        "rows": _rows_key(catalogue),
        "rule": options.rule.mark,
        "pillow": PIL.__version__,
        "transforms": transforms.VERSION,
        "network": None if network is None else network.identity,
        "path": None if path is None else path.key(seed),
        "collapsed": collapsed,
        "precision": precision,
    }


def _precision(precision: str, device: str, network: Network) -> str:
    """Return the precision of the workers; a driver without their kind of GPU does not know whether bf16 is fast."""
    is_blind = device == "cuda" and not torch.cuda.is_available()
    return "fp32" if is_blind and precision == "auto" else resolve_precision(precision, device, network)


def worker_device(device: str) -> str:
    """Return the device of the workers: with auto a GPU if the cluster has one, whatever the driver has."""
    if device == "auto":
        return "cuda" if library().cluster_resources().get("GPU", 0) else "cpu"
    return device if device == "cuda" else resolve_device(device)


def _rows_key(catalogue: Catalogue) -> Any:
    """Return what rows and labels depend on. on_error is not part of it, so that both have the same passes."""
    if catalogue.held is not None:
        return catalogue.source.mark or mark(catalogue.held)
    files = [[*asdict(file).values(), rows] for file, rows in zip(catalogue.files, catalogue.counts, strict=True)]
    image = None if catalogue.columns is None else catalogue.columns.image
    return [catalogue.source.layout, files, image, catalogue.label, sorted(catalogue.indices.items())]


def _check_failures(
    catalogue: Catalogue, parts: list[Part], failures: Failures, failed: int, options: ReadOptions
) -> None:
    """Count and name images that cannot be read.

    Raises:
        InputError: they are not to be left out, or no image is left.
    """
    if not failed:
        return
    named: dict[str, str] = {}
    for part in parts:
        broken = failures.get(part.name)
        if broken and len(named) < MOST_NAMED:
            names = catalogue.full_names(part)
            named.update({names[position - part.first]: reason for position, reason in broken})
    named = dict(list(named.items())[:MOST_NAMED])
    more = f", and {failed - len(named)} more" if failed > len(named) else ""
    if options.on_error == "stop":
        raise InputError(
            f"{failed} of {catalogue.total} images cannot be read: {by_reason(named)}{more}; repair or remove them, or "
            f"leave them out with {options.words('on_error', 'skip')}"
        )
    if failed + catalogue.unlabelled >= catalogue.total:
        raise InputError(f"none of the {catalogue.total} images is left, first: {next(iter(named.items()))}")
    log.warning(
        "%d of %d images cannot be read and are left out: %s%s", failed, catalogue.total, by_reason(named), more
    )


def _width(parts: list[Part], passes: Stage) -> int:
    """Return D, the length of a feature."""
    with np.load(passes.file(parts[0].name, FEATURES)) as file:
        return int(file["features"].shape[1])


def _budgets(sizes: Mapping[int, int], keep: Keep, plan: Plan) -> tuple[dict[int, int], float]:
    """Return how many rows each class keeps, and the fraction of all, as `own.choose.select` does without copies."""
    if keep.fraction is not None:
        ratio = keep.fraction
        sampler = plan.sampler
        return size_budgets(dict(sizes), ratio, sampler.min_per_class, sampler.rounding), ratio
    budgets = keep.size_budgets(dict(sizes), plan.rounding)
    ratio = sum(budgets.values()) / sum(sizes.values())
    check_fit(plan.scorer, plan.sampler, None if keep.per_class is not None else ratio)
    return budgets, ratio


def _check_room(
    catalogue: Catalogue, keep: Keep, plan: Plan, cluster: Cluster, options: ReadOptions, width: int
) -> None:
    """Refuse a class that no worker can select, before anything is read."""
    sizes = {label: size for label, size in enumerate(catalogue.sizes) if size}
    budgets, _ = _budgets(sizes, keep, plan)
    budgeted = _with_budgets(sizes, budgets)
    check_room(plan.scorer, budgeted, catalogue.classes, width, cluster.engine.worker_bytes, options.words)


def _with_budgets(sizes: Mapping[int, int], budgets: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    return {label: (size, budgets[label]) for label, size in sizes.items()}


def _gathered(
    choices: Iterable[Mapping[str, np.ndarray]], total: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Return scores, ranks and kept in the order of positions: 13 bytes a row; and the rows near a cut."""
    scores, ranks = np.full(total, np.nan), np.zeros(total, dtype=np.int32)
    kept, near = np.zeros(total, dtype=bool), 0
    for choice in choices:
        positions = choice["positions"]
        scores[positions], ranks[positions] = choice["scores"], choice["ranks"]
        kept[positions] = choice["kept"]
        near += int(choice["near"].sum())
    return (scores, ranks, kept), near
