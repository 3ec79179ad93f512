"""The signals of text: response losses of the model and of its masked copies, and pooled hidden states.

Shapes: N samples, T networks, E checkpoints, Q queries.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.encoding import Encoded
from prunetune.instruct.model.batches import Batch, Part, Tokens, bucketed, collate
from prunetune.instruct.model.forward import mean_losses, pooled_states
from prunetune.instruct.model.language_model import LanguageModel, TinyLanguageModel
from prunetune.instruct.model.passes import fill_pass, run_pass
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.model.weight_masking import TextMaskPath, check_path, dropout_key, masked, with_dropout
from prunetune.instruct.scorers.answers import alone, in_context

log = logging.getLogger(__name__)
Forward = Callable[[nn.Module, Batch], Tensor]  # -> [B, W]
Altered = Callable[[nn.Module], AbstractContextManager[nn.Module]]


class Trajectory(Protocol):
    """A small fine-tuning that records losses. key(): all that they depend on but corpus and model, as plain JSON."""

    def __call__(self) -> tuple[Tensor, float]:
        """Return response losses [E, N], one row per checkpoint, in pool order, and the seconds that they took."""
        ...

    def key(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Level:
    """One network of a path: how it is made from the language model, and the key of its results."""

    key: dict[str, Any] = field(default_factory=dict)
    alter: Altered = nullcontext

    @classmethod
    def of_path(cls, path: TextMaskPath, level: int) -> "Level":
        """Return the network of one level of a masking path. Levels count from 0."""
        return cls(path.key(level), lambda model: masked(model, path, level))

    @classmethod
    def of_dropout(cls, rate: float, seed: int) -> "Level":
        """Return the network without this fraction of its units."""
        return cls(dropout_key(rate, seed), lambda model: with_dropout(model, rate, seed))


@dataclass(frozen=True, eq=False)
class RemotePass:
    """One pass that other processes compute.

    name: of the pass. llm, device, dtype: the model and how it is loaded. level: the network. forward: what is computed
    of a batch.
    """

    name: str
    llm: LanguageModel | TinyLanguageModel
    device: str
    dtype: str
    level: Level
    forward: Forward

    def values(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outcome for a batch, [B, W] float64 CPU. model: that of the level."""
        own = batch.to(self.device)
        return _fitting(lambda: self.forward(model, own), own).double().cpu()


class RemoteBatches(Protocol):
    """Other processes, each with a copy of the language model. They run batches of the same samples as this process."""

    def size(self, work: RemotePass) -> int:
        """Return how many processes there are."""
        ...

    def compute(
        self, work: RemotePass, batches: Iterator[tuple[int, Batch]], total: int
    ) -> Iterator[tuple[int, Tensor, float]]:
        """Yield the index, values [B, W] float64 and seconds of each batch, in any order.

        Args:
            work: what is computed.
            batches: with their indices; the longest samples come first.
            total: the samples of all batches.

        Raises:
            InputError: the model cannot be loaded there, or the processes fail.
        """
        ...


class TextSignals:
    """The signals of a corpus under a language model. A signal is computed when a scorer asks for it.

    products: tensors that a scorer wants to keep beside its scores. charges: seconds of every pass, with those that an
    earlier, killed process has spent. found_seconds: only the latter. tokens: number of tokens that each pass has read,
    without padding.
    """

    def __init__(
        self,
        reader: Reader,
        dtype: str,
        processes: Processes,
        folder: Path,
        max_tokens: int = 16384,
        trajectory: Trajectory | None = None,
        remote: RemoteBatches | None = None,
    ) -> None:
        """Keep the corpus and the model. The model is not loaded yet.

        Args:
            reader: N samples and the scoring model.
            dtype: the type of the model's weights, bf16 or fp32.
            processes: the processes that share the passes, each on its device.
            folder: the folder for unfinished passes.
            max_tokens: tokens per batch, with padding.
            trajectory: returns the losses of a small fine-tuning. None if there is none.
            remote: other processes that compute the passes. None if these processes do.
        """
        self.reader, self.dtype, self.processes, self.folder = reader, dtype, processes, folder
        self.max_tokens, self.trajectory, self.remote = max_tokens, trajectory, remote
        self.products: dict[str, Tensor] = {}
        self.charges: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.found_seconds = 0.0
        self._shared = _SharedModel(reader.llm, processes.device, dtype)

    def for_score(self, folder: Path) -> "TextSignals":
        """Return signals of the same corpus and the same loaded model with separate passes and charges."""
        given = (self.max_tokens, self.trajectory, self.remote)
        own = TextSignals(self.reader, self.dtype, self.processes, folder, *given)
        own._shared = self._shared
        return own

    @property
    def encoded(self) -> Encoded:
        """The N samples as tokens."""
        return self.reader.encoded

    @property
    def llm(self) -> LanguageModel | TinyLanguageModel:
        """The description of the language model, which is not loaded."""
        return self.reader.llm

    @property
    def title(self) -> str:
        """The name of the language model in messages."""
        return getattr(self.llm, "model", None) or self.llm.name

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the language model."""
        return self.reader.tokenizer

    @property
    def device(self) -> str:
        """The device of this process."""
        return self.processes.device

    @property
    def pool(self) -> Pool:
        """The N samples."""
        return self.encoded.pool

    @property
    def rows(self) -> tuple[int, ...] | None:
        """[N] the number of each sample in the user's file, from 0; None if the samples come from no file."""
        return self.encoded.rows

    @property
    def model(self) -> nn.Module:
        """The language model. It is loaded at the first use."""
        return self._shared.model

    @property
    def skeleton(self) -> nn.Module:
        """The language model without the values of its weights, to look at its layers."""
        return self._shared.skeleton

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what every result depends on: the language model and the type of its weights."""
        return {"llm": self.llm.identity(), "dtype": self.dtype}

    def key(self) -> dict[str, Any]:
        """Return all but the scorer that scores depend on: corpus, model, type of weights, what changes rounding."""
        rounding = {"max_tokens": self.max_tokens, "device": self.device.split(":")[0]}
        return {"corpus": self.encoded.fingerprint, **self.identity, **rounding}

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second, without padding, of all passes so far in all processes. None before the first pass."""
        seconds = sum(self.charges[name] for name in self.tokens)
        return sum(self.tokens.values()) / seconds if seconds else None

    def keep(self, name: str, tensor: Tensor) -> None:
        """Store a tensor as <name>.npy beside the scores."""
        self.products[name] = tensor

    def release(self) -> None:
        """Free the memory of the model. The model is loaded again if a pass needs it."""
        self._shared.release()

    def response_losses(self, name: str = "losses", level: Level | None = None, part: Part | None = None) -> Tensor:
        """Return each sample's mean loss over its response tokens, [N] float64 nats.

        Args:
            name: the name of the pass in the log.
            level: the network. The default is the unchanged language model.
            part: other tokens of the samples. The default is all tokens of each sample.

        Raises:
            InputError: a sample has no response tokens.
        """
        tokens, level = part or self.encoded, level or Level()
        _check_responses(tokens, self.pool)

        def compute(model: nn.Module, batch: Batch) -> Tensor:
            return mean_losses(model, batch).unsqueeze(1)

        return self._pass(name, {"of": "losses"}, tokens, level, compute)[:, 0]

    def masked_losses(self, path: TextMaskPath) -> Tensor:
        """Return the response losses of each network of a masking path, [T, N] float64.

        Levels with the same network, as on the released path, share one pass.

        Raises:
            InputError: the model is quantised, has too few weights that can be masked, or is so small that two networks
                would be equal.
        """
        if self.llm.quantization != "none":
            raise InputError(f"weights stored in {self.llm.quantization} cannot be masked; pass llm.quantization=none")
        check_path(self.model if self.remote is None else self.skeleton, path)  # Only sizes are read.
        networks = dict.fromkeys(map(path.network, range(path.levels)))
        losses = {level: self.response_losses(f"level{level}", Level.of_path(path, level)) for level in networks}
        return torch.stack([losses[path.network(level)] for level in range(path.levels)])

    def dropout_losses(self, rates: Sequence[float], seed: int) -> Tensor:
        """Return the response losses of networks without a fraction of their units, [len(rates), N] float64."""
        return torch.stack([self.response_losses(f"dropout{rate:g}", Level.of_dropout(rate, seed)) for rate in rates])

    def token_losses(self) -> Tensor:
        """Return each sample's mean loss over prompt and response without the first token, [N] float64 nats."""
        every = tuple(torch.arange(len(ids)) > 0 for ids in self.encoded.ids)
        return self.response_losses("token_losses", part=Part(tuple(self.encoded.ids), every))

    def answer_losses(self, with_end: bool) -> Tensor:
        """Return each sample's mean loss over its answers, with all that precedes them, [N] float64 nats.

        with_end: whether the tokens that end an answer count too.
        """
        return self.response_losses("prompted", part=in_context(self.encoded, with_end))

    def direct_losses(self, with_heading: bool, with_end: bool) -> Tensor:
        """Return each sample's mean loss over its answers without what precedes them, [N] float64 nats.

        The same tokens count as in `answer_losses`. Each answer of a chat is a text of its own.

        Args:
            with_heading: whether an answer follows its heading, such as "### Response:".
            with_end: whether the tokens that end an answer count too.

        Raises:
            InputError: the tokenizer has neither BOS nor EOS to begin an answer without heading with.
        """
        answers = alone(self.encoded, self.tokenizer, with_heading, with_end)
        return answers.means(self.response_losses("direct", part=answers.part), len(self.encoded))

    def query_states(self, queries: Encoded) -> Tensor:
        """Return the pooled hidden states of Q queries, [Q, D] float32, at unit length."""
        key = {"of": "states", "queries": queries.fingerprint}
        return self._pass("queries", key, queries, Level(), pooled_states).float()

    def states(self) -> Tensor:
        """Return the pooled hidden states of the samples, [N, D] float32, at unit length."""
        return self._pass("states", {"of": "states"}, self.encoded, Level(), pooled_states).float()

    def similarities(self, queries: Encoded, tasks: Sequence[str]) -> Tensor:
        """Return each sample's largest cosine similarity to the queries of each task, [N, len(tasks)] float64.

        Args:
            queries: Q samples. Their sources are the names of their tasks.
            tasks: the names of the tasks, in the order of the columns.
        """
        states = self.query_states(queries)  # [Q, D]
        columns = [torch.tensor([source == task for source in queries.sources]) for task in tasks]

        def compute(model: nn.Module, batch: Batch) -> Tensor:
            cosines = pooled_states(model, batch) @ states.to(batch.input_ids.device).T  # [B, Q]
            return torch.stack([cosines[:, column.to(cosines.device)].max(dim=1).values for column in columns], dim=1)

        key = {"of": "similarities", "queries": queries.fingerprint, "sources": list(queries.sources)}
        return self._pass("similarities", {**key, "tasks": list(tasks)}, self.encoded, Level(), compute)

    def trajectories(self) -> Tensor:
        """Return the response losses at the checkpoints of a small fine-tuning, [E, N] float64.

        Raises:
            InputError: these signals were made without a trajectory.
        """
        if self.trajectory is None:
            raise InputError("s2l reads the losses of a small fine-tuning, which is missing; pass trajectory")
        start = time.perf_counter()
        losses, seconds = self.trajectory()
        self.charges["trajectory"] = seconds
        # An earlier process may have recorded the losses. The difference is the time that it spent.
        self.found_seconds += max(0.0, seconds - (time.perf_counter() - start))
        return losses.double()

    def _pass(self, name: str, key: dict[str, Any], tokens: Tokens, level: Level, forward: Forward) -> Tensor:
        """Return the outcome of `forward` for every sample, [len(tokens), W] float64. Batches on disk are reused."""
        lengths = torch.tensor([len(ids) for ids in tokens.ids])
        num_tokens = int(lengths.sum())
        pad_id, buckets = self.reader.pad_id, bucketed(lengths, self.max_tokens)
        work = RemotePass(name, self.llm, self.device, self.dtype, level, forward)
        key = {**self.key(), **key, "pass": name, "network": level.key}

        def compute(model: nn.Module, rows: Tensor) -> Tensor:
            return work.values(model, collate(tokens, rows, pad_id))

        @contextmanager
        def network() -> Any:
            with level.alter(self.model) as model:
                yield model

        size, new_seconds = self.processes.size, 0.0
        if self.remote is not None:
            remote, size = self.remote, self.remote.size(work)

            def computed(indices: Sequence[int]) -> Iterator[tuple[int, Tensor, float]]:
                batches = ((index, collate(tokens, buckets[index], pad_id)) for index in indices)
                return remote.compute(work, batches, sum(len(buckets[index]) for index in indices))

            new_seconds = fill_pass(self.folder, name, key, buckets, computed)
        outcome = run_pass(self.folder, name, key, buckets, network, compute, self.processes)
        if not outcome.values.isfinite().all():  # A ranking would hide such values.
            bad = int((~outcome.values.isfinite()).any(dim=1).sum())
            raise InputError(
                f"{name}: the language model gives values that are not finite for {bad} of {len(lengths)} samples; "
                "check its weights or pass llm.dtype=fp32"
            )
        self.charges[name] = outcome.seconds / size
        self.found_seconds += outcome.found_seconds - new_seconds
        self.tokens[name] = num_tokens
        log.info("%s: %d samples, %.0f tokens a second", name, len(lengths), num_tokens / self.charges[name])
        return outcome.values


class _SharedModel:
    """The model that several signals share, so that it is loaded once."""

    def __init__(self, llm: LanguageModel | TinyLanguageModel, device: str, dtype: str) -> None:
        self._llm, self._device, self._dtype = llm, device, dtype
        self._model: nn.Module | None = None

    @cached_property
    def skeleton(self) -> nn.Module:
        return self._llm.skeleton()

    @property
    def model(self) -> nn.Module:
        if self._model is None:
            self._model = self._llm.load(self._device, self._dtype)
        return self._model

    def release(self) -> None:
        self._model = None
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()


def _check_responses(tokens: Tokens, pool: Pool) -> None:
    empty = [row for row, marks in enumerate(tokens.responses) if not marks[1:].any()]
    if empty:
        raise InputError(
            f"{len(empty)} samples have no response tokens to predict, first {pool.sample_ids[empty[0]]}; remove them"
        )


def _fitting(forward: Callable[[], Tensor], batch: Batch) -> Tensor:
    try:
        return forward()
    except torch.OutOfMemoryError:
        rows, length = batch.input_ids.shape
        raise InputError(
            f"the device has too little memory for a batch of {rows} samples of {length} tokens; lower max_tokens, or "
            "corpus.max_length if it is a single sample"
        ) from None
