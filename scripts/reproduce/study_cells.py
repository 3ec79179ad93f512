"""What the study compares: sets with backbones, sub-pools, methods and budgets; selection and linear probes.

A pair is one set with one backbone. A sub-pool is a random 80 % of each class of its pool, so that the spread over
sub-pools holds the sampling of the pool too. Everything that a method reads is computed anew on the sub-pool. Only the
features of single images are shared, since they do not depend on other images.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from prunetune.base.devices import resolve_device
from prunetune.base.seeding import derive_seed, seeded
from prunetune.base.store import Store
from prunetune.config.parse import ImageRun, parse_image_run
from prunetune.data.subpool import subpool
from prunetune.networks.frozen_pass import embed
from prunetune.networks.masking import MaskPath
from prunetune.runs.image_run import Task, Training, finetune
from prunetune.runs.sampler_search import Choice, Question, choose
from prunetune.runs.scores import compute_scores
from prunetune.signals.contract import Signals
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.part import PartSignals
from prunetune.training.sample_order import Static
from scripts.bench.benchmarks import composed
from scripts.real_data import backbones, datasets
from scripts.reproduce.study_rows import FULL, ONE, SHARE

SUB_POOLS = 10
SAMPLE = 192  # The time of a pass is measured on about this many images.
BUDGETS = (ONE, "0.02", "0.05", "0.1", "0.2", "0.3", "0.5", "0.7", "0.9")
PAIRS = (
    *(("dtd10", "vit_tiny"), ("caltech101", "vit_tiny"), ("cifar10mini", "vit_tiny"), ("digits", "micro")),
    *(("textures", "micro"), ("dtd10", "mobilenetv2"), ("caltech101", "mobilenetv2"), ("cifar10mini", "mobilenetv2")),
    *(("digits", "vit_tiny"), ("textures", "vit_tiny")),
)
GAMMAS = ("0.1", "0.25", "0.4", "0.5", "0.6", "0.75", "0.9")
# Each method as overrides of a run. Proxies are linear probes on the features of the sub-pool.
METHODS: dict[str, tuple[str, ...]] = {
    "random": ("method=random",),
    "dlc_validation": ("method=dlc",),
    **{f"dlc_{gamma}": ("scorer=dlc", "sampler=flexrand", f"sampler.gamma={gamma}") for gamma in GAMMAS},
    "dlc_easiest": ("method=dlc_topk_easiest",),
    "herding": ("method=herding",),
    "k_medoids": ("method=k_medoids_swap",),
    "maxherding": ("method=maxherding",),
    "facility_location": ("method=facility_location",),
    "typiclust": ("method=typiclust",),
    "activeft": ("method=activeft",),
    "d2": ("method=d2",),
    "ccs": ("method=ccs",),
    "moderate": ("method=moderate",),
    "zcore": ("method=zcore",),
    "el2n": ("method=el2n",),
    "aum": ("method=aum",),
}
# How a selection is judged, as overrides of a run.
JUDGES: dict[str, tuple[str, ...]] = {
    "linear_probe": ("finetune=linear_probe", "finetune.views=0", "finetune.evaluate_every=50"),
    "logistic_regression": ("finetune=logistic_regression",),
    FULL: ("finetune=full", "finetune.evaluate_every=50"),
}
PRECISION = "fp32"  # The same on every machine and for every network.


@dataclass(frozen=True)
class Pair:
    """One set with one backbone. overrides: those of a run that name both."""

    dataset: str
    backbone: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.backbone}"


def pairs(data: Path, folders: Sequence[Path] = ()) -> list[Pair]:
    """Return the pairs of the study.

    Args:
        data: folder with data/ and weights/.
        folders: further folders of images, one subfolder a class; each is run with ViT-Tiny.
    """
    images = {
        **datasets(data),
        "cifar10mini": [
            *("dataset=image_folder", "dataset.name=cifar10mini", f"dataset.root={data / 'data' / 'cifar10mini'}")
        ],
        "digits": ["dataset=digits"],
        "textures": ["dataset=textures"],
        **{
            each.name: ["dataset=image_folder", f"dataset.name={each.name}", f"dataset.root={each}"] for each in folders
        },
    }
    networks = {**backbones(data), "micro": ["backbone=micro"]}
    named = [*PAIRS, *((each.name, "vit_tiny") for each in folders)]
    return [Pair(dataset, network, (*images[dataset], *networks[network])) for dataset, network in named]


class Opened:
    """A pair whose images and network are open.

    Args:
        pair: the pair.
        store: keeps features, so that they are computed once.
    """

    def __init__(self, pair: Pair, store: Path) -> None:
        self.pair = pair
        run = self.run("random", 0.5)
        self.pool, self.test = run.dataset.pool("train"), run.dataset.pool("test")
        embedding = Embedding(run.backbone.load(), Store(store), PRECISION, resolve_device("auto"))
        self.signals = NetworkSignals(self.pool, embedding, run.proxy, keeps_masked=True)
        self.task = Task(self.pool, self.test, self.signals, self.signals, embedding.device)

    @cached_property
    def features(self) -> Tensor:
        """The features of the pool, [N, D] float32."""
        return self.signals.features()

    @cached_property
    def test_features(self) -> Tensor:
        """The features of the test images, [N', D] float32."""
        return NetworkSignals(self.test, self.signals.embedding).features()

    def compute(self) -> None:
        """Compute all that needs the network, so that worker processes find it in the store."""
        assert self.features.shape[1] == self.test_features.shape[1]
        scorer = self.run("dlc_easiest", 0.5).scorer
        path = MaskPath(scorer.schedule, scorer.levels, scorer.step, True, "l1", self.signals.mask_modules)
        for _ in self.signals.masked_features(path):
            pass
        self.signals.proxy()

    def seconds_of_a_pass(self) -> float:
        """Return the CPU time of one forward pass over the pool, from a sample of it."""
        embedding, rows = self.signals.embedding, range(0, len(self.pool), max(1, len(self.pool) // SAMPLE))
        network, view = embedding.network.to(embedding.device), embedding.evaluation(self.pool)
        embed(network, view, rows, embedding.passes, "warm-up")
        start = time.process_time()
        embed(network, view, rows, embedding.passes, "one pass over a sample")
        return (time.process_time() - start) * len(self.pool) / len(rows)

    def run(self, method: str, ratio: float, judge: str = "linear_probe") -> ImageRun:
        """Return the run of a method, with its scorer, its samplers and its recipe."""
        return _run((*self.pair.overrides, "proxy=linear_probe", *JUDGES[judge], *METHODS[method]), ratio)

    def part(self, sub_pool: int) -> "Part":
        """Return a sub-pool."""
        rows = subpool(self.pool, SHARE, sub_pool)
        return Part(self, rows, PartSignals(self.signals, rows), sub_pool)


@lru_cache(maxsize=512)
def _run(overrides: tuple[str, ...], ratio: float) -> ImageRun:
    cfg = _configuration(overrides).copy()
    cfg.ratio = ratio
    return parse_image_run(cfg)


_configuration = lru_cache(maxsize=64)(composed)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a method keeps of a sub-pool at a budget: rows [m] int64 of the pool.

    seconds: the CPU time of its score, its search for a setting and its selection, given the features.
    """

    method: str
    budget: str
    rows: Tensor
    seconds: float


@dataclass(frozen=True, eq=False)
class Part:
    """A sub-pool: its rows [n] int64 of the pool, ascending, and its signals. number: its seed."""

    opened: Opened
    rows: Tensor
    signals: Signals
    number: int

    @property
    def labels(self) -> Tensor:
        """[n] int64."""
        return self.signals.pool.labels

    def ratio(self, budget: str) -> float:
        """Return a budget as the fraction of each class; one image a class is a fraction of the largest class."""
        return 1 / int(self.labels.bincount().max()) if budget == ONE else float(budget)

    def selections(self, methods: Sequence[str], budgets: Sequence[str]) -> Iterator["Selection"]:
        """Yield what each method keeps at each budget, where its setting allows it.

        A gamma that leaves too few images on one side is not valid at a budget; then there is no selection.
        """
        for method in methods:
            scorer, scores, scoring = None, None, 0.0
            for budget in budgets:
                ratio = self.ratio(budget)
                if not _is_valid(method, ratio):
                    continue
                run, start = self.opened.run(method, ratio), time.process_time()
                if run.scorer != scorer:  # That of k-medoids depends on the ratio.
                    scorer, scores = run.scorer, compute_scores(run.scorer, self.signals, self.number)
                    scoring, start = time.process_time() - start, time.process_time()
                choice = self._choice(run)
                with seeded("sample", self.number, ratio) as generator:
                    kept = choice.sampler.select(scores, self.labels, ratio, generator, self.signals)
                yield Selection(method, budget, self.rows[kept], scoring + time.process_time() - start)

    def _choice(self, run: ImageRun) -> Choice:
        question = Question(run.candidates, run.scorer, run.amount, self.number, run.search)
        return choose(question, self.signals, self.signals)

    def accuracies(self, kept: Sequence[Tensor], judge: str = "linear_probe") -> list[float]:
        """Return the accuracy on the test images after training on each selection.

        Args:
            kept: rows [m] int64 of the pool. All trainings of a sub-pool have the same seed, so the same first head.
            judge: a name of JUDGES.
        """
        run, seed = self.opened.run("random", 0.5, judge), derive_seed("study", self.number)
        trainings = [Training(rows, seed, Static(len(rows))) for rows in kept]
        return [result.history[-1].test_accuracy for result in finetune(run, self.opened.task, trainings)]


def _is_valid(method: str, ratio: float) -> bool:
    gamma = method.removeprefix("dlc_")
    return gamma not in GAMMAS or ratio / 2 <= float(gamma) <= 1 - ratio / 2
