"""Mask a language model: set exact numbers of the smallest weights of each layer to zero, or drop units.

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
from prunetune.instruct.model.layers import enough_linear, enough_maskable, input_size, linear_layers
from prunetune.networks.masking import MaskPath


@dataclass(frozen=True)
class TextMaskPath:
    """How many weights of each linear layer are zero at each of T levels.

    schedule: with "compound", level k masks the fraction 1 - (1 - step)^k of a layer's weights. The counts are rounded
    level by level, n_k = n_{k-1} + round(step * (P - n_{k-1})), so that of P = 4096 weights 0, 819 and 1474 are masked,
    and not round(0.36 * 4096) = 1475. With "released", every
    level after the first masks the same fraction `step`: the released code masks the smallest 20 % again, and these are
    zero already. mask_lm_head: whether to mask the output head too, which includes the embedding if both share their
    weights.
    """

    schedule: str = "compound"
    levels: int = 3
    step: float = 0.2
    mask_lm_head: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in ("compound", "released"):
            raise InputError(f"text_scorer.schedule must be compound or released, got {self.schedule!r}")
        # The constructor raises an InputError if levels or step are not valid.
        MaskPath("compound", self.levels, self.step)

    def counts(self, total: int) -> list[int]:
        """Return the T masked counts out of a layer's `total` weights."""
        counts = MaskPath("compound", self.levels, self.step).counts(total)
        if self.schedule == "released":
            return [counts[min(level, 1)] for level in range(self.levels)]
        return counts

    def network(self, level: int) -> int:
        """Return the first level that masks the same weights as this one. On released paths it is 0 or 1."""
        return min(level, 1) if self.schedule == "released" else level

    def key(self, level: int) -> dict[str, Any]:
        """Return everything but the weights that the network of a level depends on."""
        level = self.network(level)
        if level == 0:
            return {}  # At this level nothing is masked.
        return {"masked": {**asdict(self), "schedule": "compound", "levels": level + 1, "level": level}}


def linear_weights(model: nn.Module, with_head: bool = False) -> dict[str, Tensor]:
    """Return the weights that are masked by name: those of linear layers, and of each expert of a mixture.

    with_head: whether to include the output head. If it shares its weights with the embedding, masking it also masks
    the embedding.

    Raises:
        InputError: the model is quantised, or too small a part of it can be masked.
    """
    found = enough_maskable(model, type(model).__name__, with_head)
    return {name: weight.tensor for name, weight in found.weights.items()}


def _check_distinct(weights: list[Tensor], path: TextMaskPath) -> None:
    """Refuse a compound path with two equal networks, which can happen if layers are very small."""
    totals = [sum(counts) for counts in zip(*(path.counts(weight.numel()) for weight in weights), strict=True)]
    if path.schedule == "compound" and len(set(totals)) < len(totals):
        raise InputError(
            f"two of the networks on the path would be the same (masked weights {totals}); "
            "raise text_scorer.step or lower text_scorer.levels"
        )


def check_path(model: nn.Module, path: TextMaskPath) -> None:
    """Refuse a path on which two networks of this model would be equal, before anything is computed.

    Raises:
        InputError: two networks would be equal, or the model has nothing to mask.
    """
    _check_distinct(list(linear_weights(model, path.mask_lm_head).values()), path)


def smallest(weight: Tensor, count: int) -> Tensor:
    """Return the `count` entries with the smallest absolute values, as a bool tensor of the weight's shape.

    Of equal values, those with the smaller index come first. A threshold alone would not give the exact count, since
    the millions of weights of a bfloat16 layer have only a few thousand different values. The result is that of a
    stable sort, but needs less memory.
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
    """Yield the model with a level's weights set to zero. They are restored exactly at the end, also after an error.

    The model is changed in place, without a second copy of its weights. Host memory holds the masked values and one bit
    per weight. With 36 % masked in bfloat16 that is 0.85 byte per weight.

    Raises:
        InputError: the model cannot be masked, or two networks of a compound path are equal.
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
    """Yield the model with a fraction of the input units of each linear layer dropped, except those of the output head.

    v1 of the paper does not say where its dropout acts. Here it acts on the input of every linear layer of the blocks
    and scales by 1 / (1 - rate) as usual. Units are drawn once per layer, not once per token. So the same smaller
    network reads every token of every sample, and a score does not depend on batches or order. A unit that is dropped
    at one rate is also dropped at every higher rate. A layer whose weight the model reads without calling the layer,
    as in Mamba (dt_proj), keeps its units.

    Args:
        model: a causal language model.
        rate: probability that a unit is dropped, in [0, 1).
        seed: the seed of the draws, which also depend on the name of the layer.

    Raises:
        InputError: too small a part of the model belongs to linear layers, as in a mixture of experts.
    """
    enough_linear(model, type(model).__name__)
    hooks = []
    try:
        for name, layer in linear_layers(model).items():
            draws = torch.rand(input_size(layer), generator=stream("dropout", seed, name))
            scale = ((draws >= rate) / (1 - rate)).to(layer.weight.device)  # [inputs]
            hooks.append(layer.register_forward_pre_hook(_scaled_by(scale)))
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def _scaled_by(scale: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * scale.to(inputs[0].dtype), *inputs[1:])

    return hook


def dropout_key(rate: float, seed: int) -> dict[str, Any]:
    """Return everything but the weights that a network with dropped units depends on."""
    return {"dropout": rate, "draws": derive_seed("dropout", seed)}
