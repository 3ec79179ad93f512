"""Runs the selection methods of a DeepCore checkout on our pool and network.

DeepCore (PatrickZH/DeepCore, tried at commit 74ec709) is no dependency: its package is imported from a folder that the
user names, under a private name, and without the folder being put on the import path. PyPI's `deepcore` is unrelated.
"""

import contextlib
import copy
import hashlib
import importlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError, suggestion
from prunetune.base.seeding import seeded
from prunetune.networks.backbone import Network
from prunetune.networks.gradients import ready_for_gradients
from prunetune.signals.contract import Signals
from prunetune.signals.network import NetworkSignals

log = logging.getLogger(__name__)

COMMIT = "74ec709"
REPOSITORY = "https://github.com/PatrickZH/DeepCore"
HOW_TO_GET_IT = f"git clone {REPOSITORY} && git -C DeepCore checkout {COMMIT}, then pass scorer.path=DeepCore"
OUR_NETWORK = "prunetune"  # DeepCore finds our network among its own networks under this name.
# DeepCore raises these errors when a method cannot handle a pool or a setting.
REFUSALS = (ValueError, RuntimeError, IndexError, NotImplementedError, ModuleNotFoundError)
# NumPy allows seeds below 2**32. The distance of 1000 is needed because GraNd increases the seed from run to run.
LARGEST_SEED = 2**32 - 1000


def find_checkout(path: str | Path) -> Path:
    """Return the folder of a DeepCore checkout.

    Raises:
        InputError: no path is given, or it is another folder; the message says how to get a checkout.
    """
    if not str(path):
        raise InputError(f"scorer=deepcore needs a checkout of PatrickZH/DeepCore: {HOW_TO_GET_IT}")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"scorer.path must be the folder of a DeepCore checkout, got {str(path)!r}: {HOW_TO_GET_IT}")
    methods = folder / "deepcore" / "methods"
    early = methods / "earlytrain.py"
    is_complete = (methods / "coresetmethod.py").is_file() and (folder / "deepcore" / "__init__.py").is_file()
    if not is_complete or not early.is_file() or "class EarlyTrain" not in early.read_text(errors="replace"):
        raise InputError(
            f"{str(path)!r} is not a checkout of PatrickZH/DeepCore, which has a class EarlyTrain in "
            f"deepcore/methods/earlytrain.py (PyPI's package deepcore is another program): {HOW_TO_GET_IT}"
        )
    return folder


def fingerprint(checkout: Path) -> str:
    """Return the SHA-256 of the Python files of a checkout's package."""
    digest = hashlib.sha256()
    for file in sorted((checkout / "deepcore").rglob("*.py")):
        digest.update(file.relative_to(checkout).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def load_package(checkout: Path) -> ModuleType:
    """Import a checkout's package under a private name, and repair in memory what newer libraries have broken.

    Raises:
        InputError: the package cannot be imported.
    """
    name = f"_prunetune_deepcore_{fingerprint(checkout)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = checkout / "deepcore"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    try:
        spec.loader.exec_module(package)
        package.methods = importlib.import_module(f"{name}.methods")
        package.nets = importlib.import_module(f"{name}.nets")
    except (ImportError, AttributeError, SyntaxError) as error:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise InputError(f"the DeepCore checkout {checkout} cannot be imported ({error}): {HOW_TO_GET_IT}") from None
    _repair(name)
    return package


class Renewed:
    """A library, extended by old names that its newer versions have removed."""

    def __init__(self, library: ModuleType, **lost: Any) -> None:
        self._library = library
        self.__dict__.update(lost)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def _repair(name: str) -> None:
    """Give modules of a loaded package the functions of older libraries; the checkout is not changed."""
    centres, matching, fool = (
        sys.modules.get(f"{name}.methods.{stem}") for stem in ("kcentergreedy", "gradmatch", "deepfool")
    )
    if centres is not None:  # NumPy 2.4 has removed the function in1d.
        centres.np = Renewed(np, in1d=np.isin)
    # Version 1.13 of torch has removed lstsq(b, a). DeepCore calls it for square matrices a only.
    if matching is not None:
        matching.torch = Renewed(torch, lstsq=lambda b, a: (torch.linalg.solve(a, b), None))
    # DeepCore adds to the input in place. Autograd forbids this for a leaf on the CPU, so a clone is passed.
    if fool is not None:
        deep_fool = fool.DeepFool.deep_fool
        fool.DeepFool.deep_fool = lambda self, inputs: deep_fool(self, inputs.requires_grad_(True).clone())


def method_class(package: ModuleType, name: str) -> type:
    """Return a selection method of a loaded package by its class name.

    Raises:
        InputError: there is no method of this name.
    """
    base = package.methods.CoresetMethod
    known = {
        key: value
        for key, value in vars(package.methods).items()
        if isinstance(value, type) and issubclass(value, base)
    }
    methods = sorted(set(known) - {"CoresetMethod", "EarlyTrain"})
    if name not in methods:
        raise InputError(
            f"scorer.method must be one of DeepCore's {', '.join(methods)}, got {name!r}.{suggestion(name, methods)}"
        )
    return known[name]


@dataclass(frozen=True)
class Call:
    """How a method of DeepCore is called.

    method: its class name. fraction: kept of each class, as `balance` asks for. seed: of everything that it draws.
    epochs, batch_size, learning_rate: of its own training (SGD, momentum 0.9, Nesterov, weight decay 5e-4, constant
    rate). initial: "random" or "pretrained" weights of our network at its start. device: cpu or cuda. arguments: what
    else the method takes.
    """

    method: str
    fraction: float
    seed: int = 0
    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 0.1
    initial: str = "random"
    device: str = "cpu"
    balance: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, num_classes: int) -> SimpleNamespace:
        """Return what DeepCore reads from its command line."""
        return SimpleNamespace(
            model=OUR_NETWORK,
            channel=3,
            # DeepCore uses this size for its own networks. With another size DeepCore would resize our images.
            im_size=(224, 224),
            num_classes=num_classes,
            device=self.device,
            gpu=None,
            workers=0,
            print_freq=20,
            lr=self.learning_rate,
            selection_batch=self.batch_size,
            selection_optimizer="SGD",
            selection_lr=self.learning_rate,
            selection_momentum=0.9,
            selection_weight_decay=5e-4,
            selection_nesterov=True,
            selection_test_interval=0,
            selection_test_fraction=1.0,
        )


def select(package: ModuleType, signals: NetworkSignals, call: Call) -> Tensor:
    """Run a method on the images and the network of signals.

    Returns:
        [M] int64 positions that it selects, ascending; M is round(fraction * n) summed over the classes, unless the
        method deviates from that.

    Raises:
        InputError: the signals have no network, there is no such method, or it refuses the pool.
    """
    if not isinstance(signals, NetworkSignals):
        raise InputError("scorer=deepcore trains a network on images; pass a folder or a data set instead of tensors")
    images = PoolImages(signals, signals.embedding.network)
    return positions(run_method(package, images, model_maker(package, signals.embedding.network, call), call))


def positions(answer: Mapping[str, Any]) -> Tensor:
    """Return the images that a method's answer names, [M] int64 ascending."""
    return torch.from_numpy(np.unique(np.asarray(answer["indices"]).astype(np.int64)))


def run_method(package: ModuleType, images: Any, maker: Callable[..., nn.Module], call: Call) -> dict[str, Any]:
    """Run a method on any data set and network.

    Args:
        package: a loaded package.
        images: a data set in the form that DeepCore reads, with `targets` [N] int64 and `classes`.
        maker: function that makes the network. DeepCore calls it like its own network constructors.
        call: the method and its settings.

    Returns:
        The answer of the method: `indices` in arbitrary order, and further entries such as `weights` or `scores`.

    Raises:
        InputError: there is no such method, or it refuses the pool.
    """
    chosen_class = method_class(package, call.method)
    setattr(package.nets, OUR_NETWORK, maker)
    seed = call.seed % LARGEST_SEED
    # DeepCore warns about pinned memory if there is no GPU, and it prints every step. Both are suppressed here.
    with seeded("deepcore", seed), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            method = chosen_class(
                images,
                call.settings(len(images.classes)),
                fraction=call.fraction,
                random_seed=seed,
                epochs=call.epochs,
                specific_model=OUR_NETWORK,
                torchvision_pretrain=False,
                pretrain_model=OUR_NETWORK,
                balance=call.balance,
                **call.arguments,
            )
            return method.select()
        except REFUSALS as error:
            raise InputError(
                f"DeepCore's {call.method} fails at fraction {call.fraction:g} ({error}); "
                f"the smallest budget of a class is {_least(images, call)}"
            ) from error


def _least(images: Any, call: Call) -> str:
    """Describe the class that keeps fewest images: many methods fail at 0 images of a class, k-center at 1."""
    sizes = torch.bincount(images.targets, minlength=len(images.classes)).tolist()
    label = min(range(len(sizes)), key=lambda label: round(call.fraction * sizes[label]))
    return f"{round(call.fraction * sizes[label])} of {sizes[label]} images of class {images.classes[label]}"


class PoolImages(torch.utils.data.Dataset):
    """The evaluation views of a pool in the form of a DeepCore data set: normalised images and labels."""

    transform = None

    def __init__(self, signals: Signals, network: Network) -> None:
        self.targets, self.classes = signals.pool.labels, list(signals.pool.classes)
        self._signals, self._network = signals, network

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return the images of a batch, which torch's loaders ask for in one call."""
        rows = torch.tensor([int(position) for position in positions])
        images = torch.cat(list(self._signals.images(rows)))  # [B, 3, S, S] uint8
        normalised = self._network.normalise(images.to(self._network.mean.device)).cpu().contiguous()
        return list(zip(normalised, self.targets[rows].tolist(), strict=True))


class RecordingModel(nn.Module):
    """A network and a linear layer with the interface that DeepCore expects of its own models.

    recorder: DeepCore's `EmbeddingRecorder`, which keeps the inputs of the layer.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, recorder: nn.Module, no_grad: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.embedding_recorder, self.no_grad = body, head, recorder, no_grad

    def get_last_layer(self) -> nn.Linear:
        """Return the linear layer."""
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C] of normalised images [B, 3, S, S]."""
        with torch.set_grad_enabled(not self.no_grad):
            return self.head(self.embedding_recorder(self.body(images)))


def model_maker(package: ModuleType, network: Network, call: Call) -> Callable[..., nn.Module]:
    """Return a function that makes our network with a fresh head; DeepCore calls it once per training.

    call: `initial` "random" draws fresh weights each time, from the seed that DeepCore has just set.
    """

    def make(
        channel: int,
        num_classes: int,
        im_size: tuple[int, int],
        record_embedding: bool = False,
        no_grad: bool = False,
        pretrained: bool = False,
    ) -> nn.Module:
        is_fresh = call.initial == "random" and not pretrained
        source = network.origin.load_random("deepcore", torch.initial_seed()) if is_fresh else network
        copied = copy.deepcopy(source).cpu()
        ready_for_gradients(copied, call.device)
        body = copied.model.requires_grad_(True)
        recorder = package.nets.nets_utils.EmbeddingRecorder(record_embedding)
        return RecordingModel(body, nn.Linear(network.num_features, num_classes), recorder, no_grad)

    return make
