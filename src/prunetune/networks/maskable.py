"""Which weights of a network may be masked, and in which form its layers use them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prunetune.base.errors import InputError

MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "conv2d": (nn.Conv2d,),
    "linear": (nn.Linear,),
    "all": (nn.Conv2d, nn.Linear),
}
# Keys of the store contain this for networks in which other weights are masked than in earlier versions.
USED_WEIGHTS = {"masked_weights": "as used"}
LEAST_SHARE = 0.9  # A network of which a smaller share can be masked is refused.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVOLUTIONS, nn.Linear)
# A layer with one of these methods multiplies by its parameter `weight` as it is.
PLAIN = frozenset(layer.forward for layer in LAYERS)
PRODUCTS = frozenset(
    [F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]
)
NO_WEIGHTS = (nn.Embedding, nn.utils.parametrize.ParametrizationList)  # Tables; parts of a layer that is seen whole.
# A parameter that belongs to no layer of torch is a position, a token or a scale if its name has one of these words.
POSITIONS = frozenset("pos position rel relative token tokens biases embed embedding table freqs latent".split())
SCALES = frozenset("bias scale gain alpha beta gamma temperature".split())


@dataclass(frozen=True)
class Weight:
    """A weight that may be masked.

    tensor: the parameter, or a copy of what the layer computes from its parameters. layer: the layer that computes the
    weight in its forward pass and has to be given the masked copy instead; None for a parameter.
    """

    tensor: Tensor
    layer: nn.Module | None = None


@dataclass(frozen=True)
class Maskable:
    """The weights of a network that may be masked.

    weights: by name. share: their part of all parameters, except the patch embedding, positions and tokens. others: the
    names of the counted parameters that cannot be masked, the largest first. is_plain: whether the weights are the
    parameters of the Conv2d and Linear layers outside the patch embedding; only then masks are those of versions that
    knew no others.
    """

    weights: dict[str, Weight]
    share: float
    others: tuple[str, ...]
    is_plain: bool


def maskable(model: nn.Module, modules: str) -> Maskable:
    """Return the weights that may be masked: no bias, norm, patch embedding, position, token or head.

    A layer that computes its weight from parameters, such as a weight-standardised convolution, is asked for the weight
    that it uses. "all" also takes the matrices of other modules: recurrent layers, experts, attention, Conv1d.

    Args:
        model: the network without its head, in eval mode.
        modules: "conv2d", "linear" or "all".
    """
    embeddings = tuple(f"{name}." for name, _ in model.named_modules() if name.endswith("patch_embed")) or ("\0",)
    # The patch embedding of a hybrid network contains a whole convolutional network, whose weights are masked.
    networks = tuple(f"{prefix}backbone." for prefix in embeddings)
    weights: dict[str, Weight] = {}
    sizes: dict[str, int] = {}
    plain = set()
    for name, module in model.named_modules():
        place = f"{name}." if name else ""
        if place.startswith(embeddings) and not place.startswith(networks):
            continue
        if isinstance(module, MODULES[modules]) and not place.startswith(embeddings):
            plain.add(f"{place}weight")
        sizes |= {place + key: size for key, size in _sizes(module).items()}
        weights |= {place + key: weight for key, weight in _weights(module, modules).items()}
    share = sum(sizes[name] for name in weights) / max(1, sum(sizes.values()))
    others = sorted(sizes.keys() - weights.keys(), key=lambda name: (-sizes[name], name))
    is_plain = weights.keys() == plain and all(weight.layer is None for weight in weights.values())
    return Maskable(weights, share, tuple(others), is_plain)


def enough_maskable(model: nn.Module, modules: str, name: str) -> Maskable:
    """Return the weights that may be masked, as `maskable` finds them, of a network of this name.

    Raises:
        InputError: there are none, or they are less than `LEAST_SHARE` of the parameters.
    """
    found = maskable(model, modules)
    if found.share >= LEAST_SHARE:
        return found
    way_out = "use another backbone, or a scorer that masks no weights"
    if modules != "all" and maskable(model, "all").share >= LEAST_SHARE:
        way_out = "pass scorer.mask_modules=all"
    what = f"{modules} weights" if modules != "all" else "weights that can be masked"
    raise InputError(
        f"{found.share:.0%} of the parameters of {name} are {what}, where at least {LEAST_SHARE:.0%} are needed "
        f"(the largest others: {', '.join(found.others[:3])}); {way_out}"
    )


@contextmanager
def given(weight: Weight) -> Iterator[None]:
    """Let the layer of a computed weight use `weight.tensor` instead, inside this block."""
    layer = weight.layer
    if layer is None:
        yield
        return
    forward = layer.forward

    def with_given(*args: Any, **options: Any) -> Any:
        with _Products(weight.tensor):
            return forward(*args, **options)

    layer.forward = with_given
    try:
        yield
    finally:
        del layer.forward


def _sizes(module: nn.Module) -> dict[str, int]:
    """Return the number of values of each own parameter of a module, without positions and tokens."""
    if isinstance(module, NO_WEIGHTS):
        return {}
    if isinstance(module, LAYERS):
        own = {name: p.numel() for name, p in _own(module) if name == "bias" or not name.startswith("weight")}
        return {"weight": module.weight.numel(), **own}
    return {name: p.numel() for name, p in _own(module) if p.ndim < 2 or not _words(name) & POSITIONS}


def _weights(module: nn.Module, modules: str) -> dict[str, Weight]:
    """Return the own weights of a module that may be masked."""
    if isinstance(module, MODULES[modules]):
        used = _used(module)
        return {} if used is None else {"weight": used}
    if modules != "all" or isinstance(module, NO_WEIGHTS) or "Norm" in type(module).__name__:
        return {}
    own = [name for name, p in _own(module) if _is_matrix(p) and not _words(name) & (POSITIONS | SCALES)]
    if isinstance(module, LAYERS):
        own = ["weight"] if _is_matrix(module.weight) else []  # The three numbers of an ECA layer are no matrix.
    found = {name: _used(module) if name == "weight" else Weight(module._parameters[name]) for name in own}
    return {name: weight for name, weight in found.items() if weight is not None}


def _used(module: nn.Module) -> Weight | None:
    """Return the weight that a module multiplies with, None for a layer of torch that does not show it."""
    parameter = module._parameters.get("weight")
    if parameter is not None and type(module).forward in PLAIN and not module._forward_pre_hooks:
        return Weight(parameter)
    found = _products(module)
    if len(found) != 1 or found[0].shape != module.weight.shape:
        # A module that needs more inputs, such as a layer of experts, combines the parameters when it is called.
        return None if isinstance(module, LAYERS) or parameter is None else Weight(parameter)
    if found[0] is parameter:
        return Weight(parameter)
    return Weight(found[0].detach().clone(), module)


def _products(module: nn.Module) -> list[Tensor]:
    """Return the weights with which a module multiplies a black image or a zero vector."""
    weight = module.weight
    width = getattr(module, "in_channels", getattr(module, "in_features", weight.shape[1]))
    is_vector = weight.ndim == 2
    size = [1, width] if is_vector else [1, width, *(_side(module, axis) for axis in range(weight.ndim - 2))]
    try:
        with _Products() as products, torch.no_grad():
            module(torch.zeros(size, dtype=weight.dtype, device=weight.device))
    except Exception:
        # The module may belong to anybody and raise anything; then it does not show its weight.
        return []
    return products.found


def _side(module: nn.Module, axis: int) -> int:
    """Return a side of an image that is large enough for the kernel of a convolution."""
    dilation = getattr(module, "dilation", 1)
    return module.weight.shape[2 + axis] * (dilation[axis] if isinstance(dilation, tuple) else int(dilation))


class _Products(TorchFunctionMode):
    """Collects the weights of linear layers and convolutions that are computed in this block, or replaces them."""

    def __init__(self, replacement: Tensor | None = None) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self._replacement = replacement

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        positional, named = list(args), dict(kwargs or {})
        if func in PRODUCTS:
            holder, place = (positional, 1) if len(positional) > 1 else (named, "weight")
            self.found.append(holder[place])
            if self._replacement is not None:
                holder[place] = self._replacement
        return func(*positional, **named)


def _own(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters(recurse=False))


def _words(name: str) -> set[str]:
    return set(re.findall("[a-z]+", name.lower()))


def _is_matrix(tensor: Tensor) -> bool:
    return sum(side > 1 for side in tensor.shape) >= 2
