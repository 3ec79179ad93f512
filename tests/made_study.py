"""Rows of a study with known effects."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

PAIRS = (("one", "vit_tiny"), ("one", "micro"), ("two", "vit_tiny"), ("three", "vit_tiny"), ("four", "micro"))
BUDGETS = ("1_per_class", "0.02", "0.05", "0.1", "0.2", "0.5")


def cells(
    effects: Mapping[str, float],
    pairs: Sequence[tuple[str, str]] = PAIRS,
    budgets: Sequence[str] = BUDGETS,
    judge: str = "linear_probe",
    noise: float = 0.3,
    num_parts: int = 4,
) -> pd.DataFrame:
    """Return rows in which each method is so many points above random, plus noise of that standard deviation.

    Sub-pools have 400 images in ten classes. Random has 50 % on the first pair, and ten points more on each next one.
    """
    generator, rows = np.random.default_rng(0), []
    for number, (name, backbone) in enumerate(pairs):
        for budget in budgets:
            kept = 10 if budget == "1_per_class" else max(round(400 * float(budget)), 10)
            for part in range(num_parts):
                shared = {"set": name, "backbone": backbone, "sub_pool": part, "budget": budget, "kept": kept}
                shared |= {"classes": 10, "pool": 400, "judge": judge, "commit": "abc1234"}
                base = 50 + 10 * number + generator.standard_normal()
                for method, effect in {"random": 0.0, **effects}.items():
                    accuracy = base + effect + (noise * generator.standard_normal() if method != "random" else 0)
                    rows.append({**shared, "method": method, "accuracy": accuracy / 100})
    return pd.DataFrame(rows)


def costs(passes: Mapping[str, float], pairs: Sequence[tuple[str, str]] = PAIRS) -> pd.DataFrame:
    """Return the cost of each method, the same on all pairs."""
    rows = [
        {"set": name, "backbone": backbone, "method": method, "passes": number, "select_seconds": 1.0}
        for name, backbone in pairs
        for method, number in passes.items()
    ]
    return pd.DataFrame(rows).assign(plain_pass_seconds=10.0)
