"""Images and a real network for the parity scripts, where a method reads more than recorded numbers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone, Network
from prunetune.scorers.dlc import class_means
from prunetune.signals.proxy import RecordedProxy, with_head
from prunetune.signals.tensors import TensorSignals
from scripts.parity.agreement import Material

SIZES = (23, 9, 14, 31)  # Unequal class sizes, 77 images in all.
AT_ONCE = 16


class Shown(TensorSignals):
    """Signals of a pool of images [N, 3, S, S] uint8, with a network after one epoch as the proxy."""

    def __init__(self, material: Material, pixels: Tensor) -> None:
        super().__init__(material.features, None, material.pool, material.proxies)
        self.material, self._pixels = material, pixels

    def images(self, positions: Tensor | None = None) -> Iterator[Tensor]:
        """Yield [B, 3, S, S] uint8."""
        yield from (self._pixels if positions is None else self._pixels[positions]).split(AT_ONCE)


def made_images() -> Shown:
    """Return noise images whose brightness pattern tells the class, and the packaged network with a made head."""
    network = Backbone(model="prunetune_micro", mask_modules="conv2d").load()
    labels = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    labels = labels[torch.randperm(len(labels), generator=stream("parity image labels"))]
    side = network.input_size
    pixels = torch.randint(0, 128, (len(labels), 3, side, side), generator=stream("parity pixels"), dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, :: label + 2] += 60
    ids = tuple(f"image{position:03d}" for position in range(len(labels)))
    pool = Pool("parity images", labels, ids, ("train",) * len(ids), tuple("abcd"))
    return Shown(_material(network, pool, pixels), pixels)


def _material(network: Network, pool: Pool, pixels: Tensor) -> Material:
    """Return the network's features, and a proxy whose head compares with the class means."""
    with torch.no_grad():
        features = torch.cat([network(images) for images in pixels.split(AT_ONCE)])
    means = class_means(features, pool.labels, len(pool.classes)).float()
    weight = means - means.mean(0)
    weight *= 1.5 / (features @ weight.T).std()  # Logits of about 1.5 do not saturate.
    bias = -(weight @ features.mean(0))
    logits = torch.addmm(bias, features, weight.T)
    model = with_head(network, weight, bias)
    proxy = RecordedProxy([logits], {1: features}, {1: (weight, bias)}, lambda epoch: model)
    return Material(pool, features, (proxy,))
