"""The power law of a learning curve: how the error falls with the number of samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunetune.own.estimate import Estimate, interval


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + scale * count ** -exponent, fitted to the accuracies of random samples.

    exponents: the 5th and the 95th percentile of the exponent over fits to the single splits. doubled: how much more
    accurate twice as many samples would be, by the fits to the single splits.
    """

    floor: float
    scale: float
    exponent: float
    exponents: tuple[float, float]
    doubled: Estimate

    def error(self, count: float) -> float:
        """Return the error, a fraction of 1, that random samples of this number have."""
        return float(self.floor + self.scale * count**-self.exponent)

    def __str__(self) -> str:
        low, high = self.exponents
        return (
            f"error = {self.floor:.3g} + {self.scale:.3g} / samples^{self.exponent:.2g}, for random samples; nine in "
            f"ten fits to single splits have an exponent from {low:.2g} to {high:.2g}"
        )


def fit_power_law(counts: Sequence[int], errors: np.ndarray, num_samples: int) -> PowerLaw:
    """Return the power law of the mean errors, and what the fits to single splits say.

    Args:
        counts: R numbers of samples.
        errors: [R, J] the errors, fractions of 1, on each of J splits.
        num_samples: the number of samples that `doubled` starts from.
    """
    at = np.array(counts, dtype=float)
    floor, scale, exponent = _fitted(at, errors.mean(axis=1))
    gains, exponents = [], []
    for each in errors.T:
        _, b, c = _fitted(at, each)
        gains.append(b * num_samples**-c - b * (2 * num_samples) ** -c)
        exponents.append(c)
    low, high = np.quantile(exponents, (0.05, 0.95))
    return PowerLaw(floor, scale, exponent, (float(low), float(high)), interval(np.array(gains)))


def _fitted(counts: np.ndarray, errors: np.ndarray) -> tuple[float, float, float]:
    """Return floor, scale and exponent of the least-squares power law."""
    from scipy.optimize import least_squares

    def residuals(parameters: np.ndarray) -> np.ndarray:
        floor, log_scale, exponent = parameters.tolist()
        powers: np.ndarray = counts**-exponent
        return np.asarray(floor + math.exp(log_scale) * powers - errors)

    start = [0.5 * errors.min(), math.log(max(errors.max(), 1e-3)) + 0.5 * math.log(counts[0]), 0.5]
    found = least_squares(residuals, start, bounds=([0, -20, 0.01], [1, 20, 3]))
    floor, log_scale, exponent = found.x
    return float(floor), float(np.exp(log_scale)), float(exponent)
