"""The tables of the study: what each method reaches, its differences to others, wins, and the best by budget."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prunetune.report.statistics import Estimate
from scripts.reproduce.study_rows import (
    EARLIER,
    ORACLE,
    PER_CLASS,
    PRIMARY,
    PRIMARY_NAME,
    RANDOM,
    SHARE,
    Judged,
    Study,
    fraction,
    is_grid_gamma,
    paired,
)
from scripts.reproduce.study_statistics import (
    ALPHA,
    PAIR,
    OverSets,
    bootstrap_interval,
    cell_interval,
    holm,
    mixed_model,
    over_sets,
    over_sets_each,
    simultaneous,
)

REFERENCES = (RANDOM, "herding", "dlc_validation")
MOST_PASSES = 1.2  # A default may cost at most this many passes.
NOT_REAL = ("digits", "textures")  # Generated or tiny images, whose plain pass is too short to measure a cost by.
Row = dict[str, Any]


def scopes(judged: Judged) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the budgets that belong together: the primary ones as one, then each alone."""
    yield PRIMARY_NAME, judged.of_budgets(PRIMARY)
    for budget in judged.budgets:
        yield budget, judged.of_budgets([budget])


def summary(study: Study) -> pd.DataFrame:
    """Return one row for each cell (judge, set, network, budget) and method.

    Accuracy and std are percent over sub-pools. The difference from random is in points, with its interval over
    sub-pools (low, high) and the wider one for another pool (pool_low, pool_high). gamma is that of the oracle.
    """
    keys = ["judge", "set", "backbone", "budget", "method"]
    grouped = study.cells.groupby(keys)
    sizes = grouped.agg(n=("accuracy", "size"), pool=("pool", "median"), classes=("classes", "max"))
    sizes["kept"] = grouped["kept"].median()
    sizes["images_per_class"] = sizes["kept"] / sizes["classes"]
    sizes["accuracy"], sizes["std"] = 100 * grouped["accuracy"].mean(), 100 * grouped["accuracy"].std()
    sizes["gamma"] = grouped["gamma"].first()
    rows = []
    for judge in study.judges:
        for key, found in _cells(study.judged(judge), RANDOM):
            rows.append({**dict(zip(keys, (judge, *key), strict=True)), **_difference(found)})
    return _arranged(study, sizes.reset_index().merge(pd.DataFrame(rows, columns=[*keys, *DIFFERENCE]), "left", keys))


DIFFERENCE = ("difference", "low", "high", "pool_low", "pool_high")


def _difference(values: pd.Series) -> Row:
    plain, wider = cell_interval(values), cell_interval(values, SHARE)
    return dict(zip(DIFFERENCE, (plain.mean, plain.low, plain.high, wider.low, wider.high), strict=True))


def _cells(judged: Judged, reference: str) -> Iterator[tuple[tuple[str, str, str, str], pd.Series]]:
    """Yield set, network, budget and method, and the differences to the reference over sub-pools."""
    if reference not in judged.accuracy:
        return
    differences = judged.accuracy.sub(judged.accuracy[reference], axis=0)
    for cell, frame in differences.groupby(level=["set", "backbone", "budget"]):
        for method in frame.columns.drop(reference):
            if (values := frame[method].dropna()).size:
                yield (*cell, method), values


def differences(study: Study, references: Sequence[str] = REFERENCES) -> pd.DataFrame:
    """Return one row for each judge, budget, method and reference: the mean paired difference over sets, in points.

    low and high are the ends of the t interval over sets. p_holm and the simultaneous interval are corrected for the
    other methods: at the primary budgets together for these methods, at single budgets for methods and budgets. The
    gammas that only the oracle chooses from and the oracle itself do not count and are not corrected. The bootstrap and
    the mixed model are computed at the primary budgets.
    """
    rows = []
    for judge in study.judges:
        judged = study.judged(judge)
        for reference in references:
            for scope, accuracy in scopes(judged):
                found = paired(accuracy, reference)
                found = found.drop(columns=reference, errors="ignore").dropna(axis=1, how="all")
                for method, over in over_sets_each(found).items():
                    row = {"judge": judge, "budget": scope, "method": method, "reference": reference, **compared(over)}
                    is_checked = scope == PRIMARY_NAME and not is_grid_gamma(method)
                    rows.append({**row, **(checked(found[method]) if is_checked else {})})
    return _arranged(study, _corrected(pd.DataFrame(rows)))


def compared(found: OverSets) -> Row:
    """Return a mean over sets with its t interval, its p-value and what it was formed from."""
    row = {"difference": found.estimate.mean, "low": found.estimate.low, "high": found.estimate.high}
    return {**row, "std": found.estimate.std, "p": found.p_value, **_counts(found)}


def checked(values: pd.Series) -> Row:
    """Return the intervals of the bootstrap and of the mixed model, which are slow."""
    row: Row = dict(zip(("bootstrap_low", "bootstrap_high"), bootstrap_interval(values), strict=True))
    if fitted := mixed_model(values):
        row |= {"mixed": fitted.mean, "mixed_low": fitted.low, "mixed_high": fitted.high}
    return row


def _counts(found: OverSets) -> Row:
    parts = {found.fewest_sub_pools, found.most_sub_pools}
    shown = " to ".join(str(number) for number in sorted(parts))
    return {"sets": found.estimate.n, "pairs": found.num_pairs, "sub_pools": shown}


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Add p-values and intervals that are corrected for the number of comparisons."""
    if frame.empty:
        return frame
    names = ("p_holm", "simultaneous_low", "simultaneous_high")
    frame = frame.assign(**dict.fromkeys(names, np.nan))
    counted = frame[~frame["method"].map(lambda name: is_grid_gamma(name) or name in (ORACLE, EARLIER))]
    for _, family in counted.groupby(["judge", "reference", counted["budget"] == PRIMARY_NAME]):
        frame.loc[family.index, "p_holm"] = holm(family["p"])
        number = int(family["p"].notna().sum())
        for place, row in family.iterrows():
            found = Estimate(row["difference"], row["std"], int(row["sets"]), row["low"], row["high"])
            frame.loc[place, ["simultaneous_low", "simultaneous_high"]] = simultaneous(found, number)
    return frame


def wins(study: Study, references: Sequence[str] = REFERENCES) -> pd.DataFrame:
    """Return how many cells each method wins, ties and loses against each reference, at all and at primary budgets.

    A cell is a set, a network and a budget. A tie is a cell whose interval over sub-pools holds 0. `pool_wins`,
    `pool_ties` and `pool_losses` take the wider interval for another pool. Cells with one sub-pool have no interval and
    are not counted.
    """
    rows = []
    for judge in study.judges:
        for reference in references:
            found = [(*key[2:], _difference(values)) for key, values in _cells(study.judged(judge), reference)]
            frame = pd.DataFrame([{"budget": b, "method": m, **row} for b, m, row in found])
            for scope, budgets in (("all", None), (PRIMARY_NAME, PRIMARY)):
                part = frame if budgets is None or frame.empty else frame[frame["budget"].isin(budgets)]
                rows += _counted({"judge": judge, "budget": scope, "reference": reference}, part)
    return _arranged(study, pd.DataFrame(rows))


def _counted(shared: Row, frame: pd.DataFrame) -> list[Row]:
    rows = []
    for method, cells in frame.dropna(subset="low").groupby("method") if len(frame) else ():
        row = {**shared, "method": method, "cells": len(cells), "above": int((cells["difference"] > 0).sum())}
        for prefix in ("", "pool_"):
            above, below = (cells[f"{prefix}low"] > 0).sum(), (cells[f"{prefix}high"] < 0).sum()
            row |= {f"{prefix}wins": int(above), f"{prefix}ties": int(len(cells) - above - below)}
            row[f"{prefix}losses"] = int(below)
        rows.append(row)
    return rows


def passes(study: Study) -> pd.Series:
    """Return the cost of each method in plain passes over the pool.

    It is the median over the pairs of larger networks on real images. A study without such pairs takes all of them.
    """
    costs = study.costs
    real = costs[(costs["backbone"] != "micro") & ~costs["set"].isin(NOT_REAL)]
    found = (real if len(real) else costs).groupby("method")["passes"].median()
    return found.drop([name for name in found.index if is_grid_gamma(name)])


def best(study: Study) -> pd.DataFrame:
    """Return the best method by budget and by kept images a class, among cheap methods and among all.

    A method is a candidate if it was run in every pair in which most methods were run; random is one, too, with a
    difference of 0. `best` has the highest mean paired difference from random. `not_different` are the candidates whose
    95 % interval of the difference to it holds 0; `not_corrected` are those that are told apart from it only without
    Holm's correction for the number of candidates. The verdict is "no difference" where the plain interval of the
    difference from the next method holds 0, or where there is none.
    """
    cost, rows = passes(study), []
    cheap = [name for name, number in cost.items() if number <= MOST_PASSES]
    for judge in study.judges:
        judged = study.judged(judge)
        by_number = ((name, judged.of_per_class(name)) for name in PER_CLASS)
        for kind, parts in (("budget", scopes(judged)), ("images_per_class", by_number)):
            for scope, accuracy in parts:
                for among in ("cheap", "all") if cheap else ("all",):
                    names = [name for name in judged.methods if among == "all" or name in [*cheap, RANDOM]]
                    if found := _best(accuracy, [name for name in names if name not in (ORACLE, EARLIER)]):
                        shared = {"judge": judge, "rows": kind, "scope": scope, "among": among}
                        rows.append({**shared, **found, "passes": cost.get(found["best"], np.nan)})
    return _arranged(study, pd.DataFrame(rows))


def _best(accuracy: pd.DataFrame, names: Sequence[str]) -> Row | None:
    """Return the best of some methods, or None where nothing can be compared with random."""
    against = paired(accuracy, RANDOM)
    there = against[[name for name in names if name in against]].dropna(how="all")
    if there.empty:
        return None
    has = there.notna().groupby(level=PAIR).any()  # [pairs, methods]
    wanted = has[has.mean(axis=1) > 0.5]
    candidates = [name for name in wanted.columns if wanted[name].all() and len(wanted)]
    if len(candidates) < 2:
        return None
    known = there[there.index.droplevel("sub_pool").isin(wanted.index)]
    means = {name: found.estimate.mean for name, found in over_sets_each(known[candidates]).items()}
    order = sorted(candidates, key=lambda name: -means[name])
    return {**_winner(known, order), "left_out": " ".join(name for name in names if name not in candidates)}


def _winner(known: pd.DataFrame, order: list[str]) -> Row:
    """Return the first method of an order with its gain, the next one, and what is not told apart from the first."""
    first, second = order[:2]
    to_others = over_sets_each(known[order[1:]].rsub(known[first], axis=0))
    corrected = holm(pd.Series({name: found.p_value for name, found in to_others.items()}))
    equal = [name for name, found in to_others.items() if not found.p_value < ALPHA]
    unsure = [name for name in order[1:] if name not in equal and not corrected[name] < ALPHA]
    gain, lead = over_sets(known[first]), to_others[second].estimate
    sides = simultaneous(gain.estimate, len(order) - 1)
    row = {"best": first, "gain": gain.estimate.mean, "low": gain.estimate.low, "high": gain.estimate.high}
    row |= {"above_random": "yes" if sides[0] > 0 else "no", "next": second}
    row |= {"not_different": " ".join(equal), "not_corrected": " ".join(unsure)}
    row |= {"lead": lead.mean, "lead_low": lead.low, "lead_high": lead.high}
    row["verdict"] = "best" if lead.low > 0 else "no difference"
    return {**row, "candidates": len(order), **_counts(gain)}


def costs(study: Study) -> pd.DataFrame:
    """Return the cost of each method in passes: the median of `passes`, and the least and the most of any pair."""
    spread = study.costs.groupby("method")["passes"].agg(least="min", most="max")
    found = passes(study).rename("passes").to_frame().join(spread).reset_index(names="method")
    pairs = study.costs[PAIR].drop_duplicates()
    return _arranged(study, found.sort_values(["passes", "method"]).assign(pairs=len(pairs)))


def _arranged(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """Order the rows by judge and budget, and add commits and device."""
    order: dict[str, Callable[[Any], Any]] = {"judge": study.judges.index, "budget": _budget_place}
    keys = [column for column in order if column in frame]
    if keys and len(frame):
        frame = frame.sort_values(keys, key=lambda column: column.map(order[column.name]), kind="stable")
    return frame.reset_index(drop=True).assign(**study.made_by())


def _budget_place(budget: str) -> float:
    return {PRIMARY_NAME: -1.0, "all": -2.0}.get(budget) or fraction(budget)
