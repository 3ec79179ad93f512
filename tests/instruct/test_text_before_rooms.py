"""A text run and scores of the earlier package layout are found, and the run still counts as finished."""

import shutil
from pathlib import Path

import pytest

from prunetune.base.errors import InputError
from prunetune.instruct import text_run
from prunetune.instruct.model.language_model import TinyLanguageModel
from runs import ROOT, run_text_here

BEFORE = ROOT / "tests" / "golden" / "before_rooms" / "text"
WORDS = ["corpus=embedded", "corpus.limit=48", "llm=tiny", "text_scorer=dlc", "sampler=flexrand", "ratio=0.3"]
WORDS += ["sft=released", "evaluation.tasks_folder=tests/instruct/tasks", "evaluation.tasks=[everyday]"]
WORDS += ["evaluation.num_fewshot=[0]", "device=cpu", "wandb=disabled"]


def run_text(results: Path, *more: str) -> Path:
    """Carry out a text run in this process and return its folder."""
    return run_text_here(results, *WORDS, *more)


@pytest.fixture
def results(tmp_path) -> Path:
    """Return a copy of the old results folder, which a test may write to."""
    return shutil.copytree(BEFORE, tmp_path / "results")


def test_a_run_of_the_earlier_layout_counts_as_finished(results, monkeypatch):
    [old] = results.rglob("result.json")
    monkeypatch.setattr(text_run, "open_task", None)  # Any attempt to open the task would fail, so nothing is computed.
    assert run_text(results) == old.parent
    assert old.read_bytes() == next(BEFORE.rglob("result.json")).read_bytes()


def test_a_changed_run_is_still_refused_in_an_old_folder(results):
    with pytest.raises(InputError, match=r"held_out: 0\.0 there, 0\.1 now"):
        run_text(results, "held_out=0.1")


def test_scores_of_the_earlier_layout_are_found_in_the_store(results, monkeypatch):
    monkeypatch.setattr(TinyLanguageModel, "load", None)  # Stored scores need no network.
    shutil.rmtree(results / "runs")
    pruned = run_text(results, "until=prune")
    old = next(BEFORE.rglob("result.json")).parent
    assert pruned.relative_to(results) == old.relative_to(BEFORE)
    # The column `row` is newer than these results.
    lines = [line.rpartition(",")[0] for line in (pruned / "subset.csv").read_text().splitlines()]
    assert lines == (old / "subset.csv").read_text().splitlines()
    assert len(list((results / "store" / "scores").iterdir())) == 1
