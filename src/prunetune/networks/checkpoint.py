"""Local weights: safetensors, or torch files that hold tensors and no code.

The tensors of a network may lie under any wrapping dictionaries and name prefixes that training scripts add, such as
`state_dict` and `module.`; they are found by their names.
"""

import argparse
import hashlib
import logging
import pickle
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.networks.maskable import POSITIONS

log = logging.getLogger(__name__)
# A prefix with one of these words holds a moving average of the trained weights; the teacher of DINO is one, too.
AVERAGED = frozenset(["ema", "teacher"])
# A prefix with one of these words belongs to the second, slower network of a contrastive method, as in MoCo.
SECOND = frozenset(["k", "key", "momentum", "target"])
WRAPPERS = ("state_dict", "model")  # Of equal copies of a network the one under the first of these keys is read.
# Heads of other names than the architecture's own, as self-supervised training scripts call them.
HEADS = ("fc.", "head.", "heads.", "head_dist.", "classifier.", "linear.", "projector.", "projection_head.")
COUNTER = "num_batches_tracked"  # Batch normalisation counts its batches, and old files lack the count.
# Training scripts store their options and their best accuracy beside the weights. Loading these types runs no code.
SCALAR = np.float64(0).__reduce__()[0]  # NumPy makes a number with this function, whose module has had two names.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "bool")),
]


@dataclass(frozen=True)
class Found:
    """The tensors of one network in a file.

    place: the keys and the prefix that were removed from the names, "" for none. tensors: by the names in the network.
    left: the names of the other tensors beside them.
    """

    place: str
    tensors: dict[str, Tensor]
    left: tuple[str, ...] = ()


def load_weights(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by name, for each dictionary in it that holds tensors, by the keys to it.

    Raises:
        InputError: no such file, an unknown format, a pickle that would run code, tensors that are not dense, or a file
            without tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            f"backbone.checkpoint: {file} is not a file; pass a .safetensors file or a torch file of weights"
        )
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    groups = dict(_groups(content, "")) if isinstance(content, Mapping) else {}
    if not groups:
        raise InputError(f"{file} should hold a dictionary of tensors (a state_dict), holds {type(content).__name__}")
    for place, tensors in groups.items():
        for name, tensor in tensors.items():
            if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
                raise InputError(
                    f"{file}: {place}{name} is a sparse, nested or quantized tensor, or has no content; "
                    "save the checkpoint with dense tensors of real numbers"
                )
    return groups


def load_into(
    model: nn.Module, groups: Mapping[str, Mapping[str, Tensor]], head: tuple[str, ...], source: str, use_ema: bool
) -> None:
    """Load weights into a model without head, and log where they were found.

    Only heads may be left over. Position embeddings of another image size are resampled, and names of other releases of
    an architecture are translated, both as timm does for its own weights.

    Args:
        model: the network, its head removed.
        groups: what `load_weights` returns.
        head: name prefixes of the classifier in this architecture.
        source: the file, for messages.
        use_ema: whether a moving average of the weights is read where the file has one.

    Raises:
        InputError: a tensor is missing, left over, not finite or of another shape, or the file holds several networks.
    """
    expected = model.state_dict()
    found = _find(expected, groups, source, use_ema)
    heads = (*head, *(name for name in HEADS if not any(key.startswith(name) for key in expected)))
    weights = _fitted(model, found.tensors, heads)
    missing, extra = _difference(expected, weights, heads)
    if missing or extra:
        raise InputError(
            f"{source} does not fit the model: {len(missing)} tensors missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(extra)} unknown ({', '.join(extra[:3]) or 'none'}); check backbone.model and backbone.model_args"
        )
    resampled = _check_shapes(expected, found.tensors, weights, source)
    _check_kinds(expected, weights, source)
    _check_finite({name: weights[name] for name in expected if name in weights}, source)
    model.load_state_dict({name: weights.get(name, tensor) for name, tensor in expected.items()})
    place = f"under {found.place!r}" if found.place else "without a prefix"
    unused = f", {len(found.left)} other tensors are not used, such as {found.left[0]}" if found.left else ""
    log.info("%s: read %d tensors %s%s", source, len(expected), place, unused)
    if resampled:
        log.info("%s: resampled to the size of the images: %s", source, ", ".join(resampled))


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _groups(content: Mapping[Any, Any], place: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each dictionary that holds tensors; what it holds beside them, such as numbers, is no weight."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _groups(value, f"{place}{name}.")


def _find(
    expected: Mapping[str, Tensor], groups: Mapping[str, Mapping[str, Tensor]], source: str, use_ema: bool
) -> Found:
    """Return the tensors of the network that the file is meant to give."""
    needed = {name for name in expected if not name.endswith(COUNTER)}
    places = []
    for key, tensors in groups.items():
        # Every way to read a name as prefix and rest, such as module.conv1.weight as "module." and conv1.weight.
        ends = ((name[: i + 1], name[i + 1 :]) for name in tensors for i in _starts(name))
        counts = Counter(prefix for prefix, rest in ends if rest in needed)
        places += [(key, prefix) for prefix, count in counts.items() if 2 * count >= len(needed)]
    if not places:  # The names may be those of another release, which timm knows how to translate.
        key = max(groups, key=lambda key: len(groups[key]))
        return Found(key, dict(groups[key]))
    key, prefix = _chosen(places, source, use_ema)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in groups[key].items() if name.startswith(prefix)}
    return Found(key + prefix, tensors, tuple(name for name in groups[key] if not name.startswith(prefix)))


def _starts(name: str) -> list[int]:
    """Return the positions before which a prefix of a name may end: none, or a dot."""
    return [-1, *(i for i, letter in enumerate(name) if letter == ".")]


def _chosen(places: Sequence[tuple[str, str]], source: str, use_ema: bool) -> tuple[str, str]:
    """Return the place to read of all (key, prefix) under which a file holds the network."""
    words = {place: set(re.findall("[a-z]+", "".join(place).lower())) for place in places}
    averaged = [place for place in places if words[place] & AVERAGED]
    plain = [place for place in places if place not in averaged]
    if not use_ema and not plain:
        raise InputError(f"{source} holds a moving average of the weights only; drop backbone.use_ema=false")
    left = averaged if use_ema and averaged else plain
    left = [place for place in left if not words[place] & SECOND] or left
    for wrapper in WRAPPERS:
        left = [place for place in left if wrapper in "".join(place).split(".")] or left
    if len(left) > 1:
        names = ", ".join(repr("".join(place)) for place in left[:3])
        raise InputError(f"{source} holds the network {len(left)} times, under {names}; save one of them alone")
    return left[0]


def _fitted(model: nn.Module, tensors: dict[str, Tensor], heads: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors; where they do not fit as they are, what timm makes of them for this architecture."""
    expected = model.state_dict()
    missing, extra = _difference(expected, tensors, heads)
    fits = not missing and not extra and all(tensors[n].shape == t.shape for n, t in expected.items() if n in tensors)
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if fits or translate is None:
        return tensors
    try:
        translated = translate(dict(tensors), model)
    except Exception:
        # The function is written for other files and fails on these in any way; then they are judged as they are.
        return tensors
    after = _difference(expected, translated, heads)
    return translated if len(after[0]) + len(after[1]) <= len(missing) + len(extra) else tensors


def _difference(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], heads: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Return the names that are missing and those that are unknown."""
    missing = sorted(name for name in expected.keys() - tensors.keys() if not name.endswith(COUNTER))
    return missing, sorted(name for name in tensors.keys() - expected.keys() if not name.startswith(heads))


def _check_shapes(
    expected: Mapping[str, Tensor], before: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str
) -> list[str]:
    """Return the names of the resampled tensors; refuse another shape of any but a position embedding."""
    resampled = []
    for name, tensor in expected.items():
        shape = tensor.shape if name not in weights else before.get(name, weights[name]).shape
        if shape == tensor.shape:
            continue
        is_position = set(re.findall("[a-z]+", name.rpartition(".")[2])) & POSITIONS
        if not is_position or weights[name].shape != tensor.shape:
            raise InputError(
                f"{source} does not fit the model: {name} should be {list(tensor.shape)}, is {list(shape)}; "
                "check backbone.model and backbone.model_args"
            )
        resampled.append(name)
    return resampled


def _check_kinds(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in expected.items():
        if name in weights and _kind(weights[name]) != _kind(tensor):
            raise InputError(
                f"{source} does not fit the model: {name} should hold {_kind(tensor)} numbers, holds "
                f"{_kind(weights[name])} ones ({weights[name].dtype}); save the weights as float32"
            )


def _kind(tensor: Tensor) -> str:
    """Return what numbers a tensor holds. Loading would convert between these kinds without a word.

    Numbers of eight bits are a kind of their own, since they belong with scales that other tensors or files hold.
    """
    if tensor.is_floating_point():
        return "real" if tensor.element_size() > 1 else "eight-bit"
    return "complex" if tensor.is_complex() else "whole"


def _check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    # Networks have numbers of 32 bits, in which a larger number of 64 bits would become infinite.
    broken = [
        name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.float().isfinite().all()
    ]
    if broken:
        raise InputError(
            f"{source}: {len(broken)} tensors hold NaN, infinity or numbers beyond 32 bits, first: {broken[0]}; "
            "use another checkpoint"
        )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}); fetch it again") from None


def _read_torch(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            # Torch warns that it checks sparse and quantized tensors. They are refused in any case.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{file} is damaged or holds more than tensors and is refused, since loading it could run code; "
            "save the weights as safetensors"
        ) from None
    except Exception as error:
        # On damaged files the unpickler raises a dozen types of errors.
        raise InputError(f"{file} is not a readable torch file ({error}); fetch it again") from None
