"""The library's main function: `prune` prunes your own data in one call."""

from collections.abc import Collection, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.devices import resolve_device, resolve_precision, training_precision
from prunetune.base.disk import explained
from prunetune.base.errors import InputError, suggestion
from prunetune.base.publish import scratch_folder
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.config.named import SAMPLERS, SCORERS, own_sampler
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

# These samplers need a run. topk_flexible chooses its end by training probes (the library offers topk and
# topk_easiest instead), and rs2 and infobatch choose images during training.
NOT_HERE = ("topk_flexible", "rs2", "infobatch")


@dataclass(frozen=True)
class Subset:
    """The kept images of a pool.

    positions: [M] int64, ascending, the indices of the kept images in the pool. For a torch dataset they are indices of
    that dataset. scores: [N] float64 of the whole pool; larger means harder. weights: [M] float64 for methods that
    weight the kept images (craig, gradmatch), else None.
    """

    pool: Pool
    positions: Tensor
    scores: Tensor
    weights: Tensor | None = None

    @cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids of the M kept images."""
        return tuple(self.pool.sample_ids[position] for position in self.positions.tolist())

    def to_csv(self, path: str | Path) -> None:
        """Write the columns position, sample_id, label, weight. The file equals the subset.csv of a run.

        Raises:
            InputError: the disk is full or not writable.
        """
        write_subset(Path(path), self.pool, self.positions, self.weights, "pass another path")

    def as_torch(self, dataset: Sized) -> torch.utils.data.Subset:
        """Return the kept part of a map-style dataset whose items are in the order of the pool.

        Raises:
            InputError: the dataset has another number of items than the pool.
        """
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
            or uint8 tensors [3, h, w]; labels are whole numbers. A folder is read as by dataset=image_folder: if it has
            no train/ and test/, 20 % of each class are held out as test images and the rest is the pool.
        ratio: fraction of each class that is kept, in (0, 1].
        scorer: a name (dlc, herding, el2n ..., those of `list(prunetune.api.SCORERS)`) or a Scorer.
        sampler: a name (auto: the scorer's own; flexrand, topk, random, ccs ...) or a Sampler.
        backbone: resnet18, resnet50, vit_small, vit_base (each also _weakly), micro, a timm model name, or a Backbone.
        seed: the seed of all random draws.
        proxy: how to train the proxy network that EL2N, forgetting and others read: full (fine-tune the backbone on the
            whole pool, slow without a GPU), linear_probe (takes seconds), or a ProxyRecipe.
        store: the folder in which features and scores are kept for the next call. By default they are not kept.
        device: auto, cpu or cuda.
        precision: the precision of the forward passes: auto (bf16 if the hardware supports it and the backbone has no
            batch normalisation), fp32 or bf16.
        batch_size: images per forward pass. Scores depend on it only by rounding.

    Raises:
        InputError: an argument is not allowed, an image cannot be read, weights cannot be loaded, or the disk is full
            or not writable.
    """
    check_ratio(ratio)
    checks.whole_number("batch_size", batch_size)
    seed, ratio = checks.plain(seed), checks.plain(ratio)  # NumPy numbers must give the same seeds as Python numbers.
    checks.whole_number("seed", seed, least=None)
    pool = as_pool(data)
    if pool.images is None:
        raise InputError("the pool has no images; to score tensors, call scorer.score(pool, TensorSignals(...))")
    asked, scorer = scorer, _named(scorer, SCORERS, "scorer", Scorer)
    name = own_sampler(asked) if sampler == "auto" else sampler
    sampler = _named(name, SAMPLERS, "sampler", Sampler, NOT_HERE)
    if getattr(sampler, "name", None) in NOT_HERE:
        raise InputError(f"{type(sampler).__name__} can be used in a run only, not in prune(); pass another sampler")
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
        yield Store(Path(folder), fix="pass store=<another folder>")
        return
    fix = "pass store=<folder>"
    with ExitStack() as stack:
        with explained("a temporary folder", fix):
            temporary = stack.enter_context(scratch_folder())
        yield Store(temporary, fix)
