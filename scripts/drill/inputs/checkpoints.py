"""Hostile checkpoints of the backbone."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.drill.cases import Suite, finished
from scripts.drill.inputs.hostile import EITHER, REFUSED, SAME, Hostile, cases
from scripts.drill.inputs.odd_files import ODD
from scripts.drill.processes import run
from scripts.drill.tiny_runs import TEXTURES, in_folder

KIND = "hostile checkpoint"
FIRST = "stem.0.weight"  # A tensor of the network.
State = dict[str, Any]


def state() -> State:
    """Return the packaged weights of the small network."""
    from safetensors.torch import load_file

    from prunetune.networks.micro import WEIGHTS

    return load_file(WEIGHTS)


class Evil:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def replaced(value: Callable[[Any], Any], name: str = FIRST) -> Callable[[State], Any]:
    """Return a change of the weights: one tensor is replaced."""
    return lambda weights: weights | {name: value(weights[name])}


def everywhere(value: Callable[[Any], Any]) -> Callable[[State], Any]:
    """Return a change of the weights: every tensor of floats is replaced."""
    return lambda weights: {n: value(t) if t.is_floating_point() else t for n, t in weights.items()}


def _with_nan(number: float) -> Callable[[Any], Any]:
    def change(tensor: Any) -> Any:
        changed = tensor.clone()
        changed.view(-1)[0] = number
        return changed

    return change


def _sparse(tensor: Any) -> Any:
    return tensor.to_sparse()


def _quantized(tensor: Any) -> Any:
    import torch

    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _meta(tensor: Any) -> Any:
    return tensor.to("meta")


def _to(name: str) -> Callable[[Any], Any]:
    import torch

    return lambda tensor: tensor.to(getattr(torch, name))


TORCH: dict[str, tuple[str, Callable[[State], Any]]] = {
    "plain": (SAME, lambda weights: weights),
    "in state_dict": (SAME, lambda weights: {"state_dict": weights, "epoch": 3}),
    "behind module.": (SAME, lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()}),
    "a parameter": (SAME, replaced(lambda tensor: __import__("torch").nn.Parameter(tensor))),
    "not contiguous": (SAME, replaced(lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1))),
    "half precision": (EITHER, everywhere(lambda tensor: tensor.half())),
    "bfloat16": (EITHER, everywhere(lambda tensor: tensor.bfloat16())),
    "double precision": (SAME, everywhere(lambda tensor: tensor.double())),
    "integers": (REFUSED, everywhere(lambda tensor: (tensor * 100).int())),
    "one tensor of integers": (REFUSED, replaced(lambda tensor: (tensor * 100).long())),
    "booleans": (REFUSED, everywhere(lambda tensor: tensor > 0)),
    "complex": (REFUSED, everywhere(lambda tensor: tensor.to(__import__("torch").complex64))),
    "one complex tensor": (REFUSED, replaced(lambda tensor: tensor * 1j)),
    "sparse": (REFUSED, replaced(_sparse)),
    "quantised": (REFUSED, replaced(_quantized)),
    "without values": (REFUSED, replaced(_meta)),
    "float8": (REFUSED, lambda weights: replaced(_to("float8_e4m3fn"))(weights)),
    "NaN": (REFUSED, replaced(_with_nan(float("nan")))),
    "infinity": (REFUSED, replaced(_with_nan(float("inf")))),
    "another shape": (REFUSED, replaced(lambda tensor: tensor[:5])),
    "the transposed shape": (REFUSED, replaced(lambda tensor: tensor.transpose(0, 1))),
    "a flat tensor": (REFUSED, replaced(lambda tensor: tensor.reshape(-1))),
    "a missing tensor": (REFUSED, lambda weights: {n: t for n, t in weights.items() if n != FIRST}),
    "another tensor": (REFUSED, lambda weights: weights | {"other.weight": weights[FIRST]}),
    "no tensor": (REFUSED, lambda weights: {}),
    "a list": (REFUSED, lambda weights: list(weights.values())),
    "a tensor alone": (REFUSED, lambda weights: weights[FIRST]),
    "a number among the tensors": (SAME, lambda weights: weights | {"epoch": 3}),
    "numbers as names": (REFUSED, lambda weights: dict(enumerate(weights.values()))),
    "lists of numbers": (REFUSED, lambda weights: {n: t.tolist() for n, t in weights.items()}),
    "nested four times": (SAME, lambda weights: {"a": {"b": {"c": {"d": weights}}}}),
    "an object that runs a command": (REFUSED, lambda weights: weights | {"evil": Evil()}),
    "None": (REFUSED, lambda weights: None),
}


def _as_torch(change: Callable[[State], Any], is_zip: bool = True) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import torch

        torch.save(change(state()), path, _use_new_zipfile_serialization=is_zip)

    return make


def _as_safetensors(change: Callable[[State], Any]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in change(state()).items()}, path)

    return make


def _cut(make: Callable[[Path], None], keep: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return cut


def _header(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Return what writes the plain safetensors file with a changed header."""

    def make(path: Path) -> None:
        _as_safetensors(lambda weights: weights)(path)
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])

    return make


def _raw(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def _entry(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: header | {FIRST: header[FIRST] | values}


def _zip_of(name: str, content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)

    return make


TORCH_FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "the old format of torch": (SAME, _as_torch(lambda weights: weights, is_zip=False)),
    "cut at half": (REFUSED, _cut(_as_torch(lambda weights: weights), 0.5)),
    "cut at the end": (REFUSED, _cut(_as_torch(lambda weights: weights), 0.995)),
    "the old format, cut": (REFUSED, _cut(_as_torch(lambda weights: weights, is_zip=False), 0.7)),
    "a zip archive of something else": (REFUSED, _zip_of("a.txt", b"text")),
    "a zip archive of a gigabyte": (REFUSED, _zip_of("archive/data.pkl", bytes(2**30))),
    "a pickle of numbers": (REFUSED, _raw(b"\x80\x04]\x94(K\x01K\x02K\x03e.")),
    "a pickle without an end": (REFUSED, _raw(b"\x80\x04]\x94(")),
}
SAFETENSORS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "plain": (SAME, _as_safetensors(lambda weights: weights)),
    "double precision": (SAME, _as_safetensors(everywhere(lambda tensor: tensor.double()))),
    "half precision": (EITHER, _as_safetensors(everywhere(lambda tensor: tensor.half()))),
    "integers": (REFUSED, _as_safetensors(everywhere(lambda tensor: (tensor * 100).int()))),
    "booleans": (REFUSED, _as_safetensors(everywhere(lambda tensor: tensor > 0))),
    "complex": (REFUSED, _as_safetensors(everywhere(lambda tensor: tensor * 1j))),
    "NaN": (REFUSED, _as_safetensors(replaced(_with_nan(float("nan"))))),
    "another shape": (REFUSED, _as_safetensors(replaced(lambda tensor: tensor[:5]))),
    "a missing tensor": (REFUSED, _as_safetensors(lambda weights: {n: t for n, t in weights.items() if n != FIRST})),
    "cut at half": (REFUSED, _cut(_as_safetensors(lambda weights: weights), 0.5)),
    "cut at the end": (REFUSED, _cut(_as_safetensors(lambda weights: weights), 0.999)),
    "cut in the header": (REFUSED, _cut(_as_safetensors(lambda weights: weights), 0.001)),
    "a header of 2^63 bytes": (REFUSED, _raw(struct.pack("<Q", 2**63) + b"{}")),
    "a header of 90 MB of spaces": (REFUSED, _raw(struct.pack("<Q", 9 * 10**7) + b" " * (9 * 10**7))),
    "a header that is no JSON": (REFUSED, _raw(struct.pack("<Q", 4) + b"{{{{")),
    "a header that is a list": (REFUSED, _raw(struct.pack("<Q", 2) + b"[]")),
    "a header without tensors": (REFUSED, _raw(struct.pack("<Q", 2) + b"{}")),
    "offsets beyond the end": (REFUSED, _header(_entry(data_offsets=[0, 2**40]))),
    "negative offsets": (REFUSED, _header(_entry(data_offsets=[-4, 0]))),
    "a negative shape": (REFUSED, _header(_entry(shape=[-1, 3, 3, 3]))),
    "a shape of 2^80 numbers": (REFUSED, _header(_entry(shape=[2**40, 2**40]))),
    "an unknown type": (REFUSED, _header(_entry(dtype="F7"))),
    "a torch file": (REFUSED, _as_torch(lambda weights: weights)),
}


def command(path: Path) -> list[str]:
    """Return the command line of a run with a checkpoint."""
    return ["run", *TEXTURES, "scorer=herding", "ratio=0.3", "backbone.name=mine", f"backbone.checkpoint={path}"]


def _case(name: str, expected: str, make: Callable[[Path], None], suffix: str) -> Hostile:
    def words(folder: Path) -> list[str]:
        make(folder / f"weights{suffix}")
        return command(folder / f"weights{suffix}")

    return Hostile(f"{name}, {suffix}", expected, words)


def inputs() -> list[Hostile]:
    """Return all checkpoints."""
    found = [_case(name, expected, _as_torch(change), ".pth") for name, (expected, change) in TORCH.items()]
    found += [_case(name, expected, make, ".pth") for name, (expected, make) in TORCH_FILES.items()]
    found += [_case(name, expected, make, ".safetensors") for name, (expected, make) in SAFETENSORS.items()]
    found += [_case(name, REFUSED, make, suffix) for name, make in ODD.items() for suffix in (".pth", ".safetensors")]
    return found


def prepare(shared: Path) -> None:
    """Run with the plain weights."""
    _as_torch(lambda weights: weights)(shared / "weights.pth")
    finished(run([*command(shared / "weights.pth"), in_folder(shared / "calm")], shared))


SUITE = Suite("checkpoints", cases(KIND, inputs()), prepare)
