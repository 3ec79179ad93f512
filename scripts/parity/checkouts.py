"""Find the checkouts of other code, and import files from them without running their training."""

import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.data import dataloader

from prunetune.base.errors import InputError


def find_checkout(folder: Path, repository: str) -> Path | None:
    """Return the checkout of a repository `owner/name` below a folder, None if there is none.

    It may be called name, owner+name or owner/name.
    """
    owner, name = repository.split("/")
    places = [folder / name, folder / f"{owner}+{name}", folder / owner / name]
    return next((place for place in places if place.is_dir()), None)


def load_file(name: str, file: Path, **stand_ins: Any) -> ModuleType:
    """Import a file under a private name, with stand-ins for modules that it imports.

    Raises:
        InputError: the checkout has no such file.
    """
    if not file.is_file():
        raise InputError(
            f"{file} does not exist; expected the checkout at the commit that scripts/parity/peers.py names"
        )
    folder = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = {key: sys.modules.get(key) for key in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    finally:  # Other modules that the file imported stay, since a second import would make other objects of them.
        for key, known in before.items():
            sys.modules.pop(key)
            if known is not None:
                sys.modules[key] = known
    return module


@contextmanager
def other_code() -> Iterator[None]:
    """Run other code: its output and warnings are hidden, `.cuda()` does nothing, and global changes are undone."""
    errors, next_batch = np.geterr(), dataloader._BaseDataLoaderIter.__next__
    detects, threads = torch.is_anomaly_enabled(), torch.get_num_threads()
    on_cpu = mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_: tensor)
    on_cpu_too = mock.patch.object(torch.nn.Module, "cuda", lambda module, *_: module)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(), on_cpu, on_cpu_too:
            warnings.simplefilter("ignore")
            yield
    finally:
        np.seterr(**errors)
        dataloader._BaseDataLoaderIter.__next__ = next_batch
        torch.autograd.set_detect_anomaly(detects)
        torch.set_num_threads(threads)


@contextmanager
def arguments(*words: str) -> Iterator[None]:
    """Let a script that parses the command line when it is imported find these words there."""
    with mock.patch.object(sys, "argv", ["script", *words]):
        yield
