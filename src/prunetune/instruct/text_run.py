"""One text run: score a corpus, prune it, fine-tune a language model by LoRA, and evaluate it on the tasks.

Each step stores its outcome (scores, adapters, answers), so that a killed run can continue: scoring after its last
batch, fine-tuning after its last checkpoint, evaluation after its last number of shots. Under `accelerate launch` the
processes share scoring and fine-tuning. Only the first process writes and evaluates.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from prunetune.base.devices import describe_device
from prunetune.base.disk import explained
from prunetune.base.errors import InputError
from prunetune.base.publish import new_file, write_json
from prunetune.base.seeding import seeded
from prunetune.base.store import read_meta
from prunetune.instruct.corpus.corpora import Corpus
from prunetune.instruct.parse import TextRun
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.instruct.task import TextTask, digest, open_task
from prunetune.instruct.tuned import Tuned, answer, held_out_losses
from prunetune.instruct.tuning import mmlu
from prunetune.instruct.tuning.mmlu import Evaluation
from prunetune.instruct.tuning.trajectory import FineTuningTrajectory
from prunetune.runs import records, sampler_search, steps
from prunetune.runs.scores import Scores, stored_scores
from prunetune.runs.tracking import Tracker
from prunetune.samplers import Sampler

log = logging.getLogger(__name__)
# The numbers of text runs also depend on the versions of these packages.
PACKAGES = ("transformers", "tokenizers", "datasets", "peft", "accelerate", "lm-eval")
# Two runs of the same configuration on the CPU of the same machine differ only in these keys of result.json.
VOLATILE = records.VOLATILE | {"evaluate_seconds", "tokens_per_second", "finetune_tokens_per_second"}


@dataclass(frozen=True)
class Pruned:
    """The outcome of the first two steps. subset: [M] int64 positions, ascending. seconds: the time of sampling."""

    scores: Scores
    choice: sampler_search.Choice
    subset: Tensor
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The evaluation of a fine-tuned model.

    answers: one evaluation for each number of shots. losses: on the held-out samples before and after fine-tuning, in
    nats per token; None if no samples are held out.
    """

    tuned: Tuned
    answers: list[Evaluation]
    losses: tuple[float, float] | None


def execute(run: TextRun, out_dir: Path) -> None:
    """Score the corpus, prune it, fine-tune on the kept samples and evaluate. A finished run is not repeated."""

    def opened() -> TextSteps:
        task = open_task(run)
        if task.processes.is_main:
            check_tasks(run)
        return TextSteps(run, task)

    steps.take(run, lambda: listing_of(run.corpus), opened, out_dir)


@dataclass(frozen=True)
class TextSteps(steps.Steps[Pruned, Tuned]):
    """The steps of a text run. Processes share scoring and fine-tuning, and only the first one evaluates."""

    run: TextRun
    task: TextTask

    last: ClassVar[str] = "evaluate"
    tested: ClassVar[str] = "questions"

    @property
    def is_main(self) -> bool:
        return self.task.processes.is_main

    def score(self) -> Scores:
        return score(self.run, self.task)

    def prune(self, scores: Scores) -> Pruned:
        return prune(self.run, self.task, scores)

    def write_subset(self, pruned: Pruned, out_dir: Path) -> None:
        """Write subset.csv, and the report of the corpus, which says why rows of the file are missing in it."""
        rows = self.task.tuned.encoded.rows
        records.write_subset(out_dir / "subset.csv", self.task.pool, pruned.subset, file_rows=rows)
        file = out_dir / "corpus_report.json"
        with explained(file), new_file(file) as partial:
            write_json(partial, self.task.report)

    def finetune(self, pruned: Pruned) -> Tuned:
        return Tuned(self.task, self.run.sft, pruned.subset, self.run.seed)

    def write(self, pruned: Pruned, tuned: Tuned, out_dir: Path, tracker: Tracker) -> dict[str, Any]:
        answers = answer(tuned, self.run.evaluation, "test")
        outcome = Outcome(tuned, answers, held_out_losses(tuned, self.run.max_tokens))
        result = describe(self.run, self.task, pruned, outcome)
        history = tuned.history()
        self.write_subset(pruned, out_dir)
        columns = ("step", "epoch", "learning_rate", "train_loss")
        records.write_csv(out_dir / "history.csv", columns, ([row[key] for key in columns] for row in history))
        records.publish(out_dir, result)
        tracker.log_curves([{**row, "epoch": row["step"]} for row in history])
        tracker.log_scores(pruned.scores.values)
        return result


def check_tasks(run: TextRun) -> None:
    """Refuse tasks that cannot be evaluated. It is checked first, since scoring and fine-tuning take hours."""
    if run.until == "evaluate":
        mmlu.check_tasks(run.evaluation)
    if run.is_searched and run.until != "score":
        mmlu.check_tasks(run.evaluation.with_shots(run.evaluation.num_fewshot[0]), split="validation")


def listing_of(corpus: Corpus) -> str | None:
    """Return the hash that identifies a corpus, or None if the corpus is no longer there."""
    try:
        return digest(corpus.identity())
    except InputError:
        return None


def score(run: TextRun, task: TextTask) -> Scores:
    """Step 1: return one score per sample. Scores are read from the store, or computed and stored."""
    scores = stored_scores(run.scorer, score_source(run, task), run.seed)
    if scores.is_new:
        log.info("scored %d samples with %s in %.1f s", len(task.pool), run.names.scorer, scores.seconds)
    return scores


def score_source(run: TextRun, task: TextTask) -> TextSource:
    """Return the corpus as the scoring model reads it. The model is not loaded yet, and nothing is trained."""
    reader, store, processes = task.scoring, task.store, task.processes
    dtype = reader.llm.resolved_dtype(task.device)
    trajectory = FineTuningTrajectory(reader, run.sft, run.trajectory, dtype, run.max_tokens, store, processes)
    signals = TextSignals(reader, dtype, processes, store.root / "passes", run.max_tokens, trajectory)
    return TextSource(signals, store)


def prune(run: TextRun, task: TextTask, scores: Scores) -> Pruned:
    """Step 2: choose the samples to keep. With several samplers, one is chosen on validation questions first."""
    choice = choose(run, task, scores)
    start = time.perf_counter()
    subset = select(run, task, scores, choice.sampler)
    seconds = time.perf_counter() - start
    if not len(subset):
        raise InputError(f"nothing is kept of {len(task.pool)} samples at ratio {run.ratio:g}; raise it")
    log.info("kept %d of %d samples", len(subset), len(task.pool))
    return Pruned(scores, choice, subset, seconds)


def select(run: TextRun, task: TextTask, scores: Scores, sampler: Sampler) -> Tensor:
    """Return the positions that a sampler keeps, [M] int64."""
    with seeded("sample", run.seed, run.ratio) as generator:
        return sampler.select(scores.values, task.pool.labels, run.ratio, generator)


def choose(run: TextRun, task: TextTask, scores: Scores) -> sampler_search.Choice:
    """Return the sampler, or the best of several: the one whose model answers the most validation questions correctly.

    Of equally good samplers the first wins. The test questions are not used. The model of the best sampler stays in the
    store, so that it is not trained again. Source: docs/method_notes.md, Instruction data.
    """
    candidates: Mapping[str, Sampler] = run.candidates
    if not run.is_searched or run.ratio == 1:
        return sampler_search.Choice(next(iter(candidates.values())))
    start, accuracy = time.perf_counter(), {}
    for label, sampler in candidates.items():
        tuned = Tuned(task, run.sft, select(run, task, scores, sampler), run.seed)
        accuracy[label] = answer(tuned, run.evaluation, "validation")[0].accuracy
        del tuned  # Free the memory of its model before the next model is loaded.
    best = max(accuracy, key=accuracy.__getitem__)
    shown = ", ".join(f"{label} {value:.1%}" for label, value in accuracy.items())
    log.info("chose gamma %s on validation questions (%s)", best, shown)
    return sampler_search.Choice(
        candidates[best],
        tuple(accuracy),
        tuple(accuracy.values()),
        (None,) * len(accuracy),
        time.perf_counter() - start,
        best,
        run.sft.name,
    )


def describe(run: TextRun, task: TextTask, pruned: Pruned, outcome: Outcome) -> dict[str, Any]:
    """Return the contents of result.json. Units are fractions, seconds, bytes and nats per token."""
    choice, masks = pruned.choice, run.scorer.masks(score_source(run, task).signals)
    return {
        "kind": "text",
        **{field.name: getattr(run.names, field.name) for field in fields(run.names)},
        "ratio": run.ratio,
        "seed": run.seed,
        "tag": run.tag,
        "strata": run.strata,
        "gamma": getattr(choice.sampler, "gamma", None) if run.ratio < 1 else None,
        "selection_rule": choice.rule if run.ratio < 1 else None,
        "search": choice.record(),
        "precision": outcome.tuned.key["dtype"],
        "maskable_share": None if masks is None else masks.share,
        "num_classes": len(task.pool.classes),
        "num_pool": len(task.pool),
        "num_kept": len(pruned.subset),
        "corpus_report": task.report,
        "dataset_fingerprint": task.tuned.encoded.fingerprint,
        "dataset_listing": listing_of(run.corpus),
        **_accuracies(outcome),
        **_costs(pruned, outcome),
        "device": describe_device(task.device),
        "scores_path": str((pruned.scores.folder / "scores.csv").relative_to(run.results_dir)),
        **records.provenance(PACKAGES),
        "config": run.record,
    }


def _accuracies(outcome: Outcome) -> dict[str, Any]:
    """Return the accuracies (fractions) and the held-out losses (nats per token)."""
    first, answers, losses = outcome.answers[0], outcome.answers, outcome.losses
    return {
        "num_test": first.num_questions,
        "accuracy": first.accuracy,
        **_groups(first, ""),
        "num_fewshot": [one.num_fewshot for one in answers],
        **{key: value for one in answers for key, value in _shot_columns(one).items()},
        "evaluations": [{key: value for key, value in asdict(one).items() if key != "seconds"} for one in answers],
        "held_out_loss_before": losses and losses[0],
        "held_out_loss": losses and losses[1],
        "held_out_perplexity": losses and float(np.exp(losses[1])),
    }


def _costs(pruned: Pruned, outcome: Outcome) -> dict[str, Any]:
    """Return the costs of the steps in seconds, bytes and tokens per second."""
    scores, choice, meta = pruned.scores, pruned.choice, outcome.tuned.meta
    return {
        "score_seconds": scores.seconds,
        "score_peak_memory_bytes": scores.peak_memory,
        "tokens_per_second": read_meta(scores.folder).get("tokens_per_second"),
        "search_seconds": choice.seconds if choice.labels else None,
        "sample_seconds": pruned.seconds,
        "finetune_seconds": meta.get("seconds", 0.0),
        "finetune_tokens_per_second": meta.get("tokens_per_second"),
        "finetune_steps": meta.get("steps", 0),
        "num_trainable": meta.get("num_trainable", 0),
        "evaluate_seconds": sum(one.seconds for one in outcome.answers),
    }


def _groups(evaluation: Evaluation, suffix: str) -> dict[str, float | None]:
    return {f"mmlu_{name}{suffix}": evaluation.groups.get(name) for name in mmlu.GROUPS}


def _shot_columns(evaluation: Evaluation) -> dict[str, float | None]:
    """Return the accuracies under keys that name the number of shots, such as accuracy_5shot."""
    suffix = f"_{evaluation.num_fewshot}shot"
    return {f"accuracy{suffix}": evaluation.accuracy, **_groups(evaluation, suffix)}
