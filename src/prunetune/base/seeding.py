"""Random streams that depend on names only, never on the order in which things run."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: str | int | float) -> int:
    """Return a seed in [0, 2**63) from the SHA-256 of the parts; equal on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part!r}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*parts: str | int | float) -> torch.Generator:
    """Return a new CPU generator, seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def seeded(*parts: str | int | float) -> Iterator[torch.Generator]:
    """Yield a generator for our draws and seed the global states for code that we do not own.

    timm and torch.nn draw initial weights from the global state. The global states of Python, NumPy and torch
    are put back afterwards, so that nothing outside the block depends on it.
    """
    seed = derive_seed(*parts)
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
