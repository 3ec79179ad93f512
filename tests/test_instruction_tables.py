"""The tables of text runs against values worked out by hand, and text runs beside image runs."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunetune.report import cells, collect, instruction_tables, latex, layout, paper, paper_tables, table_parts
from prunetune.report.instruction_tables import BASE, DLC, WHOLE, instruction, v1_llm
from runs import prunetune_here

GOLDEN = Path(__file__).parent / "golden"
PAPER = paper.FOLDER
SOURCES = table_parts.Sources(PAPER)
RANDOM = {"scorer": "random", "sampler": "random", "gamma": None, "selection_rule": None}
UNTUNED = {**RANDOM, "finetune": "none", "ratio": 1.0}
GAMMA_75 = {"gamma": 0.75, "tag": "g0.75"}
SIZES = {"alpaca_cleaned": 51760, "dolly_hhrlhf": 59310}
NO_MMLU = {f"mmlu_{group}": None for group in collect.MMLU_GROUPS}


def result(accuracy: float, **changes: object) -> dict:
    """Return a made-up text run with accuracies in percent. The groups of MMLU differ by -1, 1, -2 and 2 points."""
    values = {"kind": "text", "backbone": "llama3_8b", "scoring_backbone": "llama3_8b"}
    values |= {"finetune": "paper", "scorer": "dlc", "sampler": "flexrand", "tag": "g0.25", "ratio": 0.5, "seed": 0}
    values |= {"gamma": 0.25, "selection_rule": "fixed", "precision": "bf16", "device": "a card", "commit": "1a2b3c4"}
    values |= {"num_pool": 51000, "num_kept": 25500, "num_test": 14042, "num_fewshot": [0], "tokens_per_second": 9000.0}
    shifts = zip(collect.MMLU_GROUPS, (-1, 1, -2, 2), strict=True)
    values |= {"dataset": changes.get("dataset", "alpaca_cleaned")}
    values |= {"accuracy": accuracy / 100, "corpus_report": {"read": SIZES.get(values["dataset"])}}
    values |= {f"mmlu_{group}": (accuracy + shift) / 100 for group, shift in shifts} | changes
    return {"config": {"sft": {"name": values["finetune"]}, "sampler": {"name": values["sampler"]}}, **values}


def held_out(perplexity: float, **changes: object) -> dict:
    """Return a made-up run of v1's table."""
    values = {"backbone": "qwen_1_8b", "dataset": "ultrachat", "finetune": "paper_v1", "ratio": 0.1, "tag": "default"}
    values |= {"scorer": "lc_dropout", "sampler": "topk_easiest", "gamma": None, "selection_rule": None}
    values |= {"held_out_loss": math.log(perplexity), "held_out_loss_before": math.log(8)}
    values |= {"held_out_perplexity": perplexity}
    return result(30, **{**values, "scoring_backbone": "qwen_1_8b", **changes})


def put(results_dir: Path, *results: dict) -> None:
    """Write made-up runs into the folders of real runs."""
    for run in results:
        names = [run[key] for key in ("dataset", "backbone", "finetune")]
        last = [f"{run['scorer']}-{run['sampler']}", f"ratio_{run['ratio']}", f"seed_{run['seed']}", run["tag"]]
        folder = results_dir.joinpath("runs", *map(str, [*names, *last]))
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(run))


@pytest.fixture
def collected(tmp_path):
    """Return a function that writes runs and gives back what the tables read."""

    def collect_all(*results: dict) -> pd.DataFrame:
        put(tmp_path, *results)
        found, skipped = collect.collect(tmp_path)
        assert not skipped
        return collect.texts(found)

    return collect_all


def row(table: layout.Table, method: str, **labels: object) -> pd.Series:
    rows = table.rows[table.rows["method"] == method]
    for key, value in labels.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def three_seeds() -> list[dict]:
    """Return random at 50, 51, 52 and dlc at gamma 0.25 at 52, 54, 53 percent, the base model at 49."""
    runs = [result(accuracy, seed=seed, tag="default", **RANDOM) for seed, accuracy in enumerate((50, 51, 52))]
    runs = [{**run, "tag": "default"} for run in runs]
    return [*runs, *(result(52 + shift, seed=seed) for seed, shift in enumerate((0, 2, 1))), base(49)]


def base(accuracy: float, **changes: object) -> dict:
    return result(accuracy, **{**UNTUNED, "tag": "default", **changes})


def test_a_cell_is_mean_spread_and_number_of_seeds_and_the_paired_difference_to_random(collected):
    table = instruction(collected(*three_seeds()), SOURCES)
    ours = row(table, DLC[0], column="overall")
    assert (ours["mean"], ours["std"], ours["n"]) == pytest.approx((53, 1, 3))
    assert (ours["gain"], ours["num_pairs"]) == pytest.approx((2, 3))  # The gains of the three seeds are 2, 3 and 1.
    # The factor is the quantile of Student's t with two degrees of freedom, and the std is 1.
    half = 4.302652729911275 * 1 / math.sqrt(3)
    assert (ours["gain_low"], ours["gain_high"]) == pytest.approx((2 - half, 2 + half))
    random = row(table, "random", column="stem")
    assert (random["mean"], random["n"]) == pytest.approx((49, 3))
    assert np.isnan(random["gain"])


def test_groups_are_columns_and_only_they_have_published_numbers(collected):
    table = instruction(collected(*three_seeds()), SOURCES)
    humanities = row(table, DLC[0], column="humanities")
    assert (humanities["mean"], humanities["published"]) == pytest.approx((52, 56.75))
    assert humanities["difference"] == pytest.approx(52 - 56.75)
    assert humanities["published_gain"] == pytest.approx(2.51)
    assert row(table, "random", column="other")["published"] == 69.78
    assert np.isnan(row(table, DLC[0], column="overall")["published"])
    assert table.sections[0].grids[0].cells[0] == ["method", *collect.MMLU_GROUPS, "overall"]


def test_both_constant_gammas_and_the_chosen_one_stand_beside_the_same_published_number(collected):
    chosen = {"selection_rule": "validation", "tag": "default", "gamma": 0.75}
    runs = [*three_seeds(), result(54, **GAMMA_75), result(55, **chosen), result(56, scorer="dlc_released")]
    table = instruction(collected(*runs, result(57, tag="mine")), SOURCES)
    for method in (*DLC, "dlc-flexrand", "dlc_released-flexrand (gamma 0.25)"):
        assert row(table, method, column="stem")["published"] == 54.84
    assert np.isnan(row(table, f"{DLC[0]} (mine)", column="stem")["published"])
    assert "Gamma 0.25, 0.75 constant; gamma 0.75 chosen on the tasks' validation questions." in table.caption


def test_rows_that_were_not_run_are_x_in_a_published_section(collected):
    table = instruction(collected(result(50, tag="default", **RANDOM)), SOURCES)
    section = table.sections[0]
    assert [line[0] for line in section.grids[0].cells[1:]] == [BASE, "random", *DLC]
    assert set(section.grids[0].cells[1][1:]) == {"X"}
    differences = next(grid for grid in section.grids if grid.heading == layout.DIFFERENCE)
    # The row is dlc at gamma 0.25. The overall accuracy is not published.
    assert differences.cells[2][1:] == ["X", "X", "X", "X", "-"]
    assert row(table, DLC[1], column="other")["n"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"ratio": 0.3},
        {"finetune": "mine"},
        {"num_test": 570},
        {"backbone": "tiny", "scoring_backbone": "tiny"},
        {"dataset": "embedded"},
    ],
)
def test_nothing_published_stands_beside_another_ratio_recipe_model_corpus_or_a_trial(collected, changes):
    runs = [result(50, **{**RANDOM, "tag": "default", **changes}), result(51, **changes)]
    table = instruction(collected(*runs), SOURCES)
    assert table.rows["published"].isna().all()
    assert set(table.rows["method"]) == {"random", DLC[0]}
    assert ("so no published number stands beside" in table.caption) == bool({"backbone", "dataset"} & set(changes))
    assert row(table, DLC[0], column="stem")["gain"] == pytest.approx(1)


def test_the_released_scripts_recipe_has_a_section_of_its_own_beside_the_published_numbers(collected):
    runs = [*three_seeds(), result(60, finetune="released")]
    table = instruction(collected(*runs), SOURCES)
    titles = [section.title for section in table.sections]
    assert titles == [f"llama3_8b, alpaca_cleaned, sft={name}, ratio 0.5, 0-shot" for name in ("paper", "released")]
    assert row(table, DLC[0], column="stem", finetune="released")["difference"] == pytest.approx(58 - 54.84)
    # The base model appears in both sections.
    assert row(table, BASE, column="stem", finetune="released")["mean"] == pytest.approx(47)
    # Random was tuned with another recipe.
    assert np.isnan(row(table, DLC[0], column="stem", finetune="released")["gain"])


def test_the_untuned_model_belongs_to_every_corpus_and_the_whole_corpus_to_its_own(collected):
    whole = result(55, **{**RANDOM, "ratio": 1.0, "tag": "default"})
    other = [result(50, dataset="dolly_hhrlhf", **{**RANDOM, "tag": "default"})]
    table = instruction(collected(*three_seeds(), whole, *other), SOURCES)
    for dataset in ("alpaca_cleaned", "dolly_hhrlhf"):
        assert row(table, BASE, column="overall", dataset=dataset)["mean"] == pytest.approx(49)
    ours = row(table, WHOLE, column="overall")
    assert (ours["dataset"], ours["mean"], ours["gain"], ours["num_pairs"]) == pytest.approx(
        ("alpaca_cleaned", 55, 5, 1)
    )
    assert [line[0] for line in table.sections[0].grids[0].cells[1:]] == [BASE, "random", *DLC, WHOLE]


def test_five_examples_are_another_section_and_the_caption_names_both(collected):
    five = {"num_fewshot": [0, 5], "accuracy_5shot": 0.6, **{f"mmlu_{name}_5shot": 0.6 for name in collect.MMLU_GROUPS}}
    table = instruction(collected(result(50, tag="default", **RANDOM), result(52, **five)), SOURCES)
    assert [section.title.split(", ")[-1] for section in table.sections] == ["0-shot", "5-shot"]
    assert row(table, DLC[0], column="stem", num_fewshot="5")["mean"] == pytest.approx(60)
    assert row(table, DLC[0], column="stem", num_fewshot="0")["mean"] == pytest.approx(50)
    assert row(table, "random", column="stem", num_fewshot="5")["n"] == 0
    assert "ours 0-shot and 5-shot" in table.caption


def test_with_five_examples_alone_their_accuracy_is_that_of_the_run(collected):
    table = instruction(collected(result(52, num_fewshot=[5])), SOURCES)
    assert row(table, DLC[0], column="overall", num_fewshot="5")["mean"] == pytest.approx(52)


def test_another_task_than_mmlu_has_one_column(collected):
    local = {**NO_MMLU, "dataset": "embedded", "num_test": 40}
    runs = [result(50, **{**RANDOM, "tag": "default", **local}), result(55, **local)]
    runs.append(base(40, **{**local, "num_pool": 7, "dataset": "another"}))
    section = instruction(collected(*runs), SOURCES).sections[0]
    assert section.grids[0].cells[0][:2] == ["method", "ours (overall)"]
    assert section.grids[0].cells[1] == [BASE, "40.0", "1", "-", "-", "-"]
    assert section.note == "51000 examples to prune, 40 questions. Made on a card."


def test_the_instruction_table_equals_the_committed_one_that_was_checked_by_hand(collected):
    table = instruction(collected(*three_seeds(), result(54, **GAMMA_75)), SOURCES)
    assert layout.to_markdown(table) == (GOLDEN / "instruction.md").read_text(encoding="utf-8")


def test_v1s_table_has_perplexities_and_the_published_score(collected):
    runs = [held_out(5 + seed / 10, seed=seed) for seed in (0, 1)]
    runs += [held_out(6 + seed / 10, seed=seed, **RANDOM) for seed in (0, 1)]
    runs += [held_out(7, **{**RANDOM, "ratio": 1.0})]
    table = v1_llm(collected(*runs), SOURCES)
    easy = row(table, "lc_dropout-topk_easiest")
    assert (easy["mean"], easy["std"], easy["n"]) == pytest.approx((5.05, 0.005**0.5, 2))
    assert (easy["gain"], easy["num_pairs"]) == pytest.approx((-1, 2))
    assert (easy["published"], easy["published_score"]) == (4.94, 1.97)
    assert table.rows["difference"].isna().all()  # The published results have another model or another text corpus.
    before = row(table, BASE)  # There is one base model, whatever the number of seeds is.
    assert (before["mean"], before["n"]) == pytest.approx((8, 1))
    assert (row(table, WHOLE)["mean"], row(table, WHOLE)["published"]) == pytest.approx((7, 5.41))
    assert row(table, "lc_dropout-topk")["n"] == 0
    assert "ours was not run" in table.caption
    assert layout.to_markdown(table) == (GOLDEN / "v1_llm.md").read_text(encoding="utf-8")


def test_v1s_numbers_stand_beside_its_own_corpus_and_model_only(collected):
    table = v1_llm(
        collected(held_out(5, dataset="evol_instruct"), held_out(6, scorer="longest", sampler="topk")), SOURCES
    )
    assert row(table, "lc_dropout-topk_easiest", dataset="evol_instruct")[["published"]].isna().all()
    assert len(table.rows[table.rows["dataset"] == "evol_instruct"]) == 2  # The second row is that of the base model.
    assert "qwen_1_8b, evol_instruct, paper_v1: not v1's" in table.caption
    assert row(table, "longest-topk", dataset="ultrachat")["mean"] == pytest.approx(6)


def test_v1s_recipe_is_not_in_the_instruction_table_and_the_others_not_in_v1s(collected):
    runs = collected(*three_seeds(), held_out(5))
    assert "paper_v1" not in set(instruction(runs, SOURCES).rows["finetune"])
    assert set(v1_llm(runs, SOURCES).rows["finetune"]) == {"paper_v1"}


@pytest.mark.parametrize("name", paper_tables.TEXT_TABLES)
def test_a_table_without_text_runs_names_its_sweep(name, collected):
    told = f"^no runs for {name}; run `prunetune instruct sweep={name}`$"
    with pytest.raises(table_parts.NoRuns, match=told):
        paper_tables.TABLES[name](collected(base(49)), SOURCES)


def test_latex_takes_both_tables(collected):
    runs = collected(*three_seeds(), held_out(5), held_out(6, seed=1))
    text = latex.to_latex(instruction(runs, SOURCES)) + latex.to_latex(v1_llm(runs, SOURCES))
    assert r"dlc-flexrand (gamma 0.25) & $52.0_{1.0}$" in text
    assert "easy: lc\\_dropout-topk\\_easiest & 0.1 & $5.50_{0.71}$ & 2" in text


IMAGE = {"kind": None, "dataset": "dtd10", "backbone": "resnet18", "scoring_backbone": "resnet18"}
IMAGE |= {"finetune": "full", "tag": "default", "num_pool": 800, "num_test": 400, "num_classes": 10}


def images() -> list[dict]:
    return [result(50, **{**IMAGE, **RANDOM}), result(52, **IMAGE, selection_rule="validation")]


def test_tables_of_images_are_the_same_with_and_without_text_runs(tmp_path):
    put(tmp_path / "images", *images())
    put(tmp_path / "both", *images(), *three_seeds(), held_out(5))
    alone, both = (collect.collect(tmp_path / name)[0] for name in ("images", "both"))
    assert len(both) == len(alone) + 8
    pd.testing.assert_frame_equal(collect.images(both), alone)
    tables = [paper_tables.main(cells.prepared(found), SOURCES) for found in (alone, both)]
    assert layout.to_markdown(tables[0]) == layout.to_markdown(tables[1])
    shown, skipped = collect.collect_images(tmp_path / "both")
    assert set(shown["kind"]) == {"image"}
    assert skipped == ["left out 8 text runs; `prunetune tables instruction v1_llm` is about those"]


def test_the_command_writes_tables_of_both_kinds(tmp_path):
    put(tmp_path, *images(), *three_seeds(), held_out(5))
    where = ["--results", str(tmp_path), "--paper", str(PAPER), "--out", str(tmp_path / "tables")]
    done = prunetune_here("tables", "main", "instruction", "v1_llm", *where)
    names = [f"{name}.{kind}" for name in ("main", "instruction", "v1_llm") for kind in ("md", "csv", "tex")]
    assert done.stdout.splitlines() == [f"wrote {tmp_path / 'tables' / name}" for name in names]
    again = pd.read_csv(tmp_path / "tables" / "instruction.csv")
    ours = again[(again["method"] == DLC[0]) & (again["column"] == "stem")].iloc[0]
    assert (ours["mean"], ours["gain"], ours["n"], ours["published"]) == (51, 2, 3, 54.84)
    assert "alpaca" not in (tmp_path / "tables" / "main.md").read_text()


def test_a_corpus_of_another_size_is_refused_by_what_was_read_not_by_what_was_kept(collected):
    part = result(50, seed=1, corpus_report={"read": 1000})
    unknown = result(50, seed=2, corpus_report=None)
    named = result(50, dataset="alpaca_1000", corpus_report={"read": 1000})
    kept, refused = paper.refuse(collected(three_seeds()[3], part, unknown, named), PAPER)
    assert kept["dataset"].value_counts().to_dict() == {"alpaca_cleaned": 1, "alpaca_1000": 1}
    assert refused == [
        "refused 2 runs of alpaca_cleaned: num_read is 1000, published 51760; give a subset another corpus.name"
    ]


def test_the_number_of_questions_is_that_of_the_published_setting():
    assert instruction_tables.ALL_QUESTIONS == 4705 + 3077 + 3153 + 3107
