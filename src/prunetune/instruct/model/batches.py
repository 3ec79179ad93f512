"""Batches of samples of similar length. Letters: N samples, B in a batch, L tokens of the longest of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prunetune.base import checks


class Tokens(Protocol):
    """Token ids of N samples, [L_i] int32 each, and which of them count as response, [L_i] bool: `Encoded` is one."""

    @property
    def ids(self) -> Sequence[Tensor]: ...

    @property
    def responses(self) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Batch:
    """B samples padded on the right.

    rows: [B] int64, their positions. input_ids: [B, L] int64. attention_mask: [B, L] int64, 1 for a real token.
    responses: [B, L] bool, this token is a response token; False for padding and for the first token.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    responses: Tensor

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding apart."""
        return int(self.attention_mask.sum())

    def to(self, device: str) -> "Batch":
        """Return the batch on a device; `rows` stay on the CPU."""
        parts = (self.input_ids, self.attention_mask, self.responses)
        return Batch(self.rows, *(part.to(device, non_blocking=True) for part in parts))


def bucketed(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Return the positions of each batch: samples of similar length together, the longest first.

    The longest come first so that too large a `max_tokens` shows itself in the first batch. What a batch holds depends
    on the lengths and nothing else, so that a pass that is taken up again meets the same batches.

    Args:
        lengths: [N] int64 tokens; equal ones keep the pool's order.
        max_tokens: most tokens of a batch, padding included; a sample longer than that is a batch of its own.

    Returns:
        Tensors of int64 positions, each position in one of them.

    Raises:
        InputError: max_tokens is no whole number of at least 1.
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

    On the right, because then a causal model's real tokens never see padding: positions and attention are those of
    the sample alone.
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
