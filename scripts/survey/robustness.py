"""The methods that the study compares, on images as users have them: wrong labels, rare classes, copies, few images.

python -m scripts.survey.robustness --data <folder with data/ and weights/> --store <store of the study>

Every case is five sub-pools of a set, the same for all methods. A linear probe on the kept images says what they are
worth, so that all differences are paired. Finished sub-pools are kept in --parts, method by method, and the script goes
on from there. It writes robustness.md and .csv, few_images.md and .csv, and robustness_cells.csv with the accuracies.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base.publish import write_json
from prunetune.report.statistics import estimate
from prunetune.report.tables import points
from prunetune.samplers.amount import ENDING
from scripts.bench.benchmarks import Column, write_table
from scripts.real_data import check_folder, datasets
from scripts.reproduce.study_cells import Opened, Pair, pairs
from scripts.survey import given_images as given
from scripts.survey.given_images import Given, Images

METHODS = (
    *("random", "herding", "dlc_validation", "dlc_0.25", "dlc_easiest"),
    *("facility_location", "maxherding", "k_medoids", "typiclust", "activeft"),
)
BUDGETS = ("0.02", "0.05", "0.1", "0.2", "0.3", "0.5")
SMALL, LARGE = BUDGETS[:4], BUDGETS[4:]
COUNTS = tuple(f"{count}{ENDING}" for count in (1, 2, 4, 8))
SUB_POOLS = 5
REAL = ("dtd10-vit_tiny", "caltech101-vit_tiny", "cifar10mini-vit_tiny")
SETS = (*REAL, "textures-micro", "digits-micro")
# The classes that cifar10mini and caltech101 share, with the folders of both. The bird, ship and car of Caltech-101 are
# several folders or one view; cat, deer, frog, horse and truck have no folder there.
COMMON = (
    ("airplane", "airplanes"),
    ("automobile", "car_side"),
    ("bird", "flamingo", "ibis", "pigeon", "rooster", "emu"),
    ("dog", "dalmatian"),
    ("ship", "ketch", "schooner", "ferry"),
)
STYLES = {
    "five classes of cifar10mini": ("cifar10mini-vit_tiny", "caltech101-vit_tiny"),
    "five classes of caltech101": ("caltech101-vit_tiny", "cifar10mini-vit_tiny"),
    "painted digits": ("digits-micro", "digits_white-micro"),
    "white digits": ("digits_white-micro", "digits-micro"),
}


@dataclass(frozen=True)
class Case:
    """One kind of images that a user can have.

    title: heading of its table. make: images and the number of a sub-pool to what the user has. sets: which are
    measured. budgets: what is kept. against: the case that it is compared with, method by method. measure: which
    accuracy is shown.
    """

    title: str
    make: Callable[[Images, int], Given]
    sets: tuple[str, ...] = SETS
    budgets: tuple[str, ...] = BUDGETS
    against: str = ""
    measure: str = "accuracy"


def _flipped(images: Images, number: int) -> Given:
    return given.with_wrong_labels(given.sub_pool(images, number), 0.1)


def _without_suspects(images: Images, number: int) -> Given:
    return given.without_suspects(_flipped(images, number))


def _clean_without_suspects(images: Images, number: int) -> Given:
    return given.without_suspects(given.sub_pool(images, number))


def _rare(ratio: float, budgets: str = "proportional") -> Callable[[Images, int], Given]:
    def make(images: Images, number: int) -> Given:
        return replace(given.with_rare_classes(given.sub_pool(images, number), ratio), budgets=budgets)

    return make


def _copies(images: Images, number: int) -> Given:
    return given.with_copies(given.sub_pool(images, number))


def _without_copies(images: Images, number: int) -> Given:
    return given.without_copies(_copies(images, number))


def _other(images: Images, number: int) -> Given:
    return given.tested_on_other(given.sub_pool(images, number))


DTD, CIFAR = ("dtd10-vit_tiny",), ("cifar10mini-vit_tiny",)
CASES = {
    "clean": Case("Nothing is wrong", given.sub_pool),
    "flipped": Case("10 % of the labels are wrong", _flipped, against="clean"),
    "no_suspects": Case(
        "10 % of the labels are wrong; suspects are removed first", _without_suspects, against="flipped"
    ),
    "right_no_suspects": Case(
        "Nothing is wrong; suspects are removed all the same", _clean_without_suspects, against="clean"
    ),
    "rare": Case("Rare classes, 1:50", _rare(50), CIFAR),
    "rare_equal": Case("Rare classes, 1:50, as many of each class", _rare(50, "equal"), CIFAR, against="rare"),
    "rare10": Case("Rare classes, 1:10", _rare(10), DTD),
    "rare10_equal": Case("Rare classes, 1:10, as many of each class", _rare(10, "equal"), DTD, against="rare10"),
    "copies": Case("A third of the images is there twice", _copies),
    "no_copies": Case("A third is there twice; copies are removed first", _without_copies, against="copies"),
    "same_style": Case("Tested on images of the same style", given.sub_pool, tuple(STYLES), measure="balanced"),
    "other_style": Case(
        "Tested on images of another style", _other, tuple(STYLES), against="same_style", measure="balanced"
    ),
    "unfit": Case("A backbone that does not fit", given.sub_pool, ("caltech101-micro",)),
    "few": Case("A number of images of each class", given.sub_pool, SETS, COUNTS),
}
COLUMNS = (
    Column("set", "set"),
    Column("method", "method"),
    *(Column(budget, budget.removeprefix("0"), ".1f") for budget in BUDGETS),
    Column("images", "images at .1", ".0f"),
    Column("small_random", "to random, .02 to .2"),
    Column("large_random", "to random, .3 and .5"),
    Column("small_herding", "to herding, .02 to .2"),
    Column("large_herding", "to herding, .3 and .5"),
    Column("effect", "to the case before, .02 to .2"),
    Column("rare", "rare classes, .02 to .2", ".1f"),
    Column("by_size", "weighted by size, .02 to .2", ".1f"),
    Column("wrong", "wrong labels at .1, %", ".1f"),
    Column("different", "different images at .1, %", ".1f"),
)
FEW_COLUMNS = (
    *COLUMNS[:2],
    *(Column(budget, budget.replace(ENDING, " a class"), ".1f") for budget in COUNTS),
    Column("small_random", "to random"),
    Column("small_herding", "to herding"),
)
NOTES = (
    "Numbers of images kept are fractions of each class as the user has it, at least one image; the columns .02 to .5 "
    "are the accuracy of a linear probe on the test images in %, the mean over five sub-pools of 80 % of each class.",
    "images at .1: how many images are kept at .1, the mean over sub-pools.",
    "to random, to herding: paired differences in points, averaged over the budgets named, with the 95 % interval of "
    "Student's t over the sub-pools, which share images, the test set and the network.",
    "to the case before: the same method in this case less the case it belongs to: wrong labels to right ones, removed "
    "to not removed, as many of each class to proportional, another style to the same.",
    "all: the mean over the sets above it, which are fixed; the interval is over sub-pools, not over sets.",
    "Wrong labels are drawn at random in the pool only; test labels are right. Suspects are those of the list that "
    "`prunetune prune` shows. As many images are kept as without removing them.",
    "Rare classes: sizes fall exponentially from the largest class to 1/50 or 1/10 of it; which class is rare is drawn "
    "in each sub-pool. The test set has as many images of each class, so that accuracy is the mean over classes. rare "
    "classes: accuracy on the third of the classes with the fewest images; weighted by size: the mean over classes, "
    "weighted as the classes are in the pool, which is the accuracy on test images that are as unequal.",
    "Copies are exact, of a third of the images of each class, and equal features find them. As many images are kept.",
    "Style: cifar10mini has 32 px photographs and caltech101 objects on plain backgrounds; airplane, automobile, bird, "
    "dog and ship are in both. Painted digits have colours of their own, white ones do not. Shown is the mean over "
    "classes of the accuracy.",
    "A method without a row in a case was not measured there.",
    "k_medoids: its first picks (scorer=k_medoids). The exchanges of the study's k-medoids serve one fraction of whole "
    "classes only.",
    "A backbone that does not fit: micro has learnt from drawn textures and sees Caltech-101 at 32 px.",
)
FEW_NOTES = (
    "Columns are the accuracy in % with so many images of each class, the mean over five sub-pools; a smaller class is "
    "kept whole. Differences are averaged over the four columns, with 95 % intervals over the sub-pools.",
    "all: the mean over the sets above it, which are fixed; the interval is over sub-pools, not over sets.",
)


class Sets:
    """The sets by name; each is opened when it is first asked for.

    Args:
        data: folder with data/ and weights/.
        store: holds features; those that it lacks are computed into it.
    """

    def __init__(self, data: Path, store: Path) -> None:
        white = Pair("digits_white", "micro", ("dataset=digits", "dataset.is_painted=false", "backbone=micro"))
        unfit = Pair("caltech101", "micro", (*datasets(data)["caltech101"], "backbone=micro"))
        self._pairs, self._store = {pair.name: pair for pair in (*pairs(data), white, unfit)}, store
        self.opened, self.images = cache(self._opened), cache(self._images)

    def _opened(self, name: str) -> Opened:
        return Opened(self._pairs[name], self._store)

    def _images(self, name: str) -> Images:
        if name not in STYLES:
            return given.images_of(self.opened(name))
        own, other = (self.opened(pair) for pair in STYLES[name])
        classes = COMMON if "digits" not in name else [(label,) for label in own.pool.classes]
        return replace(given.in_common_classes(own, classes), other_test=given.in_common_classes(other, classes).test)


def main() -> None:
    """Measure what --parts lacks, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder for the tables")
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="folder for features")
    parser.add_argument("--parts", type=Path, default=Path("results/store/robustness"), help="finished sub-pools")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="methods of the study")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=tuple(CASES))
    parser.add_argument("--sets", nargs="+", help="measure these sets only (default: all)")
    parser.add_argument("--sub-pools", type=int, default=SUB_POOLS)
    arguments = parser.parse_args()
    check_folder(arguments.data)
    sets, numbers = Sets(arguments.data.resolve(), arguments.store), range(arguments.sub_pools)
    for case in arguments.cases:
        for name in CASES[case].sets:
            if arguments.sets is None or name in arguments.sets:
                for number in numbers:
                    _measure(sets, case, name, number, arguments)
    write_tables(arguments.out, read_parts(arguments.parts, arguments.methods, arguments.sub_pools))


def _measure(sets: Sets, case: str, name: str, number: int, arguments: argparse.Namespace) -> None:
    """Measure the methods that the file of a sub-pool lacks, and write it."""
    file = arguments.parts / f"{case} {name} {number}.json".replace(" ", "_")
    found = json.loads(file.read_text()) if file.is_file() else {"case": case, "set": name, "number": number}
    methods = [method for method in arguments.methods if method not in found.setdefault("methods", {})]
    if not methods:
        return
    user, budgets = CASES[case].make(sets.images(name), number), CASES[case].budgets
    kept = [some for method in methods for some in user.kept(method, budgets)]
    judged = iter(user.judged(kept))
    found["methods"] |= {method: {budget: next(judged) for budget in budgets} for method in methods}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    print(file, flush=True)


Cells = dict[tuple[str, str, str, str, str], np.ndarray]


def read_parts(parts: Path, methods: Sequence[str], sub_pools: int = SUB_POOLS) -> Cells:
    """Return [S] float64 over the sub-pools by (case, set, method, budget, what).

    Args:
        parts: the folder of finished sub-pools.
        methods: the methods that are read.
        sub_pools: S; what was not yet measured on all of them is left out.
    """
    values: dict[tuple[str, str, str, str, str], dict[int, float]] = {}
    for file in sorted(parts.glob("*.json")):
        found = json.loads(file.read_text())
        for method in methods:
            for budget, row in found["methods"].get(method, {}).items():
                for what, value in row.items():
                    key = (found["case"], found["set"], method, budget, what)
                    values.setdefault(key, {})[found["number"]] = float(value)
    numbers = range(sub_pools)
    return {key: np.array([own[n] for n in numbers]) for key, own in values.items() if set(numbers) <= set(own)}


def write_tables(out: Path, cells: Cells) -> None:
    """Write the two tables, and the accuracies of every sub-pool."""
    about = "Methods of the study on images as users have them. A linear probe on the kept images, five sub-pools."
    rows = [row for case in CASES if case != "few" for row in rows_of(cells, case)]
    write_table(out, "robustness", "Robust to what users have", about, COLUMNS, rows, NOTES)
    about = "One to eight images of each class. A linear probe on the kept images, five sub-pools."
    write_table(out, "few_images", "Few images", about, FEW_COLUMNS, list(rows_of(cells, "few")), FEW_NOTES)
    write_cells(out / "robustness_cells.csv", cells)


def write_cells(file: Path, cells: Cells) -> None:
    """Write the accuracy of every cell, a fraction: a row for each case, set, method and budget, sub-pools beside."""
    shown_cells = {key[:4]: values for key, values in cells.items() if key[4] == CASES[key[0]].measure}
    most = max(map(len, shown_cells.values()))
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["case", "set", "method", "budget", *(f"sub_pool_{number}" for number in range(most))])
        writer.writerows([*key, *(f"{value:.4f}" for value in values)] for key, values in shown_cells.items())


def rows_of(cells: Cells, case: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a case: of each set and method, and their mean over the sets where these are all five."""
    sets = [name for name in CASES[case].sets if any(key[:2] == (case, name) for key in cells)]
    methods = list(dict.fromkeys(key[2] for key in cells if key[0] == case))
    for group in [*([name] for name in sets), *([sets] if len(sets) == len(SETS) else [])]:
        for method in methods:
            yield _row(Means(cells, group), case, method)


@dataclass(frozen=True)
class Means:
    """Means over some sets, which all have as many sub-pools."""

    cells: Cells
    sets: Sequence[str]

    def over(self, case: str, method: str, budgets: Sequence[str], what: str) -> np.ndarray:
        """Return [S] float64, the mean over sets and budgets in each sub-pool."""
        return np.mean([self.cells[case, name, method, b, what] for name in self.sets for b in budgets], axis=0)

    def has(self, case: str, method: str) -> bool:
        """Return whether a method was measured in a case on all the sets."""
        budget = CASES[case].budgets[0]
        return all((case, name, method, budget, "accuracy") in self.cells for name in self.sets)


def _row(means: Means, case: str, method: str) -> dict[str, Any]:
    name = means.sets[0] if len(means.sets) == 1 else "all"
    row: dict[str, Any] = {"section": CASES[case].title, "set": name, "method": method}
    if not means.has(case, method):
        return row
    kind = CASES[case]
    row |= {b: 100 * float(means.over(case, method, [b], kind.measure).mean()) for b in kind.budgets}
    parts = {"small": COUNTS} if case == "few" else {"small": SMALL, "large": LARGE}
    for part, budgets in parts.items():
        own = means.over(case, method, budgets, kind.measure)
        for other in ("random", "herding"):
            if method != other and means.has(case, other):
                row[f"{part}_{other}"] = shown(own - means.over(case, other, budgets, kind.measure))
    if kind.against and means.has(kind.against, method):
        before = means.over(kind.against, method, SMALL, kind.measure)
        row["effect"] = shown(means.over(case, method, SMALL, kind.measure) - before)
    if case.startswith("rare"):
        row |= {what: 100 * float(means.over(case, method, SMALL, what).mean()) for what in ("rare", "by_size")}
    if case == "few":
        return row
    images = means.over(case, method, ["0.1"], "images")
    row["images"] = float(images.mean())
    for what, cases in (("wrong", ("flipped", "no_suspects")), ("different", ("copies", "no_copies"))):
        if case in cases:
            row[what] = 100 * float((means.over(case, method, ["0.1"], what) / images).mean())
    return row


def shown(differences: np.ndarray) -> str:
    """Return the mean of differences [S], fractions, in points with the 95 % interval of Student's t."""
    found = estimate(100 * differences)
    return points(found.mean, found.low, found.high)


if __name__ == "__main__":
    main()
