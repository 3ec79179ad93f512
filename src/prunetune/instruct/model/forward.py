"""What one batch costs and gives: response losses and pooled hidden states. Letters: B samples, L tokens, V vocabulary.

The output head is the dearest layer of a small model with a large vocabulary, so it sees the positions that predict a
response token and no others. They are chosen on the head's input, inside the model's own forward pass: what a model
does to its logits afterwards (Gemma-2 caps them) is done as ever.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from prunetune.instruct.model.batches import Batch

LOGITS = 2**26  # entries that are turned to float32 at a time, 256 MiB


def mean_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return each sample's mean response-token loss in nats, [B] float64 on the CPU; NaN without response tokens.

    Args:
        model: a causal language model; its own type of weights decides the arithmetic, the loss is float32 or better.
        batch: on the model's device.
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

    No attention mask is passed: with padding on the right a causal model's real tokens never see it, and without a mask
    the attention may run its fastest kernel.
    """
    predicts = batch.responses[:, 1:]  # [B, L - 1], position j predicts token j + 1
    was_called = False

    def gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal was_called
        was_called = True
        return (inputs[0][:, :-1][predicts].unsqueeze(0), *inputs[1:])  # [1, n, D]

    head = model.get_output_embeddings()
    with nullcontext() if head is None else head.register_forward_pre_hook(gather):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    targets = batch.input_ids[:, 1:][predicts]
    # a model without a head of its own, or one that multiplies by its weight itself, gives all logits [B, L, V]
    return (logits[0] if was_called else logits[:, :-1][predicts]), targets


def pooled_states(model: nn.Module, batch: Batch) -> Tensor:
    """Return each sample's last hidden states averaged with the position as weight, at unit length, [B, D] float32.

    Source: RDS+ (arXiv 2503.01807): later tokens have read more of the sample. Positions count from 1 and padding
    takes no part.
    """
    hidden: Any = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # [B, L, D]
    weights = torch.arange(1, hidden.shape[1] + 1, device=hidden.device) * batch.attention_mask  # [B, L]
    weights = weights / weights.sum(dim=1, keepdim=True)
    return normalize(torch.einsum("bl,bld->bd", weights.float(), hidden.float()), dim=1)
