"""Any selection method of a DeepCore checkout, run as it is on our pool with our network."""

import logging
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.scorers.base import Scorer
from prunetune.scorers.published.deepcore_adapter import Call, find_checkout, fingerprint, load_package, select
from prunetune.signals.contract import Signals

log = logging.getLogger(__name__)

FUNCTION_ARGUMENTS = {"Uncertainty": "selection_method", "Submodular": "function"}


@dataclass(frozen=True)
class DeepCore(Scorer):
    """1 for the images that a method of DeepCore selects at `fraction`, 0 for the others.

    Source: PatrickZH/DeepCore at commit 74ec709 (arXiv 2204.08499), run from a checkout: none of it is part of this
    package, and PyPI's `deepcore` is another program. The `deepcore` variants of our own scorers document where it
    differs from the papers. It selects for one fraction, so it serves this ratio only, and always with its `balance`,
    which means class-proportional. The weights that some methods return are not used.
    Direction: larger is picked earlier.
    Cost: its own training of our network on the whole pool (GraNd: `repeats` of them), then its selection, which holds
    matrices [n, n] and [n, C (D + 1)].

    path: folder of the checkout. method: class name, such as Herding, kCenterGreedy, Craig. fraction: kept of each
    class; must be the ratio. epochs, batch_size, learning_rate: of its training, by DeepCore's rules; the defaults
    are those of its command line. initial: "random" or "pretrained" weights of our network. function: of Uncertainty
    (LeastConfidence, Entropy, Margin) and Submodular (FacilityLocation, GraphCut, LogDeterminant). greedy: optimiser of
    Submodular, Craig and Glister. repeats: trainings of GraNd, 10 by default. null: DeepCore's default. If one
    table holds several of its methods, give each its own name, such as scorer.name=deepcore_craig.
    """

    path: str = ""
    method: str = "Herding"
    fraction: float = 0.1
    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 0.1
    initial: str = "random"
    function: str | None = None
    greedy: str | None = None
    repeats: int | None = None

    name: ClassVar[str] = "deepcore"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1
    in_runs: ClassVar[dict[str, Any]] = {"fraction": "${ratio}"}
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.number("scorer.fraction", self.fraction, "(0, 1]", what="the ratio that DeepCore selects for")
        super().__post_init__()
        checks.choice("scorer.initial", self.initial, ("random", "pretrained"))
        checks.whole_number("scorer.epochs", self.epochs, least=0)
        checks.whole_number("scorer.batch_size", self.batch_size)
        checks.whole_number("scorer.repeats", self.repeats, or_none=True)
        checks.number("scorer.learning_rate", self.learning_rate, "(0, 1000]")
        self._arguments()
        find_checkout(self.path)

    @property
    def uses_seed(self) -> bool:
        """Always true, because DeepCore draws weights, batches and first picks at random."""
        return True

    def score(self, pool: Pool, signals: Signals, generator: torch.Generator) -> Tensor:
        package = load_package(find_checkout(self.path))
        device = getattr(getattr(signals, "embedding", None), "device", "cpu")
        call = Call(
            self.method,
            self.fraction,
            generator.initial_seed(),
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.initial,
            device,
            arguments=self._arguments(),
        )
        selected = select(package, signals, call)
        wanted = {label: round(self.fraction * size) for label, size in enumerate(pool.class_counts.tolist())}
        found = torch.bincount(pool.labels[selected], minlength=len(pool.classes)).tolist()
        short = [pool.classes[label] for label, count in wanted.items() if found[label] < max(count, 1)]
        if short:
            log.warning(
                "DeepCore's %s keeps less than the class budget of %s; topk adds the missing images", self.method, short
            )
        scores = torch.zeros(len(pool), dtype=torch.float64)
        scores[selected] = 1
        return scores

    def key(self) -> dict[str, Any]:
        settings = {key: value for key, value in asdict(self).items() if key != "path"}
        content = fingerprint(find_checkout(self.path))
        return {"scorer": "DeepCore", "version": self.version, "content": content, **settings}

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that only some of the methods accept."""
        allowed = {
            "function": tuple(FUNCTION_ARGUMENTS),
            "greedy": ("Submodular", "Craig", "Glister"),
            "repeats": ("GraNd",),
        }
        given = {key: getattr(self, key) for key in allowed if getattr(self, key) is not None}
        for key in given:
            if self.method not in allowed[key]:
                raise InputError(f"scorer.{key} goes with scorer.method={' or '.join(allowed[key])}, not {self.method}")
        names = {"function": FUNCTION_ARGUMENTS.get(self.method), "greedy": "greedy", "repeats": "repeat"}
        return {names[key]: value for key, value in given.items()}
