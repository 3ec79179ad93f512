"""Results and store entries of the earlier package layout are found, and their runs still count as finished.

tests/golden/before_rooms holds one run of each kind and the store entries of its scores, by the code of that time.
"""

import json
import shutil
from pathlib import Path

import pytest

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.config import identity
from prunetune.config.build import build
from prunetune.runs import image_run
from prunetune.runs.scores import stored_scores
from runs import SMALL, parsed_here, read_result, run_here

BEFORE = Path(__file__).parent / "golden" / "before_rooms"
KEPT = ["finetune.last_batch=keep", "proxy.last_batch=keep"]  # Runs of the earlier layout had no other rule.
PROBE = ["scorer=el2n", "proxy=linear_probe"]


@pytest.fixture
def results(tmp_path) -> Path:
    """Return a copy of the old results folder, which a test may write to."""
    return shutil.copytree(BEFORE / "images", tmp_path / "results")


def test_a_run_of_the_earlier_layout_counts_as_finished(results, monkeypatch):
    [old] = results.rglob("result.json")
    # Any attempt to open the task would fail, so nothing is computed.
    monkeypatch.setattr(image_run, "open_task", None)
    assert run_here(results, *SMALL, *KEPT, "ratio=0.3") == old.parent
    assert old.read_bytes() == next((BEFORE / "images").rglob("result.json")).read_bytes()


def test_a_changed_run_is_still_refused_in_an_old_folder(results):
    with pytest.raises(InputError, match=r"finetune\.last_batch: 'keep' there, 'balanced' now"):
        run_here(results, *SMALL, "ratio=0.3")
    with pytest.raises(InputError, match=r"finetune\.epochs: 3 there, 4 now"):
        run_here(results, *SMALL, *KEPT, "ratio=0.3", "finetune.epochs=4")


@pytest.mark.parametrize("words", [[], PROBE], ids=["of masked networks", "of a proxy"])
def test_scores_of_the_earlier_layout_are_found_in_the_store(results, words):
    run = parsed_here(results, *SMALL, *KEPT, *words, "ratio=0.3")
    scores = stored_scores(run.scorer, image_run.open_task(run).scoring, run.seed)
    assert not scores.is_new
    before = BEFORE / "images" / scores.folder.relative_to(results) / "scores.csv"
    assert (scores.folder / "scores.csv").read_bytes() == before.read_bytes()


def test_a_run_of_the_earlier_layout_gives_the_same_subset_today(tmp_path):
    run = run_here(tmp_path, *SMALL, "ratio=0.3")
    old = next((BEFORE / "images").rglob("result.json")).parent
    assert run.relative_to(tmp_path) == old.relative_to(BEFORE / "images")
    assert (run / "subset.csv").read_bytes() == (old / "subset.csv").read_bytes()
    assert read_result(run)["scores_path"] == read_result(old)["scores_path"]


def test_the_data_set_of_an_old_result_can_be_built():
    old = next((BEFORE / "images").rglob("result.json"))
    made_with = json.loads(old.read_text())["config"]["dataset"]
    assert made_with["_target_"] == "prunetune.datasets.Textures"
    assert len(build(made_with).pool("train")) == 100


@pytest.mark.parametrize(("key", "value"), identity.REMOVED.items())
def test_a_removed_option_counts_as_its_remaining_value(key, value):
    group, name = key.split(".")
    before, now = {group: {name: value, "other": 1}}, {group: {"other": 1}}
    assert identity.differences(before, now) == []
    assert identity.differences({group: {name: "else", "other": 1}}, now) == [(key, "else", value)]


def test_the_module_of_a_class_is_not_compared():
    before = {"pipeline": "a.run", "dataset": {"_target_": "a.DTD", "name": "dtd"}}
    now = {"pipeline": "b.run", "dataset": {"_target_": "b.DTD", "name": "dtd"}}
    assert identity.differences(before, now) == []
    now["dataset"]["name"] = "other"
    assert identity.differences(before, now) == [("dataset.name", "dtd", "other")]


def test_the_old_store_entries_are_at_the_place_of_their_keys():
    for key in BEFORE.rglob("key.json"):
        place = Store(key.parents[2]).place("scores", "any", json.loads(key.read_text()))
        assert place == key.parent


def test_a_d2_run_from_before_the_undirected_graph_is_a_run_on_the_directed_one():
    before = {"sampler": {"name": "d2", "neighbours": 5}}
    now = {"sampler": {"name": "d2", "neighbours": 5, "graph": "undirected"}}
    assert identity.differences(before, now) == [("sampler.graph", "directed", "undirected")]
    assert identity.differences(before, {"sampler": {**now["sampler"], "graph": "directed"}}) == []
