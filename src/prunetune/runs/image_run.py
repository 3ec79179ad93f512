"""One image run: score -> prune -> fine-tune."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from prunetune.base.devices import describe_device, resolve_device, resolve_precision, training_precision
from prunetune.base.errors import InputError, suggestion
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.config.build import build, check_keys
from prunetune.config.identity import compared, sampler_settings
from prunetune.config.names import Names
from prunetune.config.names import names as names_of
from prunetune.data.pool import Pool
from prunetune.runs import records, sampler_search
from prunetune.runs.scores import Scores, check_fit, stored_scores
from prunetune.runs.tracking import MODES, Tracker, open_run
from prunetune.runs.weights import weigh
from prunetune.samplers import Sampler
from prunetune.samplers.base import check_ratio
from prunetune.scorers import Scorer
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe
from prunetune.signals.view_bank import view_bank
from prunetune.training.full import finetune_all
from prunetune.training.linear_probe import Probe, share_seconds, train_probes
from prunetune.training.recipe import FinetuneResult, Recipe
from prunetune.training.sample_order import Schedule, Static

log = logging.getLogger(__name__)
STEPS = ("score", "prune", "finetune")


@dataclass(frozen=True)
class Task:
    """What the cells of one (dataset, backbone, scoring backbone) share."""

    pool: Pool
    test: Pool
    scoring: NetworkSignals  # of the backbone that scores
    tuned: NetworkSignals  # of the backbone that is fine-tuned
    device: str


@dataclass(frozen=True)
class Pruned:
    """The outcome of the first two steps of one cell.

    subset: [M] int64 positions, ascending. weights: [M] float64 > 0, None where all count alike. schedule: how a
    training shows the subset.
    """

    scores: Scores
    choice: sampler_search.Choice
    subset: Tensor
    weights: Tensor | None
    schedule: Schedule
    sample_seconds: float

    @property
    def is_dynamic(self) -> bool:
        """Whether the training decides what it uses of the subset, which is the whole pool then."""
        return not isinstance(self.schedule, Static)


def run(cfg: DictConfig, names: Names, out_dir: Path) -> None:
    """Score the pool, prune it and fine-tune on what is left; a finished run returns at once."""
    check(cfg)
    if records.is_finished(out_dir, compared(cfg), lambda: listing_of(cfg)):
        return
    task = open_task(cfg)
    scores = score(cfg, task)
    if not scores.is_new:
        log.info("the scores of %s were in the store: %s", names.scorer, scores.folder.name)
    if cfg.until == "score":
        return
    pruned = prune(cfg, task, scores)
    write_pruned(out_dir, task, pruned)
    if cfg.until == "prune":
        return
    title, folder = names.title(cfg.ratio, cfg.seed), Path(cfg.results_dir) / "wandb"
    with open_run(cfg.wandb, "prunetune", title, compared(cfg), folder) as tracker:
        [outcome] = finetune(cfg, task, [pruned.subset], [cfg.seed], [pruned.schedule])
        result = write(cfg, names, out_dir, task, settled(pruned, outcome), outcome, tracker)
        tracker.log_result(result)
    log.info("accuracy %.2f %% on %d test images", 100 * result["accuracy"], len(task.test))


def write_pruned(out_dir: Path, task: Task, pruned: Pruned) -> None:
    """Write subset.csv, unless what is used is known after the training only."""
    if not pruned.is_dynamic:
        records.write_subset(out_dir / "subset.csv", task.pool, pruned.subset, pruned.weights)


def settled(pruned: Pruned, outcome: FinetuneResult) -> Pruned:
    """Return what was trained on: of a dynamic method the images that were used, weight = how often."""
    if not pruned.is_dynamic:
        return pruned
    used = torch.nonzero(outcome.uses).flatten()
    return replace(pruned, subset=pruned.subset[used], weights=outcome.uses[used].double())


def write(
    cfg: DictConfig,
    names: Names,
    out_dir: Path,
    task: Task,
    pruned: Pruned,
    outcome: FinetuneResult,
    tracker: Tracker,
    prefix: str = "",
) -> dict[str, Any]:
    """Write a finished run, show its curves, scores and subset, and return its result."""
    result = describe(cfg, names, task, pruned, outcome)
    records.write_result(out_dir, result, task.pool, task.test, pruned.subset, outcome, pruned.weights)
    tracker.log_curves([vars(epoch) for epoch in outcome.history], prefix)
    tracker.log_scores(pruned.scores.values, prefix)
    tracker.log_subset(records.subset_rows(task.pool, pruned.subset, pruned.weights), prefix)
    return result


def check(cfg: DictConfig) -> None:
    """Refuse what no step could use, before anything is computed."""
    check_keys(cfg)
    check_ratio(cfg.ratio)
    if cfg.until not in STEPS:
        raise InputError(f"until must be one of {', '.join(STEPS)}, got {cfg.until!r}")
    if not cfg.results_dir:
        raise InputError("results_dir is the folder of runs and store and must not be empty; pass results_dir=<folder>")
    if cfg.batch_size < 1:
        raise InputError(
            f"batch_size is the number of images per forward pass and must be at least 1, got {cfg.batch_size}"
        )
    short_side = cfg.images.short_side
    if short_side is not None and short_side < 1:
        raise InputError(f"images.short_side must be null or a number of pixels, got {short_side}")
    if cfg.wandb not in MODES:
        raise InputError(f"wandb must be one of {', '.join(MODES)}, got {cfg.wandb!r}.{suggestion(cfg.wandb, MODES)}")
    recipe_of(cfg), search_of(cfg), proxy_of(cfg)  # a bad number stops here, not after an hour of scoring
    scorer, samplers = scorer_of(cfg), candidates_of(cfg).values() if is_searched(cfg) else [sampler_of(cfg)]
    for sampler in samplers:
        check_fit(scorer, sampler, cfg.ratio)


def listing_of(cfg: DictConfig) -> str | None:
    """Return the hash of the data set's list of images, None where the data are no longer there."""
    try:
        dataset = build(cfg.dataset)
        return f"{dataset.pool('train').listing} {dataset.pool('test').listing}"
    except InputError:
        return None


def open_task(cfg: DictConfig) -> Task:
    """Read the data set's lists and load the backbone or backbones."""
    dataset = build(cfg.dataset)
    pool, test = dataset.pool("train"), dataset.pool("test")
    device = resolve_device(cfg.device)
    store = Store(Path(cfg.results_dir) / "store")

    def signals(backbone: Any) -> NetworkSignals:
        network = build(backbone).load()
        precision = resolve_precision(cfg.precision, device, network)
        return NetworkSignals(pool, Embedding(network, store, precision, device, cfg.batch_size, cfg.images.short_side))

    tuned = signals(cfg.backbone)
    scoring = tuned if cfg.scoring_backbone is None else signals(cfg.scoring_backbone)
    return Task(pool, test, scoring, tuned, device)


def score(cfg: DictConfig, task: Task) -> Scores:
    """Step 1: one number per image, from the store or computed into it."""
    scorer = scorer_of(cfg)
    task.scoring.embedding.keep_masked = is_searched(cfg)  # the search asks about parts of the pool
    task.scoring.embedding.proxy = proxy_of(cfg)
    task.scoring.embedding.training_precision = training_precision(cfg.precision)
    scores = stored_scores(scorer, task.scoring, cfg.seed)
    if scores.is_new:
        log.info("scored %d images with %s in %.1f s", len(task.pool), names_of(cfg).scorer, scores.seconds)
    return scores


def prune(cfg: DictConfig, task: Task, scores: Scores) -> Pruned:
    """Step 2: choose what is kept; where gamma (or the end) is open, settle it on held-out pool images first."""
    if is_searched(cfg):
        choice = sampler_search.choose(
            candidates_of(cfg),
            scorer_of(cfg),
            task.scoring,
            task.tuned,
            cfg.ratio,
            cfg.seed,
            search_of(cfg),
            task.device,
        )
    else:
        choice = sampler_search.Choice(sampler_of(cfg))
    return _select(cfg, task, scores, choice)


def _select(cfg: DictConfig, task: Task, scores: Scores, choice: sampler_search.Choice) -> Pruned:
    start, sampler, labels = time.perf_counter(), choice.sampler, task.pool.labels
    signals = NetworkSignals(task.pool, task.scoring.embedding)  # its own, to see what the sampler asks for
    with seeded("sample", cfg.seed, cfg.ratio) as generator:
        subset = sampler.select(scores.values, labels, cfg.ratio, generator, signals)
    # as with scores, what came from the store counts with what it cost then; what the score paid for is not paid twice
    asked = sum(cost for name, cost in signals.charges.items() if name not in scores.signals)
    asked -= sum(signals.spent.values())
    weights = weigh(scorer_of(cfg), sampler, cfg.ratio, task.scoring, subset) if len(subset) else None
    if weights is not None:
        subset, weights = subset[weights > 0], weights[weights > 0]
    schedule = sampler.schedule(labels, cfg.ratio, recipe_of(cfg).epochs) or Static(len(subset), weights)
    seconds = time.perf_counter() - start + asked
    if not schedule.images_per_epoch:
        raise InputError(
            f"nothing is kept of {len(task.pool)} images at ratio {cfg.ratio:g}; raise it or sampler.min_per_class"
        )
    pruned = Pruned(scores, choice, subset, weights, schedule, seconds)
    log.info("%s, with %s", _summary(pruned, task.pool), names_of(cfg).sampler)
    return pruned


def _summary(pruned: Pruned, pool: Pool) -> str:
    if pruned.is_dynamic:
        return f"every epoch shows {pruned.schedule.images_per_epoch} of {len(pool)}, subset.csv comes with the result"
    counts = torch.bincount(pool.labels[pruned.subset], minlength=len(pool.classes))
    per_class = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    weighted = "" if pruned.weights is None else ", weighted"
    return f"kept {len(pruned.subset)} of {len(pool)}, {per_class} per class{weighted}"


def finetune(
    cfg: DictConfig,
    task: Task,
    subsets: Sequence[Tensor],
    seeds: Sequence[int],
    schedules: Sequence[Schedule] | None = None,
) -> list[FinetuneResult]:
    """Step 3: train on each subset; heads of a frozen backbone all together, whole networks one after another.

    schedules: how each training shows its subset; None: every image once an epoch.
    """
    recipe, schedules = recipe_of(cfg), schedules or [Static(len(subset)) for subset in subsets]
    trainings = list(zip(subsets, seeds, schedules, strict=True))
    if recipe.trained == "all":
        return [_finetune_all(cfg, task, recipe, *training) for training in trainings]
    test_signals = NetworkSignals(task.test, task.tuned.embedding)
    features = test_signals.features()  # [N', D]
    bank = view_bank(task.tuned, torch.cat(list(subsets)).unique(), recipe.views)
    labels = task.pool.labels
    probes = [
        Probe(bank.rows(subset), labels[subset], features, task.test.labels, seed, schedule)
        for subset, seed, schedule in trainings
    ]
    outcomes = train_probes(bank.values, probes, len(task.pool.classes), recipe, task.device)
    return share_seconds(outcomes, bank.seconds + test_signals.seconds)


def _finetune_all(
    cfg: DictConfig, task: Task, recipe: Recipe, subset: Tensor, seed: int, schedule: Schedule
) -> FinetuneResult:
    embedding = task.tuned.embedding
    return finetune_all(
        build(cfg.backbone).load(),  # a copy of its own, since every weight changes
        task.pool,
        embedding.decoded(task.pool),
        subset,
        task.test,
        embedding.decoded(task.test),
        recipe,
        seed,
        training_precision(cfg.precision),
        task.device,
        schedule,
    )


def describe(cfg: DictConfig, names: Names, task: Task, pruned: Pruned, outcome: FinetuneResult) -> dict[str, Any]:
    """Return the contents of result.json."""
    sampler = pruned.choice.sampler
    return {
        **{field.name: getattr(names, field.name) for field in fields(names)},
        "ratio": cfg.ratio,
        "seed": cfg.seed,
        "tag": cfg.tag,
        "gamma": getattr(sampler, "gamma", None) if cfg.ratio < 1 else None,  # the whole pool needs none
        "selection_rule": pruned.choice.rule if cfg.ratio < 1 else None,
        "search": pruned.choice.record(),
        "precision": task.scoring.embedding.precision,
        "training_precision": training_precision(cfg.precision),
        "num_classes": len(task.pool.classes),
        "num_pool": len(task.pool),
        "num_kept": len(pruned.subset),
        "images_per_epoch": pruned.schedule.images_per_epoch if pruned.is_dynamic else None,
        "num_test": len(task.test),
        "dataset_fingerprint": task.pool.fingerprint,
        "test_fingerprint": task.test.fingerprint,
        "dataset_listing": f"{task.pool.listing} {task.test.listing}",
        **records.accuracies(task.test, outcome),
        "decode_seconds": task.scoring.embedding.decode_seconds(task.pool),
        "score_seconds": pruned.scores.seconds,
        "search_seconds": pruned.choice.seconds if pruned.choice.labels else None,
        "sample_seconds": pruned.sample_seconds,
        "finetune_seconds": outcome.seconds,
        "probes_together": outcome.trained_together,
        "device": describe_device(task.device),
        "score_peak_memory_bytes": pruned.scores.peak_memory,
        "scores_path": str((pruned.scores.folder / "scores.csv").relative_to(cfg.results_dir)),
        **records.provenance(),
        "config": compared(cfg),
    }


def scorer_of(cfg: DictConfig) -> Scorer:
    """Return the run's scorer."""
    return build(cfg.scorer)


def recipe_of(cfg: DictConfig) -> Recipe:
    """Return how the run trains."""
    values = OmegaConf.to_container(cfg.finetune)
    return Recipe(**{**values, "milestones": tuple(values["milestones"])})


def proxy_of(cfg: DictConfig) -> ProxyRecipe:
    """Return how the proxy of training dynamics is trained."""
    values = OmegaConf.to_container(cfg.proxy)
    own = {key: values.pop(key) for key in ("initial", "augment", "record")}
    training = Recipe(**{**values, "milestones": tuple(values["milestones"])}, views=0, evaluate_every=values["epochs"])
    return ProxyRecipe(training, **own)


def search_of(cfg: DictConfig) -> sampler_search.Search:
    """Return how the run would choose between samplers."""
    values = OmegaConf.to_container(cfg.gamma_search)
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return sampler_search.Search(**{**values, **lists})


def sampler_of(cfg: DictConfig) -> Sampler:
    """Return the run's sampler; `auto` is the scorer's own."""
    return build(sampler_settings(cfg.sampler, cfg.scorer.own_sampler))


def is_searched(cfg: DictConfig) -> bool:
    """Whether the sampler has an open number that is settled on held-out images."""
    return any(cfg.sampler.get(key) == "auto" for key in sampler_search.OPEN)


def candidates_of(cfg: DictConfig) -> dict[str, Sampler]:
    """Return the samplers to choose between, those that win ties first."""
    settings = sampler_settings(cfg.sampler, cfg.scorer.own_sampler)
    [key] = [key for key in sampler_search.OPEN if settings.get(key) == "auto"]

    def make(value: float | str) -> Sampler:
        return build({**settings, key: value})

    if key == "end":
        return sampler_search.end_candidates(make)
    candidates = sampler_search.gamma_candidates if key == "gamma" else sampler_search.beta_candidates
    return candidates(make, search_of(cfg), cfg.ratio)
