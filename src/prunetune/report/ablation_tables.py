"""The paper's ablations: path size, masking principle, sampler, gamma."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunetune.report import cells, layout, paper, tables
from prunetune.report import table_parts as parts
from prunetune.report.cells import Cell, Cells, places
from prunetune.report.layout import Row, Section, Table

FIXED_GAMMAS = (0.25, 0.5)
ORACLE = "oracle (chosen on test), not a result"
EASY = "topk_easiest"


def ablation_path(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare sizes of the learning path: T masked networks, tag T<levels>."""
    sized = runs[(runs["scorer"] == "dlc") & (runs["sampler"] == "flexrand") & runs["tag"].str.fullmatch(r"T\d+")]
    chosen = parts.with_random(sized, runs)
    source = sources.read("ablation_path_size").set_index("levels")
    published = {f"dlc-flexrand (T{levels})": row for levels, row in source.iterrows()}
    caption = (
        "Size of the learning path: T networks, the first unmasked, each masking 1/T of what is left (0.2 at T = 5)."
    )
    correlations = _correlations(sources, "dlc", sized["tag"].unique(), "dlc-flexrand ({tag})")
    return _ablation("ablation_path", "Path size", caption, chosen, published, correlations)


def ablation_masking(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare masking the smallest weights, random weights, and none."""
    of_scorer = runs["scorer"].isin(["dlc", "dlc_random", "dlc_unmasked"]) & (runs["sampler"] == "flexrand")
    masked = runs[of_scorer & (runs["tag"] == "default")]
    masked = masked[masked.groupby(tables.SETTING)["scorer"].transform("nunique") > 1]
    source = sources.read("ablation_masking").groupby("masking")[["accuracy_pct", "spearman_rho"]].mean()
    published = {"dlc-flexrand": source.loc["l1"], "dlc_random-flexrand": source.loc["random"]}
    correlations = pd.concat(
        [
            _correlations(sources, scorer, ["default"], f"{scorer}-flexrand")
            for scorer in ("dlc", "dlc_random", "dlc_unmasked")
        ]
    )
    caption = (
        "Masking principle: dlc masks the smallest weights (L1), dlc_random random ones, dlc_unmasked none. "
        "Published: means over nine runs."
    )
    return _ablation(
        "ablation_masking", "Masking principle", caption, parts.with_random(masked, runs), published, correlations
    )


def ablation_sampler(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare samplers for scores by masking and by optimisation."""
    samplers = [parts.HARD, EASY, "topk_flexible", "flexrand"]
    by_complexity = runs["scorer"].isin(["dlc", "lc_optimisation", "lc_optimisation_probe"])
    sampled = runs[by_complexity & runs["sampler"].isin(samplers) & (runs["tag"] == "default")]
    sampled = sampled[sampled.groupby([*tables.SETTING, "scorer"])["sampler"].transform("nunique") > 1]
    source = sources.read("ablation_sampling").set_index("sampler")
    names = {
        "topk_hard": parts.HARD,
        "topk_easy": EASY,
        "topk_flexible": "topk_flexible, " + ORACLE,
        "flexrand": "flexrand",
    }
    published = {
        f"{scorer}-{ours}": pd.Series({"accuracy_pct": source.loc[theirs, f"accuracy_pct_{scorer}"]})
        for scorer in ("dlc", "lc_optimisation")
        for theirs, ours in names.items()
    }
    published["random"] = pd.Series({"accuracy_pct": source.loc["random", "accuracy_pct_dlc"]})
    caption = (
        "Samplers: topk keeps the hardest, topk_easiest the easiest, topk_flexible the end that does better on "
        "held-out pool images. The published topk_flexible takes the better end on test, for each data set and "
        "ratio: that is the row labelled oracle."
    )
    chosen = _with_oracle_ends(parts.with_random(sampled, runs))
    return _ablation("ablation_sampler", "Samplers", caption, chosen, published, pd.DataFrame())


def ablation_gamma(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare gamma chosen on held-out images with constant values and with the best value on the test set."""
    of_dlc = runs[(runs["scorer"] == "dlc") & (runs["sampler"] == "flexrand")]
    swept = of_dlc[of_dlc["tag"].str.fullmatch(r"g0?\.\d+")]
    plain = of_dlc[of_dlc["method"] == "dlc-flexrand"]
    chosen = parts.with_random(pd.concat([plain, swept]) if len(swept) else swept, runs)
    source = sources.read("gamma_sweep_resnet18").set_index(["dataset", "ratio"])
    sections = [
        _gamma_section(setting, block, source if _is_ablated(setting) else source.iloc[:0])
        for setting, block in cells.settings(chosen)
    ]
    caption = (
        "Where FlexRand cuts: gamma chosen on held-out pool images, constant, and the best feasible one on test. "
        "In brackets after the oracle: its gamma and out of how many; it needs a sweep of several. "
        "Published: the ResNet-18 sweep, three runs each."
    )
    return parts.build("ablation_gamma", "Choice of gamma", caption, chosen, sections)


def _correlations(sources: parts.Sources, first: str, tags: Sequence[str], name: str) -> pd.DataFrame:
    """Return rank correlations with learning complexity by optimisation: dataset, backbone, method, rho, second."""
    frame = sources.rank_correlation
    if frame.empty:
        return pd.DataFrame(columns=["dataset", "backbone", "method", "rho", "second"])
    seconds = frame["second"].isin(["lc_optimisation", "lc_optimisation_probe"])
    chosen = frame[(frame["first"] == first) & frame["tag"].fillna("default").isin(tags) & seconds]
    method = [name.format(tag=tag) for tag in chosen["tag"].fillna("default")]
    named = chosen.assign(method=method, rho=chosen["class_mean"])
    return named.groupby(["dataset", "backbone", "method", "second"], as_index=False)["rho"].mean()


def _ablation(
    name: str, title: str, caption: str, chosen: pd.DataFrame, published: dict[str, pd.Series], rho: pd.DataFrame
) -> Table:
    """Return the table of an ablation: the paper's mean if its runs exist, then every setting."""
    sections = []
    for recipe, block in chosen.groupby("finetune"):
        if parts.touches_paper(block, (paper.ABLATED,)):
            sections.append(_ablation_mean(recipe, block, published, rho))
    for setting, block in cells.settings(chosen):
        rows = parts.setting_rows(setting, block, mean=True)
        grids = [] if name == "ablation_sampler" else [_rho_grid(rows, rho, setting[:2])]
        sections.append(layout.section(", ".join(setting), parts.sizes_note(block), rows, grids))
    if name != "ablation_sampler":
        caption += " Rank correlation: mean Spearman within a class with learning complexity by optimisation."
    return parts.build(name, title, caption, chosen, sections)


def _ablation_mean(recipe: str, block: pd.DataFrame, published: dict[str, pd.Series], rho: pd.DataFrame) -> Section:
    found = cells.gather(block)
    rows = []
    for method in parts.by_tag({*block["method"], *published}):
        theirs = published.get(method, pd.Series(dtype="float64"))
        labels = {"dataset": "mean", "backbone": paper.ABLATED, "finetune": recipe, "method": method, "column": "mean"}
        where = places(method, paper.DATASETS, [paper.ABLATED], paper.RATIOS)
        entry = found.entry(where, theirs.get("accuracy_pct", np.nan), recipe in paper.RECIPES)
        rows.append(labels | entry | {"published_rho": theirs.get("spearman_rho", np.nan)})
    note = "Mean over the five published data sets and the nine ratios."
    grids = [] if all(pd.isna(row["published_rho"]) for row in rows) else [_mean_rho_grid(rows, rho)]
    return layout.section(f"{paper.ABLATED}, five data sets, {recipe}", note, rows, grids)


def _rho_grid(rows: list[Row], rho: pd.DataFrame, where: tuple[str, str]) -> layout.Grid:
    """Return the rank correlations of one setting, and add them to the rows."""
    here = rho[(rho["dataset"] == where[0]) & (rho["backbone"] == where[1])] if len(rho) else rho
    second = sorted(here["second"].unique()) if len(here) else ["lc_optimisation"]
    lines = [["method", *(f"with {name}" for name in second)]]
    for method in dict.fromkeys(row["method"] for row in rows if not str(row["method"]).startswith("random")):
        values = [_rho(here, str(method), name) for name in second]
        lines.append([str(method), *(tables.MISSING if np.isnan(value) else f"{value:.2f}" for value in values)])
        for row in rows:
            if row["method"] == method:
                row.update({f"rho_{name}": value for name, value in zip(second, values, strict=True)})
    return layout.Grid("Rank correlation", lines)


def _mean_rho_grid(rows: list[Row], rho: pd.DataFrame) -> layout.Grid:
    lines = [["method", "with lc_optimisation", "published", "difference"]]
    for row in rows:
        if str(row["method"]).startswith("random"):
            continue
        values = [
            _rho(
                rho[(rho["dataset"] == dataset) & (rho["backbone"] == paper.ABLATED)],
                str(row["method"]),
                "lc_optimisation",
            )
            for dataset in paper.DATASETS
        ]
        ours, theirs = float(np.mean(values)), float(row["published_rho"])
        row["rho_lc_optimisation"] = ours
        texts = [tables.MISSING if np.isnan(ours) else f"{ours:.2f}", layout.published_text(theirs)]
        apart = ours - theirs
        nothing = tables.MISSING if np.isnan(ours) else layout.NOTHING
        lines.append([str(row["method"]), *texts, nothing if np.isnan(apart) else f"{apart:+z.2f}"])
    return layout.Grid("Rank correlation", lines)


def _rho(here: pd.DataFrame, method: str, second: str) -> float:
    if here.empty:
        return np.nan
    found = here.loc[(here["method"] == method) & (here["second"] == second), "rho"]
    return float(found.iloc[0]) if len(found) else np.nan


def _with_oracle_ends(runs: pd.DataFrame) -> pd.DataFrame:
    """Add, where both ends were run, the end with the better test accuracy (mean over seeds) as another method."""
    added = []
    for (*_, scorer, _ratio), block in runs.groupby([*tables.SETTING, "scorer", "ratio"]):
        ends = block[block["sampler"].isin([parts.HARD, EASY])]
        if ends["sampler"].nunique() == 2:
            best = ends.groupby("sampler")["percent"].mean().idxmax()
            name = f"{scorer}-topk_flexible, {ORACLE}"
            added.append(ends[ends["sampler"] == best].assign(method=name, selection_rule=None))
    return pd.concat([runs, *added])


def _is_ablated(setting: tuple[str, str, str]) -> bool:
    return setting[1] == paper.ABLATED and setting[0] in paper.DATASETS


def _gamma_section(setting: tuple[str, str, str], block: pd.DataFrame, source: pd.DataFrame) -> Section:
    """Return one setting: a row per ratio, a column per way of setting gamma."""
    dataset, backbone, recipe = setting
    found, ratios = cells.gather(block), sorted(block["ratio"].unique())
    picks: dict[str, list[tuple[Cell, str, float]]] = {}
    for ratio in ratios:
        place = Cell("", dataset, backbone, ratio)
        theirs = source.loc[[(dataset, ratio)]] if (dataset, ratio) in source.index else source.iloc[:0]
        for way, pick in _ways(found, block, place, theirs).items():
            picks.setdefault(way, []).append(pick)
    labels = {"dataset": dataset, "backbone": backbone, "finetune": recipe}
    rows = []
    for index, ratio in enumerate([*ratios, "average"]):
        for way, over in picks.items():
            averaged = over if ratio == "average" else [over[index]]
            published = float(np.mean([theirs for *_, theirs in averaged]))
            entry = found.entry([cell for cell, *_ in averaged], published, recipe in paper.RECIPES)
            detail = "" if ratio == "average" else averaged[0][1]
            at = ratio if ratio == "average" else f"{ratio:g}"
            rows.append(labels | {"method": way, "column": at} | entry | {"chosen_gamma": detail})
    return Section(", ".join(setting), parts.sizes_note(block), tuple(_gamma_grids(rows)), tuple(rows))


def _ways(found: Cells, block: pd.DataFrame, place: Cell, theirs: pd.DataFrame) -> dict[str, tuple[Cell, str, float]]:
    """Return, for each column of the gamma table, the cell to show, the chosen value, and the published number."""
    by_gamma = {
        float(tag[1:]): place.of(f"dlc-flexrand ({tag})")
        for tag in block["tag"].unique()
        if tag.startswith("g") and place.of(f"dlc-flexrand ({tag})") in found.percent
    }
    low, high = place.ratio / 2 - 1e-9, 1 - place.ratio / 2 + 1e-9
    feasible = {gamma: cell for gamma, cell in by_gamma.items() if low <= gamma <= high}
    published = theirs.set_index("gamma")["accuracy_pct"] if len(theirs) else pd.Series(dtype="float64")
    valid = theirs.loc[theirs["gamma_is_valid"] == 1] if len(theirs) else theirs
    fullest = max((len(found.percent[cell]) for cell in feasible.values()), default=0)
    judged = {gamma: cell for gamma, cell in feasible.items() if len(found.percent[cell]) == fullest}
    judged = judged if len(by_gamma) > 1 else {}  # A best gamma can be named only if there are at least two gammas.
    whole = set(valid["gamma"].round(2)) <= {round(gamma, 2) for gamma in judged}
    best = max(judged, key=lambda gamma: found.percent[judged[gamma]].mean(), default=None)
    oracle = place.of("no gamma was swept") if best is None else judged[best]
    ways = {"random": (place.of("random"), "", np.nan)}
    ways["validation choice"] = (place.of("dlc-flexrand"), "", np.nan)
    for gamma in FIXED_GAMMAS:
        cell = by_gamma.get(gamma, place.of(f"dlc-flexrand (g{gamma:g})"))
        ways[f"gamma {gamma:g}"] = (cell, "", parts.lookup(published, gamma))
    top = valid["accuracy_pct"].max() if len(valid) and whole else np.nan
    ways[ORACLE] = (oracle, "" if best is None else f"{best:g} of {len(judged)}", float(top))
    return ways


def _gamma_grids(rows: list[Row]) -> list[layout.Grid]:
    most = layout.most_seeds(rows)

    def ours(row: Row) -> str:
        text = layout.accuracy_text(row, most)
        return f"{text} ({row['chosen_gamma']})" if row["chosen_gamma"] else text

    show = {"down": "column", "across": "method"}
    grids = [layout.Grid(layout.ACCURACY, layout.matrix(rows, ours, **show))]
    above = [row for row in rows if row["method"] != "random"]
    grids.append(layout.Grid(layout.GAIN, layout.matrix(above, lambda row: layout.gain_text(row, most), **show)))
    if any(pd.notna(row["published"]) for row in rows):
        text = layout.matrix(above, lambda row: layout.published_text(row["published"]), **show)
        grids.append(layout.Grid(layout.PUBLISHED, text))
    if any(pd.notna(row["difference"]) for row in rows):
        grids.append(layout.Grid(layout.DIFFERENCE, layout.matrix(above, layout.difference_text, **show)))
    return grids
