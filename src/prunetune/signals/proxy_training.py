"""Training of proxies: a fine-tune of the whole network, or a linear probe on features, recorded epoch by epoch."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.devices import Hardware
from prunetune.base.progress import track
from prunetune.base.seeding import derive_seed, seeded
from prunetune.base.store import write_stack
from prunetune.data.images.decoded import ShownImages
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import ImageAt, Passes, embed
from prunetune.signals.proxy import ProbeProxy, ProxyRecipe, ProxyTraining, Recorder
from prunetune.training.full import train_epochs, training_views
from prunetune.training.linear_probe import head_path
from prunetune.training.sample_order import Static, Walk


def train_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    training: ProxyTraining,
    device: str,
    network: Network | None = None,
) -> ProbeProxy:
    """Return a linear probe on features.

    Args:
        features: [N, D] float32.
        labels: [N] int64.
        num_classes: C.
        training: recipe, repeat and number of epochs.
        device: the device on which the probe is trained, cpu or cuda.
        network: the network that made the features; only the proxy's `model` needs it.
    """
    seed = derive_seed("proxy", training.repeat)
    path = list(head_path(features, labels, num_classes, training.shortened, seed, device))
    return ProbeProxy(features, torch.stack([w for w, _ in path]), torch.stack([b for _, b in path]), network)


def write_probe(
    folder: Path, features: Tensor, labels: Tensor, num_classes: int, training: ProxyTraining, device: str
) -> dict[str, Any]:
    """Train a probe as `train_probe` does and write its heads; return what the store records about it."""
    start = time.perf_counter()
    proxy = train_probe(features, labels, num_classes, training, device)
    heads = [proxy.head(epoch) for epoch in range(1, proxy.num_epochs + 1)]
    width = heads[0][0].shape[::-1]  # D, C
    write_stack(folder / "weights.npy", (w.T.numpy() for w, _ in heads), (len(heads), *width), np.float32)
    np.save(folder / "biases.npy", torch.stack([b for _, b in heads]).numpy())
    seconds = time.perf_counter() - start
    by_epoch = [seconds * epoch / len(heads) for epoch in range(1, len(heads) + 1)]
    return {"seconds": seconds, "seconds_by_epoch": by_epoch}


def open_probe(folder: Path, num_epochs: int, features: Tensor, network: Network) -> ProbeProxy:
    """Return the first epochs of what `write_probe` wrote, with the features [N, D] that it was trained on."""
    weights = np.load(folder / "weights.npy")[:num_epochs]
    return ProbeProxy(
        features, torch.from_numpy(weights), torch.from_numpy(np.load(folder / "biases.npy")[:num_epochs]), network
    )


def write_full(
    folder: Path, network: Network, whole: ShownImages, views: ImageAt, training: ProxyTraining, hardware: Hardware
) -> dict[str, Any]:
    """Train a copy of the network and a head on the whole pool, and record it; return what the store records about it.

    Args:
        folder: where the recording goes.
        network: the network of the scoring backbone; it is not changed.
        whole: all images of the pool.
        views: their evaluation views.
        training: recipe, repeat and number of epochs.
        hardware: device and precision of the training.
    """
    recipe, repeat, pool, device = training.recipe, training.repeat, whole.pool, hardware.device
    model = _untrained(network, recipe, repeat, len(pool.classes)).to(device)
    online = torch.zeros(len(pool), len(pool.classes)) if recipe.record == "online" else None
    if recipe.augment:
        view_of = training_views(whole, network.input_size, device, "proxy crop", repeat)
    else:

        def view_of(epoch: int) -> ImageAt:
            return views

    def watch(positions: Tensor, logits: Tensor) -> None:
        if online is not None:
            online[positions] = logits

    short, recorder = training.shortened, Recorder(folder, training.until)
    with seeded("proxy order", repeat) as generator:
        walk = Walk(Static(len(pool)), generator, device)
        epochs = train_epochs(model, whole, view_of, short, walk, hardware, watch)
        for epoch, _ in track(epochs, f"proxy {repeat} of {pool.name}", training.until):
            features, logits = _look(model, views, len(pool), Passes(short.batch_size, hardware))
            recorder.write(epoch, logits if online is None else online, features, model)
    return recorder.meta()


def _untrained(network: Network, recipe: ProxyRecipe, repeat: int, num_classes: int) -> nn.Sequential:
    """Return a copy of the network, or a fresh one, with a new head."""
    body = copy.deepcopy(network) if recipe.initial == "pretrained" else network.origin.load_random("proxy", repeat)
    with seeded("proxy head", repeat):
        return nn.Sequential(body, nn.Linear(network.num_features, num_classes))


@torch.inference_mode()
def _look(model: nn.Sequential, image_at: ImageAt, count: int, passes: Passes) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and logits [N, C] of all images, float32 on the CPU."""
    model.eval()
    hidden = embed(model[0], image_at, range(count), passes, "recording")
    return hidden, hidden @ model[1].weight.cpu().T + model[1].bias.cpu()
