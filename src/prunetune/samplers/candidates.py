"""The samplers among which a run chooses a setting: gamma, the cut-off beta, or the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.samplers.base import Sampler

OPEN = ("gamma", "end", "beta")  # These settings can be "auto". Their values are then chosen on held-out data.


@dataclass(frozen=True)
class Search:
    """Options of the search on held-out images that replaces a sampler setting "auto".

    grid: gammas to try; betas: cut-offs to try. repeats: splits of the pool, each with its own draw and head.
    held_out: fraction of each class that is held out to evaluate. views: augmented views that the probes train on; 0
    takes the evaluation view. keeps: "number": candidates keep as many images as the run; "fraction": the same
    fraction of the images that are not held out, which are fewer.
    """

    grid: tuple[float, ...] = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
    betas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    repeats: int = 3
    held_out: float = 0.2
    keeps: str = "number"
    views: int = 0

    def __post_init__(self) -> None:
        checks.whole_number("gamma_search.repeats", self.repeats)
        checks.whole_number("gamma_search.views", self.views, least=0)
        checks.choice("gamma_search.keeps", self.keeps, ("number", "fraction"))
        checks.number("gamma_search.held_out", self.held_out, "(0, 1)")
        for key, interval, what in (("grid", "(0, 1)", "gammas"), ("betas", "[0, 1)", "fractions")):
            if not checks.are_numbers(values := getattr(self, key), interval):
                given = list(values) if isinstance(values, tuple) else values
                raise InputError(f"gamma_search.{key} must be a list of {what} in {interval}, got {given}")


def gammas(grid: Sequence[float], ratio: float | None) -> list[float]:
    """Return the gammas of the grid that are valid at this ratio; 0.5 alone if none is.

    A ratio of None stands for a number of images per class. Each class then has a fraction of its own, which is not
    known before the pool is read, so that the whole grid is returned. In a class where a gamma is not valid, FlexRand
    does what its `on_infeasible` says.
    """
    if ratio is None:
        return list(grid)
    return [gamma for gamma in grid if ratio / 2 <= gamma <= 1 - ratio / 2] or [0.5]


def gamma_candidates(make: Callable[[float], Sampler], search: Search, ratio: float | None) -> dict[str, Sampler]:
    """Return the sampler at every valid gamma. Values nearest to .5 come first, because the first one wins ties."""
    nearest_first = sorted(gammas(search.grid, ratio), key=lambda gamma: (abs(gamma - 0.5), gamma))
    return {f"{gamma:g}": make(gamma) for gamma in nearest_first}


def beta_candidates(make: Callable[[float], Sampler], search: Search, ratio: float | None) -> dict[str, Sampler]:
    """Return the sampler at every cut-off that leaves enough images, smallest first. The first one wins ties.

    A ratio of None stands for a number of images per class, as in `gammas`. All cut-offs are then candidates. In a
    class where one leaves too few images, the sampler drops only as many as its budget allows.
    """
    feasible = [beta for beta in sorted(search.betas) if beta + (ratio or 0) < 1 + 1e-9] or [0.0]
    return {f"{beta:g}": make(beta) for beta in feasible}


def end_candidates(make: Callable[[str], Sampler]) -> dict[str, Sampler]:
    """Return the sampler at the two ends of the score: the easiest end, then the hardest end."""
    return {end: make(end) for end in ("easiest", "hardest")}
