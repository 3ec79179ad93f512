"""An estimate with its interval, from differences that were measured on splits of the same samples."""

import math
from dataclasses import dataclass

import numpy as np

HELD_OUT = 0.1  # The fraction of the samples that judges in each split.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over splits with its interval; all three are fractions of 1."""

    mean: float
    low: float
    high: float

    @property
    def short(self) -> str:
        """The mean and the interval in percent or in points, without words."""
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} points, {CONFIDENCE:.0%} interval [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def interval(differences: np.ndarray, single: float = 0.0) -> Estimate:
    """Return the mean of differences on J splits with its interval.

    The splits share samples, so that their differences are not independent: the variance of the mean is enlarged as by
    Nadeau and Bengio (Inference for the generalization error, Machine Learning 2003, section 4).

    Args:
        differences: [J].
        single: the variance of a single training around the mean, if the interval is to hold the difference that one
            training shows; 0 for the mean itself.
    """
    from scipy.stats import t

    count = len(differences)
    spread = math.sqrt(differences.var(ddof=1) * (1 / count + HELD_OUT / (1 - HELD_OUT)) + single)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * spread)
    mean = float(differences.mean())
    return Estimate(mean, mean - half, mean + half)
