"""Does the paper's claim hold? Each claim about DLC + FlexRand is one comparison, with a rule for its verdict."""

from dataclasses import dataclass

import pandas as pd

from scripts.reproduce.study_rows import EARLIER, GAMMA, ORACLE, PRIMARY, RANDOM, Study, paired
from scripts.reproduce.study_statistics import ALPHA, holm, over_sets
from scripts.reproduce.study_tables import compared

FEWEST_SETS = 3
AS_THEY_ARE = ("declared", "mended")  # The p-values of these groups are not corrected.
DLC, EASIEST, HERDING = "dlc_validation", "dlc_easiest", "herding"
OTHERS = (
    *("facility_location", "k_medoids", "maxherding", "typiclust", "activeft"),
    *("d2", "ccs", "moderate", "zcore", "el2n", "aum"),
)
PAID = (HERDING, "el2n", "aum")  # The cost of DLC + FlexRand is compared with that of these methods.
HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told here"


@dataclass(frozen=True)
class Claim:
    """One method is better than another. group: claims that are corrected together, except for those of AS_THEY_ARE."""

    group: str
    method: str
    reference: str


CLAIMS = (
    Claim("declared", EARLIER, HERDING),  # The search for gamma as it was when the comparison was declared.
    Claim("mended", DLC, HERDING),
    Claim("declared", HERDING, RANDOM),
    Claim("main", DLC, RANDOM),
    Claim("main", DLC, EASIEST),
    *(Claim("baselines", DLC, other) for other in OTHERS),
    *(Claim("gamma", gamma, other) for gamma in (GAMMA, ORACLE) for other in (RANDOM, HERDING, DLC)),
)


def claims(study: Study) -> pd.DataFrame:
    """Return one row for each judge and claim whose methods were run.

    The margin is 0. A claim holds if its mean difference at the primary budgets is above 0, and does not hold if it is
    below. It cannot be told where the p-value of the t test over sets is not below 0.05, or where there are fewer than
    three sets: then the test rests on a single degree of freedom. Declared comparisons are taken as they are.
    The p-values of the others are corrected by Holm within their group and judge. `alone` is the verdict without the
    correction. The unit is points, or passes for costs: then a positive difference means that the other method costs
    more.
    """
    rows = []
    for judge in study.judges:
        accuracy = study.judged(judge).of_budgets(PRIMARY)
        for claim in CLAIMS:
            values = paired(accuracy, claim.reference).get(claim.method)
            if values is not None and values.notna().any():
                shared = {"judge": judge, "group": claim.group, "method": claim.method, "reference": claim.reference}
                rows.append({**shared, "unit": "points", **compared(over_sets(values))})
    frame = pd.DataFrame([*rows, *_cost_rows(study)])
    return _judged(frame).assign(**study.made_by()) if len(frame) else frame


def _cost_rows(study: Study) -> list[dict]:
    """Return how many passes fewer DLC + FlexRand costs than other methods, over sets."""
    table = study.costs.pivot_table(index=["set", "backbone"], columns="method", values="passes")
    if DLC not in table:
        return []
    table = table.assign(sub_pool=0).set_index("sub_pool", append=True)
    rows = []
    for other in PAID:
        if other in table:
            shared = {"judge": "", "group": "cost", "method": DLC, "reference": other, "unit": "passes"}
            rows.append({**shared, **compared(over_sets(table[other] - table[DLC])), "sub_pools": ""})
    return rows


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Add corrected p-values and verdicts."""
    frame = frame.assign(p_corrected=frame["p"])
    for (_, group), rows in frame.groupby(["judge", "group"]):
        if group not in AS_THEY_ARE:
            frame.loc[rows.index, "p_corrected"] = holm(rows["p"])
    for column, p_values in (("alone", "p"), ("verdict", "p_corrected")):
        parts = zip(frame["difference"], frame[p_values], frame["sets"], strict=True)
        frame[column] = [verdict(*part) for part in parts]
    return frame


def verdict(difference: float, p_value: float, num_sets: int) -> str:
    """Return the verdict of a claim that a difference is above 0."""
    if num_sets < FEWEST_SETS or not p_value < ALPHA:
        return UNTOLD
    return HOLDS if difference > 0 else FAILS
