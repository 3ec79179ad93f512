from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from prunetune.base.errors import InputError
from prunetune.report import wandb_report
from prunetune.runs import tracking
from wandb_files import isolate, read_run, read_tables, rows

TABLE = pd.DataFrame({"method": ["dlc", "random"], "ours": [61.5, None], "n": [3, 0]})


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("tables", "figures"):
        (tmp_path / "results" / name).mkdir(parents=True)
    TABLE.to_csv(tmp_path / "results" / "tables" / "main.csv", index=False)
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, 1])
    figure.savefig(tmp_path / "results" / "figures" / "gap.png")
    plt.close(figure)
    return tmp_path / "results"


def test_tables_and_figures_are_read_back_from_the_offline_files(results: Path) -> None:
    said = wandb_report.log_report(results, "demo grid", "auto")
    assert said.startswith("logged 1 tables and 1 figures: offline, in ")
    folder = results / "wandb"
    [table] = read_tables(folder, "main")
    assert (table["columns"], table["data"]) == (["method", "ours", "n"], [["dlc", 61.5, 3], ["random", None, 0]])
    [picture] = folder.rglob("files/media/images/figures/gap_*.png")
    assert picture.read_bytes() == (results / "figures" / "gap.png").read_bytes()
    records = read_run(folder)
    [run] = [record["run"] for record in records if record["type"] == "run"]
    assert run["display_name"] == "demo grid"
    assert "tables/main" in repr(rows(records))
    assert "figures/gap" in repr(rows(records))


def test_a_report_without_tables_and_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither tables/\*\.csv nor figures/\*\.png; run `prunetune tables` and"):
        wandb_report.log_report(tmp_path, "report", "offline")


def test_an_empty_table_is_named(results: Path) -> None:
    (results / "tables" / "broken.csv").write_text("")
    with pytest.raises(InputError, match=r"broken\.csv is not a valid table"):
        wandb_report.log_report(results, "report", "offline")


def test_with_wandb_off_nothing_is_sent(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_start", lambda *_: pytest.fail("W&B was started"))
    assert wandb_report.log_report(results, "report", "disabled").endswith("W&B is off, nothing was sent")
