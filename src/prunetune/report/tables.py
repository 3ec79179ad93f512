"""The table of accuracy by method and ratio, in percent: mean over seeds, spread, and paired difference from random."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from prunetune.base.errors import InputError
from prunetune.report import statistics, verdict
from prunetune.report.output import write_csv
from prunetune.report.rounding import bracketed, one_decimal, short_commit

SETTING = ["dataset", "backbone", "finetune"]  # A table has one block for each combination of these.
SAME_DATA = ["num_classes", "num_pool", "num_test", "dataset_fingerprint"]
MISSING = "X"
OLDER = "†"  # Marks a row whose runs are older than a change of the method.
WHOLE_POOL = "whole pool"
ABOVE_RANDOM = "Percentage points above random, paired by seed:"
RULES = {
    "fixed": "constant",
    "validation": "chosen on held-out pool images",
    "oracle": "chosen on test (an oracle, not a result)",
}


@dataclass(frozen=True)
class Block:
    """The table of one setting as text. It has rows of cells, and the first row has the headings."""

    title: str
    verdict: list[str]  # These are sentences. The list is empty if there is no method to compare.
    caption: str
    accuracy: list[list[str]]
    whole_pool: list[str]  # Each entry is a line of text.
    difference: list[list[str]]  # Empty if there is no random, or no method to compare with it.


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds.

    Args:
        results: the frame of `collect`.

    Returns:
        One row per (dataset, backbone, finetune, column, method), random first, also for a method that was not run at
        one of the ratios (n = 0, no mean). column: the heading of the ratio, such as "0.1" or "4 per class". mean, std
        (ddof 1; none for n = 1) in percent, n seeds; difference and difference_std: percentage points above random over
        the num_pairs seeds that both have; low and high: the ends of the difference's 95 % t interval, none for
        num_pairs < 2; worst_class: mean accuracy of the worst class in percent; score_seconds, sample_seconds,
        score_memory (bytes): means. At ratio 1 every method keeps everything: such runs are one method, "whole pool",
        but for InfoBatch, which leaves images out while it trains. The whole pool under a tag is another row only where
        it was trained in another way. Nothing is rounded.

    Raises:
        InputError: runs of one data set differ in its size or content.
    """
    _check_same_data(results)
    runs = results.assign(
        method=[method_name(run) for run in results.to_dict("records")],
        column=[column_name(run) for run in results.to_dict("records")],
    )
    runs = runs.assign(
        percent=100 * runs["accuracy"],
        is_random=(runs["scorer"] == "random") & (runs["sampler"] == "random") & (runs["budgets"] == "proportional"),
    )
    runs = _with_one_whole_pool(runs)
    rows = []
    for setting, block in runs.groupby(SETTING):
        for ratio, column, method in _cells(block):
            row = dict(zip(SETTING, setting, strict=True)) | {"ratio": ratio, "method": method, "column": column}
            sizes = {key: block[key].iloc[0] for key in ("num_classes", "num_pool", "num_test")}
            rows.append(row | _statistics(block[block["column"] == column], method) | sizes)
    return pd.DataFrame(rows)


def method_name(run: dict) -> str:
    """Return the name of a table row: `scorer-sampler` (or "random"), with tag and scoring backbone if needed.

    A run that is older than a change of its method, as its column `older` says, is marked.
    """
    pair = (run["scorer"], run["sampler"])
    name = "random" if pair == ("random", "random") else "-".join(pair)
    if run["ratio"] == 1 and run["sampler"] != "infobatch":
        name = WHOLE_POOL
    elif run["scoring_backbone"] != run["backbone"]:
        name += f" (scored by {run['scoring_backbone']})"
    name = name if run["tag"] == "default" else f"{name} ({run['tag']})"
    return f"{name} {OLDER}" if isinstance(run.get("older"), str) else name


def column_name(run: dict) -> str:
    """Return the heading of the column that shows a run: its ratio, or how many images of each class it keeps."""
    is_counted = pd.notna(run.get("per_class")) and run["ratio"] < 1
    return f"{run['per_class']}{verdict.PER_CLASS}" if is_counted else f"{run['ratio']:g}"


def footer(results: pd.DataFrame) -> str:
    """Return one line that says where the numbers come from and how they were made."""
    parts = [provenance(results), "accuracy of the last epoch on test", *selection_rules(results)]
    return "; ".join(parts) + "."


def provenance(results: pd.DataFrame) -> str:
    """Return how many runs there are, of which commit, recipe, precision and device."""
    commits = results["commit"].map(partial(short_commit, letters=7), na_action="ignore")
    parts = [f"{len(results)} runs", f"commit {_listed(commits)}"]
    parts.append("recipe " + ", ".join(_recipe(name, runs) for name, runs in results.groupby("finetune")))
    parts.append(f"precision {_listed(results['precision'])}; device {_listed(results['device'])}")
    return "; ".join(parts)


def selection_rules(results: pd.DataFrame, rules: Mapping[str, str] = RULES) -> list[str]:
    """Return how gamma was chosen, one phrase for each rule."""
    gammas = results.loc[results["gamma"].notna(), ["gamma", "selection_rule"]]
    phrases = []
    for rule, chosen in gammas.groupby("selection_rule"):
        values = ", ".join(f"{gamma:g}" for gamma in sorted(chosen["gamma"].unique()))
        phrases.append(f"gamma {values} {rules.get(rule, rule)}")
    return phrases


def blocks(table: pd.DataFrame) -> list[Block]:
    """Arrange a summary for reading: one block per setting, methods down, ratios across."""
    return [_block(", ".join(setting), part) for setting, part in table.groupby(SETTING)]


def costs(part: pd.DataFrame) -> list[list[str]]:
    """Arrange one setting of a summary by method: the worst class by ratio, and the cost of scoring.

    Scores do not depend on the ratio. The seconds of sampling are those at the smallest ratio.
    """
    pruned = part[~part["method"].str.startswith(WHOLE_POOL) & (part["n"] > 0)]
    columns = _columns(pruned)
    heads = ["method", *(f"worst class {column}" for column in columns), "score s", "sample s", "score MiB"]
    rows = []
    for method, cells in pruned.groupby("method", sort=False):
        worst = dict(zip(cells["column"], cells["worst_class"], strict=True))
        first = cells.sort_values("ratio").iloc[0]
        rows.append(
            [
                method,
                *(one_decimal(worst[column]) if column in worst else MISSING for column in columns),
                f"{first['score_seconds']:.1f}",
                f"{first['sample_seconds']:.2f}",
                MISSING if pd.isna(first["score_memory"]) else f"{first['score_memory'] / 2**20:.0f}",
            ]
        )
    return [heads, *rows]


def costs_markdown(table: pd.DataFrame) -> str:
    """Return what `costs` gives for every setting as Markdown."""
    parts = []
    for setting, part in table.groupby(SETTING):
        about = "Accuracy of the worst class in %, and what scoring and sampling cost (mean over seeds)."
        parts.append("\n".join([f"### {', '.join(setting)}: cost", "", about, "", *markdown_rows(costs(part))]))
    return "\n\n".join(parts) + "\n"


def to_markdown(table: pd.DataFrame, foot: str = "") -> str:
    """Return the summary as Markdown, aligned for reading as plain text too."""
    return _render(table, foot, _Style("### {}", markdown_rows, lambda text: [text]))


def to_text(table: pd.DataFrame, foot: str = "") -> str:
    """Return the summary for a terminal of 100 columns."""
    return _render(table, foot, _Style("{}", _text_rows, partial(textwrap.wrap, width=100, break_on_hyphens=False)))


def to_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the summary, one row per cell, percent with one decimal, without the intervals.

    They follow from difference, difference_std and num_pairs, and committed tables have these columns only. The column
    of the ratio is written too where a run keeps a number of images per class, since the ratio does not tell it.
    """
    numbers = ["mean", "std", "difference", "difference_std", "worst_class", "score_seconds"]
    rounded = table.assign(**{key: table[key].map(one_decimal, na_action="ignore") for key in numbers})
    plain = bool((table["column"] == table["ratio"].map("{:g}".format)).all())
    write_csv(path, rounded.drop(columns=["low", "high", *(["column"] if plain else [])]))


def _check_same_data(results: pd.DataFrame) -> None:
    for dataset, runs in results.groupby("dataset"):
        for key in SAME_DATA:
            counts = runs.groupby(key)["run"].count()
            if len(counts) > 1:
                found = ", ".join(f"{str(value)[:12]} in {count} runs" for value, count in counts.items())
                raise InputError(
                    f"the runs of {dataset} do not use the same data: {key} is {found}; remove the older runs, "
                    "or give one of the two another dataset.name"
                )


def _with_one_whole_pool(runs: pd.DataFrame) -> pd.DataFrame:
    """Give one name to runs of the whole pool that train in the same way, although their tags differ."""
    whole = runs[runs["method"].str.startswith(WHOLE_POOL)]
    methods = runs["method"].copy()
    for _, same in whole.groupby([*SETTING, "recipe", "precision"], dropna=False):
        tags = sorted(same["tag"].unique())
        methods[same.index] = WHOLE_POOL if "default" in tags else f"{WHOLE_POOL} ({', '.join(tags)})"
    return runs.assign(method=methods)


def _block(title: str, part: pd.DataFrame) -> Block:
    most, whole = int(part["n"].max()), part["method"].str.startswith(WHOLE_POOL)
    grid, first = part[~whole], part.iloc[0]
    over = f"mean ± std over seeds (n = {most} where not given)" if most > 1 else "one seed"
    caption = (
        f"Test accuracy in %, {over}, by fraction of each class kept. "
        f"{first['num_pool']} images in {first['num_classes']} classes to prune, {first['num_test']} to test on."
    )
    if (grid["n"] == 0).any():
        caption += f" {MISSING}: not run."
    compared = grid[grid["difference"].notna().groupby(grid["method"]).transform("any")]
    return Block(
        title=title,
        verdict=verdict.sentences(part),
        caption=caption,
        accuracy=_wide(grid, partial(accuracy_text, most=most)),
        whole_pool=[f"{row['method']} (ratio 1): {accuracy_text(row, most)}" for row in _records(part[whole])],
        difference=_wide(compared, partial(_difference, most=most)),
    )


def _columns(part: pd.DataFrame) -> list[str]:
    """Return the headings of the ratios, from the smallest to the largest ratio."""
    return list(part.sort_values(["ratio", "column"])["column"].unique())


def _cells(block: pd.DataFrame) -> Iterator[tuple[float, str, str]]:
    """Yield every (ratio, column, method) of the block's table, also those that were not run."""
    pruned, whole = block[block["ratio"] < 1], block[block["ratio"] == 1]
    names = (
        pruned[["is_random", "method"]].drop_duplicates().sort_values(["is_random", "method"], ascending=[False, True])
    )
    for column in _columns(pruned):
        ratio = pruned.loc[pruned["column"] == column, "ratio"].iloc[0]
        yield from ((ratio, column, method) for method in names["method"])
    yield from ((1.0, "1", method) for method in sorted(whole["method"].unique()))


def _statistics(cells: pd.DataFrame, method: str) -> dict[str, float | int]:
    mine = cells[cells["method"] == method]
    by_seed = mine.groupby("seed")["percent"].mean()  # A run on the whole pool may exist for several methods.
    baseline = _random_by_seed(cells, mine)
    gains = (by_seed - baseline).dropna()
    interval = statistics.paired_difference(by_seed, baseline)
    return {
        "mean": by_seed.mean(),
        "std": by_seed.std(ddof=1),
        "n": len(by_seed),
        "difference": gains.mean(),
        "difference_std": gains.std(ddof=1),
        "num_pairs": len(gains),
        "low": interval.low,
        "high": interval.high,
        "worst_class": 100 * mine["worst_class_accuracy"].mean(),
        "score_seconds": mine["score_seconds"].mean(),
        "sample_seconds": mine["sample_seconds"].mean(),
        "score_memory": mine["score_peak_memory_bytes"].mean(),
    }


def _random_by_seed(cells: pd.DataFrame, mine: pd.DataFrame) -> pd.Series:
    """Return the accuracy of random to compare with, with the same tag or else the default one; empty for random."""
    compared = not mine["is_random"].any() and not (mine["ratio"] == 1).any()
    for tag in [*mine["tag"].unique(), "default"] if compared else []:
        same = cells["recipe"].isin(mine["recipe"])  # Only the same training is comparable.
        baseline = cells[cells["is_random"] & (cells["tag"] == tag) & same]
        if len(baseline):
            return baseline.groupby("seed")["percent"].mean()
    return pd.Series(dtype="float64")


def accuracy_text(row: dict, most: int) -> str:
    """Return mean ± std, with the number of seeds if it is not `most`, or X if there are none."""
    return _cell(one_decimal(row["mean"]), row["std"], row["n"], most)


def _difference(row: dict, most: int) -> str:
    return _cell(signed(row["difference"]), row["difference_std"], row["num_pairs"], most)


def _cell(value: str, std: float, n: int, most: int) -> str:
    if n == 0:
        return MISSING
    spread = "" if pd.isna(std) else f" ± {one_decimal(std)}"
    return value + spread + ("" if n == most else f" (n={n})")


def signed(value: float) -> str:
    """Return a difference with its sign, or X if there is none."""
    if pd.isna(value):
        return MISSING
    text = one_decimal(value)
    return f"+{text}" if float(text) > 0 else text


def points(mean: float, low: float, high: float) -> str:
    """Return a difference with its interval, such as `+1.2 [0.3, 2.1]`, or X if there is no difference."""
    return signed(mean) if pd.isna(low) else f"{signed(mean)} {bracketed(low, high)}"


def _wide(part: pd.DataFrame, show: Callable[[dict], str]) -> list[list[str]]:
    if part.empty:
        return []
    columns = _columns(part)
    shown = {(row["method"], row["column"]): show(row) for row in _records(part)}
    rows = [[method, *(shown[method, column] for column in columns)] for method in part["method"].unique()]
    return [["method", *columns], *rows]


def _recipe(name: str, runs: pd.DataFrame) -> str:
    views = sorted(int(value) for value in runs["views"].dropna().unique())
    if name != "linear_probe" or not views:
        return name
    if views == [0]:
        return f"{name} (of the evaluation view)"
    return f"{name} ({', '.join(map(str, views))} augmented views of an image, shared by all seeds)"


def _listed(values: pd.Series) -> str:
    return ", ".join(sorted(values.fillna("unknown").unique()))


def _records(part: pd.DataFrame) -> list[dict]:
    return part.to_dict("records")


@dataclass(frozen=True)
class _Style:
    title: str
    rows: Callable[[list[list[str]]], list[str]]
    prose: Callable[[str], list[str]]


def _render(table: pd.DataFrame, foot: str, style: _Style) -> str:
    paragraphs = []
    for block in blocks(table):
        paragraphs += [
            [style.title.format(block.title)],
            *([style.prose(" ".join(block.verdict))] if block.verdict else []),
        ]
        paragraphs += [style.prose(block.caption)]
        paragraphs += [style.rows(block.accuracy)] if block.accuracy else []
        paragraphs += [[line] for line in block.whole_pool]
        if block.difference:
            paragraphs += [[ABOVE_RANDOM], style.rows(block.difference)]
    paragraphs += [style.prose(foot)] if foot else []
    return "\n\n".join("\n".join(lines) for lines in paragraphs) + "\n"


def markdown_rows(rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first row is the heads, the first column is text."""
    widths = _widths(rows)
    lines = ["| " + " | ".join(_aligned(row, widths)) + " |" for row in rows]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return [lines[0], rule, *lines[1:]]


def _text_rows(rows: list[list[str]]) -> list[str]:
    return ["  " + "   ".join(_aligned(row, _widths(rows))).rstrip() for row in rows]


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
