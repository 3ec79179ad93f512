"""Accuracies of finished runs by cell and seed, and means over cells. A mean exists only if all its cells were run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunetune.report import statistics, tables
from prunetune.report.collect import TEXT_RUN

EMPTY = pd.Series(dtype="float64")
ONE_GAMMA = 0.9  # From this ratio on, only one gamma of the grid is allowed, so nothing is chosen.


class Cell(NamedTuple):
    """One method at one data set, backbone, recipe and ratio, with all its seeds."""

    method: str
    dataset: str
    backbone: str
    ratio: float

    def of(self, method: str) -> "Cell":
        """Return the cell of another method with the same data set, backbone, recipe and ratio."""
        return self._replace(method=method)


@dataclass(frozen=True)
class Cells:
    """The accuracy in percent by seed for every cell of one recipe, and hashes of the training settings."""

    percent: dict[Cell, pd.Series]
    recipes: dict[Cell, frozenset[str]]

    def by_seed(self, cells: Sequence[Cell]) -> pd.Series:
        """Return the mean over the cells for each seed that all cells have. It is empty if a cell was not run."""
        if not cells or any(cell not in self.percent for cell in cells):
            return EMPTY
        return pd.concat([self.percent[cell] for cell in cells], axis=1, join="inner").mean(axis=1)

    def random_by_seed(self, cells: Sequence[Cell]) -> pd.Series:
        """Return the same for random, with the same training."""
        baselines = [self._baseline(cell) for cell in cells]
        if any(self.recipes.get(a) != self.recipes.get(b) for a, b in zip(cells, baselines, strict=True)):
            return EMPTY
        return self.by_seed(baselines)

    def entry(self, cells: Sequence[Cell], published: float = np.nan, comparable: bool = True) -> dict[str, float]:
        """Describe the mean over some cells of one method.

        Args:
            cells: the cells to average for each seed.
            published: the corresponding number of the paper, in percent.
            comparable: whether the runs follow the recipe behind the published number.

        Returns:
            mean, std, n, low, high of ours in percent; gain, gain_low, gain_high, num_pairs above random in points;
            published, and difference = ours minus published where comparable.
        """
        mine = self.by_seed(cells)
        gain = statistics.estimate([])
        if not all(cell.method == self._baseline(cell).method for cell in cells):
            gain = statistics.paired_difference(mine, self.random_by_seed(cells))
        ours = asdict(statistics.estimate(mine))
        above = {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "num_pairs": gain.n}
        difference = ours["mean"] - published if comparable else np.nan
        return ours | above | {"published": published, "difference": difference}

    def _baseline(self, cell: Cell) -> Cell:
        tag = cell.method.rpartition(" (")[2] if cell.method.endswith(")") else ""
        same = cell.of(f"random ({tag}")
        return same if tag and same in self.percent else cell.of("random")


def prepared(results: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `method` (the name of the row) and `percent`, and leave out runs that no table of images shows.

    These are runs of the whole pool, with other class budgets, with a number of images per class, and of text.

    A FlexRand run with the default tag and a constant gamma has the gamma in its name. The name without a gamma means
    that gamma was chosen on held-out images.
    """
    runs = results[(results["ratio"] < 1) & (results["budgets"] == "proportional")]
    runs = runs[(runs["kind"] != TEXT_RUN) & runs["per_class"].isna()]
    names = [_name(run) for run in runs.to_dict("records")]
    return runs.assign(method=pd.Series(names, index=runs.index, dtype=object), percent=100 * runs["accuracy"])


def _name(run: dict) -> str:
    plain = run["sampler"] == "flexrand" and run["tag"] == "default" and run["ratio"] < ONE_GAMMA
    if plain and run["selection_rule"] == "fixed" and pd.notna(run["gamma"]):
        return f"{tables.method_name(run)} (gamma {run['gamma']:g})"
    return tables.method_name(run)


def gather(runs: pd.DataFrame) -> Cells:
    """Sort the prepared runs of one recipe by cell."""
    percent, recipes = {}, {}
    for key, cell in runs.groupby(["method", "dataset", "backbone", "ratio"]):
        percent[Cell(*key)] = cell.groupby("seed")["percent"].mean()
        recipes[Cell(*key)] = frozenset(cell["recipe"].fillna(""))
    return Cells(percent, recipes)


def places(method: str, datasets: Iterable[str], backbones: Iterable[str], ratios: Iterable[float]) -> list[Cell]:
    """Return every cell of a product."""
    return [Cell(method, *place) for place in product(datasets, backbones, ratios)]


def ordered(methods: Iterable[str]) -> list[str]:
    """Sort row names: random first, then learning complexity, then the others by name."""
    return sorted(set(methods), key=lambda name: (not name.startswith("random"), not name.startswith("dlc"), name))


def is_random(runs: pd.DataFrame) -> pd.Series:
    """Return whether each run is the baseline random, with any tag."""
    return (runs["scorer"] == "random") & (runs["sampler"] == "random")


def is_of(runs: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """Return whether each run has a setting that also occurs in `chosen`."""
    keys = set(chosen[tables.SETTING].itertuples(index=False, name=None))
    return pd.Series(list(runs[tables.SETTING].itertuples(index=False, name=None)), index=runs.index).isin(keys)


def settings(runs: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Yield each (dataset, backbone, finetune) with its runs."""
    yield from runs.groupby(tables.SETTING)
