"""Which device and which arithmetic a run uses."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunetune.base.errors import InputError

ENGINES = ("local", "ray")  # Work is done in this process, or by the workers of Ray.


def resolve_device(device: str) -> str:
    """Return "cpu", "cuda" or "mps" for auto | cpu | cuda | mps. auto never takes mps, whose results differ more."""
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"device must be auto, cpu, cuda or mps, got {device!r}")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("device=mps, but torch sees no GPU of Apple; pass device=cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch sees no CUDA device; pass device=cpu or install a CUDA build of torch")
    return device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Hardware:
    """Where a network is run and in which arithmetic: device cpu or cuda, precision fp32 or bf16."""

    device: str = "cpu"
    precision: str = "fp32"

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Run the forward passes of this block in the precision: bf16 by autocast, fp32 without TF32."""
        with exact_float32(self.device), autocast(self.precision, self.device):
            yield


def training_device(device: str) -> str:
    """Return the device on which networks are trained: trainings add up in float64, which mps does not have."""
    return "cpu" if device == "mps" else device


def resolve_precision(precision: str, device: str, model: nn.Module | None = None) -> str:
    """Return the precision of a model's frozen forward passes, "fp32" or "bf16", for auto | fp32 | bf16.

    auto is bf16 where the hardware multiplies bfloat16 and the ranking is kept: it is about twice as fast, and DLC's
    ranks correlate 0.9999 with those of fp32 for ViT-Tiny, but 0.996 for MobileNetV2 (results/bench/dlc.md). Networks
    with batch normalisation therefore stay in fp32.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"precision must be auto, fp32 or bf16, got {precision!r}")
    if precision != "auto":
        return precision
    keeps_ranking = model is None or not has_batch_norm(model)
    return "bf16" if keeps_ranking and _has_bfloat16(device) else "fp32"


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a module of the model normalises by the statistics of batches."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def training_precision(precision: str) -> str:
    """Return the precision of training: fp32 unless bf16 was asked for by name."""
    return "bf16" if precision == "bf16" else "fp32"


@contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """Let a GPU multiply float32 numbers in full inside this block, in convolutions and in matrix products.

    By default torch convolves in TF32, which keeps 10 bits of a number instead of 23. The switches belong to the whole
    process, so they are put back at the end: what the user has chosen holds again. A CPU has none of them.
    """
    switches = _float32_switches() if device != "cpu" else []
    before = [getattr(holder, name) for holder, name, _ in switches]
    try:
        for holder, name, exact in switches:
            setattr(holder, name, exact)
        yield
    finally:
        for (holder, name, _), value in zip(switches, before, strict=True):
            setattr(holder, name, value)


def _float32_switches() -> list[tuple[Any, str, Any]]:
    """Return torch's switches of TF32: the object that holds one, its name there, and its value for exact products."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        # Torch 2.9 introduced these switches. After one is set, torch refuses to read the older switches.
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]


def autocast(precision: str, device: str) -> AbstractContextManager:
    """Return the context in which a forward pass runs at this precision."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


def describe_device(device: str) -> str:
    """Return the device's name for the record."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"


def _has_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile"))
