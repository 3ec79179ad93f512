"""A language model with its smallest weights at zero, layer by layer, at exact counts; or with units dropped.

Source: arXiv 2402.05356 (text); absolute counts: docs/method_notes.md, Instruction data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed, stream
from prunetune.instruct.model.language_model import is_quantised
from prunetune.networks.masking import MaskPath


@dataclass(frozen=True)
class TextMaskPath:
    """How many weights of each linear layer are at zero at each of T levels.

    schedule "compound": level k masks 1 - (1 - step)^k of a layer's weights; "released": every level after the first
    masks the same share `step`, because the released code takes the smallest 20 % anew of weights whose smallest 20 %
    are zero already. mask_lm_head: whether the output head is masked too, and with it the embedding where the two are
    one tensor.
    """

    schedule: str = "compound"
    levels: int = 3
    step: float = 0.2
    mask_lm_head: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in ("compound", "released"):
            raise InputError(f"text_scorer.schedule must be compound or released, got {self.schedule!r}")
        MaskPath("compound", self.levels, self.step)  # checks levels and step

    def counts(self, total: int) -> list[int]:
        """Return the T masked counts out of a layer's `total` weights."""
        counts = MaskPath("compound", self.levels, self.step).counts(total)
        if self.schedule == "released":
            return [counts[min(level, 1)] for level in range(self.levels)]
        return counts

    def network(self, level: int) -> int:
        """Return the first level that masks the same weights as this one: of released paths 0 or 1."""
        return min(level, 1) if self.schedule == "released" else level

    def key(self, level: int) -> dict[str, Any]:
        """Return what the network of a level depends on beside the weights."""
        level = self.network(level)
        if level == 0:
            return {}  # the network as it is
        return {"masked": {**asdict(self), "schedule": "compound", "levels": level + 1, "level": level}}


def linear_weights(model: nn.Module, with_head: bool = False) -> dict[str, nn.Parameter]:
    """Return the weights of the linear layers by name: no bias, norm or embedding, the output head only on request.

    A head that is one tensor with the embedding is that tensor: masking it masks the embedding.

    Raises:
        InputError: the model is quantised or has no such layers.
    """
    if is_quantised(model):
        raise InputError("weights stored in 8 or 4 bits cannot be masked; pass llm.quantization=none")
    head = model.get_output_embeddings()
    weights = {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (with_head or module is not head)
    }
    if not weights:
        raise InputError(f"{type(model).__name__} has no linear layers to mask; use another model")
    if any(not weight.is_floating_point() for weight in weights.values()):
        raise InputError("weights stored in 8 or 4 bits cannot be masked; pass llm.quantization=none")
    return weights


def _check_distinct(weights: list[nn.Parameter], path: TextMaskPath) -> None:
    """Refuse a compound path on which two networks are the same, as on very small layers."""
    totals = [sum(counts) for counts in zip(*(path.counts(weight.numel()) for weight in weights), strict=True)]
    if path.schedule == "compound" and len(set(totals)) < len(totals):
        raise InputError(
            f"two of the networks on the path would be the same (masked weights {totals}); "
            "raise text_scorer.step or lower text_scorer.levels"
        )


def check_path(model: nn.Module, path: TextMaskPath) -> None:
    """Refuse a path on which two networks of this model would be the same, before any is computed.

    Raises:
        InputError: they would, or the model has nothing to mask.
    """
    _check_distinct(list(linear_weights(model, path.mask_lm_head).values()), path)


def smallest(weight: Tensor, count: int) -> Tensor:
    """Return which `count` entries are smallest in absolute value, a bool tensor of the weight's shape.

    Entries that are equally small go by their index. A threshold alone would not do: of the millions of weights of a
    bfloat16 layer a few thousand values are different. The result is that of a stable sort, without its memory.
    """
    size = weight.detach().abs().flatten()
    if count == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    threshold = size.float().kthvalue(count).values.to(size.dtype)
    chosen = size < threshold
    ties = (size == threshold).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view_as(weight)


@contextmanager
def masked(model: nn.Module, path: TextMaskPath, level: int) -> Iterator[nn.Module]:
    """Yield the model with a level's weights at zero; they are back bit by bit at the end, also after an error.

    In place: what was there is kept in host memory, as values and one bit per weight, and no second copy of the
    weights exists. At 36 % in bfloat16 that is 0.85 byte per weight.

    Raises:
        InputError: the model cannot be masked, or two networks of a compound path are the same.
    """
    weights = linear_weights(model, path.mask_lm_head)
    _check_distinct(list(weights.values()), path)
    kept: list[tuple[Tensor, Tensor, np.ndarray]] = []
    try:
        for weight in weights.values():
            count = path.counts(weight.numel())[level]
            if count == 0:
                continue
            mask = smallest(weight.data, count)
            kept.append((weight.data, weight.data[mask].cpu(), np.packbits(mask.cpu().numpy())))
            weight.data.masked_fill_(mask, 0)
        yield model
    finally:
        for data, values, bits in kept:
            mask = torch.from_numpy(np.unpackbits(bits, count=data.numel())).bool().view(data.shape)
            data[mask.to(data.device)] = values.to(data.device)


@contextmanager
def with_dropout(model: nn.Module, rate: float, seed: int) -> Iterator[nn.Module]:
    """Yield the model with a share of the units dropped that enter each linear layer, the output head apart.

    v1 of the paper does not say where its dropout acts. Here: on the input of every linear layer of the blocks, scaled
    by 1 / (1 - rate) as usual, and drawn once per layer instead of once per token, so that one network with fewer
    units judges every token of every sample, and a score depends neither on the batch nor on the order. A unit that
    one rate drops is dropped at every higher rate.

    Args:
        model: a causal language model.
        rate: probability of being dropped, in [0, 1).
        seed: of the draws, which depend on it and on the layer's name.
    """
    head = model.get_output_embeddings()
    hooks = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                draws = torch.rand(module.in_features, generator=stream("dropout", seed, name))
                scale = ((draws >= rate) / (1 - rate)).to(module.weight.device)  # [in_features]
                hooks.append(module.register_forward_pre_hook(_scaled_by(scale)))
        if not hooks:
            raise InputError(f"{type(model).__name__} has no linear layers whose units could be dropped")
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def _scaled_by(scale: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * scale.to(inputs[0].dtype), *inputs[1:])

    return hook


def dropout_key(rate: float, seed: int) -> dict[str, Any]:
    """Return what a network with dropped units depends on beside the weights."""
    return {"dropout": rate, "draws": derive_seed("dropout", seed)}
