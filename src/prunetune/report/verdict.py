"""Sentences that say which methods are above random, which are below, and which show no clear difference."""

from collections.abc import Sequence

import pandas as pd

from prunetune.report.rounding import bracketed, one_decimal

USUAL_RATIO = 0.1  # Most papers on data pruning compare methods at this ratio.
FURTHEST = 2  # Another ratio can replace the usual one if the two differ by at most this factor.
FEWEST_PAIRS = 2  # A single seed has no spread, so an interval needs at least two pairs.
MOST_NAMED = 3  # A sentence with more names and their intervals would be too long to read.
MOST_LISTED = 6  # At most 6 names without intervals are listed.
RANDOM = "random"
PER_CLASS = " per class"  # How the heading of a column ends that keeps a number of images of each class.


def sentences(part: pd.DataFrame) -> list[str]:
    """Compare every method with random, at the smallest ratio that was run and at the one nearest to 0.1.

    A method is above or below random where the 95 % t interval of the difference, paired by seed, leaves zero out.

    Args:
        part: one setting of `tables.summary`, with ratio, column, method, n, difference, low and high (the ends of the
            interval, percentage points) and num_pairs.

    Returns:
        One sentence for each ratio or number per class, and one that explains the intervals if there are any. None
        where there is no method to compare.
    """
    run = part[(part["ratio"] < 1) & (part["n"] > 0)]
    compared = run[(run["num_pairs"] > 0) | ~_is_random(run["method"])]
    if compared.empty:
        return []
    if not compared["num_pairs"].any():
        return ["No method was run with a seed of random, so none can be compared: run random with the same seeds."]
    shown = compared[compared["ratio"].isin(shown_ratios(compared["ratio"]))]
    # A number of images per class can be the same ratio as a fraction. Each of the two has a sentence of its own.
    columns = shown.sort_values(["ratio", "column"])["column"].unique()
    lines = [_at(column, shown[shown["column"] == column]) for column in columns]
    if (compared["num_pairs"] >= FEWEST_PAIRS).any():
        lines.append("In brackets: the 95 % t interval of the difference from random, paired by seed.")
    return lines


def shown_ratios(ratios: Sequence[float] | pd.Series) -> list[float]:
    """Return the smallest ratio and, if one is within a factor of two of 0.1, the nearest to 0.1; ascending."""
    values = sorted(set(ratios))
    factors = {ratio: max(ratio / USUAL_RATIO, USUAL_RATIO / ratio) for ratio in values}
    nearest = min(values, key=lambda ratio: factors[ratio])
    return sorted({values[0], nearest} if factors[nearest] <= FURTHEST else {values[0]})


def _is_random(methods: pd.Series) -> pd.Series:
    """Whether each method is random selection, under any tag."""
    return (methods == RANDOM) | methods.str.startswith(f"{RANDOM} (")


def _at(column: str, compared: pd.DataFrame) -> str:
    """Return the sentence of one column of the table: a fraction such as "0.1", or "4 per class"."""
    judged = compared[compared["num_pairs"] >= FEWEST_PAIRS].sort_values("difference", ascending=False, kind="stable")
    above, below = judged[judged["low"] > 0], judged[judged["high"] < 0]
    level = judged[(judged["low"] <= 0) & (judged["high"] >= 0)]
    single, lonely = compared[compared["num_pairs"] == 1], compared[compared["num_pairs"] == 0]
    parts = [
        *_apart(above, "above"),
        *_apart(below[::-1], "below"),  # The method that loses most comes first.
        *_listed(level, "is not clearly different from random", "are not clearly different from random"),
        *_listed(single, "has one seed, which tells nothing", "have one seed each, which tells nothing"),
        *_listed(lonely, "has no seed that random has", "have no seed that random has"),
    ]
    seeds = sorted(set(judged["num_pairs"]))
    over = f" with {' to '.join(str(count) for count in dict.fromkeys([seeds[0], seeds[-1]]))} seeds" if seeds else ""
    kept = column if column.endswith(PER_CLASS) else f"{100 * float(column):g} %"
    return f"At {kept}{over}: {'; '.join(parts)}."


def _apart(rows: pd.DataFrame, side: str) -> list[str]:
    """Return a phrase for methods on one side of random with their differences, or nothing."""
    records = rows.to_dict("records")
    if len(records) == 1:
        return [f"{records[0]['method']} is {_points(records[0])} {side} random {_interval(records[0])}"]
    names = [f"{row['method']} by {_points(row)} {_interval(row)}" for row in records]
    return [f"{side} random are {_joined(names, MOST_NAMED)}"] if names else []


def _points(row: dict) -> str:
    """Return the size of a difference."""
    return f"{one_decimal(abs(row['difference']))} points"


def _interval(row: dict) -> str:
    """Return the ends of a difference's interval."""
    return bracketed(row["low"], row["high"])


def _listed(rows: pd.DataFrame, one: str, several: str) -> list[str]:
    """Return the names of the rows with the phrase for one or for several, or nothing."""
    names = list(rows["method"])
    return [f"{_joined(names, MOST_LISTED)} {one if len(names) == 1 else several}"] if names else []


def _joined(names: list[str], most: int) -> str:
    """Return `a, b and c`. If there are more than `most` names, the remaining ones are counted."""
    if len(names) > most + 1:  # One remaining name is written out, since a count of one would not be shorter.
        names = [*names[:most], f"{len(names) - most} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
