"""The tables of text runs: MMLU by group after instruction tuning, and v1's perplexities of a language model.

Unlike the tables of images, these functions choose and name the rows of text runs themselves.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunetune.report import cells, layout, tables
from prunetune.report import table_parts as parts
from prunetune.report.cells import Cell
from prunetune.report.collect import FEWSHOT, MMLU_COLUMNS, MMLU_GROUPS
from prunetune.report.layout import Row, Section, Table

BASE, WHOLE = "base model, untuned", "whole corpus"
UNTUNED = "none"
PUBLISHED_SFT = ("paper", "released")  # The published recipe, and that of the released script.
V1_SFT = "paper_v1"
V1_SETTING = ("qwen_1_8b", "ultrachat", V1_SFT)
PUBLISHED_RATIO = 0.5
# The number of questions in MMLU's test split. A run with fewer is a trial and is not compared with published numbers.
ALL_QUESTIONS = 14_042
OVERALL = "overall"
# Maps a column of the table to the column of the rows.
ANSWERS = {**dict(zip(MMLU_GROUPS, MMLU_COLUMNS, strict=True)), OVERALL: "accuracy"}
GAMMAS = (0.25, 0.75)
DLC = tuple(f"dlc-flexrand (gamma {gamma:g})" for gamma in GAMMAS)
PUBLISHED = {  # Maps one of our rows to the published row that it may be compared with.
    "random": "random",
    **dict.fromkeys((*DLC, "dlc-flexrand", *(name.replace("dlc", "dlc_released") for name in DLC)), "dlc"),
}
V1_SUBSETS = {  # Maps our row and its ratio to the published subset.
    ("lc_dropout-topk_easiest", 0.1): "easy",
    ("lc_dropout-topk", 0.1): "hard",
    ("random", 0.1): "random",
    (WHOLE, 1.0): "full",
}
RULES = {**tables.RULES, "validation": "chosen on the tasks' validation questions"}


class Setting(NamedTuple):
    """What the rows of one section share."""

    backbone: str
    dataset: str
    finetune: str
    ratio: float
    shots: str
    num_test: int

    @property
    def is_published(self) -> bool:
        """Whether the runs have the settings behind the published numbers, so that these may be shown next to them."""
        asked = (self.ratio, self.num_test) == (PUBLISHED_RATIO, ALL_QUESTIONS)
        return asked and self.finetune in PUBLISHED_SFT


def instruction(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare subsets of instruction data by the accuracy of the fine-tuned models, one column per group of MMLU.

    Args:
        runs: the collected rows of text runs.
        sources: the published numbers.

    Raises:
        NoRuns: no model was fine-tuned on a part of a corpus and then evaluated.
    """
    chosen = _named(runs[runs["finetune"] != V1_SFT])
    asked = _by_shots(chosen)
    published = sources.read("instruction_mmlu").set_index(["base_model", "corpus", "mmlu_group"]).sort_index()
    sections = [_section(setting, block, published) for setting, block in _settings(asked)]
    if not sections:
        raise parts.NoRuns("no runs for instruction; run `prunetune instruct sweep=instruction`")
    return _build("instruction", "Instruction data", _caption(chosen, asked, published), chosen, sections)


def v1_llm(runs: pd.DataFrame, sources: parts.Sources) -> Table:
    """Compare easy, hard and random tenths of a corpus by the perplexity of held-out text (Table 3 of v1).

    Args:
        runs: the collected rows of text runs.
        sources: the published numbers.

    Raises:
        NoRuns: no model was fine-tuned by v1's recipe with held-out text.
    """
    chosen = _named(runs[(runs["finetune"] == V1_SFT) & runs["held_out_perplexity"].notna()])
    if chosen.empty:
        raise parts.NoRuns("no runs for v1_llm; run `prunetune instruct sweep=v1_llm`")
    published = sources.read("v1_table3_llm").set_index(["subset", "ratio"]).sort_index()
    keys = ["backbone", "dataset", "finetune"]
    sections = [_perplexities(setting, block, published) for setting, block in chosen.groupby(keys)]
    others = [", ".join(setting) for setting, _ in chosen.groupby(keys) if setting != V1_SETTING]
    caption = (
        "Perplexity of the responses held out from scoring and training, lower is better (Table 3 of v1). "
        "v1 states neither its held-out text nor its judge's prompt, and tuned QWen-1.8B, which current libraries no "
        "longer load: ours is Qwen1.5-1.8B. So no difference to a published perplexity is formed; what compares is "
        "the order of the rows. The ChatGPT score (1 to 10, higher is better) is the published one: ours was not run, "
        "it needs a paid judge."
    )
    caption += f" {'; '.join(others)}: not v1's, so no published number stands beside." if others else ""
    return _build("v1_llm", "v1: language model", caption, chosen, sections)


def _build(name: str, title: str, caption: str, chosen: pd.DataFrame, sections: Sequence[Section]) -> Table:
    rules = tables.selection_rules(chosen, RULES)
    about = " ".join([caption, *([f"{'; '.join(rules).capitalize()}."] if rules else []), parts.X_NOTE])
    footer = f"Made by `prunetune tables {name}`; {tables.provenance(chosen)}."
    return Table(name, title, about, tuple(sections), footer)


def _caption(chosen: pd.DataFrame, asked: pd.DataFrame, published: pd.DataFrame) -> str:
    shots = sorted({f"{number or 'unknown'}-shot" for number in asked["shots"]})
    about = (
        "MMLU by group after tuning on a part of a corpus (ICLR 2025 slides): accuracy weighted by the number of "
        f"questions, groups and prompts of lm-evaluation-harness; ours {' and '.join(shots)}, as each section says. "
        "The slides state no number of shots, no spread and not which gamma, 0.25 or 0.75, a cell has: each published "
        "number stands beside every dlc row, and only beside sft=paper and sft=released, at ratio 0.5 and with all "
        f"{ALL_QUESTIONS} questions."
    )
    others = sorted(set(chosen["finetune"]) - {*PUBLISHED_SFT, UNTUNED})
    about += f" sft={', '.join(others)}: not the paper's." if others else ""
    pairs = set(chosen[["backbone", "dataset"]].itertuples(index=False, name=None))
    others = [", ".join(pair) for pair in sorted(pairs - set(published.index.droplevel(2)))]
    return about + (f" {'; '.join(others)}: not the paper's, so no published number stands beside." if others else "")


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """Add `method`, the name of a run's row."""
    names = [_row_name(run) for run in runs.to_dict("records")]
    return runs.assign(method=pd.Series(names, index=runs.index, dtype=object))


def _row_name(run: dict) -> str:
    name, tag = tables.method_name({**run, "tag": "default"}), run["tag"]
    if run["finetune"] == UNTUNED:
        name = BASE
    elif run["ratio"] == 1:
        name = WHOLE
    elif run["selection_rule"] == "fixed" and pd.notna(run["gamma"]):
        name += f" (gamma {run['gamma']:g})"  # Without a gamma the name means a choice by validation.
        tag = "default" if tag == f"g{run['gamma']:g}" else tag
    return name if tag == "default" else f"{name} ({tag})"


def _by_shots(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run and each of its numbers of examples, in the column `shots`."""
    numbers = [str(text).split() if pd.notna(text) else [""] for text in runs["num_fewshot"]]
    first = runs.assign(shots=pd.Series([number[0] for number in numbers], index=runs.index, dtype=object))
    also_five = runs[pd.Series(["5" in number[1:] for number in numbers], index=runs.index, dtype=bool)]
    of_five = {name: also_five[f"{name}{FEWSHOT}"] for name in ANSWERS.values()}
    return pd.concat([first, also_five.assign(shots="5", **of_five)]) if len(also_five) else first


def _settings(asked: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Yield each setting in which a model was fine-tuned on a part of a corpus, with the rows to compare.

    The base model is a row for all corpora, and the whole corpus is a row for all ratios.
    """
    is_base = asked["finetune"] == UNTUNED
    pruned = asked[~is_base & (asked["ratio"] < 1)]
    for key, block in pruned.groupby(list(Setting._fields)):
        setting = Setting(*key)
        alike = (asked["backbone"] == setting.backbone) & (asked["shots"] == setting.shots)
        alike &= asked["num_test"] == setting.num_test
        trained_so = (asked["dataset"] == setting.dataset) & (asked["finetune"] == setting.finetune)
        beside = asked[alike & (is_base | (trained_so & (asked["ratio"] == 1)))]
        yield setting, pd.concat([beside, block]).assign(dataset=setting.dataset, ratio=setting.ratio)


def _section(setting: Setting, block: pd.DataFrame, published: pd.DataFrame) -> Section:
    theirs = published.iloc[:0]
    if setting.is_published and (setting.backbone, setting.dataset) in published.index.droplevel(2):
        theirs = published.loc[(setting.backbone, setting.dataset)]
    own = {name: column for name, column in ANSWERS.items() if len(theirs) or block[column].notna().any()}
    found = {
        name: cells.gather(block.assign(percent=100 * block[column]).dropna(subset="percent"))
        for name, column in own.items()
    }
    labels = {"dataset": setting.dataset, "backbone": setting.backbone, "finetune": setting.finetune}
    extra = {"ratio": setting.ratio, "num_fewshot": setting.shots, "num_test": setting.num_test}
    rows = []
    for method in _ordered({*block["method"], *((BASE, "random", *DLC) if len(theirs) else ())}):
        for name in own:
            numbers = _published(method, name, theirs)
            entry = found[name].entry([Cell(method, setting.dataset, setting.backbone, setting.ratio)], numbers[0])
            rows.append(labels | {"method": method, "column": name} | entry | {"published_gain": numbers[1]} | extra)
    shots = f"{setting.shots or 'unknown'}-shot"
    title = f"{setting.backbone}, {setting.dataset}, sft={setting.finetune}, ratio {setting.ratio:g}, {shots}"
    own_pool = block[block["finetune"] == setting.finetune]  # The base model may have another corpus.
    note = f"{_sizes(own_pool)} examples to prune, {setting.num_test} questions. {parts.devices_note(block)}"
    return layout.section(title, note, rows)


def _sizes(block: pd.DataFrame) -> str:
    return ", ".join(str(size) for size in sorted(block["num_pool"].dropna().unique())) or "unknown"


def _published(method: str, group: str, theirs: pd.DataFrame) -> tuple[float, float]:
    """Return the published accuracy and its difference to that of random; NaN if it was not published."""
    row = PUBLISHED.get(method)
    if row is None or group not in theirs.index:
        return np.nan, np.nan
    return float(theirs[f"{row}_accuracy_pct"][group]), float(theirs["gain_pct"][group]) if row == "dlc" else np.nan


def _ordered(methods: set[str]) -> list[str]:
    """Sort row names: base model, random, learning complexity, the others, the whole corpus."""
    return sorted(cells.ordered(methods), key=lambda name: (not name.startswith(BASE), name.startswith(WHOLE)))


def _perplexities(setting: tuple[str, str, str], block: pd.DataFrame, published: pd.DataFrame) -> Section:
    backbone, dataset, recipe = setting
    theirs = published if setting == V1_SETTING else published.iloc[:0]
    found = cells.gather(block.assign(percent=block["held_out_perplexity"]))
    labels = {"dataset": dataset, "backbone": backbone, "finetune": recipe}
    rows = [labels | _before(block)]
    for method, ratio in _subsets(block, len(theirs) > 0):
        subset = V1_SUBSETS.get((method, ratio), "")
        beside = theirs.loc[(subset, ratio)] if (subset, ratio) in theirs.index else pd.Series(dtype="float64")
        entry = found.entry([Cell(method, dataset, backbone, ratio)], beside.get("perplexity", np.nan), False)
        own = {"ratio": ratio, "subset": subset, "published_score": beside.get("chatgpt_direct_score", np.nan)}
        rows.append(labels | {"method": method, "column": "perplexity"} | entry | own)
    note = f"{_sizes(block)} examples to prune. {parts.devices_note(block)}"
    return Section(", ".join(setting), note, (layout.Grid("", _perplexity_cells(rows)),), tuple(rows))


def _subsets(block: pd.DataFrame, with_published: bool) -> list[tuple[str, float]]:
    """Return the rows' methods and ratios: by ratio, in each the easiest, the hardest, random, then the others."""
    own = set(zip(block["method"], block["ratio"].astype(float), strict=True))
    named = [method for method, _ in V1_SUBSETS]
    places = {name: place for place, name in enumerate(named)}
    return sorted(
        own | (set(V1_SUBSETS) if with_published else set()),
        key=lambda row: (row[1], places.get(row[0], len(named)), row[0]),
    )


def _before(block: pd.DataFrame) -> Row:
    """Return the row of the model before fine-tuning. It is the same model for all seeds."""
    before = block.assign(percent=np.exp(block["held_out_loss_before"]), method=BASE, recipe="", ratio=0.0, seed=0)
    before = before.dropna(subset="percent")
    entry = cells.gather(before).entry([Cell(BASE, *block[["dataset", "backbone"]].iloc[0], 0.0)])
    own = {"ratio": np.nan, "subset": "", "published_score": np.nan}
    return {"method": BASE, "column": "perplexity"} | entry | own


def _perplexity_cells(rows: Sequence[Row]) -> list[list[str]]:
    heads = ["subset", "ratio", "perplexity", "n", "minus random", "95 % interval"]
    with_paper = any(pd.notna(row["published"]) for row in rows)
    lines = [[*heads, *(["published perplexity", "published ChatGPT score"] if with_paper else [])]]
    for row in rows:
        name = f"{row['subset']}: {row['method']}" if row["subset"] not in ("", row["method"]) else str(row["method"])
        ratio = layout.NOTHING if pd.isna(row["ratio"]) else f"{row['ratio']:g}"
        compared = row["method"] not in ("random", BASE) and row["ratio"] != 1
        beside = [layout.published_text(row["published"]), layout.published_text(row["published_score"])]
        numbers = [_perplexity(row), str(row["n"]), *_difference(row, compared)]
        lines.append([name, ratio, *numbers, *(beside if with_paper else [])])
    return lines


def _perplexity(row: Row) -> str:
    if not row["n"]:
        return tables.MISSING
    spread = "" if pd.isna(row["std"]) else f" ± {row['std']:.2f}"
    return f"{row['mean']:.2f}{spread}"


def _difference(row: Row, compared: bool) -> list[str]:
    if not compared:
        return [layout.NOTHING] * 2
    if not row["num_pairs"]:
        return [tables.MISSING, layout.NOTHING]
    ends = (row["gain_low"], row["gain_high"])
    interval = layout.NOTHING if pd.isna(ends[0]) else f"[{ends[0]:z.2f}, {ends[1]:z.2f}]"
    return [f"{row['gain']:+z.2f}", interval]
