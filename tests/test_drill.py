"""The drill: a sample of its kills and overrides, its judgement, and what it damages."""

import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runs import ONE_THREAD, ROOT
from scripts.drill import cases, damage, tiny_runs
from scripts.drill.cases import HANG, RIGHT, SKIPPED, TRACEBACK, WRONG, Case, Miss, Place, Skipped, judged
from scripts.drill.processes import Ended
from scripts.drill.suites import SUITES
from scripts.drill.table import Report

LINE = "error: ratio is the fraction kept and must be in (0, 1], got 7.0\n"
LOG = "10:20:30 kept 12 of 120, 1 per class\n"


def ended(code, err="", out=""):
    return Ended(("run", "ratio=7"), code, out, err, 61.0)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Carry out the sample of the drill in a process of its own, and return its table and what it printed."""
    out = tmp_path_factory.mktemp("drill")
    words = [sys.executable, "-m", "scripts.drill", "--sample", "--workers", "1", "--out", str(out)]
    environment = {**ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)
    assert (out / "drill.csv").is_file(), f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    with (out / "drill.csv").open(newline="") as file:
        rows = {
            row.pop("kind of fault"): {key: int(value) for key, value in row.items()} for row in csv.DictReader(file)
        }
    return done, rows


@pytest.mark.parametrize(("kind", "number"), [("kill -9", 6), ("hostile override", 12)])
def test_every_sampled_fault_is_right(sample, kind, number):
    done, rows = sample
    assert rows[kind] == {"tried": number, RIGHT: number, WRONG: 0, TRACEBACK: 0, HANG: 0}, done.stdout


def test_the_exit_code_tells_whether_everything_is_right(sample):
    done, rows = sample
    assert (done.returncode == 0) == (rows["all"][RIGHT] == rows["all"]["tried"]), done.stdout + done.stderr


REFUSALS = {  # Maps how a command ended to the outcome, where one line and exit code 1 are expected.
    "one line": (ended(1, LINE), RIGHT),
    "one line behind log lines": (ended(1, LOG + LINE), RIGHT),
    "accepted": (ended(0, LOG, "run: results/runs"), WRONG),
    "another exit code": (ended(2, LINE), WRONG),
    "two lines": (ended(1, LINE + "and more\n"), WRONG),
    "an endless line": (ended(1, f"error: {'a' * 10000}"), WRONG),
    "no line": (ended(1, LOG), WRONG),
    "killed by a signal": (ended(-11), WRONG),
    "a traceback": (ended(1, "Traceback (most recent call last):\n  File ...\nValueError: x\n"), TRACEBACK),
    "a traceback of logging": (ended(0, "--- Logging error ---\n", "run: x"), TRACEBACK),
    "four lines": (ended(1, LINE * 4), TRACEBACK),
    "a hang": (ended(None), HANG),
}


def outcome_of(check, place=None):
    return judged(Case("kind", "name", lambda place: check()), place).outcome


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_one_line_and_exit_code_1(name):
    how, outcome = REFUSALS[name]
    assert outcome_of(lambda: cases.refused(how)) == outcome


def test_a_finished_command_ends_with_code_0_and_prints_log_lines_only():
    assert outcome_of(lambda: cases.finished(ended(0, LOG, "run: results/runs\n"))) == RIGHT
    assert outcome_of(lambda: cases.finished(ended(0, "UserWarning: look\n"))) == WRONG
    assert outcome_of(lambda: cases.finished(ended(1, LINE))) == WRONG


def test_damage_must_be_named():
    said = ended(0, "10:20:30 store/scores/a-12 is damaged (scores.csv) and is made again\n")
    assert outcome_of(lambda: cases.named(said, "a-12")) == RIGHT
    assert outcome_of(lambda: cases.named(said, "b-34")) == WRONG
    assert outcome_of(lambda: cases.named(ended(0, "10:20:30 the scores were in the store: a-12\n"), "a-12")) == WRONG


def test_a_fault_of_the_drill_itself_is_wrong_and_what_cannot_be_tried_is_skipped():
    def broken():
        raise KeyError("x")

    def needs_root():
        raise Skipped("needs root")

    assert outcome_of(broken) == WRONG
    assert outcome_of(needs_root) == SKIPPED


def finished_run(results, accuracy=0.5, loss="1.25", kept="a"):
    folder = results / "runs" / "one"
    folder.mkdir(parents=True)
    (results / "store").mkdir()
    result = {"accuracy": accuracy, "score_seconds": 1.5, "scores_path": "store/scores.csv"}
    (folder / "result.json").write_text(str(result).replace("'", '"'))
    (folder / "history.csv").write_text(f"epoch,train_loss\n1,{loss}\n")
    (folder / "subset.csv").write_text(kept)
    (results / "store" / "scores.csv").write_text("scores")
    return results


@pytest.mark.parametrize("change", [{"accuracy": 0.6}, {"loss": "1.26"}, {"kept": "b"}])
def test_results_that_differ_are_wrong(tmp_path, change):
    calm, same, other = (
        finished_run(tmp_path / name, **changes) for name, changes in (("calm", {}), ("same", {}), ("other", change))
    )
    tiny_runs.same_results(calm, same, ended(0))
    with pytest.raises(Miss, match="differs from an undisturbed run"):
        tiny_runs.same_results(calm, other, ended(0))
    (same / "store" / "scores.csv").write_text("others")
    with pytest.raises(Miss, match=r"scores\.csv differs"):
        tiny_runs.same_results(calm, same, ended(0))
    with pytest.raises(Miss, match="0 finished runs instead of 1"):
        tiny_runs.same_results(calm, tmp_path / "nowhere", ended(0))


def test_numbers_that_are_not_finite_and_temporary_files_are_wrong(tmp_path):
    with pytest.raises(Miss, match="a loss that is not finite"):
        tiny_runs.sane(finished_run(tmp_path / "one", loss="nan"), ended(0))
    (tmp_path / "two" / ".hydra").mkdir(parents=True)
    tiny_runs.no_leftovers(tmp_path / "two", ended(0))
    (tmp_path / "two" / ".partial-1").mkdir()
    with pytest.raises(Miss, match="temporary files are left"):
        tiny_runs.no_leftovers(tmp_path / "two", ended(0))


def make_products(folder):
    """Write one file of each format that the store has."""
    values = np.random.default_rng(0).normal(size=(30, 50))
    np.save(folder / "features.npy", values.astype(np.float32))
    save_file({"weight": values.astype(np.float32)}, folder / "model.safetensors")
    (folder / "pixels.bin").write_bytes(values.tobytes())
    rows = "".join(f"{row},train/a/{row:04d},0,{value:.17g}\n" for row, value in enumerate(values[:, 0]))
    (folder / "scores.csv").write_text(f"position,sample_id,label,score\n{rows}")
    (folder / "meta.json").write_text('{"seconds": 1.25, "images": 30}\n')


@pytest.mark.parametrize("way", ["one bit flipped", "one page zeroed", "body replaced"])
def test_damage_keeps_header_and_size_and_changes_the_content(tmp_path, way):
    make_products(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path, content in before.items():
        damage.DAMAGES[way](path, path)
        damaged = path.read_bytes()
        assert len(damaged) == len(content)
        assert damaged != content
        header = damage._header(path, content)
        assert damaged[:header] == content[:header]
        if way == "one bit flipped":
            assert sum((a ^ b).bit_count() for a, b in zip(damaged, content, strict=True)) == 1
    assert np.load(tmp_path / "features.npy").shape == (30, 50)
    assert load_file(tmp_path / "model.safetensors")["weight"].shape == (30, 50)
    if way != "one page zeroed":
        names = [line.split(b",")[1] for line in (tmp_path / "scores.csv").read_bytes().splitlines()]
        assert names == [line.split(b",")[1] for line in before[tmp_path / "scores.csv"].splitlines()]


def test_every_kind_of_stored_product_is_drilled():
    call = re.compile(r"""entry\(\s*(?:[\w.]+,\s*)*f?"(\w+)""")
    found = {kind for path in (ROOT / "src").rglob("*.py") for kind in call.findall(path.read_text())}
    assert {"scores", "images", "adapters"} <= found
    # The commands for own data store these two, besides advice. Their own tests damage them.
    assert found - {"unreadable", "text_states"} == {stored.kind for stored in damage.STORED}


def test_every_case_has_a_name_of_its_own_and_enough_are_there():
    every = [case for suite in SUITES for case in suite.cases]
    assert len({case.title for case in every}) == len(every)
    assert sum(case.kind == "kill -9" for case in every) == 60
    assert sum(case.kind.startswith("hostile") for case in every) >= 250


def test_the_table_counts_outcomes_and_shows_how_to_repeat_a_miss(tmp_path):
    place = Place(tmp_path, tmp_path)

    def missing():
        raise Miss(TRACEBACK, "KeyError: 'x'", ["run", "tag='a b'"])

    verdicts = [judged(Case("kill -9", "one", lambda place: None), place)]
    verdicts.append(judged(Case("kill -9", "two", lambda place: missing()), place))
    Report(verdicts, ["kill -9"], "abc", 60.0).write(tmp_path)
    assert (tmp_path / "drill.csv").read_text().splitlines()[1:] == ["kill -9,2,1,0,1,0", "all,2,1,0,1,0"]
    page = (tmp_path / "drill.md").read_text()
    assert "- traceback: kill -9: two: KeyError: 'x'" in page
    assert "python -m scripts.drill --keep WORK --only 'kill -9: two'" in page
    assert """prunetune run 'tag='"'"'a b'"'"''""" in page
