"""Our `deepcore` variants against DeepCore itself.

Both get the same features, logits and labels. DeepCore's classes are not changed, but training is skipped: DeepCore
gets a network that returns the given numbers, and Forgetting gets recorded batches.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.base.seeding import derive_seed, stream
from prunetune.samplers import RandomSampler
from prunetune.scorers import Scorer
from prunetune.scorers.cal import CAL
from prunetune.scorers.contextual_diversity import ContextualDiversity
from prunetune.scorers.craig import Craig
from prunetune.scorers.deepfool import DeepFool
from prunetune.scorers.el2n import EL2N
from prunetune.scorers.forgetting import Forgetting
from prunetune.scorers.glister import Glister
from prunetune.scorers.gradmatch import GradMatch
from prunetune.scorers.grand import Grand
from prunetune.scorers.herding import Herding
from prunetune.scorers.k_center import KCenter, first_centre
from prunetune.scorers.picks import class_members, pick_scores
from prunetune.scorers.published.batches import batch_lengths
from prunetune.scorers.published.deepcore_adapter import (
    Call,
    PoolImages,
    RecordingModel,
    find_checkout,
    load_package,
    positions,
    run_method,
)
from prunetune.scorers.submodular import Submodular
from prunetune.scorers.uncertainty import Entropy, LeastConfidence, Margin
from prunetune.selection.gradient_geometry import GradientPoints
from prunetune.selection.last_layer_gradients import proxy_gradients
from prunetune.signals.proxy import RecordedProxy
from scripts.parity.agreement import (
    RATIOS,
    REPEATS,
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
from scripts.parity.images import made_images

BATCH = 64  # Smaller than the largest class and no divisor of a class size, so that last batches are short.
ITERATIONS = 10  # Iterations of DeepFool in both programs.
SAME_VALUE = 1e-12  # Relative tolerance for sums of the same numbers in another order.
FIRST_GIVEN = "their first centre was set to ours, as both are drawn; np.in1d, gone from NumPy, was patched in memory"
IN_MEMORY = "its addition to a leaf in place, an error on the CPU, was patched in memory"
SAME_DRAW = "both were given the same draws, so this compares class budgets"
REPLAYED = "their training was replaced by recorded batches"
CRAIG_GLOBAL = (
    "ours always ranks each class; theirs ranks the classes together, and where a pool is larger than a batch sums "
    "gains over the first selection_batch rows only"
)
APPROXIMATE = "their class default takes any image that keeps 0.9 of its stale gain; ours takes the largest gain"
MUTUAL = (
    "exact ties: of two images that are left and stand for each other only, either adds the same; both sets have the "
    "same value, rounding decides in theirs and position in ours"
)
UNDERFLOW = "where p is 1 to float32, the squares in their norm underflow to 0 and tie; ours are float64"
NO_EL2N = "DeepCore has none: theirs is its GraNd times batch length / sqrt(1 + |h|^2)"


@dataclass(frozen=True)
class Case:
    """One method of theirs against one scorer of ours.

    method: class of DeepCore. scorer: our scorer, by balance flag. arguments: those of DeepCore. note: what was changed
    in either program. cause: why sets may differ. ranks: how our scorer selects from the whole pool (balance off):
    "scores" sorts all scores together, "one class" gives all images one label, "picks" picks from all images with
    gradients by their own labels, "classes" cannot do it. starts: whether both draw their first pick. kernel: that of a
    facility location, "cosine" or "euclidean".
    """

    name: str
    method: str
    scorer: Callable[[bool], Scorer]
    arguments: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    cause: str = ""
    ranks: str = "scores"
    starts: bool = False
    kernel: str | None = None


def geometric_cases() -> list[Case]:
    """Return the methods that treat features or predictions of images as points."""
    return [
        Case("herding", "Herding", lambda _: Herding("deepcore"), ranks="one class"),
        Case("k_center", "kCenterGreedy", lambda _: KCenter("deepcore"), {}, FIRST_GIVEN, "", "one class", True),
        Case(
            "contextual_diversity",
            "ContextualDiversity",
            lambda _: ContextualDiversity("deepcore"),
            {},
            FIRST_GIVEN,
            "",
            "one class",
            True,
        ),
        Case("cal", "Cal", lambda _: CAL("deepcore", features="pretrained"), ranks="one class"),
    ]


def prediction_cases() -> list[Case]:
    """Return the methods that score every image independently."""
    uncertainties = {"LeastConfidence": LeastConfidence, "Entropy": Entropy, "Margin": Margin}
    grand = Grand("deepcore", "last", epoch=None, repeats=REPEATS, batch_size=BATCH)
    return [
        *[
            Case(ours.name, "Uncertainty", lambda flag, ours=ours: ours("deepcore", flag), {"selection_method": theirs})
            for theirs, ours in uncertainties.items()
        ],
        Case("forgetting", "Forgetting", lambda _: Forgetting("deepcore"), note=REPLAYED),
        Case("grand", "GraNd", lambda _: grand, {"repeat": REPEATS}),
    ]


def gradient_cases() -> list[Case]:
    """Return the methods that pick by last-layer gradients."""
    functions = {"fl": "FacilityLocation", "gc": "GraphCut", "logdet": "LogDeterminant"}
    optimisers = {"Naive": "naive", "Lazy": "lazy", "ApproximateLazy": "lazy"}
    return [
        Case("glister", "Glister", lambda _: Glister("deepcore", batch_size=BATCH), ranks="picks"),
        Case("gradmatch", "GradMatch", lambda _: GradMatch("deepcore", ridge=1.0, batch_size=BATCH), ranks="picks"),
        Case(
            "craig",
            "Craig",
            lambda _: Craig("deepcore", batch_size=BATCH),
            ranks="classes",
            cause=CRAIG_GLOBAL,
            kernel="euclidean",
        ),
        *[
            Case(
                f"submodular_{function} {optimiser}Greedy",
                "Submodular",
                lambda _, function=function, greedy=greedy: Submodular(function, "deepcore", greedy),
                {"function": name, "greedy": f"{optimiser}Greedy"},
                cause=APPROXIMATE if optimiser == "ApproximateLazy" else "",
                ranks="picks",
                kernel="cosine" if function == "fl" else None,
            )
            for function, name in functions.items()
            for optimiser, greedy in optimisers.items()
            if (function, optimiser) != ("gc", "ApproximateLazy")  # It never ends if the best gain is negative.
        ],
    ]


class Rows(torch.utils.data.Dataset):
    """A data set whose images are their own positions."""

    transform = None

    def __init__(self, material: Material) -> None:
        self.targets, self.classes = material.labels, list(material.pool.classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return torch.tensor([float(position)]), int(self.targets[position])


class Lookup(nn.Module):
    """A network that answers positions with given features and logits."""

    def __init__(self, recorder: nn.Module, proxy: RecordedProxy) -> None:
        super().__init__()
        self.embedding_recorder, self.no_grad = recorder, False
        self._features, self._logits = proxy.features(proxy.num_epochs), proxy.logits(proxy.num_epochs)
        self.layer = nn.Linear(self._features.shape[1], self._logits.shape[1])  # DeepCore reads only its width.

    def get_last_layer(self) -> nn.Linear:
        return self.layer

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows.flatten().long()
        self.embedding_recorder(self._features[rows])
        return self._logits[rows].clone()


def lookup_maker(package: ModuleType, proxies: tuple[RecordedProxy, ...]) -> Callable[..., nn.Module]:
    """Return a function that gives DeepCore a proxy at its last epoch, another one for each training."""
    turn = iter(proxies)

    def make(
        channel: int, num_classes: int, im_size: Any, record_embedding: bool = False, pretrained: bool = False, **_: Any
    ) -> nn.Module:
        proxy = proxies[0] if pretrained else next(turn)  # CAL also needs a pretrained one.
        return Lookup(package.nets.nets_utils.EmbeddingRecorder(record_embedding), proxy)

    return make


def their_answer(package: ModuleType, case: Case, material: Material, ratio: float, balance: bool) -> dict[str, Any]:
    """Return the selection of DeepCore for the material."""
    call = Call(case.method, ratio, epochs=0, batch_size=BATCH, balance=balance, arguments=case.arguments)
    with ExitStack() as patches:
        if case.starts:
            ours, seed = material if balance else material.as_one_class(), derive_seed("score", SEED)
            starts = [first_centre(ours.pool, members, seed) for members in class_members(ours.labels)]
            patches.enter_context(mock.patch("numpy.random.randint", side_effect=starts))
        if case.method == "Forgetting":
            replace = mock.patch.object(package.methods.Forgetting, "run", lambda run: replay(run, material))
            patches.enter_context(replace)
        return run_method(package, Rows(material), lookup_maker(package, material.proxies), call)


def replay(method: Any, material: Material) -> None:
    """Replace the training of DeepCore's Forgetting by the recorded logits of every epoch."""
    method.train_indx = np.arange(method.n_train)
    method.before_run()
    proxy = material.proxies[0]
    for epoch in range(1, proxy.num_epochs + 1):
        order = torch.randperm(method.n_train, generator=stream("parity order", epoch))
        for rows in order.split(BATCH):
            method.after_loss(proxy.logits(epoch, rows), None, material.labels[rows], rows.tolist(), epoch)


def our_subset(case: Case, material: Material, ratio: float, balance: bool) -> tuple[Tensor, Tensor]:
    """Return our selection from the same material, [M] int64, and our scores, [N]."""
    scorer, balance = case.scorer(balance), balance or case.ranks == "classes"
    if not balance and case.ranks == "one class":
        material = material.as_one_class()
    with ExitStack() as patches:
        if not balance and case.ranks == "picks":
            module = type(scorer).__module__
            over_all = mock.patch(
                f"{module}.pick_scores", lambda labels, depth, pick: pick_scores(torch.zeros_like(labels), depth, pick)
            )
            patches.enter_context(over_all)
            if isinstance(scorer, GradMatch):
                everyone = mock.patch(f"{module}.class_members", lambda labels: [torch.arange(len(labels))])
                patches.enter_context(everyone)
        scores = our_scores(scorer, material)
        subset = kept(scores, material, ratio, balance)
        if isinstance(scorer, GradMatch):
            subset = subset[scorer.weights(material.pool, material.signals, subset) > 0]
    return subset, scores


def row_of(package: ModuleType, case: Case, material: Material, ratio: float, balance: bool, name: str) -> Row:
    """Compare one method at one ratio."""
    answer = their_answer(package, case, material, ratio, balance)
    theirs = positions(answer)
    ours, scores = our_subset(case, material, ratio, balance)
    cause, note = case.cause, case.note
    if case.ranks == "classes" and balance:
        cause = ""  # The cause belongs to the other value of the flag.
    if case.kernel and has_same_value(case, material, balance, theirs, ours):
        cause = MUTUAL
    if "weights" in answer and theirs.equal(ours) and balance:
        note = weights_note(case.scorer(balance), material, answer)
    labels = material.labels if balance else torch.zeros_like(material.labels)
    return compare(name, balance, ratio, theirs, ours, Remarks(note, cause), Ranking(scores, labels))


def has_same_value(case: Case, material: Material, balance: bool, theirs: Tensor, ours: Tensor) -> bool:
    """Return whether two sets have equal facility location in float64, summed over classes or for the whole pool."""
    values = [0.0, 0.0]
    groups = class_members(material.labels) if balance else [torch.arange(len(material.labels))]
    for members in groups:
        gradients = proxy_gradients(material.proxies[0], material.labels, positions=members)
        if case.kernel == "euclidean":
            gradients = gradients.scaled(1 / batch_lengths(len(members), BATCH))
        everyone = torch.arange(len(members))
        distances = GradientPoints(gradients, case.kernel).block(everyone, everyone).fill_diagonal_(0)
        for side, subset in enumerate((theirs, ours)):
            values[side] += float(distances[:, torch.isin(members, subset)].min(dim=1).values.sum())
    return abs(values[0] - values[1]) <= SAME_VALUE * values[1]


def weights_note(scorer: Scorer, material: Material, answer: dict[str, Any]) -> str:
    """Return how far the weights of the same images agree."""
    subset = positions(answer)
    theirs = torch.zeros(len(material.labels), dtype=torch.float64)
    theirs[torch.from_numpy(np.asarray(answer["indices"]))] = torch.from_numpy(np.asarray(answer["weights"])).double()
    ours = scorer.weights(material.pool, material.signals, subset)
    difference = float((ours - theirs[subset]).abs().max() / theirs.max())
    return "weights agree" if difference < 1e-3 else f"weights differ by up to {difference:.3f} of the largest"


def uniform_rows(package: ModuleType, material: Material) -> Iterator[Row]:
    """Compare the random baseline, with the same draws on both sides."""
    case = Case("uniform", "Uniform", lambda _: None)
    for balance in (True, False):
        for ratio in RATIOS:
            generator = stream("parity draw", ratio)

            def choice(values: np.ndarray, size: int, replace: bool, generator: torch.Generator = generator) -> Any:
                return values[torch.randperm(len(values), generator=generator)[:size].numpy()]

            with mock.patch("numpy.random.choice", choice):
                theirs = positions(their_answer(package, case, material, ratio, balance))
            no_score = torch.zeros(len(material.labels), dtype=torch.float64)
            ours = kept(no_score, material, ratio, balance, RandomSampler(min_per_class=0))
            yield compare("uniform", balance, ratio, theirs, ours, Remarks(SAME_DRAW))


def el2n_rows(package: ModuleType, material: Material) -> Iterator[Row]:
    """Compare EL2N with the same quantity inside DeepCore's GraNd."""
    case = next(case for case in prediction_cases() if case.name == "grand")
    norms = torch.from_numpy(their_answer(package, case, material, 0.5, True)["scores"]).double()
    lengths = batch_lengths(len(material.labels), BATCH)
    implied = norms * lengths / (1 + material.features.double().square().sum(1)).sqrt()
    scores = our_scores(EL2N(epoch=None, repeats=REPEATS), material)
    for balance in (True, False):
        for ratio in RATIOS:
            theirs, ours = (kept(values, material, ratio, balance) for values in (implied, scores))
            yield compare("el2n", balance, ratio, theirs, ours, Remarks(NO_EL2N))


def deepfool_rows(package: ModuleType) -> Iterator[Row]:
    """Compare DeepFool, which reads a network and images."""
    shown = made_images()
    model = shown.proxy().model(1)
    scores = our_scores(DeepFool("deepcore", ITERATIONS, overshoot=0.0, candidates=None), shown.material, shown)

    def make(channel: int, num_classes: int, im_size: Any, record_embedding: bool = False, **_: Any) -> nn.Module:
        return RecordingModel(model[0].model, model[1], package.nets.nets_utils.EmbeddingRecorder(record_embedding))

    images = PoolImages(shown, model[0])
    for balance in (True, False):
        for ratio in RATIOS:
            call = Call("DeepFool", ratio, 0, 0, BATCH, balance=balance, arguments={"max_iter": ITERATIONS})
            theirs = positions(run_method(package, images, make, call))
            model.requires_grad_(True)  # DeepFool has turned the gradients of the parameters off.
            ours = kept(scores, shown.material, ratio, balance)
            labels = shown.material.labels if balance else torch.zeros_like(shown.material.labels)
            yield compare("deepfool", balance, ratio, theirs, ours, Remarks(IN_MEMORY), Ranking(scores, labels))


def all_rows(package: ModuleType) -> Iterator[Row]:
    """Compare everything under both flags, and some of it on logits whose probabilities saturate."""
    plain, saturated = made_material(), made_material(scale=60)
    yield from uniform_rows(package, plain)
    cases = [*geometric_cases(), *prediction_cases(), *gradient_cases()]
    for case in cases:
        for balance in (True, False):
            for ratio in RATIOS:
                yield row_of(package, case, plain, ratio, balance, case.name)
    yield from el2n_rows(package, plain)
    yield from deepfool_rows(package)
    for case in cases:
        if case.method in ("ContextualDiversity", "Uncertainty", "GraNd"):
            case = dataclasses.replace(case, cause=UNDERFLOW if case.method == "GraNd" else case.cause)
            for balance in (True, False):
                for ratio in RATIOS:
                    yield row_of(package, case, saturated, ratio, balance, f"{case.name} of saturated logits")


def rows(checkout: Path) -> Iterator[Row]:
    """Compare with DeepCore."""
    yield from all_rows(load_package(find_checkout(str(checkout))))
