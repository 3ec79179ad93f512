"""Supervised fine-tuning of a language model's LoRA adapter on the kept samples.

Letters: N samples in the corpus, M kept, B in a batch, L tokens of its longest one. A training is repeatable: the
adapter's start follows from the seed, the order of the samples from (seed, epoch) and the dropout from (seed, step),
so that one that was stopped goes on at its checkpoint as if nothing had happened, with as many processes.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.base.devices import autocast
from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.base.seeding import derive_seed, seeded, stream
from prunetune.instruct.corpus.encoding import Encoded
from prunetune.instruct.model.batches import Batch, bucketed, collate
from prunetune.instruct.model.forward import mean_losses
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.tuning import sft_checkpoint
from prunetune.instruct.tuning.adapter import attach, trainable
from prunetune.instruct.tuning.sft_checkpoint import Checkpoint, Position
from prunetune.instruct.tuning.sft_settings import SftSettings, needed_steps

log = logging.getLogger(__name__)
Observe = Callable[[int, nn.Module], None]


@dataclass(frozen=True)
class SftResult:
    """What a training says of itself.

    history: a dict for each optimiser step with step and epoch (counted from 1), learning_rate and train_loss (nats per
    counted token of the step's samples, before the step). seconds: of the steps, over all interrupted parts.
    tokens_per_second: real tokens, padding apart. num_trainable: numbers in the adapter.
    """

    history: list[dict[str, float]]
    seconds: float
    tokens_per_second: float
    steps: int
    num_trainable: int


@dataclass(frozen=True)
class SftJob:
    """What is trained on, and how.

    reader: the N samples of the corpus; its model is not used. subset: [M] int64 positions that are trained on; their
    order does not matter. settings: epochs, batches, optimiser and adapter. seed: of the adapter's start, the order and
    the dropout.
    """

    reader: Reader
    subset: Tensor
    settings: SftSettings
    seed: int


def fine_tune(
    model: nn.Module,
    job: SftJob,
    dtype: str,
    processes: Processes,
    checkpoint: Checkpoint | None = None,
    observe: Observe | None = None,
) -> tuple[nn.Module, SftResult]:
    """Train a new LoRA adapter on a subset and return the base model with it, in evaluation mode.

    The loss of a step is the mean over all counted tokens of its samples, however they are cut into micro-batches or
    shared by processes (on several GPUs this is not measured; the gradients are summed over the processes). The base
    model's weights stay as they are: `adapter.detach` gives it back. With no epoch it is returned without adapter.

    Source: docs/method_notes.md, Instruction data. The schedule's values are transformers', AdamW's other settings
    torch's.

    Args:
        model: frozen base model on the device of this process.
        job: samples, settings and seed.
        dtype: fp32 or bf16 (autocast); the adapter is float32 in both.
        processes: those that share the training, each with a copy of the model.
        checkpoint: where it is kept, and a key that names the base weights; one of another key, subset or setting is
            not used. None for none. The caller deletes it with `sft_checkpoint.forget`.
        observe: is called with the number of steps taken and the model: at the start, and after each step before its
            checkpoint is kept. What it draws or how it sets the model's mode does not change the training.

    Raises:
        InputError: nothing to train on, a loss that is not finite, too little memory, or a checkpoint's full disk.
    """
    if len(job.subset) == 0:
        raise InputError("fine-tuning needs at least one sample, and the subset is empty; raise the ratio")
    if job.settings.epochs == 0:
        if observe is not None:
            observe(0, model)
        return model.eval(), SftResult([], 0.0, 0.0, 0, 0)
    model = attach(model, job.settings, job.seed)
    training = _Training(model, job, dtype, processes)
    if checkpoint is not None:
        checkpoint = replace(checkpoint, key={**checkpoint.key, "training": training.key()})
    position = training.run(checkpoint, observe)
    speed = position.tokens / position.seconds if position.seconds else 0.0
    num_trainable = sum(tensor.numel() for tensor in trainable(model).values())
    return model.eval(), SftResult(position.history, position.seconds, speed, position.step, num_trainable)


@torch.inference_mode()
def held_out_loss(model: nn.Module, encoded: Encoded, pad_id: int, max_tokens: int, device: str) -> float:
    """Return the mean loss of all response tokens of all samples, in nats per token; its exponential is a perplexity.

    Long responses weigh more than short ones. The model is left in evaluation mode.

    Args:
        model: on the device.
        encoded: N samples, none of which was trained on.
        pad_id: fills the rows of a batch; never counted.
        max_tokens: of a forward pass, padding included.
        device: cpu, cuda or cuda:<n>.
    """
    model.eval()
    total = 0.0
    for rows in bucketed(encoded.lengths, max_tokens):
        means = mean_losses(model, collate(encoded, rows, pad_id).to(device))
        total += (means * encoded.response_lengths[rows]).sum().item()
    return total / int(encoded.response_lengths.sum())


def summed_loss(model: nn.Module, batch: Batch, loss_on: str) -> Tensor:
    """Return the sum of the token losses of a batch in nats, a float32 scalar with its gradient.

    Args:
        model: causal language model on the batch's device.
        batch: B samples.
        loss_on: response, or all: every real token but the first, which nothing predicts.
    """
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]  # [B, L - 1, V]
    counted = batch.responses if loss_on == "response" else batch.attention_mask.bool()
    counted = counted[:, 1:]
    # only the counted rows become float32: with a vocabulary of 256,000 the whole would not fit
    return nn.functional.cross_entropy(logits[counted].float(), batch.input_ids[:, 1:][counted], reduction="sum")


class _Training:
    """One training: what its steps share."""

    def __init__(self, model: nn.Module, job: SftJob, dtype: str, processes: Processes) -> None:
        self.model, self.settings, self.seed, self.dtype = model, job.settings, job.seed, dtype
        self.encoded, self.pad_id = job.reader.encoded, job.reader.pad_id
        self.subset = job.subset.sort().values
        self.processes, self.device = processes, processes.device
        self.num_steps = needed_steps(job.settings, len(job.subset))
        self.parameters = list(trainable(model).values())
        self.optimizer = _optimizer(self.parameters, job.settings)

    def key(self) -> dict[str, Any]:
        """Return what the outcome depends on apart from the base weights, as JSON."""
        settings = asdict(self.settings)
        for unimportant in ("name", "checkpoint_every"):
            del settings[unimportant]
        return {
            "settings": settings,
            "subset": self.subset.tolist(),
            "samples": self.encoded.fingerprint,
            "seed": self.seed,
            "dtype": self.dtype,
            "processes": self.processes.size,  # each draws its own dropout
        }

    def run(self, checkpoint: Checkpoint | None, observe: Observe | None) -> Position:
        """Take the steps that are still to be taken and return where the training ends."""
        position = self._start(checkpoint)
        if position.step == 0 and observe is not None:
            observe(0, self.model)
        rest = range(position.step, self.num_steps)
        for step in track(rest, f"fine-tuning on {len(self.subset)} samples", len(rest)):
            self._take(step, position)
            if observe is not None:
                observe(position.step, self.model)
            is_due = position.step % self.settings.checkpoint_every == 0 or position.step == self.num_steps
            if checkpoint is not None and is_due and self.processes.is_main:
                sft_checkpoint.save(checkpoint, self.model, self.optimizer, position)
        return position

    def _start(self, checkpoint: Checkpoint | None) -> Position:
        if self.num_steps <= self.settings.warmup_steps:
            log.warning(
                "the training has %d steps, no more than its %d warm-up steps: its learning rate stays below %g",
                self.num_steps,
                self.settings.warmup_steps,
                self.settings.learning_rate,
            )
        position = None if checkpoint is None else sft_checkpoint.restore(checkpoint, self.model, self.optimizer)
        position = position or Position()
        everywhere = self._sum(torch.tensor(float(position.step), device=self.device)).item()
        if everywhere != position.step * self.processes.size:
            where = "" if checkpoint is None else f" in {checkpoint.folder}"
            raise InputError(f"the processes do not see the same checkpoint{where}; use a folder that all share")
        if position.step:
            log.info("fine-tuning goes on after step %d of %d", position.step, self.num_steps)
        return position

    def _take(self, step: int, position: Position) -> None:
        """Take a step, counted from 0, and move the position on."""
        start = time.perf_counter()
        epoch, rows = self._rows(step)
        rate = self.settings.rate(step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._gradient(step, rows)
        if not torch.isfinite(torch.tensor(loss)):
            raise InputError(
                f"the training loss is {loss} in step {step + 1}; lower sft.learning_rate "
                f"(now {self.settings.learning_rate:g}) or check the weights"
            )
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimizer.step()
        position.step = step + 1
        position.seconds += time.perf_counter() - start
        position.tokens += int(self.encoded.lengths[rows].sum())
        row = {"step": step + 1, "epoch": epoch + 1, "learning_rate": rate, "train_loss": loss}
        position.history.append(row)

    def _rows(self, step: int) -> tuple[int, Tensor]:
        """Return the epoch, counted from 0, and the positions of a step's samples."""
        epoch, index = divmod(step, self.num_steps // self.settings.epochs)
        order = torch.randperm(len(self.subset), generator=stream("sft", "order", self.seed, epoch))
        size = self.settings.batch_size
        return epoch, self.subset[order[index * size : (index + 1) * size]]

    def _gradient(self, step: int, rows: Tensor) -> float:
        """Set the gradient of the mean loss of all counted tokens of these samples, and return that loss."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=False)
        own = rows[list(self.processes.share(len(rows)))]
        num_counted = self._num_counted(rows)
        total = torch.zeros((), device=self.device)
        with self._dropout(step):
            for part in bucketed(self.encoded.lengths[own], self.settings.micro_batch_tokens):
                total += self._backward(own[part], num_counted)
        self._sum_gradients()
        return self._sum(total).item()

    def _backward(self, rows: Tensor, num_counted: int) -> Tensor:
        batch = collate(self.encoded, rows, self.pad_id).to(self.device)
        try:
            with autocast(self.dtype, torch.device(self.device).type):
                loss = summed_loss(self.model, batch, self.settings.loss_on) / num_counted
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"the device's memory does not hold a micro-batch of {tuple(batch.input_ids.shape)} tokens; lower "
                f"sft.micro_batch_tokens (now {self.settings.micro_batch_tokens}) or pass "
                "llm.gradient_checkpointing=true"
            ) from error
        return loss.detach()

    def _num_counted(self, rows: Tensor) -> int:
        if self.settings.loss_on == "response":
            return int(self.encoded.response_lengths[rows].sum())
        return int((self.encoded.lengths[rows] - 1).sum())

    @contextmanager
    def _dropout(self, step: int) -> Iterator[None]:
        """Draw a step's dropout from streams of its own, on the CPU and on this process's GPU."""
        name = ("sft", "dropout", self.seed, step, self.processes.rank)
        device = torch.device(self.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), seeded(*name):
            if device.type == "cuda":
                index = torch.cuda.current_device() if device.index is None else device.index
                torch.cuda.default_generators[index].manual_seed(derive_seed(*name))
            yield

    def _sum(self, tensor: Tensor) -> Tensor:
        if self.processes.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def _sum_gradients(self) -> None:
        if self.processes.size < 2:
            return
        for parameter in self.parameters:  # a process without a sample in a short last batch has none
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self._sum(torch.cat([parameter.grad.flatten() for parameter in self.parameters]))
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad.copy_(part.view_as(parameter))


def _optimizer(parameters: list[nn.Parameter], settings: SftSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
