"""One image run: score -> prune -> fine-tune."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base.devices import describe_device, resolve_device, resolve_precision, training_precision
from prunetune.base.errors import InputError, suggestion
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.config.named import SCORERS
from prunetune.config.parse import ImageRun
from prunetune.data.images.decoded import ShownImages
from prunetune.data.pool import Pool
from prunetune.data.subpool import SubpoolDataset
from prunetune.networks.backbone import Backbone
from prunetune.runs import records, sampler_search, steps
from prunetune.runs.scores import Scores, check_fit, stored_scores
from prunetune.runs.tracking import MODES, Tracker
from prunetune.runs.weights import weigh
from prunetune.samplers.dynamic import DynamicSampler
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.remote import RemotePasses
from prunetune.signals.view_bank import view_bank
from prunetune.training.full import finetune_all
from prunetune.training.linear_probe import Probe, share_seconds, train_probes
from prunetune.training.recipe import FinetuneResult, LogisticRecipe
from prunetune.training.sample_order import SampleOrder, Static

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What the runs of one (dataset, backbone, scoring backbone) share.

    scoring: signals of the scoring backbone. tuned: signals of the backbone that is fine-tuned.
    """

    pool: Pool
    test: Pool
    scoring: NetworkSignals
    tuned: NetworkSignals
    device: str

    def read_for(self, run: ImageRun) -> "Task":
        """Return this task with the proxy of another run. Networks, images and store are shared."""
        scoring = NetworkSignals(self.pool, self.scoring.embedding, run.proxy, run.is_searched)
        return replace(self, scoring=scoring)


@dataclass(frozen=True)
class Pruned:
    """The outcome of the first two steps of one run.

    subset: [M] int64 positions, ascending. weights: [M] float64 > 0, None if all images have the same weight.
    sample_order: which images each epoch of the training uses. sample_seconds: the time of the second step.
    """

    scores: Scores
    choice: sampler_search.Choice
    subset: Tensor
    weights: Tensor | None
    sample_order: SampleOrder
    sample_seconds: float

    @property
    def is_dynamic(self) -> bool:
        """Whether the training chooses its images anew during training. The subset is then the whole pool."""
        return not isinstance(self.sample_order, Static)


@dataclass(frozen=True)
class Training:
    """One fine-tuning. subset: [M] int64. seed: of the training. schedule: which images each epoch uses."""

    subset: Tensor
    seed: int
    sample_order: SampleOrder


def execute(run: ImageRun, out_dir: Path, remote: RemotePasses | None = None) -> None:
    """Score the pool, prune it and fine-tune on the kept images. A finished run is not repeated.

    Args:
        run: the run.
        out_dir: its folder.
        remote: the other processes that run frozen networks, None for this one.
    """
    check(run)
    steps.take(run, lambda: listing_of(run), lambda: ImageSteps(run, open_task(run, remote)), out_dir)


@dataclass(frozen=True)
class ImageSteps(steps.Steps[Pruned, FinetuneResult]):
    """The steps of one image run."""

    run: ImageRun
    task: Task

    last: ClassVar[str] = "finetune"
    tested: ClassVar[str] = "test images"

    def score(self) -> Scores:
        return score(self.run, self.task)

    def prune(self, scores: Scores) -> Pruned:
        return prune(self.run, self.task, scores)

    def write_subset(self, pruned: Pruned, out_dir: Path) -> None:
        write_pruned(out_dir, self.task, pruned)

    def finetune(self, pruned: Pruned) -> FinetuneResult:
        [outcome] = finetune(self.run, self.task, [Training(pruned.subset, self.run.seed, pruned.sample_order)])
        return outcome

    def write(self, pruned: Pruned, tuned: FinetuneResult, out_dir: Path, tracker: Tracker) -> dict[str, Any]:
        return write(self.run, out_dir, self.task, settled(pruned, tuned), tuned, tracker)


def write_pruned(out_dir: Path, task: Task, pruned: Pruned) -> None:
    """Write subset.csv, unless the training itself chooses the images (then `write` does it)."""
    if not pruned.is_dynamic:
        records.write_subset(out_dir / "subset.csv", task.pool, pruned.subset, pruned.weights)


def settled(pruned: Pruned, outcome: FinetuneResult) -> Pruned:
    """Return the subset that was trained on. For a dynamic method the weight of an image is the number of its uses."""
    if not pruned.is_dynamic:
        return pruned
    used = torch.nonzero(outcome.uses).flatten()
    return replace(pruned, subset=pruned.subset[used], weights=outcome.uses[used].double())


def write(
    run: ImageRun,
    out_dir: Path,
    task: Task,
    pruned: Pruned,
    outcome: FinetuneResult,
    tracker: Tracker,
    prefix: str = "",
) -> dict[str, Any]:
    """Write a finished run, send its curves, scores and subset to the tracker, and return its result."""
    result = describe(run, task, pruned, outcome)
    records.write_result(out_dir, result, task.pool, task.test, pruned.subset, outcome, pruned.weights)
    tracker.log_curves([vars(epoch) for epoch in outcome.history], prefix)
    tracker.log_scores(pruned.scores.values, prefix)
    tracker.log_subset(records.subset_rows(task.pool, pruned.subset, pruned.weights), prefix)
    return result


def check(run: ImageRun) -> None:
    """Refuse settings that do not fit together, before anything is computed."""
    if run.wandb not in MODES:
        raise InputError(f"wandb must be one of {', '.join(MODES)}, got {run.wandb!r}.{suggestion(run.wandb, MODES)}")
    if run.engine != "local":
        check_remote(run)
    for sampler in run.candidates.values():
        run.amount.check_sampler(sampler)
        check_fit(run.scorer, sampler, run.amount.fraction)
        if isinstance(run.recipe, LogisticRecipe) and isinstance(sampler, DynamicSampler):
            raise InputError(
                f"sampler={sampler.name} shows other images in every epoch, and finetune={run.recipe.name} has no "
                "epochs; choose another sampler, or finetune=linear_probe"
            )


def check_remote(run: ImageRun) -> None:
    """Refuse a run whose score or sampler needs more than features of frozen networks, which other processes compute.

    Raises:
        InputError: the message names what is not computed.
    """
    engine = f"engine={run.engine}"
    if run.scorer.reads_images:
        others = ", ".join(sorted(name for name, scorer in SCORERS.items() if scorer.reads_images))
        raise InputError(
            f"{engine} computes features, and {run.names.scorer} runs networks over images itself; "
            f"pass engine=local, or any scorer but {others}"
        )
    if run.record["proxy"] is not None and run.proxy.training.trained == "all":
        raise InputError(
            f"{engine} trains no whole network, and {run.names.scorer}-{run.names.sampler} reads one that is trained "
            f"as proxy={run.record['proxy']['name']}; pass proxy=linear_probe, or engine=local"
        )


def listing_of(run: ImageRun) -> str | None:
    """Return the hash of the data set's list of images, or None if the data are no longer there."""
    try:
        return f"{run.dataset.pool('train').listing} {run.dataset.pool('test').listing}"
    except InputError:
        return None


def open_task(run: ImageRun, remote: RemotePasses | None = None) -> Task:
    """Read the data set's lists and load the backbone or backbones. remote: as for `execute`."""
    pool, test = run.dataset.pool("train"), run.dataset.pool("test")
    device, store = resolve_device(run.device), Store(run.results_dir / "store")

    def embedding(backbone: Backbone) -> Embedding:
        network = backbone.load()
        precision, trained = resolve_precision(run.precision, device, network), training_precision(run.precision)
        return Embedding(
            network, store, precision, device, run.batch_size, run.short_side, training_precision=trained, remote=remote
        )

    tuned = NetworkSignals(pool, embedding(run.backbone), run.proxy, run.is_searched)
    if run.scoring_backbone is None:
        return Task(pool, test, tuned, tuned, device)
    scoring = NetworkSignals(pool, embedding(run.scoring_backbone), run.proxy, run.is_searched)
    return Task(pool, test, scoring, tuned, device)


def score(run: ImageRun, task: Task) -> Scores:
    """Step 1: return one score per image. Scores that are in the store are read, others are computed and stored."""
    scores = stored_scores(run.scorer, task.scoring, run.seed)
    if scores.is_new:
        log.info("scored %d images with %s in %.1f s", len(task.pool), run.names.scorer, scores.seconds)
    return scores


def prune(run: ImageRun, task: Task, scores: Scores) -> Pruned:
    """Step 2: choose the images to keep. If the run has several samplers, one is chosen on held-out images first."""
    question = sampler_search.Question(run.candidates, run.scorer, run.amount, run.seed, run.search)
    choice = sampler_search.choose(question, task.scoring, task.tuned)
    return _select(run, task, scores, choice)


def _select(run: ImageRun, task: Task, scores: Scores, choice: sampler_search.Choice) -> Pruned:
    start, sampler, labels = time.perf_counter(), choice.sampler, task.pool.labels
    signals = task.scoring.fresh()  # A new object records the cost of the signals that this sampler asks for.
    ratio = run.amount.share(labels)
    with seeded("sample", run.seed, run.amount.value) as generator:
        subset = run.amount.select(sampler, scores.values, labels, generator, signals)
    # Charge a cached signal at its original cost, and do not charge a signal that the score has already been charged.
    asked = sum(cost for name, cost in signals.charges.items() if name not in scores.signals)
    asked -= sum(signals.spent.values())
    weights = weigh(run.scorer, sampler, ratio, task.scoring, subset) if len(subset) else None
    if weights is not None:
        subset, weights = subset[weights > 0], weights[weights > 0]
    sample_order = sampler.sample_order(labels, ratio, run.recipe.epochs) or Static(len(subset), weights)
    seconds = time.perf_counter() - start + asked
    if not sample_order.images_per_epoch:
        raise InputError(
            f"nothing is kept of {len(task.pool)} images at ratio {run.amount}; raise it or sampler.min_per_class"
        )
    pruned = Pruned(scores, choice, subset, weights, sample_order, seconds)
    log.info("%s, with %s", _summary(pruned, task.pool), run.names.sampler)
    return pruned


def _summary(pruned: Pruned, pool: Pool) -> str:
    if pruned.is_dynamic:
        shown = pruned.sample_order.images_per_epoch
        return f"every epoch shows {shown} of {len(pool)}, subset.csv comes with the result"
    counts = torch.bincount(pool.labels[pruned.subset], minlength=len(pool.classes))
    per_class = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    weighted = "" if pruned.weights is None else ", weighted"
    return f"kept {len(pruned.subset)} of {len(pool)}, {per_class} per class{weighted}"


def finetune(run: ImageRun, task: Task, trainings: Sequence[Training]) -> list[FinetuneResult]:
    """Step 3: train on each subset. Linear probes are trained together, all others one after another.

    Args:
        run: gives the recipe, the backbone and the precision of all trainings.
        task: the task of that run.
        trainings: the subsets, each with its seed and schedule.
    """
    if run.recipe.trained == "all":
        return [_finetune_all(run, task, training) for training in trainings]
    test_signals = NetworkSignals(task.test, task.tuned.embedding)
    features = test_signals.features()  # [N', D]
    bank = view_bank(task.tuned, torch.cat([training.subset for training in trainings]).unique(), run.recipe.views)
    labels = task.pool.labels
    probes = [
        Probe(bank.rows(one.subset), labels[one.subset], features, task.test.labels, one.seed, one.sample_order)
        for one in trainings
    ]
    if isinstance(run.recipe, LogisticRecipe):
        from prunetune.training.logistic_regression import fit_probes  # It loads scikit-learn, which takes a second.

        outcomes = fit_probes(bank.values[0], probes)
    else:
        outcomes = train_probes(bank.values, probes, len(task.pool.classes), run.recipe, task.device)
    return share_seconds(outcomes, bank.seconds + test_signals.seconds)


def _finetune_all(run: ImageRun, task: Task, training: Training) -> FinetuneResult:
    embedding = task.tuned.embedding
    return finetune_all(
        run.backbone.load(),  # Load a new copy, since training changes every weight.
        ShownImages(task.pool, embedding.decoded(task.pool), training.subset),
        ShownImages.whole(task.test, embedding.decoded(task.test)),
        run.recipe,
        training.seed,
        embedding.training_hardware,
        training.sample_order,
    )


def describe(run: ImageRun, task: Task, pruned: Pruned, outcome: FinetuneResult) -> dict[str, Any]:
    """Return the contents of result.json."""
    masks = run.scorer.masks(task.scoring.network)
    sampler, ratio = pruned.choice.sampler, run.amount.share(task.pool.labels)
    is_whole = ratio == 1  # The sampler then keeps all, whatever its gamma.
    return {
        **{field.name: getattr(run.names, field.name) for field in fields(run.names)},
        "ratio": ratio,
        "per_class": run.amount.per_class,
        "seed": run.seed,
        "tag": run.tag,
        "gamma": None if is_whole else getattr(sampler, "gamma", None),
        "selection_rule": None if is_whole else pruned.choice.rule,
        "search": pruned.choice.record(),
        "precision": task.scoring.embedding.precision,
        "training_precision": task.tuned.embedding.training_precision,
        "maskable_share": None if masks is None else masks.share,
        "subpool": run.dataset.record() if isinstance(run.dataset, SubpoolDataset) else None,
        "num_classes": len(task.pool.classes),
        "num_pool": len(task.pool),
        "num_kept": len(pruned.subset),
        "images_per_epoch": pruned.sample_order.images_per_epoch if pruned.is_dynamic else None,
        "num_test": len(task.test),
        "dataset_fingerprint": task.pool.fingerprint,
        "test_fingerprint": task.test.fingerprint,
        "dataset_listing": f"{task.pool.listing} {task.test.listing}",
        **records.accuracies(task.test, outcome),
        "logistic_regression": outcome.classifier,
        "decode_seconds": task.scoring.embedding.decode_seconds(task.pool),
        "score_seconds": pruned.scores.seconds,
        "search_seconds": pruned.choice.seconds if pruned.choice.labels else None,
        "sample_seconds": pruned.sample_seconds,
        "finetune_seconds": outcome.seconds,
        "probes_together": outcome.trained_together,
        "device": describe_device(task.device),
        "engine": run.engine,
        "score_peak_memory_bytes": pruned.scores.peak_memory,
        "scores_path": str((pruned.scores.folder / "scores.csv").relative_to(run.results_dir)),
        **records.provenance(),
        "config": run.record,
    }
