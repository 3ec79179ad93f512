"""The table of agreement with other code refuses a difference without a given cause."""

import csv
import sys

import numpy as np
import pytest
import torch

from prunetune.base.errors import InputError
from runs import ROOT
from scripts.parity import peers
from scripts.parity.agreement import TIES, Ranking, Remarks, compare, read_rows, write_rows, write_summary
from scripts.parity.checkouts import find_checkout, load_file, other_code

THEIRS, OURS = torch.tensor([0, 1, 4]), torch.tensor([0, 2, 4])
LABELS = torch.tensor([0, 0, 0, 1, 1])


def test_a_difference_with_a_note_but_without_a_cause_is_refused(tmp_path):
    rows = [
        compare("same", True, 0.5, OURS, OURS, Remarks(note="n", cause="c")),
        compare("other", True, 0.5, THEIRS, OURS, Remarks("n")),
    ]
    assert write_rows(tmp_path / "table.csv", rows).endswith("differ without a cause: other at 0.5")
    assert read_rows(tmp_path / "table.csv") == rows
    with (tmp_path / "table.csv").open() as file:
        same, other = csv.DictReader(file)
    assert (same["jaccard"], same["cause"], same["note"]) == ("1.0", "", "n")
    assert (other["jaccard"], other["cause"], other["note"]) == ("0.5", "", "n")
    assert write_rows(tmp_path / "table.csv", [compare("other", True, 0.5, THEIRS, OURS, Remarks(cause="c"))]) == ""


@pytest.mark.parametrize(("second", "cause"), [(2.0, TIES), (1.0, "")])
def test_differences_by_ties_are_recognised(second, cause):
    scores = torch.tensor([3.0, second, 2.0, 0.0, 1.0])
    assert compare("any", True, 0.5, THEIRS, OURS, ranking=Ranking(scores, LABELS)).cause == cause


def test_every_method_is_one_line_of_the_summary(tmp_path):
    ranking = Ranking(torch.tensor([3.0, 2.0, 2.0, 0.0, 1.0]), LABELS)
    rows = [
        compare("same", True, 0.3, OURS, OURS, Remarks("n")),
        compare("same", True, 0.5, OURS, OURS),
        compare("tied", True, 0.5, THEIRS, OURS, ranking=ranking),
        compare("other", True, 0.3, OURS, OURS, Remarks(cause="c")),
        compare("other", True, 0.5, THEIRS, OURS, Remarks(cause="c")),
    ]
    write_rows(tmp_path / "mine.csv", rows)
    write_summary(tmp_path, {"mine": "a/b@1", "never_run": "c/d@2"})
    with (tmp_path / "methods.csv").open() as file:
        lines = [(line["method"], line["verdict"], line["compared"], line["cause"]) for line in csv.DictReader(file)]
    assert lines == [("same", "identical", "2", ""), ("tied", "up to ties", "1", TIES), ("other", "differs", "2", "c")]


def test_a_checkout_has_one_of_three_names(tmp_path):
    for place in ("one", "me+two", "me/three"):
        (tmp_path / place).mkdir(parents=True)
    found = [find_checkout(tmp_path, f"me/{name}") for name in ("one", "two", "three", "four")]
    assert found == [tmp_path / "one", tmp_path / "me+two", tmp_path / "me" / "three", None]


def test_peers_that_are_missing_are_named_and_lose_no_lines(tmp_path, capsys, monkeypatch):
    write_rows(tmp_path / "out" / "d2.csv", [compare("d2", True, 0.5, OURS, OURS)])
    (tmp_path / "peers").mkdir()
    monkeypatch.setattr("sys.argv", ["peers", "--peers", str(tmp_path / "peers"), "--out", str(tmp_path / "out")])
    peers.main()
    said = capsys.readouterr().out
    assert all(f"{peer.name}: {peer.places[0]}" in said for peer in peers.PEERS)
    assert "d2,adymaharana/d2pruning@bf1ea46,d2,identical" in (tmp_path / "out" / "methods.csv").read_text()
    monkeypatch.setattr("sys.argv", ["peers", "--peers", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="is no folder"):
        peers.main()


def test_other_code_gets_stand_ins_and_leaves_nothing_behind(tmp_path, capsys):
    (tmp_path / "theirs.py").write_text("import numpy, faiss\nnumpy.seterr(all='raise')\nprint(faiss)\nvalue = faiss")
    with other_code():
        assert load_file("_parity_test", tmp_path / "theirs.py", faiss="stand-in").value == "stand-in"
    assert capsys.readouterr().out == ""
    assert np.geterr()["divide"] == "warn"
    assert "faiss" not in sys.modules
    with pytest.raises(InputError, match="check out the commit|expected the checkout"):
        load_file("_parity_test", tmp_path / "none.py")


def test_the_committed_summary_is_that_of_the_committed_tables(tmp_path):
    committed = ROOT / "results" / "parity"
    for file in committed.glob("*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_summary(tmp_path, {peer.name: " and ".join(peer.repositories) for peer in peers.PEERS})
    assert (tmp_path / "methods.csv").read_bytes() == (committed / "methods.csv").read_bytes()
    named = {"methods", "text_scores", *(peer.name for peer in peers.PEERS)}
    assert {file.stem for file in committed.glob("*.csv")} == named
