"""Our `released` variants against the released code of the paper.

ml-stat-Sustech/Efficient-Dataset-Pruning has the learning complexity and its samplers. The selectors of the baselines,
which its main.py imports, are only in the working copy of the first author, lygjwy/a5c. Both sides get the same
features, logits and labels.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.seeding import derive_seed, stream
from prunetune.samplers import FlexRandReleased, TopK, TopKEasiest
from prunetune.scorers import DLC, Scorer
from prunetune.scorers.contextual_diversity import ContextualDiversity
from prunetune.scorers.dlc import class_means
from prunetune.scorers.el2n import EL2N
from prunetune.scorers.forgetting import Forgetting
from prunetune.scorers.grand import Grand
from prunetune.scorers.herding import Herding
from prunetune.scorers.k_center import KCenter, first_centre
from prunetune.scorers.lc_optimisation import LCOptimisation
from prunetune.scorers.picks import class_members
from prunetune.scorers.uncertainty import Entropy, LeastConfidence, Margin
from prunetune.signals.contract import Signals
from prunetune.signals.tensors import TensorSignals
from scripts.parity.agreement import (
    RATIOS,
    SEED,
    Material,
    Ranking,
    Remarks,
    Row,
    compare,
    kept,
    made_material,
    our_scores,
)
from scripts.parity.checkouts import load_file
from scripts.parity.images import made_images

BATCH = 64
FIRST_GIVEN = "their first centre was set to ours, as both are drawn"
SAME_DRAW = "both draws were replaced by the first of each part, so this compares the parts and their shares"
ONE_BATCH = "their labels are those of the last batch only, a bug; they were given a single batch"
ROUNDING = "theirs are float32, in which 1 - p of confident images is rounding or 0; ours are float64"
CANCELLATION = "their distances of one number per image, xx + yy - 2 xy in float32, lose what ours keep"
LEVELS = 5


@dataclass(frozen=True)
class Case:
    """One selector of theirs against one scorer of ours.

    note: what was changed in the released code. cause: why sets may differ. easiest: whether the easy end is kept.
    """

    name: str
    principle: str
    scorer: Scorer
    note: str = ""
    cause: str = ""
    easiest: bool = False


CASES = (
    Case("herding", "herding", Herding("released", features="finetuned")),
    Case("k_center", "kcentergreedy", KCenter("released", features="finetuned"), FIRST_GIVEN),
    Case("contextual_diversity", "contextualdiversity", ContextualDiversity("released"), FIRST_GIVEN),
    Case("least_confidence", "leastconfidence", LeastConfidence("released")),
    Case("entropy", "entropy", Entropy("released")),
    Case("margin", "margin", Margin("released")),
    Case("forgetting", "forgetting", Forgetting("released")),
    Case("el2n", "el2n", EL2N(epoch=50, repeats=1), cause=ROUNDING),
    Case("cle", "cle", LCOptimisation(), ONE_BATCH, easiest=True),
    Case("clh", "clh", LCOptimisation(), ONE_BATCH),
)


class Classifier(nn.Module):
    """A network that answers positions with given features, as maps [B, D, 1, 1], and logits."""

    def __init__(self, features: Tensor, logits: Tensor) -> None:
        super().__init__()
        self._features, self._logits = features, logits

    def forward_features(self, rows: Tensor) -> Tensor:
        features = self._features[rows.flatten().long()]
        return features[:, :, None, None] if features.ndim == 2 else features

    def forward(self, rows: Tensor) -> Tensor:
        return self._logits[rows.flatten().long()]


def load_selectors(checkout: Path) -> ModuleType:
    """Import the selectors of the baselines under a private name, with stand-ins for modules that they import."""
    metrics = load_file("_parity_metrics", checkout / "utils" / "metrics.py")
    # Networks are passed as checkpoints.
    models = SimpleNamespace(get_cclf=lambda arch, num_classes, checkpoint: checkpoint)
    folder = checkout / "algorithms"
    spec = importlib.util.spec_from_file_location(
        "_parity_selectors", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["_parity_selectors"] = package
    with mock.patch.dict(sys.modules, {"utils": metrics, "models": models}):
        spec.loader.exec_module(package)
    return package


def load_scoring(checkout: Path) -> ModuleType:
    """Import the released scoring script."""
    metrics = load_file("_parity_released_metrics", checkout / "utils" / "metrics.py")
    stand_ins = {
        "utils": metrics,
        "models": SimpleNamespace(get_cclf=None),
        "datasets": SimpleNamespace(get_dataset=None),
    }
    return load_file("_parity_scoring", checkout / "score-wot.py", **stand_ins)


def loader(labels: Tensor, batch_size: int = BATCH) -> list[tuple[Tensor, Tensor]]:
    """Return batches of (positions, labels) in place of a data loader."""
    rows = torch.arange(len(labels)).split(batch_size)
    return [(part.unsqueeze(1).float(), labels[part]) for part in rows]


def their_subsets(
    package: ModuleType, case: Case, material: Material, batches: list[Any], networks: list[nn.Module]
) -> Iterator[tuple[float, Tensor]]:
    """Yield each ratio with the selection of the released selector."""
    selector = package.get_selector(case.principle, len(material.pool.classes), batches, [("", n) for n in networks])
    seed = derive_seed("score", SEED)
    starts = [torch.tensor([first_centre(material.pool, own, seed)]) for own in class_members(material.labels)]
    for ratio in RATIOS:
        with ExitStack() as patches:
            if case.note == FIRST_GIVEN:
                patches.enter_context(mock.patch("torch.randint", side_effect=starts))
            parts = [selector.select_in_category(label, ratio) for label in range(len(material.pool.classes))]
        yield ratio, torch.from_numpy(np.concatenate(parts)).long().sort().values


def rows_of(
    package: ModuleType,
    case: Case,
    material: Material,
    batches: list[Any],
    networks: list[nn.Module],
    signals: Signals | None = None,
    name: str | None = None,
) -> Iterator[Row]:
    """Compare one selector at every ratio."""
    scores = our_scores(case.scorer, material, signals)
    sampler = TopKEasiest(min_per_class=0) if case.easiest else TopK(min_per_class=0)
    for ratio, theirs in their_subsets(package, case, material, batches, networks):
        ours = kept(scores, material, ratio, True, sampler)
        signed = -scores if case.easiest else scores
        remarks, ranking = Remarks(case.note, case.cause), Ranking(signed, material.labels)
        yield compare(name or case.name, True, ratio, theirs, ours, remarks, ranking)


def selector_rows(package: ModuleType) -> Iterator[Row]:
    """Compare the baselines on recorded numbers."""
    for scale, suffix in ((1.0, ""), (60.0, " of saturated logits")):
        material = made_material(scale)
        proxy = material.proxies[0]
        epochs = range(1, proxy.num_epochs + 1)
        networks = [nn.Identity(), *[Classifier(material.features, proxy.logits(epoch)) for epoch in epochs]]
        for case in CASES:
            if not suffix or case.principle in ("contextualdiversity", "leastconfidence", "entropy", "margin", "el2n"):
                batches = loader(material.labels, len(material.labels) if case.note == ONE_BATCH else BATCH)
                yield from rows_of(package, case, material, batches, networks, name=f"{case.name}{suffix}")


def collapsed_rows(package: ModuleType) -> Iterator[Row]:
    """Compare methods that read features, for a last feature map [B, tokens, D], which becomes one number per image."""
    material = made_material()
    tokens = torch.randn(len(material.labels), 17, 24, generator=stream("parity tokens")) + 1
    proxy = material.proxies[0]
    proxy.kept = {proxy.num_epochs: tokens.mean(dim=(1, 2)).unsqueeze(1)}
    networks = [Classifier(tokens, proxy.logits(proxy.num_epochs))]
    for case in CASES[:2]:
        case = replace(case, cause=CANCELLATION)
        batches = loader(material.labels)
        yield from rows_of(package, case, material, batches, networks, name=f"{case.name} of a token network")


def grand_rows(package: ModuleType) -> Iterator[Row]:
    """Compare GraNd over all parameters, which needs a network and images."""
    shown = made_images()
    network, head = shown.proxy().model(1)
    classify = nn.Sequential(network.model, head)
    starts = torch.arange(len(shown.material.labels)).split(16)
    batches = [(network.normalise(torch.cat(list(shown.images(r)))), shown.material.labels[r]) for r in starts]
    case = Case("grand", "grand", Grand("released", epoch=50, repeats=1))
    yield from rows_of(package, case, shown.material, batches, [classify], shown)


def complexity_rows(scoring: ModuleType) -> Iterator[Row]:
    """Compare the learning complexity, its two ends and FlexRand."""
    material = made_material()
    levels = [
        material.features + 0.2 * k * torch.randn(material.features.shape, generator=stream("parity level", k))
        for k in range(LEVELS)
    ]
    labels, num_classes = material.labels, len(material.pool.classes)
    centroids = class_means(material.features, labels, num_classes).float()
    losses = [scoring.cal_loss(centroids, level, labels, num_classes).numpy() for level in levels]
    their_scores = np.average(np.stack(losses), axis=0)
    scores = our_scores(DLC(levels=LEVELS), material, TensorSignals(material.features, levels, material.pool))
    for end, name, sampler in (("h", "dlc_topk", TopK), ("e", "dlc_topk_easiest", TopKEasiest)):
        for ratio in RATIOS:
            theirs = torch.from_numpy(scoring.select_idxs_ead(labels, num_classes, their_scores, ratio, end))
            yield compare(name, True, ratio, theirs, kept(scores, material, ratio, True, sampler(min_per_class=0)))
    for twentieths in (1, 5, 7, 10, 14, 19):
        for ratio in RATIOS:
            yield flexrand_row(scoring, material, their_scores, scores, twentieths, ratio)


def flexrand_row(
    scoring: ModuleType, material: Material, their_scores: np.ndarray, scores: Tensor, twentieths: int, ratio: float
) -> Row:
    """Compare FlexRand with both draws replaced by the first positions of a part."""
    first: Callable[..., Any] = lambda values, size, replace: np.sort(values)[:size]  # noqa: E731
    with mock.patch("numpy.random.choice", first):
        arguments = (material.labels, len(material.pool.classes), their_scores, ratio, 0.05 * twentieths)
        theirs = torch.from_numpy(scoring.select_idxs(*arguments))
    with mock.patch("prunetune.samplers.flexrand.draw", lambda part, count, generator: part[:count]):
        ours = kept(scores, material, ratio, True, FlexRandReleased(twentieths=twentieths))
    return compare(f"dlc_flexrand gamma {twentieths / 20:g}", True, ratio, theirs, ours, Remarks(SAME_DRAW))


def rows(released: Path, selectors: Path) -> Iterator[Row]:
    """Compare with the released code, and with the selectors of its first author's working copy."""
    package, scoring = load_selectors(selectors), load_scoring(released)
    yield from selector_rows(package)
    yield from collapsed_rows(package)
    yield from grand_rows(package)
    yield from complexity_rows(scoring)
