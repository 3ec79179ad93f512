"""One text run: score a corpus -> prune it -> fine-tune a language model by LoRA -> ask it the tasks.

Each step's product is an entry of the store (scores, adapters, answers), so that a killed run goes on where it was:
scoring at its last batch, fine-tuning at its last checkpoint, evaluation at its last number of shots. Under
`accelerate launch` the processes share scoring and fine-tuning; the first one alone writes and evaluates.
"""

import logging
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from prunetune.base.devices import describe_device
from prunetune.base.errors import InputError, suggestion
from prunetune.base.seeding import seeded
from prunetune.base.store import read_meta
from prunetune.config.build import build, check_keys
from prunetune.config.identity import recorded, sampler_settings
from prunetune.config.names import Names
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.strata import STRATA
from prunetune.instruct.scorers.s2l import S2L
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.instruct.scorers.stored import stored_text_scores
from prunetune.instruct.task import TextTask, digest, evaluation_of, open_task, sft_of
from prunetune.instruct.tuned import Tuned, answer, held_out_losses
from prunetune.instruct.tuning import mmlu
from prunetune.instruct.tuning.mmlu import Evaluation
from prunetune.instruct.tuning.trajectory import FineTuningTrajectory
from prunetune.runs import records, sampler_search
from prunetune.runs.scores import Scores, check_fit
from prunetune.runs.tracking import MODES, open_run
from prunetune.samplers import Sampler
from prunetune.samplers.base import check_ratio

log = logging.getLogger(__name__)
STEPS = ("score", "prune", "finetune", "evaluate")
PACKAGES = ("transformers", "tokenizers", "datasets", "peft", "accelerate", "lm-eval")  # that numbers depend on too


@dataclass(frozen=True)
class Pruned:
    """subset: [M] int64 positions, ascending."""

    choice: sampler_search.Choice
    subset: Tensor
    seconds: float


def run(cfg: DictConfig, names: Names, out_dir: Path) -> None:
    """Score the corpus, prune it, fine-tune on what is left and ask the tasks; a finished run returns at once."""
    check(cfg)
    if records.is_finished(out_dir, recorded(cfg), lambda: listing_of(cfg)):
        return
    task = open_task(cfg)
    if task.processes.is_main:
        check_tasks(cfg)
    scores = score(cfg, task)
    if cfg.until == "score":
        return
    pruned = prune(cfg, task, scores)
    if task.processes.is_main:
        records.write_subset(out_dir / "subset.csv", task.pool, pruned.subset)
    if cfg.until == "prune":
        return
    tuned = Tuned(cfg, task, pruned.subset)
    if cfg.until == "finetune" or not task.processes.is_main:
        return  # the other processes have nothing left to do: lm-evaluation-harness runs in one
    folder = Path(cfg.results_dir) / "wandb"
    with open_run(cfg.wandb, "prunetune", names.title(cfg.ratio, cfg.seed), recorded(cfg), folder) as tracker:
        answers = answer(tuned, evaluation_of(cfg), "test")
        losses = held_out_losses(cfg, tuned)
        result = describe(cfg, names, task, scores, pruned, tuned, answers, losses)
        write(out_dir, result, task.pool, pruned.subset, tuned.history())
        tracker.log_curves([{**row, "epoch": row["step"]} for row in tuned.history()])
        tracker.log_scores(scores.values)
        tracker.log_result(result)
    log.info("accuracy %.2f %% on %d questions", 100 * result["accuracy"], result["num_test"])


def check(cfg: DictConfig) -> None:
    """Refuse what no step could use, before anything is computed."""
    check_keys(cfg)
    check_ratio(cfg.ratio)
    for key, known in (("until", STEPS), ("strata", STRATA), ("wandb", MODES)):
        if cfg[key] not in known:
            raise InputError(f"{key} must be one of {', '.join(known)}, got {cfg[key]!r}.{suggestion(cfg[key], known)}")
    if not 0 <= cfg.held_out < 1:
        raise InputError(f"held_out is a fraction of the corpus and must be in [0, 1), got {cfg.held_out}")
    if cfg.max_tokens < 1:
        raise InputError(f"max_tokens is the size of a scoring pass and must be at least 1, got {cfg.max_tokens}")
    settings, scorer, _ = sft_of(cfg), build(cfg.text_scorer), evaluation_of(cfg)
    if cfg.sampler.get("end") == "auto":
        raise InputError("sampler.end=auto is not for text runs; pass sampler=topk or sampler=topk_easiest")
    candidates = candidates_of(cfg)
    for sampler in candidates.values():
        check_sampler(sampler)
        check_fit(scorer, sampler, cfg.ratio)
    if isinstance(scorer, S2L) and not settings.epochs:
        raise InputError(f"text_scorer=s2l records a fine-tuning and sft={settings.name} trains nothing")
    if len(candidates) > 1 and not settings.epochs:
        raise InputError(f"sampler.gamma=auto compares fine-tuned models and sft={settings.name} trains none")


def check_tasks(cfg: DictConfig) -> None:
    """Refuse tasks that cannot be asked, before hours of scoring and fine-tuning."""
    settings = evaluation_of(cfg)
    if cfg.until == "evaluate":
        mmlu.check_tasks(settings)
    if len(candidates_of(cfg)) > 1 and cfg.until != "score":
        mmlu.check_tasks(settings.with_shots(settings.num_fewshot[0]), split="validation")


def check_sampler(sampler: Sampler) -> None:
    """Refuse a sampler that reads what text runs do not have.

    Raises:
        InputError: it reads features or a proxy, or chooses anew in every epoch.
    """
    is_dynamic = type(sampler).schedule is not Sampler.schedule
    if sampler.needs != "nothing" or sampler.budgets == "drop" or is_dynamic:
        raise InputError(
            f"{type(sampler).__name__} reads image features, a proxy's training or draws anew in every epoch, which a "
            "text run has not; pass sampler=flexrand, topk, topk_easiest, random, ccs, window or double_end"
        )


def listing_of(cfg: DictConfig) -> str | None:
    """Return the hash of what the corpus is made of, None where it is no longer there."""
    try:
        return digest(build(cfg.corpus).identity())
    except InputError:
        return None


def score(cfg: DictConfig, task: TextTask) -> Scores:
    """Step 1: one number per sample, from the store or computed into it."""
    scorer, reader = build(cfg.text_scorer), task.scoring
    dtype = reader.llm.resolved_dtype(task.device)
    signals = TextSignals(
        encoded=reader.encoded,
        llm=reader.llm,
        device=task.device,
        dtype=dtype,
        store=task.store,
        max_tokens=cfg.max_tokens,
        tokenizer=reader.tokenizer,
        processes=task.processes,
        trajectory=trajectory_of(cfg, task),
    )
    scores = stored_text_scores(scorer, signals, task.store, cfg.seed)
    if scores.is_new:
        log.info("scored %d samples with %s in %.1f s", len(task.pool), scorer.name, scores.seconds)
    else:
        log.info("the scores of %s were in the store: %s", scorer.name, scores.folder.name)
    return scores


def trajectory_of(cfg: DictConfig, task: TextTask) -> FineTuningTrajectory:
    """Return the fine-tuning that text_scorer=s2l records; no other scorer starts it."""
    reader = task.scoring
    return FineTuningTrajectory(
        llm=reader.llm,
        encoded=reader.encoded,
        pad_id=reader.pad_id,
        settings=sft_of(cfg),
        checkpoints=cfg.trajectory.checkpoints,
        device=task.device,
        dtype=reader.llm.resolved_dtype(task.device),
        max_tokens=cfg.max_tokens,
        store=task.store,
        processes=task.processes,
        entry=task.entry,
    )


def prune(cfg: DictConfig, task: TextTask, scores: Scores) -> Pruned:
    """Step 2: choose what is kept; an open gamma is settled on the tasks' validation questions first."""
    choice = choose(cfg, task, scores)
    start = time.perf_counter()
    subset = select(cfg, task, scores, choice.sampler)
    seconds = time.perf_counter() - start
    if not len(subset):
        raise InputError(f"nothing is kept of {len(task.pool)} samples at ratio {cfg.ratio:g}; raise it")
    log.info("kept %d of %d samples", len(subset), len(task.pool))
    return Pruned(choice, subset, seconds)


def select(cfg: DictConfig, task: TextTask, scores: Scores, sampler: Sampler) -> Tensor:
    """Return the positions that a sampler keeps, [M] int64."""
    with seeded("sample", cfg.seed, cfg.ratio) as generator:
        return sampler.select(scores.values, task.pool.labels, cfg.ratio, generator)


def choose(cfg: DictConfig, task: TextTask, scores: Scores) -> sampler_search.Choice:
    """Return the sampler; of several the one whose model answers the most validation questions, the first of equals.

    Source: docs/method_notes.md, Instruction data; the test questions take no part. The chosen model is in the store
    and not trained again.
    """
    candidates = candidates_of(cfg)
    if len(candidates) == 1 or cfg.ratio == 1:
        return sampler_search.Choice(next(iter(candidates.values())))
    start, accuracy = time.perf_counter(), {}
    for label, sampler in candidates.items():
        tuned = Tuned(cfg, task, select(cfg, task, scores, sampler))
        accuracy[label] = answer(tuned, evaluation_of(cfg), "validation")[0].accuracy
        del tuned  # and its model, before the next one is loaded
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
        sft_of(cfg).name,
    )


def describe(
    cfg: DictConfig,
    names: Names,
    task: TextTask,
    scores: Scores,
    pruned: Pruned,
    tuned: Tuned,
    answers: list[Evaluation],
    losses: tuple[float, float] | None,
) -> dict[str, Any]:
    """Return the contents of result.json; fractions, seconds, bytes, nats per token."""
    first, meta, choice = answers[0], tuned.meta, pruned.choice
    return {
        "kind": "text",
        **{field.name: getattr(names, field.name) for field in fields(names)},
        "ratio": cfg.ratio,
        "seed": cfg.seed,
        "tag": cfg.tag,
        "strata": cfg.strata,
        "gamma": getattr(choice.sampler, "gamma", None) if cfg.ratio < 1 else None,
        "selection_rule": choice.rule if cfg.ratio < 1 else None,
        "search": choice.record(),
        "precision": tuned.key["dtype"],
        "num_classes": len(task.pool.classes),
        "num_pool": len(task.pool),
        "num_kept": len(pruned.subset),
        "num_test": first.num_questions,
        "corpus_report": task.report,
        "dataset_fingerprint": task.tuned.encoded.fingerprint,
        "dataset_listing": listing_of(cfg),
        "accuracy": first.accuracy,
        **_groups(first, ""),
        "num_fewshot": [one.num_fewshot for one in answers],
        **{key: value for one in answers for key, value in _shot_columns(one).items()},
        "evaluations": [{key: value for key, value in asdict(one).items() if key != "seconds"} for one in answers],
        "held_out_loss_before": losses and losses[0],
        "held_out_loss": losses and losses[1],
        "held_out_perplexity": losses and float(np.exp(losses[1])),
        "score_seconds": scores.seconds,
        "score_peak_memory_bytes": scores.peak_memory,
        "tokens_per_second": read_meta(scores.folder).get("tokens_per_second"),
        "search_seconds": choice.seconds if choice.labels else None,
        "sample_seconds": pruned.seconds,
        "finetune_seconds": meta.get("seconds", 0.0),
        "finetune_tokens_per_second": meta.get("tokens_per_second"),
        "finetune_steps": meta.get("steps", 0),
        "num_trainable": meta.get("num_trainable", 0),
        "evaluate_seconds": sum(one.seconds for one in answers),
        "device": describe_device(task.device),
        "scores_path": str((scores.folder / "scores.csv").relative_to(cfg.results_dir)),
        **records.provenance(PACKAGES),
        "config": recorded(cfg),
    }


def _groups(evaluation: Evaluation, suffix: str) -> dict[str, float | None]:
    return {f"mmlu_{name}{suffix}": evaluation.groups.get(name) for name in mmlu.GROUPS}


def _shot_columns(evaluation: Evaluation) -> dict[str, float | None]:
    """Return the accuracies under the number of shots, such as accuracy_5shot."""
    suffix = f"_{evaluation.num_fewshot}shot"
    return {f"accuracy{suffix}": evaluation.accuracy, **_groups(evaluation, suffix)}


def write(out_dir: Path, result: dict[str, Any], pool: Pool, subset: Tensor, history: list[dict[str, Any]]) -> None:
    """Write a finished run: subset.csv, history.csv, and then result.json."""
    records.write_subset(out_dir / "subset.csv", pool, subset)
    columns = ("step", "epoch", "learning_rate", "train_loss")
    records.write_csv(out_dir / "history.csv", columns, ([row[key] for key in columns] for row in history))
    records.publish(out_dir, result)


def candidates_of(cfg: DictConfig) -> dict[str, Sampler]:
    """Return the run's sampler, or where gamma is open one for each valid gamma, those nearest .5 first."""
    settings = sampler_settings(cfg.sampler, cfg.text_scorer.own_sampler)
    if settings.get("gamma") != "auto":
        return {"": build(settings)}
    search = sampler_search.Search(grid=tuple(cfg.gamma_search.grid))
    return sampler_search.gamma_candidates(lambda gamma: build({**settings, "gamma": gamma}), search, cfg.ratio)
