"""Every family of timm against the committed table of what works with it."""

import pandas as pd
import pytest
import timm

from scripts.survey import backbones
from scripts.survey.backbones import COLUMNS, TABLE, TRIED, WORKS


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(TABLE, dtype=str, keep_default_na=False).set_index("family")


def test_the_committed_table_has_a_network_of_every_family_that_works_or_is_refused(committed):
    assert ("family", *committed.columns) == COLUMNS
    assert committed.index.is_unique
    assert len({family.partition("/")[0] for family in committed.index}) >= 90  # Modules of timm.
    failed = committed[committed[TRIED].apply(lambda column: column.str.startswith("failed")).any(axis=1)]
    assert failed.empty, failed
    shares = committed[committed["maskable"] != ""]["maskable"].astype(float)
    assert ((shares >= 0.9) | committed["dlc"].str.startswith("refused")).all()


def test_a_new_family_is_named_and_its_smallest_model_chosen(monkeypatch):
    found = {"resnet/resnet": ["resnet34", "resnet18"], "mine/mine": ["test_resnet", "resnet18"]}
    monkeypatch.setattr(backbones, "families", lambda: found)
    models, new = backbones.chosen({"resnet/resnet": "resnet34"})
    assert models == {"mine/mine": "test_resnet", "resnet/resnet": "resnet34"}
    assert new == ["new family: mine/mine (2 models)"]
    assert backbones.chosen({"resnet/resnet": "gone"})[0]["resnet/resnet"] == "resnet18"


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_family_of_the_installed_timm_does_what_the_table_says(committed, say, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    models, new = backbones.chosen(committed["model"].to_dict())
    for line in new:
        say(line)
    found = backbones.survey(models).set_index("family")
    found.to_csv(tmp_path / "backbones.csv", lineterminator="\n")
    worse = {
        (family, column): found.loc[family, column]
        for family in found.index
        for column in TRIED
        if found.loc[family, column] != WORKS and found.loc[family, column] != committed[column].get(family)
    }
    assert worse == {}, f"timm {timm.__version__}; the whole table is {tmp_path / 'backbones.csv'}"
