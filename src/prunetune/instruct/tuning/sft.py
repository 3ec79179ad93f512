"""Supervised fine-tuning of a language model's LoRA adapter on the kept samples.

Shapes: N samples in the corpus, M kept, B in a batch, L tokens of the longest of these. A training is repeatable: the
initial adapter depends on the seed, the order of samples on (seed, epoch) and the dropout on (seed, step). So an
interrupted training continues from its checkpoint with the same result, if it has the same number of processes.
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
    """The record of a training.

    history: a dict per optimiser step with step and epoch (both from 1), learning_rate and train_loss (nats per counted
    token of the step's samples, before the step). seconds: time of all steps, also of those before an interruption.
    tokens_per_second: without padding. num_trainable: number of trained weights.
    """

    history: list[dict[str, float]]
    seconds: float
    tokens_per_second: float
    steps: int
    num_trainable: int


@dataclass(frozen=True)
class SftJob:
    """A training: its samples and settings.

    reader: the N samples of the corpus; its model is not used. subset: [M] int64 positions to train on; their order
    does not matter. settings: epochs, batches, optimiser and adapter. seed: determines the initial adapter, the order
    of samples and the dropout.
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

    The loss of a step is the mean over all counted tokens of its samples. It does not depend on how these are split
    into micro-batches or processes: gradients are summed over the processes. (It was not measured on several GPUs.) The
    weights of the base model do not change, and `adapter.detach` returns the base model. With epochs=0 it is returned
    without an adapter.

    Source: docs/method_notes.md, Instruction data. The learning rates are those of transformers, and the other settings
    of AdamW are the defaults of torch.

    Args:
        model: frozen base model on the device of this process.
        job: samples, settings and seed.
        dtype: fp32 or bf16 (autocast); the adapter is float32 in both.
        processes: the processes that share the training, each with a copy of the model.
        checkpoint: the place of the checkpoint, and a key that identifies the base weights. A checkpoint with another
            key, subset or setting is not used. None writes no checkpoint. The caller deletes it with
            `sft_checkpoint.forget`.
        observe: is called with the number of steps taken and the model, at the start and after each step, before the
            checkpoint is saved. It may use random numbers or change the mode of the model without any effect on the
            training.

    Raises:
        InputError: there is nothing to train on, the loss is not finite, memory is too small, or the disk is full.
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
    """Return the mean loss over all response tokens of all samples in nats. Its exponential is a perplexity.

    Long responses count more than short ones. The model is left in evaluation mode.

    Args:
        model: a causal language model on the device.
        encoded: N samples that were not trained on.
        pad_id: the id of the padding token.
        max_tokens: tokens per forward pass, with padding.
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
        loss_on: "response", or "all" for every token but padding and the first one, which is not predicted.
    """
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]  # [B, L - 1, V]
    counted = batch.responses if loss_on == "response" else batch.attention_mask.bool()
    counted = counted[:, 1:]
    # Convert only the counted rows to float32. With a vocabulary of 256,000 all rows would not fit into memory.
    return nn.functional.cross_entropy(logits[counted].float(), batch.input_ids[:, 1:][counted], reduction="sum")


class _Training:
    """The state that the steps of one training share."""

    def __init__(self, model: nn.Module, job: SftJob, dtype: str, processes: Processes) -> None:
        self.model, self.settings, self.seed, self.dtype = model, job.settings, job.seed, dtype
        self.encoded, self.pad_id = job.reader.encoded, job.reader.pad_id
        self.subset = job.subset.sort().values
        self.processes, self.device = processes, processes.device
        self.num_steps = needed_steps(job.settings, len(job.subset))
        self.parameters = list(trainable(model).values())
        self.optimizer = _optimizer(self.parameters, job.settings)

    def key(self) -> dict[str, Any]:
        """Return all but the base weights that the outcome depends on, as JSON."""
        settings = asdict(self.settings)
        for unimportant in ("name", "checkpoint_every"):
            del settings[unimportant]
        return {
            "settings": settings,
            "subset": self.subset.tolist(),
            "samples": self.encoded.fingerprint,
            "seed": self.seed,
            "dtype": self.dtype,
            "processes": self.processes.size,  # Each process draws its own dropout.
        }

    def run(self, checkpoint: Checkpoint | None, observe: Observe | None) -> Position:
        """Take the remaining steps, and return the final position."""
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
                "the training ends after %d steps, within its %d warm-up steps, so its learning rate stays below %g",
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
            log.info("fine-tuning continues after step %d of %d", position.step, self.num_steps)
        return position

    def _take(self, step: int, position: Position) -> None:
        """Take one step, counted from 0, and advance the position."""
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
        """Set the gradient of the mean loss over all counted tokens of these samples, and return this loss."""
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
                f"the device has too little memory for a micro-batch of {tuple(batch.input_ids.shape)} tokens; lower "
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
        """Use separate random streams for the dropout of a step, on the CPU and on the GPU of this process."""
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
        # A process without a sample in a short last batch has no gradient.
        for parameter in self.parameters:
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
