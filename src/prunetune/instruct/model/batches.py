"""Batches of samples of similar length. Shapes: N samples, B samples in a batch, L tokens of the longest of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prunetune.base import checks


class Tokens(Protocol):
    """Token ids of N samples, [L_i] int32 each, and whether they are response tokens, [L_i] bool; see `Encoded`."""

    @property
    def ids(self) -> Sequence[Tensor]: ...

    @property
    def responses(self) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Part:
    """Other tokens than those of the corpus, for N samples. ids: [L_i] int32 each. responses: [L_i] bool each."""

    ids: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]


@dataclass(frozen=True)
class Batch:
    """B samples padded on the right.

    rows: [B] int64, the positions of the samples. input_ids: [B, L] int64. attention_mask: [B, L] int64, 1 for a real
    token. responses: [B, L] bool, True for a response token; False for padding and for the first token.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    responses: Tensor

    @property
    def num_tokens(self) -> int:
        """The number of tokens without padding."""
        return int(self.attention_mask.sum())

    def to(self, device: str) -> "Batch":
        """Return the batch on a device. `rows` stays on the CPU."""
        parts = (self.input_ids, self.attention_mask, self.responses)
        return Batch(self.rows, *(part.to(device, non_blocking=True) for part in parts))


def bucketed(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Return the positions of each batch. Samples of similar length share a batch, and the longest come first.

    If `max_tokens` is too large for the memory, the first batch already fails. The batches depend only on the lengths,
    so that a continued pass has the same batches.

    Args:
        lengths: [N] int64 tokens. Samples of equal length keep the order of the pool.
        max_tokens: largest number of tokens of a batch, with padding. A longer sample is a batch by itself.

    Returns:
        Tensors of int64 positions. Each position is in exactly one of them.

    Raises:
        InputError: max_tokens is not a whole number of at least 1.
    """
    checks.whole_number("max_tokens", max_tokens, what="the size of a batch")
    order = lengths.argsort(descending=True, stable=True)
    ordered = lengths[order].tolist()
    batches, start = [], 0
    while start < len(ordered):
        size = max(1, max_tokens // max(1, ordered[start]))
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(encoded: Tokens, rows: Tensor, pad_id: int) -> Batch:
    """Return the samples at these positions as one batch, padded on the right with `pad_id`.

    With padding on the right, the real tokens of a causal model never attend to padding. So their positions and their
    attention are the same as for the sample alone.
    """
    ids = [encoded.ids[row] for row in rows.tolist()]
    responses = [encoded.responses[row] for row in rows.tolist()]
    lengths = torch.tensor([len(sample) for sample in ids])
    real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)  # [B, L]
    input_ids = torch.full(real.shape, pad_id, dtype=torch.int64)
    input_ids[real] = torch.cat(ids).long()
    is_response = torch.zeros_like(real)
    is_response[real] = torch.cat(responses)
    return Batch(rows, input_ids, real.long(), is_response)
