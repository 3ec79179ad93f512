"""The front door: prune your own data in one call."""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.devices import resolve_device, resolve_precision, training_precision
from prunetune.base.errors import InputError, suggestion
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.config.named import SAMPLERS, SCORERS
from prunetune.data.pool import Pool
from prunetune.data.readers.torch_dataset import as_pool
from prunetune.networks.backbone import Backbone
from prunetune.networks.named import as_backbone
from prunetune.runs.records import write_subset
from prunetune.runs.scores import check_fit, stored_scores
from prunetune.runs.weights import weigh
from prunetune.samplers import Sampler
from prunetune.samplers.base import check_ratio
from prunetune.scorers import Scorer
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import FULL_PROXY, LINEAR_PROBE, ProxyRecipe

# the end of topk_flexible is chosen in a run (here pass topk or topk_easiest); the other two are ways of training
NOT_HERE = ("topk_flexible", "rs2", "infobatch")


@dataclass(frozen=True)
class Subset:
    """What is kept. positions: [M] int64, ascending. scores: [N] float64 of the whole pool, larger = harder.

    `positions` index the pool; for a torch dataset they are that dataset's own indices. weights: [M] float64 for
    methods that weight what they keep (craig, gradmatch), else None.
    """

    pool: Pool
    positions: Tensor
    scores: Tensor
    weights: Tensor | None = None

    @cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """The M ids of what is kept."""
        return tuple(self.pool.sample_ids[position] for position in self.positions.tolist())

    def to_csv(self, path: str | Path) -> None:
        """Write position, sample_id, label, weight: the same file as a run's subset.csv."""
        write_subset(Path(path), self.pool, self.positions, self.weights)

    def as_torch(self, dataset: Sized) -> torch.utils.data.Subset:
        """Return the kept part of a map-style dataset whose items are in pool order."""
        if len(dataset) != len(self.pool):
            raise InputError(f"the dataset should have the pool's {len(self.pool)} items, has {len(dataset)}")
        return torch.utils.data.Subset(dataset, self.positions.tolist())


def prune(
    data: str | Path | Pool | Sized,
    ratio: float,
    scorer: str | Scorer = "dlc",
    sampler: str | Sampler = "auto",
    backbone: str | Backbone = "resnet18",
    seed: int = 0,
    *,
    proxy: str | ProxyRecipe = "full",
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 64,
) -> Subset:
    """Score a pool and keep a fraction of each class.

    Args:
        data: a folder of class folders, a map-style dataset of (image, label), or a Pool. Images are PIL images,
            or uint8 tensors [3, h, w]; labels whole numbers. A folder is read as dataset=image_folder does: without
            train/ and test/ in it, 20 % of each class are held out for a test and the rest is pruned.
        ratio: fraction of each class that is kept, in (0, 1].
        scorer: a name (dlc, herding, el2n ..., those of `list(prunetune.api.SCORERS)`) or a Scorer.
        sampler: a name (auto: the scorer's own; flexrand, topk, random, ccs ...) or a Sampler.
        backbone: resnet18, resnet50, vit_small, vit_base (each also _weakly), micro, a timm model name, or a Backbone.
        seed: of the draws.
        proxy: what scores from training dynamics read: full (the backbone is fine-tuned on the whole pool, which takes
            long without a GPU), linear_probe (seconds), or a ProxyRecipe.
        store: folder that keeps features and scores for the next call; by default they are not kept.
        device: auto, cpu or cuda.
        precision: of the forward passes, auto (bf16 where the hardware has it and the backbone has no batch
            normalisation), fp32 or bf16.
        batch_size: images per forward pass; no score depends on it.

    Raises:
        InputError: a bad argument, an unreadable image, or weights that cannot be had.
    """
    check_ratio(ratio)
    checks.whole_number("batch_size", batch_size)
    seed, ratio = checks.plain(seed), checks.plain(ratio)  # NumPy's numbers seed as Python's do
    checks.whole_number("seed", seed, least=None)
    pool = as_pool(data)
    if pool.images is None:
        raise InputError("the pool has no images; for tensors there is scorer.score(pool, TensorSignals(...))")
    scorer = _named(scorer, SCORERS, "scorer", Scorer)
    name = scorer.own_sampler if sampler == "auto" else sampler
    sampler = _named(name, SAMPLERS, "sampler", Sampler, NOT_HERE)
    if getattr(sampler, "name", None) in NOT_HERE:
        raise InputError(f"{type(sampler).__name__} does not choose images here but in a run; pass another sampler")
    proxy = _named(proxy, {"full": FULL_PROXY, "linear_probe": LINEAR_PROBE}, "proxy", ProxyRecipe)
    check_fit(scorer, sampler, ratio)
    device = resolve_device(device)
    network = as_backbone(backbone).load()
    with _store(store) as kept:
        resolved, trained = resolve_precision(precision, device, network), training_precision(precision)
        embedding = Embedding(network, kept, resolved, device, batch_size, training_precision=trained)
        signals = NetworkSignals(pool, embedding, proxy)
        scores = stored_scores(scorer, signals, seed).values
        with seeded("sample", seed, float(ratio)) as generator:
            positions = sampler.select(scores, pool.labels, float(ratio), generator, signals)
        weights = weigh(scorer, sampler, float(ratio), signals, positions)
        if weights is not None:
            positions, weights = positions[weights > 0], weights[weights > 0]
    return Subset(pool, positions, scores, weights)


def _named(choice: Any, known: Mapping[str, Any], what: str, kind: type, without: Collection[str] = ()) -> Any:
    if isinstance(choice, kind):
        return choice
    if not isinstance(choice, str):
        raise InputError(f"{what} must be a name or a {kind.__name__} object, got {choice!r}")
    names = [name for name in known if name not in without]
    if choice not in names:
        raise InputError(f"there is no {what} {choice!r}; known: {', '.join(names)}.{suggestion(choice, names)}")
    return known[choice]


@contextmanager
def _store(folder: str | Path | None) -> Iterator[Store]:
    if folder is not None:
        yield Store(Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="prunetune-") as temporary:
        yield Store(Path(temporary))
