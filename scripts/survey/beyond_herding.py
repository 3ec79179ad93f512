"""Candidates that try to beat herding: what each keeps, and how it does against herding on the same sub-pools.

python -m scripts.survey.beyond_herding --data <folder with data/ and weights/> --stage develop
python -m scripts.survey.beyond_herding --data <folder with data/ and weights/> --stage confirm

The entry "Which method: declared before the first run" of results/LOG.md declares the sets, the sub-pools and the rule
by which a candidate wins. This list was written and committed before any candidate ran. Every number in a candidate is
fixed here and was not tuned.

| candidate | what it changes in herding |
|---|---|
| spread_budgets | a class keeps the more, the larger the mean distance of its features from their mean |
| recall_budgets | a class keeps the more, the lower its recall on held-out images of the sub-pool (DRoP's budgets) |
| nucs_budgets | a class keeps the more, the larger its winsorised mean of EL2N (the budgets of NUCS) |
| nucs | the published rival, not herding: those budgets, and a window of EL2N chosen by ridge regression |
| masked | features of DLC's masked networks side by side, each level scaled to the same spread |
| two_networks | features of two pretrained networks side by side, each scaled to the same spread (two passes) |
| weights | the same images; weights of the loss that bring the weighted mean of a class nearest to its mean |
| trimmed | the target is the mean of the four fifths of a class that are nearest to its mean |
| boundary_mix | a share ratio / 2 of each class are the right images of smallest margin; herding adds the others |
| apart | the target is moved away from the mean of all images by a factor 1.5 - ratio, never below 1 |
| differences | the classes pick in turn, so that differences of the picked means match those of the class means |
| head | features and logits of a head that is trained on them in seconds, each scaled to the same spread |

Not tried: several layers of a network and means of augmented views, since the study stores neither, and whitening and
swaps, which others tried without success.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch import Tensor

from prunetune.base.progress import track
from prunetune.base.seeding import derive_seed, stream
from prunetune.networks.masking import MaskPath
from prunetune.report.statistics import estimate
from prunetune.runs.scores import compute_scores
from prunetune.samplers.budgets import class_budgets, difficulty_shares, whole_shares
from prunetune.samplers.nucs import NUCS
from prunetune.scorers.el2n import EL2N
from prunetune.scorers.picks import class_members
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.sample_order import Static
from scripts.bench.benchmarks import Column, write_table
from scripts.reproduce.study_cells import Opened, Part, pairs

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SMALL = (0.02, 0.05, 0.1)  # A candidate wins or loses by the mean of these.
SETS = {"develop": ("dtd10", "caltech101"), "confirm": ("cifar10mini", "digits", "textures")}
SEEDS = {"develop": range(100, 110), "confirm": range(200, 210)}
TRIMMED = 0.8  # The target of "trimmed" is the mean of this share of a class.
RIDGE = 0.1  # The penalty on unequal weights, in units of the mean squared distance of a class from its mean.
COLUMNS = (
    Column("candidate", "candidate"),
    Column("budget", "budget"),
    Column("difference", "difference", "+.2f"),
    Column("low", "low", "+.2f"),
    Column("high", "high", "+.2f"),
    Column("sets_low", "low, sets", "+.2f"),
    Column("sets_high", "high, sets", "+.2f"),
    Column("n", "sub-pools", "d"),
    Column("sets", "sets", "d"),
)
NOTES = (
    "difference: accuracy of the candidate minus that of herding on the same sub-pool, in points, linear probe.",
    "budget: the fraction kept; small is the mean of .02, .05 and .1, by which a candidate wins.",
    "low, high: 95 % interval by t over sub-pools, averaged over the sets: how sure the number is for these sets.",
    "low, high, sets: 95 % interval by t over the means of the sets: how sure it is for another set.",
    "Intervals of the confirmation are corrected for the number of candidates that were confirmed (Bonferroni).",
    "What each candidate does is written in scripts/survey/beyond_herding.py.",
)


class Material:
    """What a candidate may read of a sub-pool.

    Args:
        part: the sub-pool.
        other: the same set with another network, or None where no candidate reads it.
    """

    def __init__(self, part: Part, other: Opened | None) -> None:
        self.part, self.labels, self._other = part, part.labels, other
        self.features = part.signals.features()
        self.members = class_members(part.labels)

    @cached_property
    def other_features(self) -> Tensor:
        """The features of the other network, [n, D'] float32."""
        assert self._other is not None
        return self._other.features[self.part.rows]

    @cached_property
    def masked(self) -> list[Tensor]:
        """The features of the masked networks, one [n, D] float32 for each level."""
        scorer, signals = self.part.opened.run("dlc_easiest", 0.5).scorer, self.part.signals
        path = MaskPath(scorer.schedule, scorer.levels, scorer.step, True, "l1", signals.mask_modules)
        return [level.float() for level in signals.masked_features(path)]

    @cached_property
    def logits(self) -> Tensor:
        """The logits of a linear probe that was trained on the whole sub-pool, [n, C] float32."""
        proxy = self.part.signals.proxy()
        return proxy.snapshot(proxy.num_epochs)

    @cached_property
    def el2n(self) -> Tensor:
        """The scores of EL2N, [n] float64."""
        return compute_scores(EL2N(), self.part.signals, self.part.number)

    @cached_property
    def recall(self) -> Tensor:
        """The recall of each class on held-out images of the sub-pool, [C] float64."""
        return self.part.signals.class_recall()

    def budgets(self, ratio: float) -> list[int]:
        """Return how many images each class keeps by its size, classes ascending."""
        return list(class_budgets(self.labels, ratio).values())


@dataclass(frozen=True, eq=False)
class Kept:
    """What a candidate keeps: rows [m] int64 of the sub-pool, and weights [m] float64 of the loss (None: all 1)."""

    rows: Tensor
    weights: Tensor | None = None


def toward(features: Tensor, target: Tensor, count: int, first: Sequence[int] = ()) -> list[int]:
    """Return the rows that herding picks, so that their running mean stays near a target.

    Args:
        features: [n, D] float32 of one class.
        target: [D] float64.
        count: number of picks, at most n minus the number of the first ones.
        first: rows that are kept already; they count in the mean and are not picked again.
    """
    offsets = features.double() - target  # [n, D]
    costs, total = offsets.square().sum(dim=1), torch.zeros_like(target)
    for row in first:
        total += offsets[row]
        costs[row] = torch.inf
    picks = []
    for _ in range(count):
        pick = int((costs + 2 * offsets @ total).argmin())
        picks.append(pick)
        total += offsets[pick]
        costs[pick] = torch.inf
    return picks


def herded(features: Tensor, members: Sequence[Tensor], budgets: Sequence[int]) -> Kept:
    """Return what plain herding keeps of each class with these budgets."""
    parts = [
        rows[toward(features[rows], features[rows].double().mean(dim=0), budget)]
        for rows, budget in zip(members, budgets, strict=True)
    ]
    return Kept(torch.cat(parts))


def side_by_side(blocks: Sequence[Tensor], members: Sequence[Tensor]) -> Tensor:
    """Return blocks [n, D_b] as one [n, sum D_b], each scaled to a mean squared distance of 1 from the class means."""
    scaled = []
    for block in blocks:
        inside = torch.cat([block[rows] - block[rows].mean(dim=0) for rows in members])
        scaled.append(block / inside.square().sum(dim=1).mean().sqrt())
    return torch.cat(scaled, dim=1)


def spread_budgets(given: Material, ratio: float) -> Kept:
    """Herding with budgets in proportion to the size of a class times the mean distance from its mean."""
    sizes = {c: len(rows) for c, rows in enumerate(given.members)}
    means = (given.features[rows] - given.features[rows].mean(dim=0) for rows in given.members)
    spreads = torch.tensor([float(offsets.norm(dim=1).mean()) for offsets in means], dtype=torch.float64)
    total = sum(given.budgets(ratio))
    budgets = whole_shares(sizes, difficulty_shares(sizes, total, spreads), total, 1)
    return herded(given.features, given.members, list(budgets.values()))


def recall_budgets(given: Material, ratio: float) -> Kept:
    """Herding with DRoP's budgets."""
    budgets = class_budgets(given.labels, ratio, budgets="drop", recall=given.recall)
    return herded(given.features, given.members, list(budgets.values()))


def nucs_budgets(given: Material, ratio: float) -> Kept:
    """Herding with NUCS's budgets."""
    budgets = NUCS().budgets_of(given.el2n, given.labels, ratio)
    return herded(given.features, given.members, list(budgets.values()))


def nucs(given: Material, ratio: float) -> Kept:
    """NUCS itself."""
    return Kept(NUCS().select(given.el2n, given.labels, ratio, stream("nucs"), given.part.signals))


def masked(given: Material, ratio: float) -> Kept:
    """Herding in the space of all masked networks."""
    return herded(side_by_side(given.masked, given.members), given.members, given.budgets(ratio))


def two_networks(given: Material, ratio: float) -> Kept:
    """Herding in the space of two networks."""
    space = side_by_side([given.features, given.other_features], given.members)
    return herded(space, given.members, given.budgets(ratio))


def weights(given: Material, ratio: float) -> Kept:
    """Herding's images with weights of the loss; the weights of a class have the mean 1."""
    kept = herded(given.features, given.members, given.budgets(ratio)).rows
    found = torch.ones(len(kept), dtype=torch.float64)
    for rows in given.members:
        own = torch.nonzero(given.labels[kept] == given.labels[rows[0]]).flatten()
        found[own] = mean_weights(given.features[kept[own]], given.features[rows]) * len(own)
    # A weight of 0 would mean that the image is not kept, and a plan of a training asks for weights above 0.
    return Kept(kept, found.clamp_min(1e-6))


def mean_weights(kept: Tensor, everything: Tensor) -> Tensor:
    """Return weights [m] >= 0 of sum 1 that bring the weighted mean of kept images [m, D] near that of all [n, D].

    A penalty on unequal weights keeps single images from carrying a class.
    """
    mean = everything.double().mean(dim=0)
    offsets = (kept.double() - mean).T.numpy()  # [D, m]
    spread = float((everything.double() - mean).square().sum(dim=1).mean())
    even, count = np.sqrt(RIDGE * spread), offsets.shape[1]
    heavy = 1e3 * np.sqrt(spread)  # This row makes the weights sum to 1.
    matrix = np.vstack([offsets, even * np.eye(count), heavy * np.ones((1, count))])
    aim = np.concatenate([np.zeros(len(offsets)), np.full(count, even / count), [heavy]])
    found = torch.from_numpy(nnls(matrix, aim)[0])
    return found / found.sum()


def trimmed(given: Material, ratio: float) -> Kept:
    """Herding towards trimmed means."""
    parts = []
    for rows, budget in zip(given.members, given.budgets(ratio), strict=True):
        features = given.features[rows]
        nearest = (features - features.mean(dim=0)).norm(dim=1).argsort()[: max(round(TRIMMED * len(rows)), 1)]
        parts.append(rows[toward(features, features[nearest].double().mean(dim=0), budget)])
    return Kept(torch.cat(parts))


def boundary_mix(given: Material, ratio: float) -> Kept:
    """Images near the boundary, and herding that makes up for them."""
    of_label = given.logits.gather(1, given.labels.unsqueeze(1)).squeeze(1)
    others = given.logits.scatter(1, given.labels.unsqueeze(1), -torch.inf).amax(dim=1)
    margins = (of_label - others).masked_fill(of_label <= others, torch.inf)
    parts = []
    for rows, budget in zip(given.members, given.budgets(ratio), strict=True):
        near = margins[rows].argsort(stable=True)[: int(budget * ratio / 2)].tolist()
        features = given.features[rows]
        rest = toward(features, features.double().mean(dim=0), budget - len(near), near)
        parts.append(rows[near + rest])
    return Kept(torch.cat(parts))


def apart(given: Material, ratio: float) -> Kept:
    """Herding towards targets that lie farther from the mean of all images than the class means."""
    centre, beyond, parts = given.features.double().mean(dim=0), max(0.5 - ratio, 0.0), []
    for rows, budget in zip(given.members, given.budgets(ratio), strict=True):
        mean = given.features[rows].double().mean(dim=0)
        parts.append(rows[toward(given.features[rows], mean + beyond * (mean - centre), budget)])
    return Kept(torch.cat(parts))


def differences(given: Material, ratio: float) -> Kept:
    """Herding of all classes together: what all picked means have in common does not count as an error."""
    budgets = given.budgets(ratio)
    offsets = [given.features[rows].double() - given.features[rows].double().mean(dim=0) for rows in given.members]
    totals = torch.zeros(len(budgets), offsets[0].shape[1], dtype=torch.float64)
    picked: list[list[int]] = [[] for _ in budgets]
    for step in range(max(budgets)):
        for c in [c for c, budget in enumerate(budgets) if budget > step]:
            counts = torch.tensor([max(len(own), 1) for own in picked], dtype=torch.float64).unsqueeze(1)
            errors = totals / counts
            common = (errors.sum(dim=0) - errors[c]) / max(len(budgets) - 1, 1)  # The mean error of the other classes.
            aim = (step + 1) * common - totals[c]
            costs = (offsets[c] - aim).square().sum(dim=1)
            costs[picked[c]] = torch.inf
            pick = int(costs.argmin())
            picked[c].append(pick)
            totals[c] += offsets[c][pick]
    return Kept(torch.cat([rows[own] for rows, own in zip(given.members, picked, strict=True)]))


def head(given: Material, ratio: float) -> Kept:
    """Herding in the space of features and logits."""
    space = side_by_side([given.features, given.logits], given.members)
    return herded(space, given.members, given.budgets(ratio))


Candidate = Callable[[Material, float], Kept]
CANDIDATES: dict[str, Candidate] = {
    each.__name__: each
    for each in (
        *(spread_budgets, recall_budgets, nucs_budgets, nucs, masked, two_networks),
        *(weights, trimmed, boundary_mix, apart, differences, head),
    )
}
# These candidates are confirmed: the two with the largest difference at small budgets, averaged over the sets of the
# development (+.6 and +.3 points). The next are below +.2, and every further one makes the intervals wider.
CHOSEN: tuple[str, ...] = ("apart", "differences")


@dataclass(frozen=True)
class Trained:
    """One accuracy, in percent: of a candidate, or of "herding", on a sub-pool of a pair of a set and a network."""

    stage: str
    candidate: str
    dataset: str
    backbone: str
    sub_pool: int
    ratio: float
    accuracy: float


def main() -> None:
    """Train what is not yet trained, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--stage", choices=tuple(SETS), required=True)
    parser.add_argument("--pairs", nargs="+", help="pairs of the stage, such as dtd10-vit_tiny (default: all)")
    parser.add_argument("--candidates", nargs="+", choices=tuple(CANDIDATES), help="default: all that the stage has")
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="folder for features")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/beyond_herding.jsonl"), help="accuracies, one a line"
    )
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder for the tables")
    arguments = parser.parse_args()
    names = arguments.candidates or (tuple(CANDIDATES) if arguments.stage == "develop" else CHOSEN)
    arguments.work.parent.mkdir(parents=True, exist_ok=True)
    for each in [each for each in pairs(arguments.data) if each.dataset in SETS[arguments.stage]]:
        if arguments.pairs and each.name not in arguments.pairs:
            continue
        opened = Opened(each, arguments.store)
        others = [pair for pair in pairs(arguments.data) if pair.dataset == each.dataset and pair.name != each.name]
        other = Opened(others[0], arguments.store) if "two_networks" in names else None
        done = {(t.candidate, t.sub_pool) for t in read(arguments.work) if (t.dataset, t.backbone) == _key(opened)}
        for seed in track(SEEDS[arguments.stage], each.name, len(SEEDS[arguments.stage])):
            missing = [name for name in ("herding", *names) if (name, seed) not in done]
            with arguments.work.open("a") as file:
                for found in measured(Material(opened.part(seed), other), missing, arguments.stage):
                    file.write(json.dumps(found.__dict__) + "\n")
    write(arguments.out, read(arguments.work))


def _key(opened: Opened) -> tuple[str, str]:
    return opened.pair.dataset, opened.pair.backbone


def read(work: Path) -> list[Trained]:
    """Return the accuracies that were measured so far."""
    return [Trained(**json.loads(line)) for line in work.read_text().splitlines()] if work.exists() else []


def write(out: Path, accuracies: Sequence[Trained]) -> None:
    """Write the tables of all stages that were run."""
    rows = []
    for stage in SETS:
        for where, some in _places([each for each in accuracies if each.stage == stage]):
            rows += [{"section": f"{stage}: {where}", **row} for row in rows_of(some)]
    about = (
        "Candidates against herding on the same sub-pools. Develop: nothing was decided on the other sets. Confirm: "
    )
    about += "sets and sub-pools that no candidate's development touched, looked at once."
    write_table(out, "beyond_herding", "Beyond herding", about, COLUMNS, rows, NOTES)


def _places(accuracies: Sequence[Trained]) -> Iterator[tuple[str, list[Trained]]]:
    """Yield all accuracies, then those of each pair of a set and a network."""
    if accuracies:
        yield "all sets", list(accuracies)
    for dataset, backbone in sorted({(each.dataset, each.backbone) for each in accuracies}):
        yield (
            f"{dataset}, {backbone}",
            [each for each in accuracies if (each.dataset, each.backbone) == (dataset, backbone)],
        )


def rows_of(accuracies: Sequence[Trained]) -> list[dict[str, Any]]:
    """Return a row for each candidate and budget: its mean difference from herding and both intervals.

    Networks of a set are averaged first, so that every set counts the same.
    """
    table = pd.DataFrame([each.__dict__ for each in accuracies])
    by_network = table.pivot_table("accuracy", ["dataset", "backbone", "sub_pool", "candidate"], "ratio")
    by_network["small"] = by_network[list(SMALL)].mean(axis=1)
    plain = by_network.xs("herding", level="candidate")
    level = 0.05 / max(len(CHOSEN), 1) if accuracies[0].stage == "confirm" else 0.05
    rows = []
    for candidate in [name for name in CANDIDATES if name in by_network.index.get_level_values("candidate")]:
        differences = (by_network.xs(candidate, level="candidate") - plain).dropna()
        differences = differences.groupby(["dataset", "sub_pool"]).mean()
        for budget in ("small", *RATIOS):
            own = differences[budget].unstack("dataset")  # A row for each sub-pool, a column for each set.
            low, high = interval(own.mean(axis=1).dropna().to_numpy(), level)
            row = {"candidate": candidate, "budget": str(budget), "difference": float(own.mean().mean())}
            row |= {"low": low, "high": high, "n": len(own), "sets": own.shape[1]}
            if own.shape[1] > 1:
                row["sets_low"], row["sets_high"] = interval(own.mean().to_numpy(), level)
            rows.append(row)
    return rows


def interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the interval of the mean of values [n] by Student's t, with `level` in its two tails together."""
    found = estimate(values, confidence=1 - level)
    return found.low, found.high


def measured(given: Material, names: Sequence[str], stage: str) -> list[Trained]:
    """Return the accuracies of candidates on a sub-pool at all ratios; all heads are trained in one batch."""
    jobs = [(name, ratio, _kept(given, name, ratio)) for name in names for ratio in RATIOS]
    if not jobs:
        return []
    accuracies = probe_accuracies(given, [kept for _, _, kept in jobs])
    pair, number = given.part.opened.pair, given.part.number
    return [
        Trained(stage, name, pair.dataset, pair.backbone, number, ratio, 100 * accuracy)
        for (name, ratio, _), accuracy in zip(jobs, accuracies, strict=True)
    ]


def _kept(given: Material, name: str, ratio: float) -> Kept:
    if name == "herding":
        return herded(given.features, given.members, given.budgets(ratio))
    kept = CANDIDATES[name](given, ratio)
    assert len(kept.rows.unique()) == len(kept.rows) == sum(given.budgets(ratio)), f"{name} must meet the budget"
    return kept


def probe_accuracies(given: Material, kept: Sequence[Kept]) -> list[float]:
    """Return the accuracy of a linear probe on the test images, trained as in the study, for each selection."""
    opened, labels = given.part.opened, given.labels
    recipe, seed = opened.run("random", 0.5).recipe, derive_seed("study", given.part.number)
    probes = [
        Probe(
            *(each.rows, labels[each.rows], opened.test_features, opened.test.labels, seed),
            None if each.weights is None else Static(len(each.rows), each.weights),
        )
        for each in (_in_order(each) for each in kept)
    ]
    results = train_probes(given.features.unsqueeze(0), probes, len(opened.pool.classes), recipe, "cpu")
    return [result.history[-1].test_accuracy for result in results]


def _in_order(kept: Kept) -> Kept:
    """Return the same with ascending rows, so that the order of the picks does not matter for the training."""
    order = kept.rows.argsort()
    return Kept(kept.rows[order], None if kept.weights is None else kept.weights[order])


if __name__ == "__main__":
    main()
