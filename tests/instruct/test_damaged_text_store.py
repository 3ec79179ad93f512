"""Every kind of stored product of text with changed bytes is named, moved aside, and made again with equal numbers."""

import logging
import shutil

import pytest

import damage
from runs import ROOT, lasting, read_result, run_text_here

RUN = [
    *("corpus=embedded", "wandb=disabled", "device=cpu", "llm=tiny", "llm.layers=1", "llm.width=32", "ratio=0.5"),
    *("text_scorer=s2l", "text_scorer.clusters=5", "trajectory.checkpoints=2", "held_out=0.1", "sft=released"),
    *(
        "sft.batch_size=8",
        "sft.warmup_steps=1",
        "evaluation.tasks=[everyday]",
        "evaluation.limit=2",
        "evaluation.num_fewshot=[0]",
    ),
    f"evaluation.tasks_folder={ROOT / 'tests' / 'instruct' / 'tasks'}",
]
KINDS = ("scores", "trajectories", "adapters", "answers", "held_out")


def run(results, limit=40):
    return run_text_here(results, *RUN, f"corpus.limit={limit}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the results folder of a finished run, and its run folder."""
    results = tmp_path_factory.mktemp("finished")
    return results, run(results)


def largest(entry):
    """Return the largest file of an entry's product; the product of some entries is their meta.json alone."""
    files = [file for file in entry.iterdir() if file.name not in ("key.json", "meta.json")]
    return max(files, key=lambda file: file.stat().st_size) if files else entry / "meta.json"


def check(results, finished, caplog):
    """Repeat the run in a store whose entries are all damaged, and compare it with the undamaged one."""
    before, folder = finished
    entries = [entry for kind in KINDS for entry in damage.entries(results / "store", kind)]
    assert len(entries) == len(KINDS)
    shutil.rmtree(results / "runs")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = run(results)
    assert lasting(read_result(again)) == lasting(read_result(folder))
    for name in ("subset.csv", "history.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    for entry in entries:
        assert caplog.text.count(f"{entry} is damaged (") == 1
        assert entry.is_dir()
    assert len(list((results / "store" / "damaged").iterdir())) == len(entries)


@pytest.mark.parametrize(
    "way",
    [
        damage.flip_a_bit,
        pytest.param(damage.zero_a_page, marks=pytest.mark.slow),
        pytest.param(damage.replace_the_body, marks=pytest.mark.slow),
    ],
)
def test_changed_bytes_of_every_entry_are_found(finished, tmp_path, caplog, way):
    results = shutil.copytree(finished[0], tmp_path / "results")
    for kind in KINDS:
        [entry] = damage.entries(results / "store", kind)
        damage.damage(largest(entry), way)
    check(results, finished, caplog)


def test_exchanged_entries_are_found(finished, tmp_path, caplog):
    results = shutil.copytree(finished[0], tmp_path / "results")
    run(tmp_path / "other", limit=32)
    for kind in KINDS:
        [entry], [other] = (damage.entries(folder / "store", kind) for folder in (results, tmp_path / "other"))
        damage.exchange(entry, other)
    check(results, finished, caplog)
