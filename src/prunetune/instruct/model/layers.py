"""The layers of a language model that may be masked: linear layers and experts, without output head and routers."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.instruct.extra import needed
from prunetune.instruct.model.language_model import is_quantised
from prunetune.networks.maskable import LEAST_SHARE, Maskable, Weight

# In a mixture of experts, a layer at or below a module of one of these names decides which experts read a token.
ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
SINGLE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # Modules that are no stack of experts.


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers by name: torch's, and those of GPT-2, whose weight is transposed.

    The output head is left out, and so are the routers of a mixture of experts.
    """
    kinds, head = (nn.Linear, needed("transformers").pytorch_utils.Conv1D), model.get_output_embeddings()
    is_mixture = any(_of_experts(name, module) for name, module in model.named_modules())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module is not head and not (is_mixture and _is_router(name))
    }


def input_size(layer: nn.Module) -> int:
    """Return the number of input units of a linear layer."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.nx


def maskable(model: nn.Module, with_head: bool = False) -> Maskable:
    """Return the weights that may be masked, each to be ranked by itself: of linear layers and of single experts.

    share is their part of all parameters but embeddings, positions and, unless it is masked too, the output head.

    Args:
        model: a causal language model. Its weights may lie on the device "meta".
        with_head: whether to include the output head. If it shares its weights with the embedding, masking it also
            masks the embedding.

    Raises:
        InputError: the weights are stored in 8 or 4 bits.
    """
    layers, experts, head = linear_layers(model), dict(_experts(model)), model.get_output_embeddings()
    is_plain = not experts and list(layers.values()) == [
        module for module in model.modules() if isinstance(module, nn.Linear) and module is not head
    ]
    masked = {f"{name}.weight": layer.weight for name, layer in layers.items()}
    if with_head and head is not None:
        masked |= {f"{name}.weight": head.weight for name, module in model.named_modules() if module is head}
    share, others = _share(model, [*masked.values(), *experts.values()])
    masked |= {key: part for name, tensor in experts.items() for key, part in _single(name, tensor)}
    if is_quantised(model) or any(not weight.is_floating_point() for weight in masked.values()):
        raise InputError("weights stored in 8 or 4 bits cannot be masked; pass llm.quantization=none")
    return Maskable({name: Weight(weight) for name, weight in masked.items()}, share, others, is_plain)


def enough_maskable(model: nn.Module, name: str, with_head: bool = False) -> Maskable:
    """Return the weights that may be masked, as `maskable` finds them, of a model of this name.

    Raises:
        InputError: they are less than `LEAST_SHARE` of the parameters, or stored in 8 or 4 bits.
    """
    found = maskable(model, with_head)
    if found.share < LEAST_SHARE:
        raise InputError(
            f"{found.share:.0%} of the parameters of {name} are weights that can be masked, where at least "
            f"{LEAST_SHARE:.0%} are needed (the largest others: {', '.join(found.others[:3])}); use another model, or "
            "a scorer that masks no weights"
        )
    return found


def enough_linear(model: nn.Module, name: str) -> None:
    """Refuse a model of this name whose units cannot be dropped, such as a mixture of experts.

    Raises:
        InputError: the linear layers have less than `LEAST_SHARE` of the parameters.
    """
    share, others = _share(model, [layer.weight for layer in linear_layers(model).values()])
    if share < LEAST_SHARE:
        raise InputError(
            f"{share:.0%} of the parameters of {name} are weights of linear layers, whose units can be dropped, where "
            f"at least {LEAST_SHARE:.0%} are needed (the largest others: {', '.join(others[:3])}); use another model, "
            "or another scorer than lc_dropout"
        )


def _share(model: nn.Module, weights: Iterable[Tensor]) -> tuple[float, tuple[str, ...]]:
    """Return the part of the counted parameters that these weights are, and the names of the others, largest first."""
    chosen, head = {id(weight) for weight in weights}, model.get_output_embeddings()
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) or module is head]
    left_out = {id(p) for module in tables for p in module.parameters(recurse=False)} - chosen
    counted = {name: p for name, p in model.named_parameters() if id(p) not in left_out}
    others = sorted((name for name, p in counted.items() if id(p) not in chosen), key=lambda n: -counted[n].numel())
    sizes = [p.numel() for p in counted.values() if id(p) in chosen]
    return sum(sizes) / max(1, sum(p.numel() for p in counted.values())), tuple(others)


def _of_experts(name: str, module: nn.Module) -> bool:
    return "expert" in type(module).__name__.lower() or "experts" in name.split(".")


def _is_router(name: str) -> bool:
    return bool(ROUTERS.intersection(name.split(".")))


def _experts(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that hold the matrices of several experts, by name."""
    for name, module in model.named_modules():
        if isinstance(module, SINGLE) or not _of_experts(name, module) or _is_router(name):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and not key.endswith("bias"):
                yield f"{name}.{key}", parameter


def _single(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrix of each expert. A parameter [E, ...] holds E of them; one of two dimensions is not divided."""
    if tensor.ndim == 2:
        yield name, tensor
        return
    for number, part in enumerate(tensor.detach()):
        yield f"{name}[{number}]", part
