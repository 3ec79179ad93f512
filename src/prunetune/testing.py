"""The contract of scorers and samplers as checks, also for those that are written elsewhere.

`check_scorer(MyScorer())` and `check_sampler(MySampler())` raise AssertionError with the promise that is broken.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.checkpoint import weights_hash
from prunetune.runs.scores import compute_scores
from prunetune.samplers import Sampler, class_budgets
from prunetune.scorers import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe, RecordedProxy
from prunetune.signals.tensors import TensorSignals
from prunetune.training.recipe import Recipe

CLASS_SIZES = (11, 1, 7, 4)  # unequal, one image alone; 23 is a multiple of no batch size in use
SHORT_PROXY = ProxyRecipe(Recipe("full", trained="all", epochs=6, learning_rate=1e-3, views=0))
CLOSE = {"rtol": 1e-3, "atol": 1e-6}  # of scores in float32 arithmetic with other batch sizes


def made_pool(size: int = 32, order: list[int] | None = None) -> Pool:
    """Return a small pool of noise images, [3, size, size], whose brightness pattern tells the class.

    order: how the images are listed; a pool sorts itself, so that it makes no difference.
    """
    labels = torch.repeat_interleave(torch.arange(len(CLASS_SIZES)), torch.tensor(CLASS_SIZES))
    noise = torch.randint(0, 128, (len(labels), size, size, 3), generator=stream("made pool")).numpy().astype(np.uint8)
    for pixels, label in zip(noise, labels.tolist(), strict=True):
        pixels[:: label + 2] += 100
    ids = [f"image{position:02d}" for position in range(len(labels))]
    order = list(range(len(labels))) if order is None else order
    return Pool(
        "made",
        labels[order],
        tuple(ids[i] for i in order),
        tuple("val" if i % 4 == 3 else "train" for i in order),
        tuple("abcd"),
        ImageArrays(noise[order]),
    )


def check_scorer(scorer: Scorer, backbone: Backbone | None = None, proxy: ProxyRecipe = SHORT_PROXY) -> None:
    """Check the promises of a scorer on a small pool.

    Args:
        scorer: any scorer.
        backbone: the network it is tried with; by default the packaged one.
        proxy: how the proxy is trained, for scorers that read one.
    """
    network = (backbone or Backbone(model="prunetune_micro", mask_modules="conv2d")).load()
    assert scorer.higher_means in ("harder", "picked earlier", "nothing"), (
        "higher_means must be harder, picked earlier or nothing"
    )
    assert scorer.version >= 1, "version must be a whole number from 1"
    before = weights_hash(network.model)
    scores = _scores(scorer, network, proxy, seed=0)
    assert scores.shape == (sum(CLASS_SIZES),), "scores must be [N]"
    assert scores.dtype == torch.float64, "scores must be float64"
    assert scores.isfinite().all(), "scores must be finite"
    is_constant = bool((scores == scores[0]).all())
    assert is_constant == (scorer.higher_means == "nothing"), "scores must tell images apart unless they mean nothing"
    assert weights_hash(network.model) == before, "the backbone must be unchanged afterwards"
    assert torch.equal(scores, _scores(scorer, network, proxy, seed=0)), "the same seed must give the same scores"
    other_seed = torch.equal(scores, _scores(scorer, network, proxy, seed=1))
    assert other_seed != scorer.uses_seed, "another seed must change the scores exactly if uses_seed says so"
    backwards = list(reversed(range(sum(CLASS_SIZES))))
    assert torch.equal(scores, _scores(scorer, network, proxy, 0, order=backwards)), (
        "scores must not depend on the listing order"
    )
    assert torch.allclose(scores, _scores(scorer, network, proxy, 0, batch_size=5), **CLOSE), (
        "scores must not depend on the batch size"
    )


def _scores(
    scorer: Scorer,
    network: Network,
    proxy: ProxyRecipe,
    seed: int,
    order: list[int] | None = None,
    batch_size: int = 8,
) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        embedding = Embedding(network, Store(Path(folder)), batch_size=batch_size)
        return compute_scores(scorer, NetworkSignals(made_pool(network.input_size, order), embedding, proxy), seed)


def check_sampler(sampler: Sampler, keeps_budgets: bool = True) -> None:
    """Check the promises of a sampler on made scores, features and proxy logits.

    Args:
        sampler: any sampler.
        keeps_budgets: False for a published behaviour that misses the class budgets.
    """
    labels = torch.repeat_interleave(torch.arange(len(CLASS_SIZES)), torch.tensor(CLASS_SIZES))
    labels = labels[torch.randperm(len(labels), generator=stream("made labels"))]
    scores = torch.rand(len(labels), generator=stream("made scores"), dtype=torch.float64)
    others = torch.rand(len(labels), generator=stream("other scores"), dtype=torch.float64)
    signals = made_signals(labels)
    is_moved = False
    for ratio in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9):
        kept = sampler.select(scores, labels, ratio, stream("draw", ratio), signals)
        assert kept.dtype == torch.int64, "a subset must be [M] int64 positions"
        assert torch.equal(kept, kept.unique()), "positions must be ascending and unique"
        again = sampler.select(scores, labels, ratio, stream("draw", ratio), signals)
        assert torch.equal(kept, again), "the same generator must give the same subset"
        is_moved |= not torch.equal(kept, sampler.select(others, labels, ratio, stream("draw", ratio), signals))
        if keeps_budgets:
            recall = signals.recall() if sampler.budgets == "drop" else None
            budgets = class_budgets(labels, ratio, sampler.min_per_class, sampler.rounding, sampler.budgets, recall)
            counts = {label: int((labels[kept] == label).sum()) for label in budgets}
            assert counts == budgets, f"classes must keep their budgets at ratio {ratio}"
    assert is_moved == sampler.reads_scores, "other scores must change the subset exactly if reads_scores says so"
    everything = sampler.select(scores, labels, 1.0, stream("draw"), signals)
    assert torch.equal(everything, torch.arange(len(labels))), "ratio 1 must keep everything"


def made_signals(labels: Tensor, width: int = 8, epochs: int = 6) -> Signals:
    """Return made features [N, width] and a made proxy of some images, both telling of their labels [N] int64."""
    num_classes, generator = int(labels.max()) + 1, stream("made signals")
    pool = Pool(
        "made",
        labels,
        tuple(f"image{position:06d}" for position in range(len(labels))),
        ("train",) * len(labels),
        tuple(map(str, range(num_classes))),
    )
    directions = torch.randn(num_classes, width, generator=generator)
    features = directions[labels] + torch.randn(len(labels), width, generator=generator)
    logits = torch.randn(epochs, len(labels), num_classes, generator=generator)
    logits += torch.nn.functional.one_hot(labels, num_classes) * torch.arange(epochs).view(-1, 1, 1)
    return TensorSignals(features, pool=pool, proxies=[RecordedProxy(list(logits))])
