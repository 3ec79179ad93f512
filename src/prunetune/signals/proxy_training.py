"""Training of proxies: a fine-tune of the whole network, or a linear probe on features, recorded epoch by epoch."""

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.progress import track
from prunetune.base.seeding import derive_seed, seeded
from prunetune.base.store import write_stack
from prunetune.data.images.decoded import Decoded
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Network
from prunetune.networks.frozen_pass import View, embed
from prunetune.signals.proxy import ProbeProxy, ProxyRecipe, Recorder
from prunetune.training.full import train_epochs, training_views
from prunetune.training.linear_probe import head_path
from prunetune.training.recipe import Recipe


def train_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    recipe: ProxyRecipe,
    repeat: int,
    until: int,
    device: str,
    network: Network | None = None,
) -> ProbeProxy:
    """Return a linear probe on features [N, D] float32, trained for the first `until` epochs of the recipe.

    network: what made the features, where the proxy's `model` is asked for.
    """
    seed = derive_seed("proxy", repeat)
    path = list(head_path(features, labels, num_classes, _shortened(recipe, until), seed, device))
    return ProbeProxy(features, torch.stack([w for w, _ in path]), torch.stack([b for _, b in path]), network)


def write_probe(folder: Path, *arguments: Any) -> dict[str, Any]:
    """Train a probe as `train_probe` does and write its heads; return what the store notes of it."""
    start = time.perf_counter()
    proxy = train_probe(*arguments)
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
    folder: Path,
    network: Network,
    pool: Pool,
    images: Decoded,
    views: View,
    recipe: ProxyRecipe,
    repeat: int,
    until: int,
    precision: str,
    device: str,
) -> dict[str, Any]:
    """Train a copy of the network and a head on the whole pool, and record it; return what the store notes of it.

    Args:
        folder: where the recording goes.
        network: of the scoring backbone; it is not changed.
        pool: N images.
        images: their pixels.
        views: their evaluation views.
        recipe: how it is trained.
        repeat: names the head, the order, the crops and, for a fresh network, its weights.
        until: epochs to train, the first of the recipe.
        precision: of the training, fp32 or bf16.
        device: cpu or cuda.
    """
    model = _untrained(network, recipe, repeat, len(pool.classes)).to(device)
    size, everything = network.input_size, torch.arange(len(pool))
    online = torch.zeros(len(pool), len(pool.classes)) if recipe.record == "online" else None
    if recipe.augment:
        view_of = training_views(images, size, pool, everything, device, "proxy crop", repeat)
    else:

        def view_of(epoch: int) -> View:
            return views

    def watch(positions: Tensor, logits: Tensor) -> None:
        if online is not None:
            online[positions] = logits

    short = _shortened(recipe, until)
    recorder = Recorder(folder, until)
    with seeded("proxy order", repeat) as generator:
        epochs = train_epochs(model, pool.labels, everything, view_of, short, generator, precision, device, watch)
        for epoch, _ in track(epochs, f"proxy {repeat} of {pool.name}", until):
            features, logits = _look(model, views, len(pool), short.batch_size, precision, device)
            recorder.write(epoch, logits if online is None else online, features, model)
    return recorder.meta()


def _untrained(network: Network, recipe: ProxyRecipe, repeat: int, num_classes: int) -> nn.Sequential:
    """Return a copy of the network, or a fresh one, with a new head."""
    body = copy.deepcopy(network) if recipe.initial == "pretrained" else network.origin.load_random("proxy", repeat)
    with seeded("proxy head", repeat):
        return nn.Sequential(body, nn.Linear(network.num_features, num_classes))


def _shortened(recipe: ProxyRecipe, until: int) -> Recipe:
    """Return the training of the first epochs: their learning rates are those of the whole."""
    return replace(recipe.training, epochs=until)


@torch.inference_mode()
def _look(
    model: nn.Sequential, view: View, count: int, batch_size: int, precision: str, device: str
) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and logits [N, C] of the evaluation view, float32 on the CPU."""
    model.eval()
    hidden = embed(model[0], view, range(count), batch_size, precision, device, "recording")
    return hidden, hidden @ model[1].weight.cpu().T + model[1].bias.cpu()
