"""The losses of every sample during a fine-tuning on the whole corpus. S2L clusters them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.store import Store, read_meta
from prunetune.instruct.model.batches import bucketed, collate
from prunetune.instruct.model.forward import mean_losses
from prunetune.instruct.model.passes import Pass, run_pass
from prunetune.instruct.model.processes import Processes, shared_entry
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.tuning.sft import SftJob, fine_tune
from prunetune.instruct.tuning.sft_checkpoint import Checkpoint
from prunetune.instruct.tuning.sft_settings import SftSettings, needed_steps

SEED = 0  # The recorded training has this seed for all seeds of runs, so that they share one score.


@dataclass(frozen=True)
class FineTuningTrajectory:
    """A fine-tuning of the scoring model on all N samples with the recipe of the run. It is trained when called.

    Source: S2L (arXiv 2403.07384), which records a smaller model of the same family; pass `llm@scoring_llm=<name>` to
    do so. The recipe is our choice; S2L also uses the recipe of its target model.

    reader: the N samples and the scoring model. checkpoints: E, evenly spaced over the training, without its start.
    dtype: the type of the model's weights, bf16 or fp32. max_tokens: tokens per forward pass for losses, with padding.
    store: keeps the training's checkpoint and the losses until they are complete, so that a killed training can
    continue.
    """

    reader: Reader
    settings: SftSettings
    checkpoints: int
    dtype: str
    max_tokens: int
    store: Store
    processes: Processes

    def key(self) -> dict[str, Any]:
        """Return all but corpus and model that the losses depend on."""
        recipe = {key: value for key, value in asdict(self.settings).items() if key not in ("name", "checkpoint_every")}
        return {"sft": recipe, "checkpoints": self.checkpoints, "seed": SEED}

    @property
    def _name(self) -> str:
        return f"{self.reader.encoded.pool.name}-{self.reader.llm.name}-trajectory"

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            **self.key(),
            "llm": self.reader.llm.identity(),
            "dtype": self.dtype,
            "corpus": self.reader.encoded.fingerprint,
        }

    @property
    def _work(self) -> Path:
        return self.store.place("training", self._name, self._identity)

    def steps(self) -> list[int]:
        """Return the steps after which losses are recorded, ascending.

        Raises:
            InputError: the training has fewer steps than checkpoints.
        """
        total = needed_steps(self.settings, len(self.reader.encoded))
        if not 1 <= self.checkpoints <= total:
            raise InputError(
                f"trajectory.checkpoints must be between 1 and the {total} steps that sft={self.settings.name} takes "
                f"on {len(self.reader.encoded)} samples, got {self.checkpoints}"
            )
        return [total * (index + 1) // self.checkpoints for index in range(self.checkpoints)]

    def __call__(self) -> tuple[Tensor, float]:
        """Return mean response losses [E, N] float64 in nats, in pool order, and the seconds that they took."""
        self.steps()  # This call raises an InputError if the training is too short, before anything is read.

        def make(folder: Path) -> dict[str, Any]:
            losses, seconds = self._recorded()
            np.save(folder / "losses.npy", losses.numpy())
            return {"seconds": seconds}

        place = shared_entry(self.store, self.processes, "trajectories", self._name, self._identity, make)
        self.processes.wait()  # Only the first process writes.
        if self.processes.is_main:
            shutil.rmtree(self._work, ignore_errors=True)
        return torch.from_numpy(np.load(place / "losses.npy")), read_meta(place)["seconds"]

    def _recorded(self) -> tuple[Tensor, float]:
        steps = self.steps()

        def observe(step: int, model: nn.Module) -> None:
            if step in steps:
                was_training = model.training
                self._losses(step, model.eval())
                model.train(was_training)

        _, outcome = fine_tune(
            self.reader.llm.load(self.processes.device, self.dtype),
            SftJob(self.reader, torch.arange(len(self.reader.encoded)), self.settings, SEED),
            self.dtype,
            self.processes,
            Checkpoint(self._work, {"llm": self.reader.llm.identity()}),
            observe,
        )
        passes = [self._losses(step, None) for step in steps]
        seconds = outcome.seconds + sum(one.seconds for one in passes) / self.processes.size
        return torch.stack([one.values[:, 0] for one in passes]), seconds

    def _losses(self, step: int, model: nn.Module | None) -> Pass:
        """Return the losses after a step, with values [N, 1] float64. Missing ones are computed with this model."""

        def compute(network: nn.Module, rows: Tensor) -> Tensor:
            return mean_losses(
                network, collate(self.reader.encoded, rows, self.reader.pad_id).to(self.processes.device)
            )[:, None]

        @contextmanager
        def network() -> Iterator[nn.Module]:
            yield _gone(step) if model is None else model

        key = {**self._identity, "step": step}
        buckets = bucketed(self.reader.encoded.lengths, self.max_tokens)
        return run_pass(self._work, f"step{step}", key, buckets, network, compute, self.processes)


def _gone(step: int) -> NoReturn:
    raise InputError(f"losses recorded after step {step} are missing in the store; delete store/training and run again")
