"""The table of baselines grows by runs made elsewhere and later."""

import pandas as pd

import baselines_run
from runs import ROOT


def test_runs_are_added_to_the_committed_ones_and_replace_their_own_kind():
    file = ROOT / "results" / "tables" / "baselines_runs.csv"
    earlier = pd.read_csv(file)
    new = earlier.iloc[:2].assign(run="runs/x", accuracy=0.25)
    new.loc[new.index[1], "scorer"] = "a_new_one"
    both = baselines_run.with_earlier(new, file)
    assert len(both) == len(earlier) + 1
    assert both.loc[both["run"] == "runs/x", "accuracy"].tolist() == [0.25, 0.25]
    assert (both["accuracy"] == 0.25).sum() == 2 + (earlier["accuracy"].iloc[1:] == 0.25).sum()


def test_without_earlier_runs_the_new_ones_stand_alone(tmp_path):
    new = pd.DataFrame({"scorer": ["dlc"]})
    assert baselines_run.with_earlier(new, tmp_path / "baselines_runs.csv") is new


def test_the_committed_runs_give_the_committed_table(tmp_path):
    committed = ROOT / "results" / "tables"
    (tmp_path / "baselines_runs.csv").write_bytes((committed / "baselines_runs.csv").read_bytes())
    baselines_run.write_tables(tmp_path / "no_runs", tmp_path)
    for name in ("baselines.csv", "baselines.md", "baselines_runs.csv"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes()


def test_every_method_is_run_or_named_as_left_out():
    methods, told = baselines_run.methods(), baselines_run.not_run()
    for dataset in ("dtd10", "caltech101"):
        left = set(methods) - set(baselines_run.wanted(methods, dataset, "linear_probe"))
        assert all(f"- {method}: " in told or f"- {method} on {dataset}: " in told for method in left)
    full = baselines_run.wanted(methods, "dtd10", "full")
    assert {"herding_finetuned", "k_center_finetuned", "dlc_finetuned", "grand_released", "el2n"} <= set(full)
    assert {method for method in methods if baselines_run.reads_proxy(method)} - set(full) == {
        method for method in methods if f"- {method}: " in told.split("### Not run with the fully")[1]
    }
    assert "random" not in full
