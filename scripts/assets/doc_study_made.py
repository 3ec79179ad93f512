"""How the intervals of the study were made, and what was run: the last sections of its page."""

from collections.abc import Sequence

import pandas as pd

from scripts.assets.doc_study_tables import PRIMARY, PROBE, Tables, is_hidden
from scripts.assets.doc_text import escaped, table
from scripts.reproduce.study_cells import GAMMAS
from scripts.reproduce.study_names import BACKBONES, JUDGES, SETS, named


def few_sets(tables: Tables) -> list[str]:
    """Return what few sets do to the intervals, and what the bootstrap and the mixed model say beside them."""
    rows = tables.differences[tables.differences["budget"] == PRIMARY].dropna(subset="low")
    rows = rows[rows["judge"] == PROBE]
    if rows.empty:
        return ["There are fewer than two sets, so there is no interval."]
    lines = [_coverage(tables.read("coverage"), int(rows["sets"].max())), *_beside(rows)]
    return ["\n".join(lines), *_disagreeing(rows)]


def _coverage(frame: pd.DataFrame, num_sets: int) -> str:
    normal, skewed = frame[frame["effects"] == "normal"], frame[frame["effects"] == "skewed"].iloc[0]
    row = normal.loc[(normal["sets"] - num_sets).abs().idxmin()]
    return (
        f"- **Few sets.** This study has {num_sets}. In a simulation with {row['sets']:g} sets, a nominal 95 % "
        f"interval held the true effect in {row['t']:.0f} % of studies if it was Student's, and in "
        f"{row['bootstrap']:.0f} % if it was a hierarchical bootstrap, which is too narrow. If some sets have a much "
        f"larger effect than others (a skewed distribution), Student's held it in {skewed['t']:.0f} % with "
        f"{skewed['sets']:g} sets. A wide interval does not mean that methods are equal. It means that so few sets "
        "cannot tell."
    )


def _beside(rows: pd.DataFrame) -> list[str]:
    lines, mine = [], _is_apart(rows["low"], rows["high"])
    for name, prefix in (("hierarchical bootstrap", "bootstrap"), ("mixed model", "mixed")):
        if f"{prefix}_low" not in rows:
            continue
        low, high = rows[f"{prefix}_low"], rows[f"{prefix}_high"]
        agree = (_is_apart(low, high) == mine)[low.notna()]
        width = ((high - low) / (rows["high"] - rows["low"])).median()
        lines.append(
            f"- **{name.capitalize()}.** In {int(agree.sum())} of {len(agree)} comparisons at 2 to 20 % (linear "
            "probe) it agrees with Student's interval on whether the difference is clear. Its median width is "
            f"{100 * width:.0f} % of that of Student's interval."
        )
    return lines


def _is_apart(low: pd.Series, high: pd.Series) -> pd.Series:
    """Whether each interval leaves 0 out."""
    return (low > 0) | (high < 0)


def _disagreeing(rows: pd.DataFrame) -> list[str]:
    """Return the comparisons in which the mixed model says something else than the t interval, with both."""
    if "mixed_low" not in rows:
        return []
    known = rows.dropna(subset="mixed_low")
    known = known[_is_apart(known["low"], known["high"]) != _is_apart(known["mixed_low"], known["mixed_high"])]
    lines = [
        [f"{named(row.method)} minus {named(row.reference)}", _precise(row.difference, row.low, row.high)]
        + [_precise(row.mixed, row.mixed_low, row.mixed_high)]
        for row in known[~known["method"].map(is_hidden)].itertuples()
    ]
    about = "Where the mixed model disagrees:"
    return [about, table(["difference", "t interval", "mixed model"], lines)] if lines else []


def _precise(mean: float, low: float, high: float) -> str:
    """Return a difference with three decimals, since the ends of these intervals are close to 0."""
    return f"{mean:+z.3f} [{low:z.3f}, {high:z.3f}]"


def what_was_run(tables: Tables) -> list[str]:
    frame = tables.summary
    parts = [_pair_line(key, rows) for key, rows in frame.groupby(["judge", "set", "backbone"], sort=False)]
    lacking = tables.read("missing")
    lines = [
        f"- {JUDGES[row.judge]}, {SETS.get(row.set, row.set)}, {BACKBONES.get(row.backbone, row.backbone)}: "
        f"{escaped(row.lacking)}"
        for row in lacking.itertuples()
    ]
    about = "**Not run**, of what other pairs have:" if lines else "Nothing that other pairs have is missing."
    commits = ", ".join(f"`{commit}`" for commit in str(frame["commits"].iloc[0]).split())
    return [
        f"The column *methods* counts the {len(GAMMAS)} constant gammas of FlexRand and the first search as methods. "
        "The first search has five\nsub-pools.",
        table(["judge", "set", "network", "images of a sub-pool", "classes", "budgets", "methods", "sub-pools"], parts),
        "\n".join([about, "", *lines]) if lines else about,
        f"Commits: {commits}. Device: {escaped(str(frame['device'].iloc[0]))}. "
        f"{int(frame.loc[frame['method'] != 'dlc_oracle', 'n'].sum())} trainings.",
    ]


def _pair_line(key: Sequence[str], rows: pd.DataFrame) -> list[str]:
    judge, name, backbone = key
    shown = rows[rows["method"] != "dlc_oracle"]
    parts = sorted({int(shown["n"].min()), int(shown["n"].max())})
    return [
        *(JUDGES[judge], SETS.get(name, name), BACKBONES.get(backbone, backbone)),
        *(f"{shown['pool'].median():.0f}", f"{shown['classes'].max():.0f}"),
        *(str(shown["budget"].nunique()), str(shown["method"].nunique()), " to ".join(map(str, parts))),
    ]
