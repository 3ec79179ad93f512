"""One text run: score a corpus -> prune it -> fine-tune a language model by LoRA -> ask it the tasks.

Each step's product is an entry of the store (scores, adapters, answers), so that a killed run goes on where it was:
scoring at its last batch, fine-tuning at its last checkpoint, evaluation at its last number of shots. Under
`accelerate launch` the processes share scoring and fine-tuning; the first one alone writes and evaluates.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from prunetune import records
from prunetune.config import Names, build, compared, sampler_settings
from prunetune.datasets.base import Pool
from prunetune.devices import describe_device, resolve_device
from prunetune.errors import InputError, suggestion
from prunetune.gamma_search import gammas
from prunetune.instruct import mmlu
from prunetune.instruct.adapter import load_adapter, save_adapter
from prunetune.instruct.corpora import Corpus
from prunetune.instruct.encoding import Encoded, encode, padding_id
from prunetune.instruct.language_model import LanguageModel
from prunetune.instruct.mmlu import Evaluation, EvaluationSettings
from prunetune.instruct.processes import Processes
from prunetune.instruct.s2l import S2L
from prunetune.instruct.sft import SftResult, fine_tune, held_out_loss
from prunetune.instruct.sft_checkpoint import forget
from prunetune.instruct.sft_settings import SftSettings
from prunetune.instruct.strata import STRATA, stratified
from prunetune.instruct.text_scores import stored_text_scores
from prunetune.instruct.text_signals import TextSignals
from prunetune.instruct.trajectory import FineTuningTrajectory
from prunetune.samplers import Sampler
from prunetune.samplers.base import check_ratio
from prunetune.scores import Scores, check_fit
from prunetune.seeding import seeded
from prunetune.store import Store, is_sound, read_meta
from prunetune.tracking import MODES, open_run

log = logging.getLogger(__name__)
STEPS = ("score", "prune", "finetune", "evaluate")
PACKAGES = ("transformers", "tokenizers", "datasets", "peft", "accelerate", "lm-eval")  # that numbers depend on too


@dataclass(frozen=True)
class Reader:
    """A language model, not yet loaded, and a corpus as its tokenizer reads it."""

    llm: LanguageModel
    tokenizer: Any
    encoded: Encoded

    @property
    def pad_id(self) -> int:
        """The id that fills rows."""
        return padding_id(self.tokenizer)


@dataclass(frozen=True)
class TextTask:
    """What the steps share.

    tuned, scoring: of the model that is fine-tuned and of the one that scores, with the same samples. pool: these
    samples, a class for each stratum. held_out: samples that take no part, for the loss before and after.
    """

    tuned: Reader
    scoring: Reader
    pool: Pool
    held_out: Encoded | None
    report: dict[str, int]
    store: Store
    processes: Processes

    @property
    def device(self) -> str:
        """This process's device."""
        return self.processes.device

    def entry(self, kind: str, prefix: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return an entry of the store that all processes make together and the first one writes."""
        place = self.store.place(kind, prefix, key)
        if self.processes.is_main:
            is_sound(place)  # a damaged one is removed before the others look
        self.processes.wait()
        is_there = place.is_dir()
        self.processes.wait()  # all have looked before the first one writes
        if self.processes.is_main:
            return self.store.entry(kind, prefix, key, make)
        if not is_there:
            with tempfile.TemporaryDirectory() as scratch:
                make(Path(scratch))
        return place


@dataclass(frozen=True)
class Choice:
    """The sampler, and where its gamma was open the candidates' accuracies on validation questions (fractions)."""

    sampler: Sampler
    candidates: dict[str, float]
    chosen: str = ""
    recipe: str = ""
    seconds: float = 0.0

    def record(self) -> dict[str, Any] | None:
        """Return what result.json says of the search, None where there was nothing to choose between."""
        if not self.candidates:
            return None
        rows = [{"label": label, "accuracy": accuracy} for label, accuracy in self.candidates.items()]
        return {"recipe": self.recipe, "chosen": self.chosen, "candidates": rows}

    @property
    def rule(self) -> str | None:
        """How gamma was set, None for a sampler without."""
        if self.candidates:
            return "validation"
        return "fixed" if hasattr(self.sampler, "gamma") else None


@dataclass(frozen=True)
class Pruned:
    """subset: [M] int64 positions, ascending."""

    choice: Choice
    subset: Tensor
    seconds: float


class Tuned:
    """A fine-tuned model: its adapter in the store, loaded when it is first asked for."""

    def __init__(self, cfg: DictConfig, task: TextTask, subset: Tensor) -> None:
        self.task, self.settings = task, sft_of(cfg)
        reader = task.tuned
        self.key = {
            "llm": reader.llm.identity(),
            "dtype": reader.llm.resolved_dtype(task.device),
            "sft": asdict(self.settings) if self.settings.epochs else None,
            "corpus": reader.encoded.fingerprint if self.settings.epochs else None,
            "subset": _digest(subset.tolist()) if self.settings.epochs else None,
            "seed": cfg.seed if self.settings.epochs else None,
            "processes": task.processes.size if self.settings.epochs else None,  # each draws its own dropout
        }
        self.folder = self._trained(subset, cfg.seed) if self.settings.epochs else None

    @cached_property
    def model(self) -> nn.Module:
        """The model in evaluation mode on this process's device."""
        model = self.task.tuned.llm.load(self.task.device, self.key["dtype"])
        return model if self.folder is None else load_adapter(model, self.folder)

    @property
    def meta(self) -> dict[str, Any]:
        """What the training says of itself, nothing for a base model."""
        return {} if self.folder is None else read_meta(self.folder)

    def history(self) -> list[dict[str, Any]]:
        """Return the training's rows: step, epoch, learning_rate, train_loss."""
        return [] if self.folder is None else json.loads((self.folder / "history.json").read_text())

    def _trained(self, subset: Tensor, seed: int) -> Path:
        task, name = self.task, f"{self.task.pool.name}-{self.task.tuned.llm.name}-{self.settings.name}"
        work = task.store.place("training", name, self.key)

        def make(folder: Path) -> dict[str, Any]:
            model, outcome = fine_tune(
                task.tuned.llm.load(task.device, self.key["dtype"]),
                task.tuned.encoded,
                subset,
                self.settings,
                pad_id=task.tuned.pad_id,
                seed=seed,
                device=task.device,
                dtype=self.key["dtype"],
                folder=work,
                key=self.key,
                processes=task.processes,
            )
            save_adapter(model, folder)
            (folder / "history.json").write_text(json.dumps(outcome.history))
            return {field.name: getattr(outcome, field.name) for field in fields(SftResult) if field.name != "history"}

        folder = task.entry("adapters", name, self.key, make)
        if task.processes.is_main:
            forget(work)
        return folder


def run(cfg: DictConfig, names: Names, out_dir: Path) -> None:
    """Score the corpus, prune it, fine-tune on what is left and ask the tasks; a finished run returns at once."""
    check(cfg)
    if records.is_finished(out_dir, cfg, lambda: listing_of(cfg)):
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
    with open_run(cfg.wandb, "prunetune", run_title(cfg, names), compared(cfg), folder) as tracker:
        answers = answer(cfg, tuned, evaluation_of(cfg), "test")
        losses = held_out_losses(cfg, tuned)
        result = describe(cfg, names, task, scores, pruned, tuned, answers, losses)
        write(out_dir, result, task.pool, pruned.subset, tuned.history())
        tracker.log_curves([{**row, "epoch": row["step"]} for row in tuned.history()])
        tracker.log_scores(scores.values)
        tracker.log_result(result)
    log.info("accuracy %.2f %% on %d questions", 100 * result["accuracy"], result["num_test"])


def check(cfg: DictConfig) -> None:
    """Refuse what no step could use, before anything is computed."""
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
        return _digest(build(cfg.corpus).identity())
    except InputError:
        return None


def open_task(cfg: DictConfig) -> TextTask:
    """Read the corpus with the tokenizers, and set aside what is held out."""
    processes = Processes.current(resolve_device(cfg.device))
    corpus: Corpus = build(cfg.corpus)
    tuned = _reader(build(cfg.llm), corpus)
    scoring = tuned if cfg.scoring_llm is None else _reader(build(cfg.scoring_llm), corpus)
    report = {**asdict(tuned.encoded.report)}
    if scoring is not tuned:
        tuned, scoring = _shared(tuned, scoring), _shared(scoring, tuned)
    kept, apart = split(len(tuned.encoded), cfg.held_out)
    held_out = tuned.encoded.take(apart) if len(apart) else None
    tuned, scoring = (Reader(one.llm, one.tokenizer, one.encoded.take(kept)) for one in (tuned, scoring))
    pool = stratified(tuned.encoded, cfg.strata)
    return TextTask(tuned, scoring, pool, held_out, report, Store(Path(cfg.results_dir) / "store"), processes)


def _reader(llm: LanguageModel, corpus: Corpus) -> Reader:
    tokenizer = llm.tokenizer()
    encoded, context = encode(corpus, tokenizer), llm.context_length()
    longest = int(encoded.lengths.max())
    if context is not None and longest > context:
        raise InputError(
            f"a sample of {corpus.resolved_name} has {longest} tokens and the language model takes {context}; "
            f"pass corpus.max_length={context}"
        )
    return Reader(llm, tokenizer, encoded)


def _shared(reader: Reader, other: Reader) -> Reader:
    """Return the reader of the samples that both have: a response can vanish in one tokenizer's cut only."""
    theirs = set(other.encoded.pool.sample_ids)
    rows = [i for i, sample_id in enumerate(reader.encoded.pool.sample_ids) if sample_id in theirs]
    return Reader(reader.llm, reader.tokenizer, reader.encoded.take(torch.tensor(rows, dtype=torch.int64)))


def split(size: int, held_out: float) -> tuple[Tensor, Tensor]:
    """Return the positions of the pool and those held out, ascending; the same for every seed of a run.

    Raises:
        InputError: the fraction holds out nothing, or all.
    """
    count = round(size * held_out)
    if held_out and not 0 < count < size:
        raise InputError(f"held_out={held_out:g} of {size} samples is {count}; pass another fraction")
    with seeded("held out", size, float(held_out)) as generator:
        apart = torch.randperm(size, generator=generator)[:count].sort().values
    is_kept = torch.ones(size, dtype=torch.bool)
    is_kept[apart] = False
    return torch.nonzero(is_kept).flatten(), apart


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
    reader, settings = task.scoring, sft_of(cfg)
    dtype = reader.llm.resolved_dtype(task.device)
    key = [reader.llm.identity(), dtype, reader.encoded.fingerprint, asdict(settings), cfg.trajectory.checkpoints]
    return FineTuningTrajectory(
        llm=reader.llm,
        encoded=reader.encoded,
        pad_id=reader.pad_id,
        settings=settings,
        checkpoints=cfg.trajectory.checkpoints,
        device=task.device,
        dtype=dtype,
        max_tokens=cfg.max_tokens,
        folder=task.store.root / "training" / f"trajectory-{_digest(key)[:16]}",
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


def choose(cfg: DictConfig, task: TextTask, scores: Scores) -> Choice:
    """Return the sampler; of several the one whose model answers the most validation questions, the first of equals.

    Source: method.md 6.4; the test questions take no part. The chosen model is in the store and not trained again.
    """
    candidates = candidates_of(cfg)
    if len(candidates) == 1 or cfg.ratio == 1:
        return Choice(next(iter(candidates.values())), {})
    start, accuracy = time.perf_counter(), {}
    for label, sampler in candidates.items():
        tuned = Tuned(cfg, task, select(cfg, task, scores, sampler))
        accuracy[label] = answer(cfg, tuned, evaluation_of(cfg), "validation")[0].accuracy
        del tuned  # and its model, before the next one is loaded
    best = max(accuracy, key=accuracy.__getitem__)
    shown = ", ".join(f"{label} {value:.1%}" for label, value in accuracy.items())
    log.info("chose gamma %s on validation questions (%s)", best, shown)
    return Choice(candidates[best], accuracy, best, sft_of(cfg).name, time.perf_counter() - start)


def answer(cfg: DictConfig, tuned: Tuned, settings: EvaluationSettings, part: str) -> list[Evaluation]:
    """Return the answers for each number of shots, from the store or asked into it; validation: the first number."""
    task, found = tuned.task, []
    shots = settings.num_fewshot if part == "test" else settings.num_fewshot[:1]
    for num_fewshot in shots:
        one = settings.with_shots(num_fewshot)
        key = {"model": tuned.key, "evaluation": one.identity(), "part": part}

        def make(folder: Path, one: EvaluationSettings = one) -> dict[str, Any]:
            [evaluation] = mmlu.evaluate(tuned.model, task.tuned.tokenizer, one, split=part)
            (folder / "evaluation.json").write_text(json.dumps(asdict(evaluation)))
            return {"seconds": evaluation.seconds}

        name = f"{task.tuned.llm.name}-{num_fewshot}shot"
        entry = task.store.place("answers", name, key)
        if task.processes.is_main:
            entry = task.store.entry("answers", name, key, make)
        if part == "validation":
            task.processes.wait()  # every process has to know the outcome, and one alone answers
        found.append(Evaluation(**json.loads((entry / "evaluation.json").read_text())))
    return found


def held_out_losses(cfg: DictConfig, tuned: Tuned) -> tuple[float, float] | None:
    """Return the mean response-token loss on the held-out samples before and after, None where none are held out."""
    task = tuned.task
    if task.held_out is None:
        return None
    key = {"model": tuned.key, "held_out": task.held_out.fingerprint}

    def make(folder: Path) -> dict[str, Any]:
        def loss() -> float:
            return held_out_loss(tuned.model, task.held_out, task.tuned.pad_id, cfg.max_tokens, task.device)

        after = loss()
        with tuned.model.disable_adapter() if tuned.folder else nullcontext():
            before = loss()
        return {"before": before, "after": after}

    meta = read_meta(task.store.entry("held_out", f"{task.pool.name}-{task.tuned.llm.name}", key, make))
    return meta["before"], meta["after"]


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
        "search_seconds": choice.seconds if choice.candidates else None,
        "sample_seconds": pruned.seconds,
        "finetune_seconds": meta.get("seconds", 0.0),
        "finetune_tokens_per_second": meta.get("tokens_per_second"),
        "finetune_steps": meta.get("steps", 0),
        "num_trainable": meta.get("num_trainable", 0),
        "evaluate_seconds": sum(one.seconds for one in answers),
        "device": describe_device(task.device),
        "scores_path": str((scores.folder / "scores.csv").relative_to(cfg.results_dir)),
        **records.provenance(PACKAGES),
        "config": compared(cfg),
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


def run_title(cfg: DictConfig, names: Names) -> str:
    """Return a run's name for people."""
    return f"{names.dataset} {names.backbone_folder} {names.scorer}-{names.sampler} {cfg.ratio:g} seed {cfg.seed}"


def sft_of(cfg: DictConfig) -> SftSettings:
    """Return how the run fine-tunes."""
    return SftSettings(**_plain(cfg.sft))


def evaluation_of(cfg: DictConfig) -> EvaluationSettings:
    """Return what the run asks."""
    return EvaluationSettings(**_plain(cfg.evaluation))


def candidates_of(cfg: DictConfig) -> dict[str, Sampler]:
    """Return the run's sampler, or where gamma is open one for each valid gamma, those nearest .5 first."""
    settings = sampler_settings(cfg.sampler, cfg.text_scorer.own_sampler)
    if settings.get("gamma") != "auto":
        return {"": build(settings)}
    grid = list(cfg.gamma_search.grid)
    if not grid or not all(0 < gamma < 1 for gamma in grid):
        raise InputError(f"gamma_search.grid must be gammas in (0, 1), got {grid}")
    nearest_first = sorted(gammas(grid, cfg.ratio), key=lambda gamma: (abs(gamma - 0.5), gamma))
    return {f"{gamma:g}": build({**settings, "gamma": gamma}) for gamma in nearest_first}


def _plain(group: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(group)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
