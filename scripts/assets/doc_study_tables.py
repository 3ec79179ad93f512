"""The tables of the study and how their numbers are written, shared by the modules of its page."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

PRIMARY = "0.02 to 0.2"
PROBE = "linear_probe"
KEPT = {"1_per_class": "one image a class", PRIMARY: "2 to 20 % together"}


@dataclass(frozen=True)
class Tables:
    """The tables of a folder, as text and numbers."""

    folder: Path

    def read(self, name: str) -> pd.DataFrame:
        """Return one table. Budgets and lists of names are text."""
        names = ("budget", "scope", "sub_pools", "not_different", "not_corrected", "left_out", "commits")
        kinds = dict.fromkeys(names, str)
        try:
            return pd.read_csv(self.folder / f"{name}.csv", dtype=kinds)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()

    @cached_property
    def differences(self) -> pd.DataFrame:
        return self.read("differences")

    @cached_property
    def best(self) -> pd.DataFrame:
        return self.read("best")

    @cached_property
    def summary(self) -> pd.DataFrame:
        return self.read("summary")


def kept(budget: str) -> str:
    """Return a budget in words, such as `10 %`."""
    return KEPT.get(budget) or f"{100 * float(budget):g} %"


def listed(names: Iterable[str]) -> str:
    """Return `a, b and c`."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def sets(number: int) -> str:
    """Return `1 set`, `5 sets`."""
    return f"{number:g} set" if number == 1 else f"{number:g} sets"


def is_hidden(method: str) -> bool:
    """Whether a method is a gamma of the grid, which the section about gamma shows."""
    return method.startswith("dlc_0.") and method != "dlc_0.25"


def against(frame: pd.DataFrame, reference: str, judge: str = PROBE) -> pd.DataFrame:
    """Return the differences of all methods to one of them, by one judge."""
    return frame[(frame["judge"] == judge) & (frame["reference"] == reference)]
