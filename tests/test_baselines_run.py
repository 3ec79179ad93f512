"""New runs, also from other machines, are added to the table of baselines."""

import pandas as pd
import pytest

from prunetune.config.methods import METHODS
from prunetune.report import tables
from runs import ROOT
from scripts.reproduce import baselines_run


def test_runs_are_added_to_the_committed_ones_and_replace_their_own_kind():
    file = ROOT / "results" / "tables" / "baselines_runs.csv"
    earlier = pd.read_csv(file)
    new = earlier[earlier["recipe"].notna()].iloc[:2].assign(run="runs/x", accuracy=0.25)
    new.loc[new.index[1], "scorer"] = "a_new_one"
    both = baselines_run.with_earlier(new, file)
    assert len(both) == len(earlier) + 1
    assert both.loc[both["run"] == "runs/x", "accuracy"].tolist() == [0.25, 0.25]
    assert (both["accuracy"] == 0.25).sum() == 2 + (earlier["accuracy"].iloc[1:] == 0.25).sum()


def test_runs_of_the_earlier_recipe_stay_until_their_method_has_newer_ones_but_for_random_and_the_whole_pool(tmp_path):
    scorers = ["random", "deepfool", "herding"]
    named = {"dataset": "dtd10", "backbone": "b", "scoring_backbone": "b", "finetune": "linear_probe", "tag": "default"}
    earlier = pd.DataFrame({**named, "scorer": scorers, "sampler": "topk", "ratio": 0.1, "seed": 0, "recipe": None})
    earlier.to_csv(tmp_path / "runs.csv", index=False)
    new = earlier[earlier["scorer"] != "deepfool"].assign(recipe="0123abcd")
    both = baselines_run.with_earlier(new, tmp_path / "runs.csv")
    older = both["recipe"].isna()
    assert both.loc[older, "scorer"].tolist() == ["deepfool", "random"]
    assert both.loc[~older, "scorer"].tolist() == ["herding", "random"]


def test_without_earlier_runs_the_new_ones_stand_alone(tmp_path):
    new = pd.DataFrame({"scorer": ["dlc"]})
    assert baselines_run.with_earlier(new, tmp_path / "baselines_runs.csv") is new


def test_the_committed_runs_give_the_committed_table(tmp_path):
    committed = ROOT / "results" / "tables"
    (tmp_path / "baselines_runs.csv").write_bytes((committed / "baselines_runs.csv").read_bytes())
    baselines_run.write_tables(tmp_path / "no_runs", tmp_path)
    tables_of = [f"{name}.{ending}" for name in ("baselines", "baselines_older") for ending in ("csv", "md")]
    for name in [*tables_of, "baselines_runs.csv"]:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes()


def test_a_run_that_is_older_than_a_change_of_its_method_is_marked_until_it_is_repeated():
    runs = baselines_run.with_age(pd.read_csv(ROOT / "results" / "tables" / "baselines_runs.csv"))
    marked = runs[runs["older"].notna()]
    assert set(marked["sampler"]) == {"d2"}
    assert {tables.method_name(run)[-1] for run in marked.to_dict("records")} == {"†"}
    assert "- d2: it worked on a directed graph" in baselines_run.older(runs)[0]
    again = baselines_run.with_age(marked.assign(commit="0123abcd"))
    assert "†" not in tables.method_name(again.iloc[0].to_dict())
    assert baselines_run.older(again) == []


def row_of(name: str, proxy: str) -> tuple[str, str, str]:
    """Return the scorer, sampler and tag of a method's runs."""
    method = METHODS[name]
    suffix = "_probe" if proxy == "linear_probe" and baselines_run.reads_proxy(name) else ""
    return method.scorer + suffix, method.sampler, method.settings.get("tag", "default")


@pytest.mark.parametrize(
    ("dataset", "proxy"), [("dtd10", "linear_probe"), ("caltech101", "linear_probe"), ("dtd10", "full")]
)
def test_every_method_has_committed_runs_or_is_named_as_left_out(dataset, proxy):
    wanted = set(baselines_run.wanted(None, proxy))
    runs = pd.read_csv(ROOT / "results" / "tables" / "baselines_runs.csv")
    runs = runs[runs["dataset"] == dataset]
    there = set(zip(runs["scorer"], runs["sampler"], runs["tag"], strict=True))
    not_yet = set(baselines_run.NOT_YET) if proxy == "full" else set()
    assert {method for method in wanted if row_of(method, proxy) not in there} == not_yet
    if proxy == "full":
        assert {"herding_finetuned", "k_center_finetuned", "dlc_finetuned", "grand_released", "el2n"} <= wanted
    else:
        told = baselines_run.not_run()
        assert all(f"- {method}: " in told for method in set(baselines_run.methods()) - wanted)
        assert all(f"- {method}: " in told for method in baselines_run.NOT_YET)


def test_the_slowest_methods_come_last_and_the_full_proxy_serves_those_that_read_it():
    assert baselines_run.wanted(["deepfool", "random"], "linear_probe") == ["random", "deepfool"]
    assert baselines_run.wanted(["deepfool", "random"], "full") == ["deepfool"]
