import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunetune.base.errors import InputError
from prunetune.report import (
    ablation_tables,
    cells,
    collect,
    latex,
    layout,
    paper,
    paper_tables,
    table_files,
    table_parts,
)
from runs import prunetune_here

GOLDEN = Path(__file__).parent / "golden"
PAPER = paper.FOLDER
SIZES = {"cxrb10": (10, 4000, 1000), "deepweeds": (8, 6400, 1600), "dtd": (47, 3760, 1880)}
SIZES |= {"fgvcaircraft": (100, 6667, 3333), "sketch": (250, 16000, 4000), "dtd10": (10, 800, 400)}
RANDOM = {"scorer": "random", "sampler": "random", "gamma": None, "selection_rule": None}


def run(accuracy: float, **changes: object) -> dict:
    """Return a made-up run; accuracy in percent."""
    row = {"dataset": "dtd", "backbone": "resnet18", "finetune": "full", "scorer": "dlc", "sampler": "flexrand"}
    row |= {"tag": "default", "ratio": 0.1, "seed": 0, "gamma": 0.4, "selection_rule": "validation"}
    row |= {"budgets": "proportional", "precision": "fp32", "recipe": "a", "commit": "1a2b3c4", "device": "cpu"}
    row |= {"score_seconds": 1.0, "search_seconds": 0.5, "sample_seconds": 0.0, "decode_seconds": 2.0}
    row |= changes
    sizes = dict(zip(("num_classes", "num_pool", "num_test"), SIZES[row["dataset"]], strict=True))
    return {"scoring_backbone": row["backbone"], **sizes, **row, "accuracy": accuracy / 100, "run": "r"}


def frame(*runs: dict) -> pd.DataFrame:
    return cells.prepared(collect._typed(pd.DataFrame(list(runs), columns=list(collect.COLUMNS))))


def sources(**correlation: list) -> table_parts.Sources:
    return table_parts.Sources(PAPER, pd.DataFrame(correlation))


def row(table: layout.Table, method: str, **labels: object) -> pd.Series:
    rows = table.rows[table.rows["method"] == method]
    for key, value in labels.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def everywhere(accuracy: float, datasets=paper.DATASETS, backbones=paper.BACKBONES, **changes: object) -> list[dict]:
    """Return one run of each published data set and ratio for every backbone."""
    return [
        run(accuracy, dataset=dataset, backbone=backbone, ratio=ratio, **changes)
        for dataset in datasets
        for backbone in backbones
        for ratio in paper.RATIOS
    ]


def test_every_file_of_published_numbers_is_named_in_its_readme_and_can_be_read():
    text = (PAPER / "README.md").read_text(encoding="utf-8")
    files = sorted(PAPER.glob("*.csv"))
    assert len(files) == 14
    for path in files:
        assert f"| `{path.name}` |" in text
        assert len(paper.read(path.stem, PAPER)) > 3


def test_a_missing_file_of_published_numbers_is_named():
    with pytest.raises(InputError, match=r"Did you mean 'fig_main_accuracy'"):
        paper.read("fig_main_acuracy", PAPER)


def test_every_published_row_can_be_compared_with_a_row_of_ours():
    of_ours = set(paper.ROWS.values())
    for name in ("fig_main_accuracy", "slides_weak_pretraining", "fig1_time_accuracy"):
        assert set(paper.read(name, PAPER)["method"]) <= of_ours
    for name in ("v1_table1_depths", "v1_table4_pretraining"):
        assert set(paper.read(name, PAPER)["method"]) <= of_ours


def test_rows_that_keep_the_confident_end_are_compared_with_the_released_selectors():
    for method in ("herding", "least_confidence", "entropy", "margin"):
        assert (method, "topk") not in paper.ROWS
        assert paper.ROWS[f"{method}_released", "topk"] == method


def test_the_gamma_table_equals_the_committed_one_that_was_checked_by_hand(tmp_path):
    results, refused = paper.refuse(collect.read(GOLDEN / "paper_results.csv"), PAPER)
    table = paper_tables.ablation_gamma(cells.prepared(results), sources())
    assert layout.to_markdown(table) == (GOLDEN / "ablation_gamma.md").read_text(encoding="utf-8")
    assert refused == [
        "refused 1 run of dtd: num_pool is 800, published 3760; give a subset another dataset.name",
        "refused 1 run of uncommitted code; run from a clean commit, or pass --allow-dirty",
    ]


def test_runs_of_uncommitted_code_are_shown_when_asked_for():
    results = collect.read(GOLDEN / "paper_results.csv")
    kept, refused = paper.refuse(results, PAPER, allow_dirty=True)
    assert len(kept) == len(results) - 1  # The run with the wrong size is left out.
    assert len(refused) == 1


def test_a_named_subset_is_no_published_data_set():
    rows = [run(50, dataset="dtd10"), run(50, dataset="dtd10", **RANDOM)]
    results = pd.DataFrame(rows, columns=list(collect.COLUMNS))
    kept, refused = paper.refuse(results, PAPER)
    assert len(kept) == 2
    assert not refused
    table = paper_tables.main(frame(*kept.to_dict("records")), sources())
    assert table.rows["published"].isna().all()
    assert "dtd10: not the paper's data" in table.caption
    assert "Published" not in layout.to_markdown(table)


def test_the_main_table_sets_the_mean_over_four_backbones_beside_the_published_number():
    runs = []
    for offset, backbone in enumerate(paper.BACKBONES):
        for seed in (0, 1):
            runs += everywhere(50 + offset + seed, backbones=[backbone], seed=seed)
            runs += everywhere(49 + offset, backbones=[backbone], seed=seed, **RANDOM)
    table = paper_tables.main(frame(*runs), sources())
    ours = row(table, "dlc-flexrand", dataset="dtd", backbone="mean", column="0.1")
    assert (ours["mean"], ours["n"]) == (52.0, 2)  # The means of the two seeds are 51.5 and 52.5.
    assert ours["std"] == pytest.approx(0.5**0.5)
    assert ours["gain"] == 1.5
    assert ours["published"] == 52.95
    assert ours["difference"] == pytest.approx(-0.95)
    assert ours["published_gain"] == pytest.approx(52.95 - 50.39)
    average = row(table, "dlc-flexrand", dataset="average", column="0.9")
    assert (average["mean"], average["published"]) == (52.0, 71.16)
    one = row(table, "dlc-flexrand", dataset="dtd", backbone="resnet18", column="0.1")
    assert np.isnan(one["published"])


def test_an_average_lacking_one_cell_is_x_and_so_is_its_difference():
    runs = [*everywhere(52), *everywhere(50, **RANDOM)]
    lost = next(r for r in runs if (r["dataset"], r["backbone"], r["ratio"]) == ("dtd", "vit_base", 0.3))
    runs.remove(lost)
    table = paper_tables.main(frame(*runs), sources())
    assert row(table, "dlc-flexrand", dataset="dtd", backbone="mean", column="0.3")["n"] == 0
    assert row(table, "dlc-flexrand", dataset="dtd", backbone="mean", column="0.1")["n"] == 1
    assert row(table, "dlc-flexrand", dataset="average", column="0.3")["n"] == 0
    assert row(table, "dlc-flexrand", dataset="average", column="0.1")["mean"] == 52.0
    text = layout.to_markdown(table).split("### average")[1].split("### ")[0]
    (accuracy, difference) = [line for line in text.splitlines() if line.startswith("| dlc-flexrand")][0:4:3]
    assert accuracy.split("|")[2:6] == [" 52.0 ", " 52.0 ", "    X ", " 52.0 "]
    assert difference.split("|")[4].strip() == "X"


def test_a_published_row_that_was_not_run_is_shown_as_x():
    table = paper_tables.main(frame(run(50), run(49, **RANDOM)), sources())
    entry = row(table, "forgetting-topk", dataset="dtd", column="0.1")
    assert entry["n"] == 0
    source = paper.read("fig_main_accuracy", PAPER).set_index(["method", "dataset", "ratio"])["accuracy_pct"]
    assert entry["published"] == source["forgetting", "dtd", 0.1]
    released = row(table, "entropy_released-topk", dataset="dtd", column="0.1")
    assert released["published"] == source["entropy", "dtd", 0.1]


def test_a_linear_probe_is_named_and_has_no_difference_to_the_published_number():
    runs = [*everywhere(52, finetune="linear_probe"), *everywhere(50, finetune="linear_probe", **RANDOM)]
    table = paper_tables.main(frame(*runs), sources())
    ours = row(table, "dlc-flexrand", dataset="dtd", backbone="mean", column="0.1")
    assert ours["published"] == 52.95
    assert table.rows["difference"].isna().all()
    assert "Recipe linear_probe is not the paper's" in table.caption


def test_a_constant_gamma_is_not_the_papers_row():
    fixed = {"gamma": 0.25, "selection_rule": "fixed"}
    table = paper_tables.main(frame(run(52, **fixed), run(50, **RANDOM)), sources())
    assert np.isnan(row(table, "dlc-flexrand (gamma 0.25)", dataset="dtd", backbone="mean", column="0.1")["published"])
    assert row(table, "dlc-flexrand", dataset="dtd", backbone="mean", column="0.1")["n"] == 0
    assert "gamma 0.25 constant" in table.caption


def test_at_the_largest_ratio_the_only_feasible_gamma_counts_as_chosen():
    assert frame(run(50, ratio=0.9, gamma=0.5, selection_rule="fixed"))["method"].tolist() == ["dlc-flexrand"]


def test_random_is_a_row_and_compared_by_the_same_seeds_and_recipe():
    runs = [run(50, seed=0), run(54, seed=1), run(49, seed=1, **RANDOM), run(40, seed=2, **RANDOM)]
    ours = row(paper_tables.main(frame(*runs), sources()), "dlc-flexrand", backbone="resnet18")
    assert (ours["mean"], ours["gain"], ours["num_pairs"]) == (52.0, 5.0, 1)
    other = [run(50), run(49, recipe="b", **RANDOM)]
    assert row(paper_tables.main(frame(*other), sources()), "dlc-flexrand", backbone="resnet18")["num_pairs"] == 0


def test_the_weakly_table_averages_blocks_of_three_ratios_over_weakly_pretrained_backbones():
    backbones = [f"{name}_weakly" for name in paper.BACKBONES]
    runs = [r for accuracy, more in ((52, {}), (50, RANDOM)) for r in everywhere(accuracy, backbones=backbones, **more)]
    runs = [r | {"accuracy": r["accuracy"] + r["ratio"]} for r in runs]
    table = paper_tables.weakly(frame(*runs), sources())
    ours = row(table, "dlc-flexrand", dataset="dtd", column="0.4-0.6")
    assert ours["mean"] == pytest.approx(102)  # The value is 52 + 100 times the middle ratio.
    published = paper.read("slides_weak_pretraining", PAPER).set_index(["method", "dataset", "ratio_min"])
    assert ours["published"] == published.loc[("dlc_flexrand", "dtd", 0.4), "accuracy_pct"]
    with pytest.raises(table_parts.NoRuns):
        paper_tables.main(frame(*runs), sources())


def test_the_transfer_table_names_the_scoring_network():
    own = everywhere(60, backbones=["resnet50"])
    scored = everywhere(59, backbones=["resnet50"], scoring_backbone="resnet18")
    random = everywhere(58, backbones=["resnet50"], **RANDOM)
    table = paper_tables.transfer(frame(*own, *scored, *random), sources())
    theirs = row(table, "dlc-flexrand (scored by resnet18)", backbone="resnet50", column="dtd")
    assert (theirs["mean"], theirs["published"], theirs["gain"]) == pytest.approx((59.0, 68.03, 1.0))
    assert row(table, "dlc-flexrand", backbone="resnet50", column="sketch")["published"] == 64.48
    assert row(table, "random", backbone="average", column="average")["published"] == 60.38
    # The two ViTs were not run, so there is no average.
    assert row(table, "random", backbone="average", column="average")["n"] == 0


def test_path_sizes_are_rows_in_order_of_size_with_their_rank_correlation():
    runs = [r for t in (1, 5, 20) for r in everywhere(50 + t, backbones=["resnet18"], tag=f"T{t}")]
    runs += everywhere(50, backbones=["resnet18"], **RANDOM)
    rho = {"dataset": list(paper.DATASETS), "backbone": ["resnet18"] * 5, "first": ["dlc"] * 5}
    rho |= {"second": ["lc_optimisation"] * 5, "tag": ["T5"] * 5, "class_mean": [0.3, 0.4, 0.5, 0.6, 0.7]}
    table = paper_tables.ablation_path(frame(*runs), sources(**rho))
    five = row(table, "dlc-flexrand (T5)", dataset="mean")
    assert (five["mean"], five["published"], five["published_rho"]) == pytest.approx((55.0, 57.31, 0.49))
    assert five["rho_lc_optimisation"] == pytest.approx(0.5)
    assert row(table, "dlc-flexrand (T50)", dataset="mean")["n"] == 0
    assert np.isnan(row(table, "dlc-flexrand (T20)", dataset="mean")["rho_lc_optimisation"])
    assert np.isnan(row(table, "random", dataset="mean")["published"])
    section = table.sections[0]
    sizes = [f"dlc-flexrand (T{size})" for size in (1, 3, 5, 10, 20, 30, 40, 50)]
    assert [line[0] for line in section.grids[0].cells[1:]] == ["random", *sizes]
    assert section.grids[1].cells[3] == ["dlc-flexrand (T5)", "0.50", "0.49", "+0.01"]


def test_the_masking_table_compares_with_the_mean_of_the_published_runs():
    runs = [r for name in ("dlc", "dlc_random") for r in everywhere(57, backbones=["resnet18"], scorer=name)]
    table = paper_tables.ablation_masking(frame(*runs), sources())
    assert row(table, "dlc-flexrand", dataset="mean")["published"] == pytest.approx(57.348, abs=1e-3)
    assert row(table, "dlc_random-flexrand", dataset="mean")["published"] == pytest.approx(56.647, abs=1e-3)


def test_the_better_end_on_test_is_an_oracle_and_has_the_published_number():
    runs = []
    for sampler, low, high in (("topk", 40, 60), ("topk_easiest", 50, 55), ("topk_flexible", 45, 58)):
        runs += [run(low, sampler=sampler, gamma=None), run(high, sampler=sampler, gamma=None, ratio=0.5)]
    table = paper_tables.ablation_sampler(frame(*runs), sources())
    oracle = "dlc-topk_flexible, oracle (chosen on test), not a result"
    # The two values are 50 and 60.
    assert row(table, oracle, dataset="dtd", column="mean")["mean"] == pytest.approx(55.0)
    assert row(table, "dlc-topk_flexible", dataset="dtd", column="mean")["mean"] == pytest.approx(51.5)
    assert row(table, oracle, dataset="mean")["published"] == 54.26
    assert np.isnan(row(table, "dlc-topk_flexible", dataset="mean")["published"])


def test_a_single_gamma_gives_no_oracle():
    runs = [run(50), run(51, tag="g0.25", gamma=0.25, selection_rule="fixed"), run(49, **RANDOM)]
    table = paper_tables.ablation_gamma(frame(*runs), sources())
    assert row(table, ablation_tables.ORACLE, column="0.1")["n"] == 0


def test_the_published_oracle_stands_beside_a_whole_sweep_of_feasible_gammas():
    gammas = [step / 20 for step in range(1, 20)]
    fixed = {"selection_rule": "fixed", "ratio": 0.9}
    runs = [run(50 + 10 * gamma, tag=f"g{gamma:g}", gamma=gamma, **fixed) for gamma in gammas]
    table = paper_tables.ablation_gamma(frame(*runs), sources())
    oracle = row(table, ablation_tables.ORACLE, column="0.9")
    # At ratio 0.9 only .45, .5 and .55 are feasible, although .95 has a higher accuracy.
    assert oracle["chosen_gamma"] == "0.55 of 3"
    sweep = paper.read("gamma_sweep_resnet18", PAPER).query("dataset == 'dtd' and ratio == 0.9 and gamma_is_valid == 1")
    assert oracle["published"] == sweep["accuracy_pct"].max()


def test_selection_time_is_scoring_search_and_sampling_and_decoding_stands_apart():
    slow = {"scorer": "forgetting", "sampler": "topk", "gamma": None, "score_seconds": 30.0, "search_seconds": None}
    zero = {"score_seconds": 0.0, "search_seconds": None}
    runs = [run(52), run(51, **slow), run(50, **RANDOM, **zero)]
    table = paper_tables.time(frame(*runs), sources())
    rows = table.rows[table.rows["section"].str.startswith("dtd, resnet18")].set_index("method")
    assert rows.loc["dlc-flexrand", "selection_seconds"] == 1.5
    assert rows.loc["forgetting-topk", "times_dlc"] == 20.0
    assert rows.loc["forgetting-topk", "times_dlc_decoding"] == pytest.approx(32 / 3.5)
    assert rows.loc["random", "times_dlc"] == 0.0
    published = table.rows[table.rows["section"].str.startswith("mean over")].set_index("method")
    assert published.loc["forgetting-topk", "published_times_dlc"] == pytest.approx(1033 / 29.5)
    assert np.isnan(published.loc["forgetting-topk", "selection_seconds"])  # Not all cells of the mean were run.


def test_v1_rows_are_means_over_nine_ratios_with_v1s_own_recipe():
    recipe = {"finetune": "full_v1", "backbones": ["resnet50"], "datasets": paper.V1_DATASETS}
    ours = everywhere(60, scorer="lc_knn", sampler="easy_diverse", gamma=None, selection_rule=None, **recipe)
    table = paper_tables.v1_depths(frame(*ours, *everywhere(55, **recipe, **RANDOM)), sources())
    average = row(table, "lc_knn-easy_diverse", column="average")
    published = paper.read("v1_table1_depths", PAPER).set_index(["method", "backbone", "dataset"])["accuracy_pct"]
    assert average["published"] == published["lc_v1_easy_diverse", "resnet50", "average"]
    assert average["difference"] == pytest.approx(60 - average["published"])
    assert "Not run of the published backbones: resnet18, resnet101" in table.caption
    with pytest.raises(table_parts.NoRuns):
        paper_tables.v1_paradigms(frame(*ours), sources())


def test_a_ranking_needs_blocks_that_every_method_has():
    topk = {"sampler": "topk", "gamma": None, "scorer": "forgetting"}
    runs = []
    for seed in range(10):
        runs += [run(52 + seed, seed=seed), run(50 + seed, seed=seed, **RANDOM)]
        runs += [run(40, seed=seed, **topk)] if seed else []  # This method was run for nine of ten seeds.
    runs.append(run(99, scorer="el2n", sampler="topk", gamma=None))  # This method was run for one of ten seeds.
    table = paper_tables.ranking(frame(*runs), sources())
    assert table.sections[0].title == "full: 9 blocks of data set, backbone, ratio and seed"
    assert "el2n-topk" in table.sections[0].note
    best = row(table, "dlc-flexrand")
    assert (best["mean_rank"], best["gain"], best["num_blocks"]) == (1.0, pytest.approx(2.0), 9)
    assert row(table, "forgetting-topk")["mean_rank"] == 3.0


def test_a_ranking_leaves_out_backbones_on_which_few_methods_were_run():
    topk = {"sampler": "topk", "gamma": None}
    runs = [run(50 + seed, seed=seed, **RANDOM) for seed in range(4)]
    runs += [run(52 + seed, seed=seed) for seed in range(4)]
    for scorer in ("el2n", "forgetting", "entropy"):
        runs += [run(40 + seed, seed=seed, scorer=scorer, **topk) for seed in range(4)]
    runs += [run(90 - 2 * seed, seed=seed, backbone="vit_base", **RANDOM) for seed in range(4)]
    # This backbone was run with two of five methods.
    runs += [run(70, seed=seed, backbone="vit_base") for seed in range(4)]
    section = paper_tables.ranking(frame(*runs), sources()).sections[0]
    assert section.title.startswith("full: 4 blocks")
    assert section.note.endswith("Left out, with less than half of the methods: dtd with vit_base.")
    assert {found["method"]: found["mean_rank"] for found in section.rows}["dlc-flexrand"] == 1.0


@pytest.mark.parametrize("name", paper_tables.TABLES)
def test_without_runs_one_line_names_the_command(name):
    root = "instruct" if name in paper_tables.TEXT_TABLES else "grid"
    with pytest.raises(table_parts.NoRuns, match=rf"no runs for {name}; run `prunetune {root} sweep="):
        paper_tables.TABLES[name](frame(), sources())


def test_latex_escapes_what_latex_would_read_and_uses_booktabs():
    assert latex.escape("50 % & dlc_random #1") == r"50 \% \& dlc\_random \#1"
    table = paper_tables.main(frame(run(50), run(54, seed=1), run(49, **RANDOM)), sources())
    text = latex.to_latex(table)
    assert r"\toprule" in text
    assert r"dlc-flexrand & $52.0_{2.8}$ & 2 & [26.6, 77.4] & +1.0 & -- \\" in text
    assert r"random & 49.0 & 1 & -- & -- & -- \\" in text  # A single seed has no spread.
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "±" not in body
    assert not [line for line in body.splitlines() if "_" in line.replace(r"\_", "").replace("_{", "")]


def test_latex_sets_spread_and_interval_as_indices():
    grid = layout.Grid("", [["a"], ["1.0 ± 0.5 (n=2)"], ["+1.2 [-0.3, 2.7]"], ["-1.0 [-2.0, 0.1] (n=2)"], ["-0.4"]])
    table = layout.Table("main", "T", "C.", (layout.Section("S", "", (grid,), ()),), "F")
    lines = latex.to_latex(table).splitlines()
    cells_ = ["$1.0_{0.5}^{n=2}$", "$+1.2_{-0.3}^{2.7}$", "$-1.0_{-2.0}^{0.1}$ (n=2)", r"\ensuremath{-}0.4"]
    assert [line for line in lines if line.removesuffix(r" \\") in cells_] == [rf"{cell} \\" for cell in cells_]


def test_the_csv_has_every_number_of_the_table(tmp_path):
    table = paper_tables.main(frame(run(50), run(49, **RANDOM)), sources())
    layout.to_csv(table, tmp_path / "main.csv")
    again = pd.read_csv(tmp_path / "main.csv")
    assert len(again) == len(table.rows)
    cell = again[(again["method"] == "dlc-flexrand") & (again["backbone"] == "resnet18")].iloc[0]
    assert (cell["mean"], cell["gain"], cell["n"]) == (50.0, 1.0, 1)


def test_the_command_names_the_preset_of_a_table_without_runs(tmp_path):
    done = prunetune_here("tables", "--results", str(tmp_path), "--out", str(tmp_path / "tables"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(paper_tables.TABLES)
    assert "no runs for ablation_path; run `prunetune grid sweep=ablation_path`" in lines


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("time", "error: no runs for time; run `prunetune grid sweep=time`"),
        ("mian", "Did you mean 'main'?"),
    ],
)
def test_a_table_that_is_named_must_have_runs(name, told, tmp_path):
    done = prunetune_here("tables", name, "--results", str(tmp_path), "--paper", str(PAPER))
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_the_command_writes_three_files_and_says_what_it_refused(tmp_path, monkeypatch, capsys):
    results = collect.read(GOLDEN / "paper_results.csv")
    monkeypatch.setattr(table_files.collect, "collect", lambda _: (results, []))
    table_files.make(["ablation_gamma"], tmp_path, PAPER, tmp_path / "tables", allow_dirty=False)
    paths = [tmp_path / "tables" / f"ablation_gamma.{kind}" for kind in ("md", "csv", "tex")]
    assert capsys.readouterr().out.splitlines() == [f"wrote {path}" for path in paths]
    text = paths[0].read_text(encoding="utf-8")
    assert text.startswith((GOLDEN / "ablation_gamma.md").read_text(encoding="utf-8"))
    assert "refused 1 run of dtd" in text


@pytest.mark.slow
def test_the_latex_compiles(tmp_path):
    compiler = shutil.which("pdflatex") or shutil.which("tectonic")
    if compiler is None:
        pytest.skip("needs pdflatex or tectonic")
    runs = [*everywhere(52), *everywhere(50, **RANDOM)]
    runs += [r for t in (1, 5) for r in everywhere(51, backbones=["resnet18"], tag=f"T{t}")]
    made = frame(*runs)
    inputs = []
    for name in ("main", "time", "ablation_path", "ranking"):
        (tmp_path / f"{name}.tex").write_text(latex.to_latex(paper_tables.TABLES[name](made, sources())))
        inputs.append(rf"\input{{{name}.tex}}")
    head = rf"\documentclass{{article}}{latex.PACKAGES}\begin{{document}}"
    (tmp_path / "all.tex").write_text("\n".join([head, *inputs, r"\end{document}"]))
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in compiler else []
    done = subprocess.run([compiler, *options, "all.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
