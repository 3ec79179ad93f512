"""Response losses and pooled hidden states of one batch. Shapes: B samples, L tokens, V words of the vocabulary.

The output head is the most expensive layer of a small model with a large vocabulary. So it is applied only at positions
that predict a response token. These positions are selected at the input of the head, inside the model's own forward
pass, so that later steps of the model still apply to its logits (Gemma-2 limits their size).
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from prunetune.instruct.model.batches import Batch

LOGITS = 2**26  # At most this many logits are converted to float32 at a time (256 MiB).


def mean_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return each sample's mean response-token loss in nats, [B] float64 on the CPU; NaN without response tokens.

    Args:
        model: a causal language model. It computes in the type of its weights, and the loss in at least float32.
        batch: on the device of the model.
    """
    logits, targets = response_logits(model, batch)
    rows = max(1, LOGITS // logits.shape[-1])
    parts = zip(logits.split(rows), targets.split(rows), strict=True)
    losses = torch.cat([cross_entropy(part.float(), own, reduction="none") for part, own in parts])  # [n]
    counts = batch.responses[:, 1:].sum(dim=1).cpu()  # [B]
    owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return torch.zeros(len(counts), dtype=torch.float64).index_add_(0, owners, losses.double().cpu()) / counts


def response_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits [n, V] that predict the n response tokens of a batch, sample by sample, and these tokens [n].

    No attention mask is passed. With padding on the right, real tokens of a causal model never attend to padding, and
    without a mask the fastest attention kernel can be used.
    """
    predicts = batch.responses[:, 1:]  # [B, L - 1]; position j predicts token j + 1.
    was_called = False

    def gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal was_called
        was_called = True
        return (inputs[0][:, :-1][predicts].unsqueeze(0), *inputs[1:])  # [1, n, D]

    head = model.get_output_embeddings()
    with nullcontext() if head is None else head.register_forward_pre_hook(gather):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    targets = batch.input_ids[:, 1:][predicts]
    # If the model has no separate head, or multiplies by the head's weight directly, it returns all logits [B, L, V].
    return (logits[0] if was_called else logits[:, :-1][predicts]), targets


def pooled_states(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean of each sample's last hidden states, weighted by position and normalised, [B, D] float32.

    Later tokens have a larger weight, since they have read more of the sample. Positions count from 1, and padding is
    left out. Source: RDS+ (arXiv 2503.01807).
    """
    hidden: Any = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # [B, L, D]
    weights = torch.arange(1, hidden.shape[1] + 1, device=hidden.device) * batch.attention_mask  # [B, L]
    weights = weights / weights.sum(dim=1, keepdim=True)
    return normalize(torch.einsum("bl,bld->bd", weights.float(), hidden.float()), dim=1)
