"""The rows of the study: reading and checking them, the oracle, paired differences, and what was not run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from prunetune.base.errors import InputError
from prunetune.report.rounding import short_commit
from scripts.reproduce.study_statistics import LEVELS, PAIR

COLUMNS = (
    *("set", "backbone", "sub_pool", "method", "budget", "kept", "classes", "pool", "judge", "accuracy", "commit"),
)
COST_COLUMNS = ("set", "backbone", "method", "passes", "select_seconds", "plain_pass_seconds")
ROW = ("judge", "set", "backbone", "budget", "sub_pool", "method")  # No two rows have the same values of all these.
FULL = "full"
JUDGES = ("linear_probe", "logistic_regression", FULL)
ONE = "1_per_class"
PRIMARY = ("0.02", "0.05", "0.1", "0.2")
PRIMARY_NAME = "0.02 to 0.2"
RANDOM = "random"
SHARE = 0.8  # A sub-pool has this share of each class.
ORACLE = "dlc_oracle"
EARLIER = "earlier_search"  # DLC + FlexRand with the search as it was when the study began (results/LOG.md).
GAMMA = "dlc_0.25"  # The constant gamma that is compared with the other methods.
UNKNOWN_DEVICE = "not recorded"
# Full fine-tuning takes hours, so it is run on these sets and budgets only, with these methods and this network.
FULL_BUDGETS = {"dtd10": ("0.05", "0.1"), "cifar10mini": ("0.02",)}
FULL_METHODS = (RANDOM, "dlc_validation", "herding", "facility_location")
FULL_BACKBONE, FULL_SUB_POOLS = "vit_tiny", 5
# Groups by the number of images that are kept of each class. The value is the largest mean number in the group.
PER_CLASS = {"1": 1.5, "2 to 4": 4.5, "5 to 9": 9.5, "10 to 19": 19.5, "20 to 49": 49.5, "50 or more": np.inf}


@dataclass(frozen=True)
class Study:
    """The rows that were run. cells: those of cells.csv with the oracle. costs: those of costs.csv, or none."""

    cells: pd.DataFrame
    costs: pd.DataFrame

    @property
    def judges(self) -> list[str]:
        return [judge for judge in JUDGES if (self.cells["judge"] == judge).any()]

    @property
    def budgets(self) -> list[str]:
        """All budgets, one image a class first, then ascending."""
        return sorted(self.cells["budget"].unique(), key=fraction)

    def judged(self, judge: str) -> "Judged":
        """Return the rows of one judge."""
        return Judged(judge, self.cells[self.cells["judge"] == judge])

    def made_by(self) -> dict[str, str]:
        """Return the commits and the device of the rows, as columns that every table has."""
        parts = {
            "commits": sorted(self.cells["commit"].astype(str).map(short_commit).unique()),
            "device": sorted(self.cells["device"].astype(str).unique()),
        }
        return {name: " ".join(values) if name == "commits" else "; ".join(values) for name, values in parts.items()}


class Judged:
    """The rows of one judge as a table of percentages.

    Attributes:
        accuracy: percent, indexed by set, backbone, budget and sub_pool, with one column for each method.
        per_class: kept images a class, indexed by set, backbone and budget: the median over sub-pools and methods.
    """

    def __init__(self, judge: str, cells: pd.DataFrame) -> None:
        self.judge, self.cells = judge, cells
        index = ["set", "backbone", "budget", "sub_pool"]
        self.accuracy = 100 * cells.pivot(index=index, columns="method", values="accuracy")
        self.per_class = (cells["kept"] / cells["classes"]).groupby([cells[level] for level in index[:3]]).median()

    @property
    def methods(self) -> list[str]:
        """The methods that are reported: all but the gammas that only the oracle chooses from."""
        return [name for name in self.accuracy.columns if not is_grid_gamma(name)]

    @property
    def budgets(self) -> list[str]:
        return sorted(self.accuracy.index.unique("budget"), key=fraction)

    def of_budgets(self, budgets: Sequence[str]) -> pd.DataFrame:
        """Return the accuracies at some budgets."""
        return self.accuracy[self.accuracy.index.isin(budgets, level="budget")]

    def of_per_class(self, name: str) -> pd.DataFrame:
        """Return the accuracies where so many images a class are kept, a key of PER_CLASS."""
        names = self.per_class.map(per_class_name)
        cells = self.accuracy.index.droplevel("sub_pool")
        return self.accuracy[(names.reindex(cells) == name).to_numpy()]


def read(folder: Path) -> Study:
    """Read cells.csv and costs.csv of a folder, and add the oracle.

    Raises:
        InputError: cells.csv does not exist, a column is missing, or a value is not what it must be.
    """
    path = folder / "cells.csv"
    if not path.is_file():
        raise InputError(f"{path} does not exist; run python -m scripts.reproduce.study --data FOLDER first")
    cells = _checked(pd.read_csv(path, dtype={"budget": str, "method": str, "commit": str}), path)
    costs = folder / "costs.csv"
    if not costs.is_file():
        return Study(with_oracle(cells), pd.DataFrame(columns=COST_COLUMNS))
    frame = pd.read_csv(costs)
    _check_columns(frame, COST_COLUMNS, costs)
    return Study(with_oracle(cells), frame)


def _check_columns(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    lacking = [column for column in columns if column not in frame]
    if lacking:
        raise InputError(f"{path} lacks {', '.join(lacking)}; make it again with python -m scripts.reproduce.study")


def _checked(cells: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the rows, with a column `device`, after checking them."""
    _check_columns(cells, COLUMNS, path)
    if cells.empty:
        raise InputError(f"{path} has no rows; run python -m scripts.reproduce.study --data FOLDER first")
    if not (cells["method"] == RANDOM).any():
        raise InputError(
            f"{path} has no rows of the method {RANDOM}, and all methods are compared with it; run it first"
        )
    if "device" not in cells:
        cells = cells.assign(device=UNKNOWN_DEVICE)
    wrong = ~cells["accuracy"].between(0, 1) | ~cells["judge"].isin(JUDGES) | cells["budget"].map(fraction).isna()
    twice = cells.duplicated(list(ROW))
    for rows, expected in (
        (
            wrong,
            f"an accuracy in [0, 1], a judge of {', '.join(JUDGES)}, and a budget of {ONE} or a fraction in (0, 1]",
        ),
        (twice, f"one row for each {', '.join(ROW)}; this one is there twice"),
    ):
        if rows.any():
            row = cells[rows].iloc[0]
            found = ", ".join(f"{name}={row[name]}" for name in (*ROW, "accuracy"))
            raise InputError(f"{path}, line {cells.index[rows][0] + 2}: expected {expected}; got {found}")
    return cells


def fraction(budget: object) -> float:
    """Return the number of a budget, to sort by: 0 for one image a class, NaN for what is no budget."""
    if budget == ONE:
        return 0.0
    try:
        value = float(str(budget))
    except ValueError:
        return np.nan
    return value if 0 < value <= 1 else np.nan


def gamma_of(method: str) -> float:
    """Return the gamma of DLC + FlexRand with a constant gamma, or NaN for another method."""
    try:
        return float(method.removeprefix("dlc_")) if method.startswith("dlc_") else np.nan
    except ValueError:
        return np.nan


def is_grid_gamma(method: str) -> bool:
    """Whether a method is a constant gamma that only the oracle chooses from."""
    return method != GAMMA and not np.isnan(gamma_of(method))


def per_class_name(mean: float) -> str:
    """Return the key of PER_CLASS for a mean number of kept images a class."""
    return next(name for name, most in PER_CLASS.items() if mean <= most)


def with_oracle(cells: pd.DataFrame) -> pd.DataFrame:
    """Add the rows of the oracle, and a column `gamma` with the constant gamma of each row.

    In each set, network, budget and judge, the oracle is the gamma with the best mean test accuracy over sub-pools.
    Only gammas with as many sub-pools as the most complete one are compared; of equal ones the smallest is taken. It is
    chosen on the test set, so it is a bound of what a search for gamma can reach, not a method.
    """
    cells = cells.assign(gamma=cells["method"].map(gamma_of))
    constant = cells[cells["gamma"].notna()]
    constant = constant[constant.groupby("judge")["gamma"].transform("nunique") > 1]  # One gamma leaves no choice.
    if constant.empty:
        return cells
    where = ["judge", "set", "backbone", "budget"]
    means = constant.groupby([*where, "gamma"])["accuracy"].agg(["mean", "size"]).reset_index()
    means = means[means["size"] == means.groupby(where)["size"].transform("max")]
    best = means.sort_values(["mean", "gamma"], ascending=[False, True], kind="stable").drop_duplicates(where)
    oracle = constant.merge(best[[*where, "gamma"]], on=[*where, "gamma"]).assign(method=ORACLE)
    return pd.concat([cells, oracle], ignore_index=True)


def paired(accuracy: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the differences of all methods to a reference, in points, averaged over budgets.

    Args:
        accuracy: of `Judged`, the budgets that belong together.
        reference: a method.

    Returns:
        A frame indexed by LEVELS, with a column for each method. A method has a value where it and the reference were
        run at every budget at which any method was run on this set and network; otherwise it is NaN.
    """
    if reference not in accuracy:
        return pd.DataFrame(columns=accuracy.columns, index=pd.MultiIndex.from_arrays([[], [], []], names=LEVELS))
    known = accuracy.dropna(how="all")
    wanted = known.reset_index().groupby(PAIR)["budget"].nunique()
    groups = known.sub(known[reference], axis=0).groupby(level=LEVELS)
    means, counts = groups.mean(), groups.count()
    needed = wanted.reindex(means.index.droplevel("sub_pool")).to_numpy()
    return means.where(counts.eq(needed, axis=0))


def missing(study: Study) -> pd.DataFrame:
    """Return what was not run: one row for each judge, set and network that lacks something.

    A judge is expected to have on every pair what it has on any of them: the methods, the budgets of each method, and
    the number of sub-pools. Logistic regression is expected on every pair of the linear probe. Once
    full fine-tuning has begun, it is expected on the sets and budgets of FULL_BUDGETS, and on no others.

    Returns:
        A frame with judge, set, backbone, trainings (that there are), expected, and lacking (in words).
    """
    rows = []
    shown = study.cells[~study.cells["method"].map(lambda name: is_grid_gamma(name) or name in (ORACLE, EARLIER))]
    everywhere = list(shown.loc[shown["judge"] != FULL, PAIR].drop_duplicates().itertuples(index=False, name=None))
    for judge in study.judges:
        mine = shown[shown["judge"] == judge]
        most = mine[["method", "budget"]].drop_duplicates(), int(mine.groupby(PAIR)["sub_pool"].nunique().max())
        wanted = _full_cells() if judge == FULL else dict.fromkeys(everywhere, most)
        for (name, backbone), (cells, num_parts) in wanted.items():
            line = _lacking(mine[(mine["set"] == name) & (mine["backbone"] == backbone)], cells, num_parts)
            if line["trainings"] < line["expected"]:
                rows.append({"judge": judge, "set": name, "backbone": backbone, **line})
    return pd.DataFrame(rows, columns=["judge", "set", "backbone", "trainings", "expected", "lacking"])


def _full_cells() -> dict[tuple[str, str], tuple[pd.DataFrame, int]]:
    """Return the methods with their budgets and the number of sub-pools of full fine-tuning, by set and network."""
    return {
        (name, FULL_BACKBONE): (
            pd.DataFrame(itertools.product(FULL_METHODS, budgets), columns=["method", "budget"]),
            FULL_SUB_POOLS,
        )
        for name, budgets in FULL_BUDGETS.items()
    }


def _lacking(there: pd.DataFrame, cells: pd.DataFrame, num_parts: int) -> dict[str, object]:
    """Return how many trainings a pair has and should have, and in words what it lacks.

    Args:
        there: the rows that were run.
        cells: the methods with their budgets that should be there.
        num_parts: the number of sub-pools that should be there.
    """
    counts = {"trainings": len(there), "expected": len(cells) * num_parts}
    if there.empty:
        return {**counts, "lacking": "all of it"}
    has = set(zip(there["method"], there["budget"], strict=True))
    methods = sorted(set(cells["method"]) - set(there["method"]))
    rest = [(row.budget, row.method) for row in cells.itertuples() if row.method not in methods]
    budgets = sorted(
        (fraction(budget), f"{method} at {budget}") for budget, method in rest if (method, budget) not in has
    )
    parts = [f"the methods {', '.join(methods)}"] if methods else []
    parts += [name for _, name in budgets]
    if (number := there["sub_pool"].nunique()) < num_parts:
        parts.append(f"{num_parts - number} of {num_parts} sub-pools")
    return {**counts, "lacking": "; ".join(parts) or "single trainings"}
