"""Local weights: safetensors, or torch files that hold tensors and no code."""

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prunetune.base.errors import InputError

WRAPPERS = ("state_dict", "model", "state_dict_ema")  # Training scripts put the weights under one of these keys.


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name.

    Raises:
        InputError: no such file, an unknown format, a pickle that would run code, tensors that are not dense, or
            weights that are not finite.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            f"backbone.checkpoint: {file} is not a file; pass a .safetensors file or a torch file of weights"
        )
    weights = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
            raise InputError(
                f"{file}: {name} is a sparse, nested or quantized tensor, or has no content; "
                "save the checkpoint with dense tensors of real numbers"
            )
    # Networks have numbers of 32 bits, in which a larger number of 64 bits would become infinite.
    broken = [
        name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.float().isfinite().all()
    ]
    if broken:
        raise InputError(
            f"{file}: {len(broken)} tensors hold NaN, infinity or numbers beyond 32 bits, first: {broken[0]}; "
            "use another checkpoint"
        )
    return weights


def load_into(model: nn.Module, weights: Mapping[str, Tensor], head: tuple[str, ...], source: str) -> None:
    """Load weights into a model without head; only the head's own tensors may be left over.

    Args:
        model: the network, its head removed.
        weights: tensors by name; a leading "module." is dropped.
        head: name prefixes of the classifier in this architecture.
        source: the file, for messages.

    Raises:
        InputError: a tensor is missing, left over, or of another shape or kind of number.
    """
    num_named = len(weights)
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if len(weights) < num_named:
        raise InputError(f"{source} holds tensors both with and without 'module.' before their name; keep one of each")
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(name for name in weights.keys() - expected.keys() if not name.startswith(head))
    if missing or extra:
        raise InputError(
            f"{source} does not fit the model: {len(missing)} tensors missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(extra)} unknown ({', '.join(extra[:3]) or 'none'}); check backbone.model and backbone.model_args"
        )
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"{source} does not fit the model: {name} should be {list(tensor.shape)}, "
                f"is {list(weights[name].shape)}; check backbone.model and backbone.model_args"
            )
        if _kind(weights[name]) != _kind(tensor):
            raise InputError(
                f"{source} does not fit the model: {name} should hold {_kind(tensor)} numbers, holds "
                f"{_kind(weights[name])} ones ({weights[name].dtype}); save the weights as float32"
            )
    model.load_state_dict({name: weights[name] for name in expected})


def _kind(tensor: Tensor) -> str:
    """Return what numbers a tensor holds. Loading would convert between these kinds without a word."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}); fetch it again") from None


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # Torch warns that it checks sparse and quantized tensors. They are refused in any case.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{file} is damaged or holds more than tensors and is refused, since loading it could run code; "
            "save the weights as safetensors"
        ) from None
    except Exception as error:
        # On damaged files the unpickler raises a dozen types of errors.
        raise InputError(f"{file} is not a readable torch file ({error}); fetch it again") from None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    is_state = isinstance(content, Mapping) and content and all(isinstance(name, str) for name in content)
    if not is_state or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(
            f"{file} should hold a dictionary of tensors by name (a state_dict), holds a {type(content).__name__}"
        )
    return dict(content)
