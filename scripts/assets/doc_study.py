"""The page of the study of methods, from the tables of results/study."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from prunetune.report.rounding import bracketed, one_decimal
from scripts.assets.doc_study_prose import BEST, CLAIMS, INTERVALS, WORDS
from scripts.assets.doc_text import escaped, page, table
from scripts.reproduce.study_cells import GAMMAS, PAIRS, SUB_POOLS
from scripts.reproduce.study_names import BACKBONES, JUDGES, SETS, named

FILES = ("summary", "differences", "wins", "claims", "best", "method_costs", "missing", "coverage")
PRIMARY = "0.02 to 0.2"
PROBE = "linear_probe"
KEPT = {"1_per_class": "one image a class", PRIMARY: "2 to 20 % together"}
GROUPS = {  # Maps a group of claims to what is said about its correction.
    "declared": "declared beforehand, not corrected",
    "mended": "the declared one after the search was mended, not corrected",
    "main": "corrected together",
    "baselines": "corrected together",
    "gamma": "corrected together",
    "cost": "corrected together",
}


@dataclass(frozen=True)
class Tables:
    """The tables of a folder, as text and numbers."""

    folder: Path

    def read(self, name: str) -> pd.DataFrame:
        """Return one table. Budgets and lists of names are text."""
        names = ("budget", "scope", "sub_pools", "not_different", "not_corrected", "left_out", "commits")
        kinds = dict.fromkeys(names, str)
        try:
            return pd.read_csv(self.folder / f"{name}.csv", dtype=kinds)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()

    @cached_property
    def differences(self) -> pd.DataFrame:
        return self.read("differences")

    @cached_property
    def best(self) -> pd.DataFrame:
        return self.read("best")

    @cached_property
    def summary(self) -> pd.DataFrame:
        return self.read("summary")


def is_there(folder: Path) -> bool:
    """Whether the study was run: every table that the page shows exists."""
    return all((folder / f"{name}.csv").is_file() for name in FILES)


def study_page(folder: Path) -> str:
    """Return the page."""
    tables = Tables(folder)
    return page(
        "The study: which method for which data",
        "Every method chose images from the same parts of the same sets, and the same classifiers were trained on what "
        "was kept.\n`make study DATA=<folder>` runs it. What was declared before the first run, and what came out, "
        "is in results/LOG.md.",
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
        *_few_sets(tables),
        "## What was run",
        *_run(tables),
        is_wide=True,
    )


def _points(mean: float, low: float, high: float) -> str:
    """Return a difference with its interval, or X where there is none."""
    if pd.isna(mean):
        return "X"
    return signed(mean) if pd.isna(low) else f"{signed(mean)} {bracketed(low, high)}"


def signed(value: float) -> str:
    """Return a number with its sign and one decimal, and a plus before zero."""
    text = one_decimal(value)
    return text if text.startswith("-") else f"+{text}"


def _kept(budget: str) -> str:
    return KEPT.get(budget) or f"{100 * float(budget):g} %"


def _listed(names: Iterable[str]) -> str:
    """Return `a, b and c`."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


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
    gain = _points(row["gain"], row["low"], row["high"])
    return [
        f"**Short answer: take {named(row['best'])}.** With 2 to 20 % kept it is {gain} points above random images, on "
        f"average over {_sets(row['sets'])} (in brackets: 95 % intervals). {_next_one(row)}"
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
    judges = f" There is no {_listed(lacking)} yet." if lacking else ""
    return [
        f"**State:** linear probes of {counts.min():g}{parts} of {SUB_POOLS} declared sub-pools, on {len(pairs)} of "
        f"{len(PAIRS)} declared pairs.{judges} The numbers can still move."
    ]


def _sets(number: int) -> str:
    return f"{number:g} set" if number == 1 else f"{number:g} sets"


def _next_one(row: pd.Series) -> str:
    lead = _points(row["lead"], row["lead_low"], row["lead_high"])
    who = "The next of at most 1.2 passes" if row["among"] == "cheap" else "Costs were not measured. The next method"
    about = f"{who} is {named(row['next'])}; the difference to it is {lead} points"
    if row["verdict"] == "best":
        return f"{about}."
    return f"{about}, which {_sets(row['sets'])} cannot tell from no difference."


def _best(tables: Tables, rows: str, heading: str) -> str:
    lines = [
        [
            _kept(row.scope) if rows == "budget" else row.scope,
            f"**{named(row.best)}**" if row.above_random == "yes" else named(row.best),
            _points(row.gain, row.low, row.high),
            _equal(row.not_different, row.not_corrected),
            "X" if pd.isna(row.passes) else f"{row.passes:.2f}",
            _dearer(tables, rows, row),
            f"{row.sets:g}, {row.pairs:g}",
        ]
        for row in _chosen(tables, rows).itertuples()
    ]
    columns = [heading, "best", "gain over random", "not told apart from it", "passes", "at any cost", "sets, pairs"]
    return table(columns, lines)


def _equal(plain: object, corrected: object) -> str:
    """Return the methods that are not told apart from the best, without and with the correction."""
    more = f"corrected, also {_names(corrected)}" if isinstance(corrected, str) else ""
    return "; ".join(part for part in (_names(plain) if isinstance(plain, str) else "", more) if part) or "-"


def _dearer(tables: Tables, rows: str, chosen: tuple) -> str:
    """Return the best of all methods with its gain, where it is not the best of the cheap ones."""
    frame = tables.best
    frame = frame[(frame["judge"] == PROBE) & (frame["rows"] == rows) & (frame["among"] == "all")]
    row = frame[frame["scope"] == chosen.scope].iloc[0]
    if row["best"] == chosen.best:
        return "the same"
    return f"{named(row['best'])} {_points(row['gain'], row['low'], row['high'])}"


def _names(words: str) -> str:
    return ", ".join(named(name) for name in words.split())


def _pictures(tables: Tables) -> list[str]:
    """Return the figures, which the report copies to docs/assets if there are rows of the linear probe."""
    if _against(tables.differences, "random").empty:
        return []
    return [
        "Bold: above random at this budget, corrected for the number of candidates. A pair is a set with a network.",
        "![Difference to random images by fraction kept, for four methods](assets/study-difference.png)",
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
        f"| {_kept(each.scope)} | {named(each.best)} | {named(each.next)} | "
        f"{_points(each.lead, each.lead_low, each.lead_high)} | {each.verdict} |"
        for each in single.itertuples()
    ]
    left = [named(name) for name in str(row["left_out"]).split()] if isinstance(row["left_out"], str) else []
    lacking = f" Not candidates, since they were not run on all pairs: {_listed(left)}." if left else ""
    return [
        "## The rule of the default",
        "Declared beforehand: the highest mean paired difference to random over 2 to 20 % kept (linear probe), among "
        "methods of at\nmost 1.2 passes. If the interval of the difference to the next method contains 0, the verdict "
        'is "no difference".',
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
        "network first.\nHere EL2N and AUM read a linear probe, which is itself cheap: that claim cannot be told here."
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
                f"{_points(*ends)} {'passes more' if is_cost else row.unit}",
            ]
            + [f"**{row.verdict}**{alone}", GROUPS[row.group], f"{row.sets:g}, {row.pairs:g}"]
        )
    return table(["claim", "difference", "verdict", "correction", "sets, pairs"], lines)


def _methods(tables: Tables) -> list[str]:
    rows = _against(tables.differences, "random")
    rows = rows[~rows["method"].map(_is_hidden)]
    if rows.empty:
        return ["Random was not run."]
    budgets = list(dict.fromkeys(rows["budget"]))
    cells = rows.set_index(["method", "budget"])
    order = _ordered(tables, rows["method"])
    lines = [[named(method), *(_cell(cells, (method, budget)) for budget in budgets)] for method in order]
    return [
        "Points of accuracy above random, by linear probe: mean over sets, and the 95 % interval. Bold: above 0 also "
        "when the interval\nis corrected for all methods and, in the columns of one budget, for all budgets. This is "
        "stricter than the bold of the tables\nabove, which are corrected for one budget. X: not run. The gamma from "
        "the test set is a bound, no method.",
        table(["method", *(_kept(budget) for budget in budgets)], lines),
        "![Mean difference to random of every method](assets/study-methods.png)",
    ]


def _against(frame: pd.DataFrame, reference: str, judge: str = PROBE) -> pd.DataFrame:
    return frame[(frame["judge"] == judge) & (frame["reference"] == reference)]


def _is_hidden(method: str) -> bool:
    """Whether a method is a gamma of the grid, which the section about gamma shows."""
    return method.startswith("dlc_0.") and method != "dlc_0.25"


def _cell(cells: pd.DataFrame, key: tuple[str, str]) -> str:
    if key not in cells.index:
        return "X"
    row = cells.loc[key]
    shown = _points(row["difference"], row["low"], row["high"])
    return f"**{shown}**" if row["simultaneous_low"] > 0 else shown


def _ordered(tables: Tables, methods: pd.Series) -> list[str]:
    """Return names of methods, the largest difference to random at the primary budgets (linear probe) first."""
    rows = _against(tables.differences, "random")
    first = rows[rows["budget"] == PRIMARY].set_index("method")["difference"]
    return sorted(dict.fromkeys(methods), key=lambda name: -first.get(name, 0.0))


def _wins(tables: Tables) -> list[str]:
    frame = tables.read("wins")
    if frame.empty:
        return ["No cell has two sub-pools."]
    frame = frame[(frame["judge"] == PROBE) & ~frame["method"].map(_is_hidden)]
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
    rows = rows[(rows["budget"] == PRIMARY) & ~rows["method"].map(_is_hidden)]
    judges = [judge for judge in JUDGES if (rows["judge"] == judge).any()]
    cells = rows.set_index(["method", "judge"])
    order = _ordered(tables, rows["method"])
    lines = [[named(method), *(_cell(cells, (method, judge)) for judge in judges)] for method in order]
    if judges == [PROBE]:
        return ["Only the linear probe was run so far."]
    full = " Full fine-tuning trains the whole network." if "full" in judges else ""
    counts = [f"{JUDGES[judge]}: {_sets(rows.loc[rows['judge'] == judge, 'sets'].max())}" for judge in judges]
    return [
        "Points above random over those of 2, 5, 10 and 20 % that were run, by judge. Logistic regression reads the "
        f"same features.{full}\nNumber of sets by judge: {', '.join(counts)}.",
        table(["method", *(JUDGES[judge] for judge in judges)], lines),
    ]


def _gamma(tables: Tables) -> list[str]:
    """Return what each constant gamma gives beside the searched one, and what the oracle chose."""
    rows = _against(tables.differences, "random")
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
        table(["gamma", *(_kept(budget) for budget in budgets)], lines),
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
        "*most* is high where the micro network\nis in the pair: its pass is so short that other work counts more.",
        table(["method", "passes", "least", "most"], lines),
    ]


def _few_sets(tables: Tables) -> list[str]:
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
            "probe) it says the same as the t interval about whether 0 is outside. Its median width is "
            f"{width:.2f} of that one's."
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
        for row in known[~known["method"].map(_is_hidden)].itertuples()
    ]
    about = "Where the mixed model disagrees about 0:"
    return [about, table(["difference", "t interval", "mixed model"], lines)] if lines else []


def _precise(mean: float, low: float, high: float) -> str:
    """Return a difference with three decimals, since the ends of these intervals are close to 0."""
    return f"{mean:+.3f} [{low:.3f}, {high:.3f}]"


def _run(tables: Tables) -> list[str]:
    frame = tables.summary
    parts = [_pair_line(key, rows) for key, rows in frame.groupby(["judge", "set", "backbone"], sort=False)]
    lacking = tables.read("missing")
    lines = [
        f"- {JUDGES[row.judge]}, {SETS.get(row.set, row.set)}, {BACKBONES.get(row.backbone, row.backbone)}: "
        f"{row.trainings} of {row.expected} trainings; lacks {escaped(row.lacking)}"
        for row in lacking.itertuples()
    ]
    about = "**Not run**, of what other pairs have:" if lines else "Nothing that other pairs have is missing."
    commits = ", ".join(f"`{commit}`" for commit in str(frame["commits"].iloc[0]).split())
    return [
        table(["judge", "set", "network", "images of a sub-pool", "classes", "budgets", "methods", "sub-pools"], parts),
        "\n".join([about, "", *lines]) if lines else about,
        f"By linear probe, each of the {len(GAMMAS)} constant gammas of FlexRand counts as a method here, and so does "
        "the first search, which has fewer\nsub-pools than the others.",
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
