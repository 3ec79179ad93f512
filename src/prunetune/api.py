"""The front door: prune your own data in one call."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from prunetune.backbones import Backbone
from prunetune.datasets.base import Pool
from prunetune.datasets.image_folder import ImageFolder
from prunetune.devices import resolve_device, resolve_precision, training_precision
from prunetune.dynamics import LINEAR_PROBE, ProxyRecipe
from prunetune.errors import InputError, suggestion
from prunetune.images.decode import Images, UnreadableImage, decode_image
from prunetune.records import write_subset
from prunetune.samplers import RS2, SAMPLERS, InfoBatch, Sampler, TopKFlexible
from prunetune.samplers.base import check_ratio
from prunetune.scorers import Scorer
from prunetune.scorers.named import SCORERS
from prunetune.scores import check_fit, stored_scores
from prunetune.seeding import seeded
from prunetune.signals import Embedding, NetworkSignals
from prunetune.store import Store
from prunetune.weighting import weigh

BACKBONES: dict[str, dict[str, str]] = {
    "resnet18": {"model": "resnet18.tv_in1k", "mask_modules": "conv2d"},
    "resnet50": {"model": "resnet50.tv_in1k", "mask_modules": "conv2d"},
    "vit_small": {"model": "vit_small_patch16_224.augreg_in1k", "mask_modules": "linear"},
    "vit_base": {"model": "vit_base_patch16_224.augreg_in1k", "mask_modules": "linear"},
    "resnet18_weakly": {"model": "resnet18.fb_swsl_ig1b_ft_in1k", "mask_modules": "conv2d"},
    "resnet50_weakly": {"model": "resnet50.fb_swsl_ig1b_ft_in1k", "mask_modules": "conv2d"},
    "vit_small_weakly": {"model": "vit_small_patch16_224.augreg_in21k", "mask_modules": "linear"},
    "vit_base_weakly": {"model": "vit_base_patch16_224.augreg_in21k", "mask_modules": "linear"},
    "micro": {"model": "prunetune_micro", "mask_modules": "conv2d"},
}
# the end of topk_flexible is chosen in a run (here pass topk or topk_easiest); the other two are ways of training
NOT_HERE = (TopKFlexible, RS2, InfoBatch)


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
        scorer: a name (dlc, herding, el2n ..., see `prunetune.scorers.named`) or a Scorer.
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
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if isinstance(seed, bool) or not isinstance(seed, Integral):  # NumPy's numbers too
        raise InputError(f"seed must be a whole number, got {seed!r}")
    pool = as_pool(data)
    if pool.images is None:
        raise InputError("the pool has no images; for tensors there is scorer.score(pool, Signals.from_tensors(...))")
    scorer = _named(scorer, SCORERS, "scorer", Scorer)
    name = scorer.own_sampler if sampler == "auto" else sampler
    sampler = _named(name, {key: made() for key, made in SAMPLERS.items() if made not in NOT_HERE}, "sampler", Sampler)
    if isinstance(sampler, NOT_HERE):
        raise InputError(f"{type(sampler).__name__} does not choose images here but in a run; pass another sampler")
    proxy = _named(proxy, {"full": ProxyRecipe(), "linear_probe": LINEAR_PROBE}, "proxy", ProxyRecipe)
    check_fit(scorer, sampler, ratio)
    device = resolve_device(device)
    network = as_backbone(backbone).load()
    with _store(store) as kept:
        resolved, trained = resolve_precision(precision, device, network), training_precision(precision)
        embedding = Embedding(network, kept, resolved, device, batch_size, proxy=proxy, training_precision=trained)
        signals = NetworkSignals(pool, embedding)
        scores = stored_scores(scorer, signals, int(seed)).values
        with seeded("sample", int(seed), float(ratio)) as generator:  # NumPy's numbers seed as Python's do
            positions = sampler.select(scores, pool.labels, float(ratio), generator, signals)
        weights = weigh(scorer, sampler, float(ratio), signals, positions)
        if weights is not None:
            positions, weights = positions[weights > 0], weights[weights > 0]
    return Subset(pool, positions, scores, weights)


def as_pool(data: str | Path | Pool | Sized) -> Pool:
    """Return a folder, a dataset of (image, label) or a pool as a Pool."""
    if isinstance(data, Pool):
        return data
    if isinstance(data, str | Path):
        return ImageFolder(root=str(data)).pool("train")
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise InputError(
            f"data must be a folder, a map-style dataset of (image, label) or a Pool, got {type(data).__name__}"
        )
    labels = dataset_labels(data)
    names = [str(name) for name in getattr(data, "classes", [])]
    num_classes = max(len(names), int(labels.max()) + 1 if len(labels) else 0)
    classes = tuple(names) if len(names) == num_classes else tuple(map(str, range(num_classes)))
    width = len(str(max(len(labels) - 1, 0)))
    ids = tuple(f"{position:0{width}d}" for position in range(len(labels)))  # sorted as the dataset's own order
    return Pool("dataset", labels, ids, ("train",) * len(ids), classes, DatasetImages(data, tuple(range(len(ids)))))


def dataset_labels(dataset: Any) -> Tensor:
    """Return the labels [N] int64 of a map-style dataset: its `targets` where it has them, else of each item."""
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [dataset[position][1] for position in range(len(dataset))]
    try:
        return torch.tensor([int(label) for label in targets], dtype=torch.int64)
    except (TypeError, ValueError):
        raise InputError("the dataset's labels must be whole numbers from 0") from None


@dataclass(frozen=True)
class DatasetImages(Images):
    """The images of a map-style dataset of (image, label)."""

    dataset: Any
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def decode(self, position: int) -> Tensor:
        try:
            image = self.dataset[self.indices[position]][0]
            if isinstance(image, Image.Image):
                return decode_image(image)
        except (OSError, ValueError) as error:  # what files, Pillow and `decode_image` raise
            raise UnreadableImage(f"item {self.indices[position]}", str(error) or type(error).__name__) from None
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
            return image
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"item {self.indices[position]} should be a PIL image or a uint8 tensor [3, h, w], is {what}; "
            "pass the dataset without its transform"
        )

    def digest(self, position: int) -> str:
        image = self.decode(position)
        return hashlib.sha256(f"{list(image.shape)}".encode() + image.contiguous().numpy().tobytes()).hexdigest()

    def take(self, positions: Sequence[int]) -> "DatasetImages":
        return DatasetImages(self.dataset, tuple(self.indices[position] for position in positions))


def as_backbone(backbone: str | Backbone) -> Backbone:
    """Return a backbone by its short name or its timm name."""
    if isinstance(backbone, Backbone):
        return backbone
    if not isinstance(backbone, str):
        raise InputError(f"backbone must be a name or a Backbone, got {backbone!r}")
    return Backbone(name=backbone, **BACKBONES.get(backbone, {"model": backbone}))


def _named(choice: Any, known: dict[str, Any], what: str, kind: type) -> Any:
    if isinstance(choice, kind):
        return choice
    if not isinstance(choice, str):
        raise InputError(f"{what} must be a name or a {kind.__name__} object, got {choice!r}")
    if choice not in known:
        raise InputError(f"there is no {what} {choice!r}; known: {', '.join(known)}.{suggestion(choice, known)}")
    return known[choice]


@contextmanager
def _store(folder: str | Path | None) -> Iterator[Store]:
    if folder is not None:
        yield Store(Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="prunetune-") as temporary:
        yield Store(Path(temporary))
