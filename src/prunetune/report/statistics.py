"""Means with their uncertainty, paired comparisons and rankings, over seeds or blocks, with the tests of scipy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from prunetune.base.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 9999
FEWEST_BLOCKS = 6  # With fewer blocks a sign test cannot be significant at 5 %, since 2 / 2**5 > 0.05.


@dataclass(frozen=True)
class Estimate:
    """A mean of n values with its spread. A number that needs more values is NaN."""

    mean: float
    std: float  # The standard deviation is computed with ddof 1.
    n: int
    low: float  # Lower end of the interval.
    high: float


@dataclass(frozen=True)
class Ranking:
    """Methods compared over blocks that all of them have."""

    ranks: pd.Series  # Mean rank of each method. 1 is best, and ties share their mean rank.
    statistic: float  # Friedman's chi-square, or NaN if it does not apply.
    p_value: float
    num_blocks: int


def estimate(values: Sequence[float] | pd.Series | np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean with Student's interval, by default of 95 %. The values must be independent repetitions."""
    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    if n == 0:
        return Estimate(np.nan, np.nan, 0, np.nan, np.nan)
    mean = float(numbers.mean())
    if n == 1:
        return Estimate(mean, np.nan, 1, np.nan, np.nan)
    std = float(numbers.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / np.sqrt(n)
    return Estimate(mean, std, n, mean - half, mean + half)


def paired_difference(mine: pd.Series, other: pd.Series) -> Estimate:
    """Return mine minus other over the index (seeds, blocks) that both have."""
    return estimate((mine - other).dropna())


def ranking(blocks: pd.DataFrame) -> Ranking:
    """Rank methods within each block and test whether they differ (Friedman).

    Args:
        blocks: one row per block, one column per method, larger is better; complete.

    Raises:
        InputError: a block lacks a method.
    """
    if blocks.isna().any(axis=None):
        raise InputError("a ranking needs blocks that every method has; drop the incomplete ones first")
    ranks = blocks.rank(axis=1, ascending=False, method="average").mean()
    several = blocks.shape[1] >= 3 and len(blocks) >= 2
    differ = several and (blocks.nunique(axis=1) > 1).any()  # If all are tied, the statistic is 0 / 0.
    statistic, p_value = stats.friedmanchisquare(*blocks.to_numpy().T) if differ else (np.nan, np.nan)
    return Ranking(ranks, float(statistic), float(p_value), len(blocks))


def nemenyi(found: Ranking) -> pd.DataFrame:
    """Return the p-value of every pair of mean ranks, corrected for the number of methods.

    Source: Nemenyi 1963, as in Demsar 2006 (JMLR 7): the rank difference over sqrt(k (k + 1) / 6 blocks), times
    sqrt 2, against the studentized range with infinitely many degrees of freedom.
    """
    ranks, k = found.ranks.to_numpy(), len(found.ranks)
    apart = np.abs(ranks[:, None] - ranks[None, :]) / np.sqrt(k * (k + 1) / (6 * found.num_blocks))
    values = stats.studentized_range.sf(apart * np.sqrt(2), k, np.inf)
    return pd.DataFrame(values, index=found.ranks.index, columns=found.ranks.index)


def bootstrap_difference(mine: pd.Series, other: pd.Series, seed: int = 0) -> Estimate:
    """Return mine minus other over the blocks that both have, with a paired bootstrap interval (percentile).

    Fewer than FEWEST_BLOCKS blocks have no interval.
    """
    both = pd.concat([mine, other], axis=1, join="inner").dropna().to_numpy(dtype=np.float64)  # [blocks, 2]
    plain = estimate(both[:, 0] - both[:, 1])
    if plain.n < FEWEST_BLOCKS:
        return Estimate(plain.mean, plain.std, plain.n, np.nan, np.nan)
    interval = stats.bootstrap(
        (both[:, 0], both[:, 1]),
        lambda first, second, axis: np.mean(first - second, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(plain.mean, plain.std, plain.n, float(interval.low), float(interval.high))
