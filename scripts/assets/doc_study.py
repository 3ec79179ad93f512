"""The page of the study of methods, from the tables of results/study."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from prunetune.report.tables import points, signed
from scripts.assets.doc_study_made import few_sets, what_was_run
from scripts.assets.doc_study_prose import BEST, CLAIMS, INTERVALS, WORDS
from scripts.assets.doc_study_tables import PRIMARY, PROBE, Tables, against, is_hidden, kept, listed, sets
from scripts.assets.doc_text import page, table
from scripts.reproduce.study_cells import PAIRS, SUB_POOLS
from scripts.reproduce.study_names import JUDGES, SETS, named
from scripts.reproduce.study_rows import FULL

FILES = ("summary", "differences", "wins", "claims", "best", "method_costs", "missing", "coverage")
CELL = ["set", "backbone", "budget", "method"]
GROUPS = {  # Maps a group of claims to what is said about its correction.
    "declared": "declared beforehand, not corrected",
    "mended": "declared beforehand, bug fixed, not corrected",
    "main": "corrected, main claims",
    "baselines": "corrected, claims on other methods",
    "gamma": "corrected, claims on gamma",
    "cost": "corrected, claims on cost",
}


def is_there(folder: Path) -> bool:
    """Whether the study was run: every table that the page shows exists."""
    return all((folder / f"{name}.csv").is_file() for name in FILES)


def study_page(folder: Path) -> str:
    """Return the page."""
    tables = Tables(folder)
    return page(
        "The study: which method for which data",
        "Every method chose images from the same parts of the same sets, and the same classifiers were trained on what "
        "was kept.\n`make study DATA=<folder>` runs it; results/README.md says what the folder holds. What was "
        "declared before the first run,\nand what came out, is in results/LOG.md.",
        WORDS,
        *_answer(tables),
        *_state(tables),
        "## Which method for my data at my budget",
        BEST,
        _best(tables, "images_per_class", "images kept per class"),
        _best(tables, "budget", "kept of each class"),
        *_pictures(tables),
        *_rule(tables),
        "## Does the paper's claim hold?",
        CLAIMS,
        *_claims(tables.read("claims")),
        "## Every method against random",
        *_methods(tables),
        "## Wins, ties and losses",
        *_wins(tables),
        "## Other judges",
        *_judges(tables),
        "## Gamma",
        *_gamma(tables),
        "## What each method costs",
        *_costs(tables.read("method_costs")),
        INTERVALS,
        *few_sets(tables),
        "## What was run",
        *what_was_run(tables),
        is_wide=True,
    )


def _chosen(tables: Tables, rows: str) -> pd.DataFrame:
    """Return the rows of the best cheap method by the linear probe."""
    frame = tables.best
    if frame.empty:
        return pd.DataFrame(columns=["scope"])
    frame = frame[(frame["judge"] == PROBE) & (frame["rows"] == rows)]
    among = "cheap" if (frame["among"] == "cheap").any() else "all"
    return frame[frame["among"] == among]


def _answer(tables: Tables) -> list[str]:
    """Return the short answer: the default, its gain, and where it makes a difference."""
    chosen = _chosen(tables, "budget")
    rule = chosen[chosen["scope"] == PRIMARY]
    if rule.empty:
        return ["**No answer yet:** no method was run with the linear probe on the sets where random was."]
    row = rule.iloc[0]
    gain = points(row["gain"], row["low"], row["high"])
    return [
        f"**Short answer: take {named(row['best'])}.** With 2 to 20 % kept it is {gain} points above random images, on "
        f"average over {sets(row['sets'])} (in brackets: 95 % intervals). {_next_one(row)}"
    ]


def _state(tables: Tables) -> list[str]:
    """Return how much of what was declared has run, and nothing where all has."""
    probes = tables.summary[tables.summary["judge"] == PROBE]
    if probes.empty:
        return []
    pairs = probes[["set", "backbone"]].drop_duplicates()
    counts = probes.loc[probes["method"] == "random", "n"]
    lacking = [JUDGES[judge] for judge in JUDGES if not (tables.summary["judge"] == judge).any()]
    if len(pairs) >= len(PAIRS) and counts.min() >= SUB_POOLS and not lacking:
        return []
    parts = "" if counts.min() == counts.max() else f" to {counts.max():g}"
    judges = f" There is no {listed(lacking)} yet." if lacking else ""
    return [
        f"**Status:** {len(pairs)} of {len(PAIRS)} declared pairs, each with {counts.min():g}{parts} of the "
        f"{SUB_POOLS} declared sub-pools (linear probe).{judges} [What was run](#what-was-run) names what is missing."
    ]


def _next_one(row: pd.Series) -> str:
    lead = points(row["lead"], row["lead_low"], row["lead_high"])
    who = "The next of at most 1.2 passes" if row["among"] == "cheap" else "Costs were not measured. The next method"
    about = f"{who} is {named(row['next'])}. The difference from it is {lead} points"
    if row["verdict"] == "best":
        return f"{about}."
    return f"{about}: with {sets(row['sets'])} this is no clear difference."


def _best(tables: Tables, rows: str, heading: str) -> str:
    lines = [
        [
            kept(row.scope) if rows == "budget" else row.scope,
            f"**{named(row.best)}**" if row.above_random == "yes" else named(row.best),
            points(row.gain, row.low, row.high),
            _equal(row.not_different, row.not_corrected),
            "X" if pd.isna(row.passes) else f"{row.passes:.2f}",
            _dearer(tables, rows, row),
            f"{row.sets:g}, {row.pairs:g}",
        ]
        for row in _chosen(tables, rows).itertuples()
    ]
    columns = [heading, "best", "gain over random", "no clear difference", "passes", "at any cost", "sets, pairs"]
    return table(columns, lines)


def _equal(plain: object, corrected: object) -> str:
    """Return the methods without a clear difference from the best, without and with the correction."""
    more = f"corrected, also {_names(corrected)}" if isinstance(corrected, str) else ""
    return "; ".join(part for part in (_names(plain) if isinstance(plain, str) else "", more) if part) or "-"


def _dearer(tables: Tables, rows: str, chosen: tuple) -> str:
    """Return the best of all methods with its gain, where it is not the best of the cheap ones."""
    frame = tables.best
    frame = frame[(frame["judge"] == PROBE) & (frame["rows"] == rows) & (frame["among"] == "all")]
    row = frame[frame["scope"] == chosen.scope].iloc[0]
    if row["best"] == chosen.best:
        return "the same"
    return f"{named(row['best'])} {points(row['gain'], row['low'], row['high'])}"


def _names(words: str) -> str:
    return ", ".join(named(name) for name in words.split())


def _pictures(tables: Tables) -> list[str]:
    """Return the figures, which the report copies to docs/assets if there are rows of the linear probe."""
    if against(tables.differences, "random").empty:
        return []
    return [
        "Bold: above random at this budget, corrected for the number of candidates. The pictures show the linear probe "
        "(from\nresults/study/cells.csv, where each row names its commit and device).",
        "![Difference from random images by fraction kept, for four methods](assets/study-difference.png)",
        "![The same on every set](assets/study-sets.png)",
    ]


def _rule(tables: Tables) -> list[str]:
    """Return what the rule of the default, which was declared beforehand, gives."""
    chosen = _chosen(tables, "budget")
    rule = chosen[chosen["scope"] == PRIMARY]
    if rule.empty:
        return []
    row, single = rule.iloc[0], chosen[chosen["scope"] != PRIMARY]
    lines = [
        f"| {kept(each.scope)} | {named(each.best)} | {named(each.next)} | "
        f"{points(each.lead, each.lead_low, each.lead_high)} | {each.verdict} |"
        for each in single.itertuples()
    ]
    left = [named(name) for name in str(row["left_out"]).split()] if isinstance(row["left_out"], str) else []
    lacking = f" Not candidates, since they were not run on all pairs: {listed(left)}." if left else ""
    return [
        "## The rule of the default",
        "Declared beforehand: the highest mean paired difference from random over 2 to 20 % kept (linear probe), among "
        "methods of at\nmost 1.2 passes. If the interval of the difference from the next method contains 0, the "
        'verdict is "no difference".',
        f"The rule gives **{named(row['best'])}**, of {row['candidates']:g} candidates. {_next_one(row)}{lacking} By "
        "budget:",
        "\n".join(
            ["| kept of each class | best | next | difference | verdict |", "| --- | --- | --- | --- | --- |", *lines]
        ),
    ]


def _claims(frame: pd.DataFrame) -> list[str]:
    """Return the claims: by linear probe and costs first, then by each other judge."""
    if frame.empty:
        return ["DLC + FlexRand was not run."]
    parts = []
    for judge, about in ((PROBE, ""), *((key, f"By {name}:") for key, name in JUDGES.items() if key != PROBE)):
        rows = frame[(frame["judge"] == judge) | ((judge == PROBE) & frame["judge"].isna())]
        if len(rows):
            parts += [about] if about else []
            parts.append(_claim_table(rows))
    parts.append(
        "The time that the paper reports (35 times less than other scores) is about scores that fine-tune the whole "
        "network first.\nThis study does not test it: here EL2N and AUM read a linear probe, which is itself cheap. "
        "results/bench/selection.md compares DLC\nwith full fine-tunings, which take 12 to 47 times longer."
    )
    return parts


def _claim_table(rows: pd.DataFrame) -> str:
    lines = []
    for row in rows.itertuples():
        is_cost = row.unit == "passes"
        ends = (-row.difference, -row.high, -row.low) if is_cost else (row.difference, row.low, row.high)
        word = "costs less than" if is_cost else "is better than"
        alone = f" (alone: {row.alone})" if row.alone != row.verdict else ""
        lines.append(
            [
                f"{named(row.method)} {word} {named(row.reference)}",
                f"{points(*ends)} {row.unit}",
            ]
            + [f"**{row.verdict}**{alone}", GROUPS[row.group], f"{row.sets:g}, {row.pairs:g}"]
        )
    return table(["claim", "difference", "verdict", "correction", "sets, pairs"], lines)


def _methods(tables: Tables) -> list[str]:
    rows = against(tables.differences, "random")
    rows = rows[~rows["method"].map(is_hidden)]
    if rows.empty:
        return ["Random was not run."]
    budgets = list(dict.fromkeys(rows["budget"]))
    cells = rows.set_index(["method", "budget"])
    order = _ordered(tables, rows["method"])
    lines = [[named(method), *(_cell(cells, (method, budget)) for budget in budgets)] for method in order]
    return [
        "Points of accuracy above random, by linear probe: mean over sets, and the 95 % interval. Bold: still above 0 "
        "when the interval\nis corrected for all methods and, in the columns of one budget, for all budgets. In the "
        "tables above, bold is corrected for\none budget. X: not run. The gamma from the test set is an upper bound, "
        "not a usable method.",
        table(["method", *(kept(budget) for budget in budgets)], lines),
        "![Mean difference from random of every method](assets/study-methods.png)",
    ]


def _cell(cells: pd.DataFrame, key: tuple[str, str]) -> str:
    if key not in cells.index:
        return "X"
    row = cells.loc[key]
    shown = points(row["difference"], row["low"], row["high"])
    return f"**{shown}**" if row["simultaneous_low"] > 0 else shown


def _ordered(tables: Tables, methods: pd.Series) -> list[str]:
    """Return names of methods, the largest difference from random at the primary budgets (linear probe) first."""
    rows = against(tables.differences, "random")
    first = rows[rows["budget"] == PRIMARY].set_index("method")["difference"]
    return sorted(dict.fromkeys(methods), key=lambda name: -first.get(name, 0.0))


def _wins(tables: Tables) -> list[str]:
    frame = tables.read("wins")
    if frame.empty:
        return ["No cell has two sub-pools."]
    frame = frame[(frame["judge"] == PROBE) & ~frame["method"].map(is_hidden)]
    references = list(dict.fromkeys(frame["reference"]))
    cells = frame[frame["budget"] == "all"].set_index(["method", "reference"])
    lines = [
        [named(method), *(_record(cells, (method, reference)) for reference in references)]
        for method in _ordered(tables, frame["method"])
    ]
    return [
        "Number of cells that a method wins, ties and loses, by linear probe. A tie: the interval over the sub-pools "
        "contains 0.\nIn brackets: the same counts with a wider interval, which also holds for another pool of images.",
        table(["method", *(f"against {named(reference)}" for reference in references)], lines),
    ]


def _record(cells: pd.DataFrame, key: tuple[str, str]) -> str:
    if key not in cells.index:
        return "-"
    row = cells.loc[key]
    return " ".join(
        form.format(*(row[f"{prefix}{name}"] for name in ("wins", "ties", "losses")))
        for prefix, form in (("", "{}, {}, {}"), ("pool_", "({}, {}, {})"))
    )


def _judges(tables: Tables) -> list[str]:
    rows = tables.differences[tables.differences["reference"] == "random"]
    rows = rows[(rows["budget"] == PRIMARY) & ~rows["method"].map(is_hidden)]
    judges = [judge for judge in JUDGES if (rows["judge"] == judge).any()]
    cells = rows.set_index(["method", "judge"])
    order = _ordered(tables, rows["method"])
    lines = [[named(method), *(_cell(cells, (method, judge)) for judge in judges)] for method in order]
    if judges == [PROBE]:
        return ["Only the linear probe was run so far."]
    full = " Full fine-tuning trains the whole network, at few budgets." if FULL in judges else ""
    counts = [f"{JUDGES[judge]}: {sets(rows.loc[rows['judge'] == judge, 'sets'].max())}" for judge in judges]
    return [
        "Mean points above random where 2 to 20 % are kept, by judge. Logistic regression reads the same features, and "
        f"was declared with\nthree sub-pools and budgets up to 20 %.{full} Number of sets by judge: "
        f"{', '.join(counts)}.\nBold: still above 0 when the interval is corrected for all methods.",
        table(["method", *(JUDGES[judge] for judge in judges)], lines),
        *_full_tuning(tables.summary),
    ]


def _full_tuning(summary: pd.DataFrame) -> list[str]:
    """Return the cells of full fine-tuning, beside the linear probe of the same cells."""
    rows = summary[summary["judge"] == FULL]
    if rows.empty:
        return []
    probes = summary.loc[summary["judge"] == PROBE, [*CELL, "difference", "low", "high"]]
    rows = rows.merge(probes, how="left", on=CELL, suffixes=("", "_probe"))
    rows = rows.sort_values(["set", "budget", "accuracy"], ascending=[True, True, False])
    columns = ["set", "kept", "images", "method", "accuracy, %", "above random", "above random by linear probe"]
    return [
        "Full fine-tuning, by set and budget: all weights are trained with the paper's recipe. DLC + FlexRand has the "
        "gamma that a linear\nprobe chose. The intervals are over the sub-pools of one set and say nothing about "
        "other sets. On up to 128 images the recipe has only 50\nsteps, so that its learning rate decides how far the "
        "network is trained (results/LOG.md, The recipe on few images).",
        table(columns, [_full_line(row) for row in rows.itertuples()]),
    ]


def _full_line(row: NamedTuple) -> list[str]:
    above = [points(row.difference, row.low, row.high), points(row.difference_probe, row.low_probe, row.high_probe)]
    return [
        *(SETS.get(row.set, row.set), kept(row.budget), f"{row.kept:.0f}", named(row.method), f"{row.accuracy:.1f}"),
        *(["-", "-"] if row.method == "random" else above),
    ]


def _gamma(tables: Tables) -> list[str]:
    """Return what each constant gamma gives beside the searched one, and what the oracle chose."""
    rows = against(tables.differences, "random")
    rows = rows[rows["method"].str.startswith("dlc_") & (rows["method"] != "dlc_easiest")]
    if rows.empty:
        return ["DLC + FlexRand was not run."]
    budgets, cells = list(dict.fromkeys(rows["budget"])), rows.set_index(["method", "budget"])
    names = sorted(rows["method"].unique(), key=lambda name: (not name.startswith("dlc_0."), name))
    lines = [
        [f"gamma {name.removeprefix('dlc_')}" if name.startswith("dlc_0.") else named(name)]
        + [
            signed(cells.loc[(name, budget), "difference"]) if (name, budget) in cells.index else "X"
            for budget in budgets
        ]
        for name in names
    ]
    chosen = tables.summary[(tables.summary["method"] == "dlc_oracle") & (tables.summary["judge"] == PROBE)]
    counts = chosen["gamma"].value_counts().sort_index()
    said = ", ".join(f"{gamma:g} in {count}" for gamma, count in counts.items())
    return [
        "FlexRand's gamma is chosen on held-out images of the sub-pool. Beside it: each constant gamma, and the one "
        "that is best on the\ntest images of each set, network and budget, which nobody can know. Points above random, "
        "by linear probe.",
        table(["gamma", *(kept(budget) for budget in budgets)], lines),
        f"On the test images, the best gamma was {said} of {counts.sum()} cells." if len(counts) else "",
    ]


def _costs(frame: pd.DataFrame) -> list[str]:
    if frame.empty:
        return ["Costs were not measured."]
    lines = [
        [named(row.method), f"{row.passes:.2f}", f"{row.least:.2f}", f"{row.most:.2f}"] for row in frame.itertuples()
    ]
    return [
        "Forward passes over the pool, plus the CPU time of score, search and selection in units of one plain pass. "
        "*passes* is the\nmedian over ViT-Tiny and MobileNetV2 on real images. *least* and *most* are over all pairs. "
        "*most* is high where the micro network\nis in the pair: its pass is so short that other work counts more. "
        "EL2N, AUM, CCS and D2 read a linear probe here.\nWith a full fine-tuning they cost far more.",
        table(["method", "passes", "least", "most"], lines),
    ]
