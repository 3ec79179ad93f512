"""Intervals and tests of the study, with the set of images as the unit.

Which interval to trust with so few sets was decided by a simulation, `coverage`. A nominal 95 % interval held the true
effect in so many of 4000 studies, in %:

    effects of sets      | sets | t over sets | bootstrap | normal quantile
    normal               |    3 |          95 |        72 |              80
    normal               |    5 |          95 |        83 |              87
    normal               |   10 |          95 |        89 |              91
    skewed (exponential) |    5 |          90 |        79 |              82

The last column is what a mixed model gives with its usual interval, if every set has the same networks and sub-pools.
So the t interval over the means of sets is the one that is reported. The hierarchical bootstrap stands beside it, and a
mixed model with Student's quantile is a check of how the means are formed.

Sub-pools of one set overlap, so their spread is smaller than that of separate pools. This does not narrow the t
interval over sets: it is formed from the means of sets, which share no image, so that all that moves a mean of a set is
in it. Inside one cell there is no such help; see `cell_interval`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from prunetune.base.errors import InputError
from prunetune.report.statistics import CONFIDENCE, Estimate, estimate

LEVELS = ["set", "backbone", "sub_pool"]  # The index of paired differences.
PAIR = LEVELS[:2]
RESAMPLES = 1999
ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True)
class OverSets:
    """A mean paired difference over sets, in the unit of the differences. What needs more sets is NaN."""

    estimate: Estimate  # Student's interval with sets - 1 degrees of freedom.
    p_value: float
    num_pairs: int
    fewest_sub_pools: int
    most_sub_pools: int


def over_sets(differences: pd.Series) -> OverSets:
    """Return the mean over sets of one comparison; see `over_sets_each`."""
    return over_sets_each(differences.to_frame("difference"))["difference"]


def over_sets_each(differences: pd.DataFrame) -> dict[Any, OverSets]:
    """Return the mean over sets of each column, with its interval and the p-value of no difference.

    Args:
        differences: paired differences, indexed by LEVELS, with a column for each comparison; NaN does not count. The
            mean is formed over the sub-pools of a network, over the networks of a set, and over sets.
    """
    groups = differences.groupby(level=PAIR)
    pairs, counts = groups.mean(), groups.count()
    sets = pairs.groupby(level="set").mean()
    results = {}
    for name in differences.columns:
        found, parts = estimate(sets[name].dropna()), counts[name][counts[name] > 0]
        fewest, most = (int(parts.min()), int(parts.max())) if len(parts) else (0, 0)
        results[name] = OverSets(found, t_test(found), len(parts), fewest, most)
    return results


def t_test(found: Estimate) -> float:
    """Return the two-sided p-value of a mean of zero by Student's t."""
    if found.n < 2:
        return np.nan
    if found.std == 0:
        return 0.0 if found.mean else 1.0
    return float(2 * stats.t.sf(abs(found.mean) / (found.std / np.sqrt(found.n)), found.n - 1))


def holm(p_values: pd.Series) -> pd.Series:
    """Return p-values corrected for their number by Holm's method (1979). Those that are NaN do not count.

    The same as `multipletests` of statsmodels, which collects garbage at each call: here a quarter of a second.
    """
    ascending = p_values.dropna().sort_values()
    corrected = (ascending * np.arange(len(ascending), 0, -1)).cummax().clip(upper=1)
    return corrected.reindex(p_values.index)


def simultaneous(found: Estimate, number: int) -> tuple[float, float]:
    """Return the ends of an interval that holds with 95 % for all of `number` comparisons together (Bonferroni).

    Resampling a maximum of t statistics would need more sets than there are: of five sets, many resamples have two.
    """
    if found.n < 2 or not number:
        return np.nan, np.nan
    half = float(stats.t.ppf(1 - ALPHA / (2 * number), found.n - 1)) * found.std / np.sqrt(found.n)
    return found.mean - half, found.mean + half


def bootstrap_interval(differences: pd.Series, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the percentile interval of a hierarchical bootstrap: sets are drawn, then sub-pools of each drawn set.

    A set keeps all its networks, and they share the drawn sub-pools, since these are the same images.
    """
    grids = [table.unstack("sub_pool").to_numpy() for _, table in differences.dropna().groupby(level="set")]
    return _bootstrap(grids, resamples) if len(grids) > 1 else (np.nan, np.nan)


def _bootstrap(grids: Sequence[np.ndarray], resamples: int) -> tuple[float, float]:
    """Return the interval of two or more sets, each a grid [networks, sub-pools]."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(grids), size=(resamples, len(grids)))
    means = np.full(drawn.shape, np.nan)
    for number, grid in enumerate(grids):
        places = drawn == number
        means[places] = _resampled_means(grid, int(places.sum()), generator)
    low, high = np.nanquantile(np.nanmean(means, axis=1), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _resampled_means(grid: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Return the mean of a set for each of `number` draws of its sub-pools, [number].

    Args:
        grid: [networks, sub-pools], with NaN where there is no difference. A network that lacks all the drawn
            sub-pools does not count in that draw.
        number: how many draws.
        generator: draws the sub-pools.
    """
    num_parts = grid.shape[1]
    times = generator.multinomial(num_parts, np.full(num_parts, 1 / num_parts), size=number)  # [number, sub-pools]
    known = ~np.isnan(grid)
    counts = times @ known.T  # [number, networks]
    totals = times @ np.where(known, grid, 0).T
    means = np.where(counts > 0, totals / np.maximum(counts, 1), 0)
    networks = (counts > 0).sum(axis=1)
    return np.where(networks > 0, means.sum(axis=1) / np.maximum(networks, 1), np.nan)


def mixed_model(differences: pd.Series) -> Estimate | None:
    """Return the mean of a linear mixed model: random effects of sets and of networks in sets, fitted by REML.

    Its interval takes Student's quantile with sets - 1 degrees of freedom: the normal one would be too narrow. Returns
    None for fewer than two sets, for differences without spread, and where the fit fails.

    Raises:
        InputError: statsmodels is not installed.
    """
    frame = differences.dropna().rename("difference").reset_index()
    num_sets = frame["set"].nunique()
    if num_sets < 2 or frame["difference"].std() == 0:
        return None
    nested = {"network": "0 + C(backbone)"} if len(frame[PAIR].drop_duplicates()) > num_sets else None
    model = _mixed_lm().from_formula("difference ~ 1", frame, re_formula="1", vc_formula=nested, groups="set")
    with warnings.catch_warnings():  # Statsmodels warns where a variance is zero, which is an ordinary outcome here.
        warnings.simplefilter("ignore")
        try:
            fitted = model.fit(reml=True, method=["lbfgs", "powell"])
            mean, error = float(fitted.fe_params.iloc[0]), float(fitted.bse_fe.iloc[0])
        except (np.linalg.LinAlgError, ValueError):
            return None
    if not np.isfinite([mean, error]).all():
        return None
    half = float(stats.t.ppf(1 - ALPHA / 2, num_sets - 1)) * error
    return Estimate(mean, float(error * np.sqrt(num_sets)), num_sets, mean - half, mean + half)


def _mixed_lm() -> Any:
    """Return the class of statsmodels that fits mixed models."""
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ModuleNotFoundError as error:
        raise InputError("the mixed model needs statsmodels; install it with pip install -e '.[study]'") from error
    return MixedLM


def cell_interval(differences: pd.Series, share: float | None = None) -> Estimate:
    """Return the mean over the sub-pools of one cell (a set, a network and a budget), with its interval.

    Without `share` the interval is Student's over the sub-pools, as if they did not overlap. It says how sure the
    difference is for this pool and these test images.

    With `share` it says how sure the difference is for another pool. Two parts of one pool that each have this share of
    it are correlated. For a mean of the images the correlation is exactly `share`, since the covariance is S^2 / N and
    the variance S^2 / (share N). With J sub-pools and their variance s^2, the variance of the mean is then s^2 (1 / J +
    share / (1 - share)). Nadeau and Bengio (Machine Learning 52, 2003) correct repeated hold-out in the same way. The
    random choice and the start of a training are not correlated between sub-pools, so this interval is rather too wide.

    Args:
        differences: paired differences of one cell.
        share: the fraction of the pool that each sub-pool has, in (0, 1).
    """
    plain = estimate(differences.dropna())
    if share is None or plain.n < 2:
        return plain
    if not 0 < share < 1:
        raise InputError(f"the share of a sub-pool must be between 0 and 1, got {share:g}")
    wider = np.sqrt(1 + plain.n * share / (1 - share))
    half = (plain.high - plain.mean) * wider
    return Estimate(plain.mean, plain.std, plain.n, plain.mean - half, plain.mean + half)


def coverage(studies: int = 1000) -> pd.DataFrame:
    """Return how often each kind of interval holds the true effect in simulated studies, in %.

    A set has three networks and ten sub-pools. The standard deviation of the effects of sets is 3 points, of networks
    in a set 1 point, of sub-pools 1 point.

    Returns:
        A frame with effects (normal or skewed), sets, studies, t, bootstrap and normal_quantile.
    """
    cases = (("normal", 3), ("normal", 5), ("normal", 10), ("skewed", 5))
    return pd.DataFrame([_covered(effects, num_sets, studies) for effects, num_sets in cases])


def _covered(effects: str, num_sets: int, studies: int) -> dict[str, object]:
    generator, held = np.random.default_rng(0), np.zeros(3)
    narrower = stats.norm.ppf(1 - ALPHA / 2) / stats.t.ppf(1 - ALPHA / 2, num_sets - 1)
    for _ in range(studies):
        grids = simulated(generator, num_sets, effects)
        found = estimate(grids.mean(axis=(1, 2)))
        low, high = _bootstrap(grids, 399)
        half = found.high - found.mean
        held += [abs(found.mean) <= half, low <= 0 <= high, abs(found.mean) <= narrower * half]
    names = ("t", "bootstrap", "normal_quantile")
    return {
        "effects": effects,
        "sets": num_sets,
        "studies": studies,
        **dict(zip(names, 100 * held / studies, strict=True)),
    }


def simulated(generator: np.random.Generator, num_sets: int, effects: str = "normal") -> np.ndarray:
    """Return differences [sets, 3 networks, 10 sub-pools] whose true mean is 0. effects: normal or skewed."""
    of_sets = generator.exponential(size=num_sets) - 1 if effects == "skewed" else generator.standard_normal(num_sets)
    of_networks = 3 * of_sets[:, None, None] + generator.standard_normal((num_sets, 3, 1))
    return of_networks + generator.standard_normal((num_sets, 3, 10))
