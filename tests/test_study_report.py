"""The report of the study on made rows: what the intervals hold, who wins, and what is said where rows are missing."""

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from made_study import PAIRS, cells, costs
from prunetune.base.errors import InputError
from prunetune.report.statistics import estimate
from scripts.assets.doc_study import is_there, study_page
from scripts.reproduce import study_claims, study_figures, study_report, study_rows, study_tables
from scripts.reproduce import study_statistics as statistics
from scripts.reproduce.study_rows import PRIMARY

EFFECTS = {"herding": 5.0, "k_medoids": 5.0, "dlc_validation": 1.0, "dlc_easiest": -3.0, "el2n": -8.0}
PASSES = {"random": 0.0, "herding": 1.05, "k_medoids": 1.1, "dlc_validation": 5.5, "dlc_easiest": 5.0, "el2n": 1.4}


def study(rows, passes=None, pairs=PAIRS):
    return study_rows.Study(
        study_rows.with_oracle(rows.assign(device="a machine")),
        costs({} if passes is None else passes, pairs) if passes else pd.DataFrame(columns=study_rows.COST_COLUMNS),
    )


@pytest.fixture(scope="module")
def made():
    return study(cells(EFFECTS), PASSES)


def one(frame, **values):
    """Return the only row with these values."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    [row] = frame.to_dict("records")
    return row


def simulated(seed, num_sets):
    """Return differences whose true mean is 0: three networks in each set, ten sub-pools."""
    values = statistics.simulated(np.random.default_rng(seed), num_sets)
    index = pd.MultiIndex.from_product([range(size) for size in values.shape], names=statistics.LEVELS)
    return pd.Series(values.reshape(-1), index)


def test_of_five_sets_the_t_interval_holds_the_effect_and_the_bootstrap_is_too_narrow():
    found = statistics.coverage(200).set_index(["effects", "sets"])
    row = found.loc[("normal", 5)]
    assert 92 <= row["t"] <= 98
    assert row["bootstrap"] < 88
    assert row["bootstrap"] < row["normal_quantile"] < row["t"]
    assert found.loc[("skewed", 5), "t"] < row["t"]


def test_the_bootstrap_of_many_equal_sets_agrees_with_the_normal_interval():
    differences = simulated(1, 200)
    found = statistics.over_sets(differences).estimate
    assert statistics.bootstrap_interval(differences) == pytest.approx((found.low, found.high), abs=0.08)


def test_each_set_counts_once_however_many_networks_and_sub_pools_it_has():
    index = pd.MultiIndex.from_tuples(
        [("one", "a", 0), ("one", "a", 1), ("one", "b", 0), ("two", "a", 0)], names=statistics.LEVELS
    )
    found = statistics.over_sets(pd.Series([1.0, 3.0, 8.0, 11.0], index))
    assert (found.estimate.mean, found.estimate.n, found.num_pairs) == (8.0, 2, 3)  # (2 + 8) / 2 = 5, and 11.
    assert (found.fewest_sub_pools, found.most_sub_pools) == (1, 2)


def test_the_mixed_model_of_a_balanced_study_is_the_t_interval():
    differences = simulated(2, 5)
    fitted, found = statistics.mixed_model(differences), statistics.over_sets(differences).estimate
    assert (fitted.mean, fitted.low, fitted.high) == pytest.approx((found.mean, found.low, found.high), abs=0.01)
    assert statistics.mixed_model(differences.loc[[0]]) is None


def test_holm_by_hand():
    found = statistics.holm(pd.Series({"a": 0.01, "b": 0.04, "c": np.nan, "d": 0.03}))
    assert found.drop("c").to_dict() == pytest.approx({"a": 0.03, "d": 0.06, "b": 0.06})
    assert np.isnan(found["c"])


def test_holm_is_that_of_statsmodels():
    p_values = pd.Series(np.random.default_rng(0).uniform(0, 0.2, 30), range(100, 130))
    assert statistics.holm(p_values).to_numpy() == pytest.approx(multipletests(p_values, method="holm")[1])


def test_the_simultaneous_interval_is_the_plain_one_for_a_single_comparison_and_leaves_zero_out_as_bonferroni_does():
    found = estimate([1.0, 2.0, 3.0, 2.5, 1.5])
    assert statistics.simultaneous(found, 1) == pytest.approx((found.low, found.high))
    p_value = statistics.t_test(found)
    number = int(0.05 / p_value)
    assert statistics.simultaneous(found, number)[0] > 0 > statistics.simultaneous(found, number + 1)[0]


def test_the_interval_of_a_cell_for_another_pool_holds_the_mean_of_all_pools():
    """Sub-pools of 80 % of a pool share images: as if they were separate, their interval would be far too narrow."""
    generator, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        pool = generator.standard_normal(100)
        means = pd.Series([generator.permutation(pool)[:80].mean() for _ in range(10)])
        for place, share in enumerate((None, 0.8)):
            found = statistics.cell_interval(means, share)
            held[place] += found.low <= 0 <= found.high
    plain, wider = held / 400
    assert plain < 0.5
    assert 0.92 <= wider <= 0.98


def test_known_effects_are_found_in_every_table(made):
    found = study_tables.differences(made, ("random", "herding"))
    row = one(found, budget="0.02 to 0.2", method="herding", reference="random")
    assert row["difference"] == pytest.approx(5, abs=0.2)
    assert row["low"] < 5 < row["high"]
    assert row["simultaneous_low"] < row["low"] < row["high"] < row["simultaneous_high"]
    assert row["bootstrap_low"] > row["low"]
    assert (row["sets"], row["pairs"], row["sub_pools"], row["commits"]) == (4, 5, "4", "abc1234")
    assert row["p"] < row["p_holm"] < 0.01
    other = one(found, budget="0.1", method="el2n", reference="herding")
    assert other["difference"] == pytest.approx(-13, abs=0.4)
    cell = one(study_tables.summary(made), set="two", budget="0.5", method="dlc_easiest")
    assert (cell["n"], cell["kept"], cell["images_per_class"]) == (4, 200, 20)
    assert cell["pool_low"] < cell["low"] < -3 < cell["high"] < cell["pool_high"]


def test_wins_ties_and_losses(made):
    found = study_tables.wins(made)
    counts = ("cells", "wins", "ties", "losses")
    row = one(found, budget="all", method="herding", reference="random")
    assert [row[name] for name in counts] == [30, 30, 0, 0]
    row = one(found, budget="0.02 to 0.2", method="el2n", reference="dlc_validation")
    assert [row[name] for name in counts] == [20, 0, 0, 20]
    row = one(found, budget="all", method="k_medoids", reference="herding")
    assert row["ties"] > 20
    assert row["wins"] + row["ties"] + row["losses"] == 30
    assert row["pool_ties"] >= row["ties"]


def test_the_default_is_the_best_cheap_method_and_a_small_lead_is_no_difference(made):
    found = study_tables.best(made)
    row = one(found, rows="budget", scope="0.02 to 0.2", among="cheap")
    assert {row["best"], row["next"]} == {"herding", "k_medoids"}
    assert row["verdict"] == "no difference"
    assert row["above_random"] == "yes"
    assert row["candidates"] == 3
    without = study(cells({**EFFECTS, "k_medoids": 3.0}, budgets=PRIMARY), PASSES)
    row = one(study_tables.best(without), rows="budget", scope="0.02 to 0.2", among="cheap")
    assert (row["best"], row["next"], row["verdict"]) == ("herding", "k_medoids", "best")
    assert row["not_different"] == ""


def test_where_nothing_is_better_the_best_is_random():
    found = study_tables.best(study(cells({"herding": -4.0, "el2n": -8.0}, budgets=["0.1"]), PASSES))
    row = one(found, rows="budget", scope="0.1", among="cheap")
    assert (row["best"], row["gain"], row["above_random"]) == ("random", 0, "no")


def test_a_method_that_costs_more_is_no_candidate_of_the_default():
    found = study_tables.best(study(cells({"herding": 2.0, "dlc_validation": 6.0}, budgets=["0.1"]), PASSES))
    assert one(found, rows="budget", scope="0.1", among="cheap")["best"] == "herding"
    assert one(found, rows="budget", scope="0.1", among="all")["best"] == "dlc_validation"


def test_a_method_that_lacks_a_hard_set_is_no_candidate():
    rows = cells({"herding": 2.0, "k_medoids": 6.0, "typiclust": 1.0}, budgets=["0.1"])
    rows = rows[~((rows["method"] == "k_medoids") & (rows["set"] == "three"))]
    row = one(study_tables.best(study(rows)), rows="budget", scope="0.1", among="all")
    assert (row["best"], row["left_out"]) == ("herding", "k_medoids")
    # A pair on which nearly nothing was run does not stop the others.
    rows = cells({"herding": 2.0, "k_medoids": 6.0, "typiclust": 1.0}, budgets=["0.1"])
    rows = rows[~(rows["method"].isin(["k_medoids", "typiclust"]) & (rows["set"] == "three"))]
    row = one(study_tables.best(study(rows)), rows="budget", scope="0.1", among="all")
    assert (row["best"], row["sets"]) == ("k_medoids", 3)


def test_images_per_class_join_cells_of_several_budgets(made):
    judged = made.judged("linear_probe")
    found = judged.of_per_class("2 to 4")  # 0.05 of 400 images in ten classes are 2 a class, 0.1 are 4.
    assert set(found.index.unique("budget")) == {"0.05", "0.1"}
    assert set(judged.of_per_class("1").index.unique("budget")) == {"1_per_class", "0.02"}


def test_the_oracle_is_the_gamma_with_the_best_mean_test_accuracy():
    rows = cells({"dlc_0.25": 1.0, "dlc_0.5": 4.0}, PAIRS[:3], ["0.1", "0.5"], noise=0.1)
    swap = rows["budget"] == "0.5"
    rows.loc[swap, "method"] = rows.loc[swap, "method"].replace({"dlc_0.25": "dlc_0.5", "dlc_0.5": "dlc_0.25"})
    summary = study_tables.summary(study(rows))
    oracle = summary[summary["method"] == "dlc_oracle"].set_index(["set", "backbone", "budget"])
    assert set(oracle["gamma"]) == {0.25, 0.5}
    assert set(oracle.loc[oracle["gamma"] == 0.25].index.unique("budget")) == {"0.5"}
    assert oracle["difference"].to_numpy() == pytest.approx(4.0, abs=0.3)
    # It is never a candidate, and its p-value counts in no correction.
    assert "dlc_oracle" not in set(study_tables.best(study(rows))["best"])
    found = study_tables.differences(study(rows), ("random",))
    assert np.isnan(one(found, budget="0.1", method="dlc_oracle")["p_holm"])
    single = one(found, budget="0.02 to 0.2", method="dlc_0.25")
    assert single["p_holm"] == single["p"]  # No other method counts.


def test_a_gamma_with_fewer_sub_pools_is_not_compared():
    rows = cells({"dlc_0.25": 1.0, "dlc_0.5": 4.0}, PAIRS[:1], ["0.1"])
    rows = rows[~((rows["method"] == "dlc_0.5") & (rows["sub_pool"] > 0))]
    oracle = study_rows.with_oracle(rows).query("method == 'dlc_oracle'")
    assert oracle["gamma"].tolist() == [0.25] * 4


def test_claims_follow_the_effects(made):
    found = study_claims.claims(made)
    found = found[found["judge"] != ""]
    verdicts = {(row.method, row.reference): row.verdict for row in found.itertuples()}
    assert verdicts["dlc_validation", "herding"] == "does not hold"
    assert verdicts["herding", "random"] == "holds"
    assert verdicts["dlc_validation", "random"] == "holds"
    assert verdicts["dlc_validation", "dlc_easiest"] == "holds"
    assert verdicts["dlc_validation", "k_medoids"] == "does not hold"


def test_the_declared_comparisons_are_not_corrected_and_the_others_are(made):
    found = study_claims.claims(made)
    declared = found[found["group"] == "declared"]
    assert (declared["p"] == declared["p_corrected"]).all()
    baselines = found[found["group"] == "baselines"]
    assert len(baselines) == 2
    assert baselines["p_corrected"].min() == pytest.approx(2 * baselines["p"].min())


def test_a_cost_is_a_claim_in_passes(made):
    found = study_claims.claims(made)
    row = one(found, group="cost", reference="herding")
    assert (row["difference"], row["verdict"]) == (pytest.approx(-4.45), "does not hold")


def test_one_set_tells_nothing_and_two_give_no_verdict():
    assert study_claims.verdict(5.0, 0.001, 2) == "cannot be told here"
    rows = cells({"herding": 5.0, "dlc_validation": 1.0}, PAIRS[:2])
    found = study_claims.claims(study(rows))
    assert set(found["verdict"]) == {"cannot be told here"}
    row = one(study_tables.differences(study(rows), ("random",)), budget="0.1", method="herding")
    assert row["difference"] == pytest.approx(5, abs=0.5)
    assert np.isnan(row["low"])


def test_what_was_not_run_is_named():
    rows = cells(EFFECTS)
    rows = rows[~((rows["set"] == "two") & rows["method"].isin(["el2n"]))]
    rows = rows[~((rows["set"] == "three") & (rows["budget"] == "0.5") & (rows["method"] == "herding"))]
    rows = rows[~((rows["set"] == "four") & (rows["sub_pool"] > 2))]
    other = cells({"herding": 5.0}, PAIRS[:4], ["0.1"], "logistic_regression")
    tuned = {method: 5.0 for method in study_rows.FULL_METHODS if method != "random"}
    whole = cells(tuned, [("dtd10", "vit_tiny")], ["0.05"], "full", num_parts=5)
    found = study_rows.missing(study(pd.concat([rows, other, whole])))
    said = {(row.judge, row.set): row.lacking for row in found.itertuples()}
    assert said == {
        ("linear_probe", "two"): "the methods el2n",
        ("linear_probe", "three"): "herding at 0.5",
        ("linear_probe", "four"): "1 of 4 sub-pools",
        ("logistic_regression", "four"): "all of it",
        ("full", "dtd10"): "dlc_validation at 0.1; facility_location at 0.1; herding at 0.1; random at 0.1",
        ("full", "cifar10mini"): "all of it",
    }
    row = one(found, set="two")
    assert (row["trainings"], row["expected"]) == (6 * 5 * 4, 6 * 6 * 4)


def test_a_pair_without_one_of_the_primary_budgets_does_not_count_for_them():
    rows = cells({"herding": 5.0, "typiclust": 1.0})
    lacks = (rows["method"] == "herding") & (rows["set"] == "two") & (rows["budget"] == "0.05")
    found = study_rows.paired(study(rows[~lacks]).judged("linear_probe").of_budgets(study_rows.PRIMARY), "random")
    assert set(found["herding"].dropna().index.unique("set")) == {"one", "three", "four"}
    assert set(found["typiclust"].dropna().index.unique("set")) == {"one", "two", "three", "four"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="kept"), "lacks kept; make it again"),
        (lambda rows: rows.assign(accuracy=50.0), "line 2: expected an accuracy in"),
        (lambda rows: rows.assign(budget="5 %"), "a budget of 1_per_class or a fraction in"),
        (lambda rows: pd.concat([rows, rows.tail(1)]), "this one is there twice; got judge=linear_probe, set=one"),
        (lambda rows: rows.head(0), "has no rows"),
        (lambda rows: rows[rows["method"] != "random"], "has no rows of the method random"),
    ],
)
def test_rows_that_are_not_those_of_the_study_are_refused(tmp_path, change, message):
    change(cells({"herding": 1.0}, PAIRS[:1], ["0.1"])).to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace("[", r"\[")):
        study_rows.read(tmp_path)
    with pytest.raises(InputError, match="does not exist; run python -m scripts.reproduce.study"):
        study_rows.read(tmp_path / "nowhere")


def test_labels_are_moved_apart_and_stay_in_order():
    assert study_figures.apart([0.0, 5.0], 1) == [0.0, 5.0]
    moved = study_figures.apart([0.0, 0.1, 0.2, 5.0, 5.1], 1)
    assert moved == pytest.approx([-0.9, 0.1, 1.1, 4.55, 5.55])


def test_tables_figures_and_page_of_few_rows(tmp_path, monkeypatch):
    """Two sets and three methods are run. Everything is written, the page has their numbers and names what is not."""
    rows = cells(
        {"herding": 5.0, "dlc_validation": 1.0, "dlc_0.25": 1.5, "dlc_0.5": 0.5},
        PAIRS[:3],
        ["0.05", "0.1", "0.5"],
        noise=0.2,
    )
    rows = rows[~((rows["set"] == "two") & (rows["budget"] == "0.5"))]
    tuned = cells({"herding": 7.0}, PAIRS[2:3], ["0.05"], "full", noise=0.0)
    pd.concat([rows, tuned]).to_csv(tmp_path / "cells.csv", index=False)
    costs(PASSES, PAIRS[:3]).to_csv(tmp_path / "costs.csv", index=False)
    assert not is_there(tmp_path)
    monkeypatch.setitem(study_report.TABLES, "coverage", lambda study: statistics.coverage(20))
    tables = study_report.write_tables(tmp_path)
    assert is_there(tmp_path)
    matplotlib.use("agg")
    for path in study_figures.write(tmp_path, tables):
        height, width = matplotlib.image.imread(path).shape[:2]
        assert width == 1600
        assert height > 400
    text = study_page(tmp_path)
    row = one(tables["best"], judge="linear_probe", rows="budget", scope="0.02 to 0.2", among="cheap")
    assert f"**Short answer: take herding.** With 2 to 20 % kept it is {row['gain']:+.1f} [" in text
    assert "over 2 sets" in text
    num_parts = rows["sub_pool"].nunique()
    assert (
        f"**Status:** 3 of 10 declared pairs, each with {num_parts} of the 10 declared sub-pools (linear probe). "
        "There is no " in text
    )
    assert "DLC + FlexRand costs less than herding | +4.5 " in text
    assert " passes | **" in text
    assert "the methods " not in text.partition("**Not run**")[2]
    assert "- linear probe, two, ViT-Tiny: " in text
    assert "Commits: `abc1234`. Device: not recorded." in text
    assert "nan" not in text.replace("no answer", "")
    assert "| gamma 0.5 |" in text
    row = one(tables["summary"], judge="linear_probe", set="two", budget="0.05", method="herding")
    probed = f"{row['difference']:+.1f} [{row['low']:.1f}, {row['high']:.1f}] |"
    assert re.search(rf"\| two \| 5 % \| 20 \| herding \| [\d.]+ \| \+7\.0 \[7\.0, 7\.0\] \| {re.escape(probed)}", text)
    assert re.search(r"\| two \| 5 % \| 20 \| random images \| [\d.]+ \| - \| - \|", text)
    assert "- full fine-tuning, CIFAR-10 (a part), ViT-Tiny: all of it" in text


def test_a_study_of_one_training_or_of_another_judge_has_a_page_without_intervals_or_figures(tmp_path, monkeypatch):
    monkeypatch.setitem(study_report.TABLES, "coverage", lambda study: statistics.coverage(5))
    for judge, budget in (("linear_probe", "0.7"), ("logistic_regression", "0.1")):
        rows = cells({"herding": 5.0, "own_method": 2.0}, PAIRS[:1], [budget], judge, num_parts=1)
        rows.to_csv(tmp_path / "cells.csv", index=False)
        tables = study_report.write_tables(tmp_path)
        paths, text = study_figures.write(tmp_path, tables), study_page(tmp_path)
        assert [f"assets/{path.name}" in text for path in paths] == [True] * len(paths)
        assert ("assets/" in text) == bool(paths) == (judge == "linear_probe")
        assert "No answer yet" in text
        assert "own_method" in text
