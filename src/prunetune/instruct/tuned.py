"""A fine-tuned model, its answers and its losses, all kept in the store."""

import json
from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunetune.base.store import read_meta
from prunetune.instruct.task import TextTask, digest
from prunetune.instruct.tuning import mmlu
from prunetune.instruct.tuning.adapter import load_adapter, save_adapter
from prunetune.instruct.tuning.mmlu import Evaluation, EvaluationSettings
from prunetune.instruct.tuning.sft import SftJob, SftResult, fine_tune, held_out_loss
from prunetune.instruct.tuning.sft_checkpoint import Checkpoint, forget
from prunetune.instruct.tuning.sft_settings import SftSettings


class Tuned:
    """A fine-tuned model. Its adapter is in the store, and the model is loaded when it is first needed."""

    def __init__(self, task: TextTask, settings: SftSettings, subset: Tensor, seed: int) -> None:
        """Train on a subset, unless the store has the adapter.

        Args:
            task: the corpus and the model.
            settings: how to train. With epochs=0 the base model is not changed.
            subset: [M] int64 positions to train on.
            seed: the seed of the training.
        """
        self.task, self.settings = task, settings
        reader = task.tuned
        self.key = {
            "llm": reader.llm.identity(),
            "dtype": reader.llm.resolved_dtype(task.device),
            "sft": asdict(self.settings) if self.settings.epochs else None,
            "corpus": reader.encoded.fingerprint if self.settings.epochs else None,
            "subset": digest(subset.tolist()) if self.settings.epochs else None,
            "seed": seed if self.settings.epochs else None,
            "processes": task.processes.size if self.settings.epochs else None,  # Each process draws its own dropout.
        }
        self.folder = self._trained(subset, seed) if self.settings.epochs else None

    @cached_property
    def model(self) -> nn.Module:
        """The model in evaluation mode, on the device of this process."""
        model = self.task.tuned.llm.load(self.task.device, self.key["dtype"])
        return model if self.folder is None else load_adapter(model, self.folder)

    @property
    def meta(self) -> dict[str, Any]:
        """The costs and counts of the training, empty for a base model."""
        return {} if self.folder is None else read_meta(self.folder)

    def history(self) -> list[dict[str, Any]]:
        """Return one row per training step, with step, epoch, learning_rate and train_loss."""
        return [] if self.folder is None else json.loads((self.folder / "history.json").read_text())

    def _trained(self, subset: Tensor, seed: int) -> Path:
        task, name = self.task, f"{self.task.pool.name}-{self.task.tuned.llm.name}-{self.settings.name}"
        work = task.store.place("training", name, self.key)

        def make(folder: Path) -> dict[str, Any]:
            model, outcome = fine_tune(
                task.tuned.llm.load(task.device, self.key["dtype"]),
                SftJob(task.tuned, subset, self.settings, seed),
                self.key["dtype"],
                task.processes,
                Checkpoint(work, self.key),
            )
            save_adapter(model, folder)
            (folder / "history.json").write_text(json.dumps(outcome.history))
            return {field.name: getattr(outcome, field.name) for field in fields(SftResult) if field.name != "history"}

        folder = task.entry("adapters", name, self.key, make)
        if task.processes.is_main:
            forget(work)
        return folder


def answer(tuned: Tuned, settings: EvaluationSettings, part: str) -> list[Evaluation]:
    """Return the evaluation for each number of shots. Evaluations are read from the store, or made and stored.

    part: "test", or "validation", which uses the first number of shots only.
    """
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
            task.processes.wait()  # Only one process evaluates, and all processes read its outcome.
        found.append(Evaluation(**json.loads((entry / "evaluation.json").read_text())))
    return found


def held_out_losses(tuned: Tuned, max_tokens: int) -> tuple[float, float] | None:
    """Return the mean loss per response token on the held-out samples before and after fine-tuning, in nats.

    It is None if no samples are held out. max_tokens: tokens per forward pass, with padding.
    """
    task = tuned.task
    if task.held_out is None:
        return None
    key = {"model": tuned.key, "held_out": task.held_out.fingerprint}

    def make(folder: Path) -> dict[str, Any]:
        def loss() -> float:
            return held_out_loss(tuned.model, task.held_out, task.tuned.pad_id, max_tokens, task.device)

        after = loss()
        with tuned.model.disable_adapter() if tuned.folder else nullcontext():
            before = loss()
        return {"before": before, "after": after}

    meta = read_meta(task.store.entry("held_out", f"{task.pool.name}-{task.tuned.llm.name}", key, make))
    return meta["before"], meta["after"]
