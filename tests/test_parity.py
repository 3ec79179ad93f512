"""The table of agreement with other code refuses a difference without a given cause."""

import csv

import pytest
import torch

from scripts.parity.agreement import TIES, Ranking, Remarks, compare, write_rows

THEIRS, OURS = torch.tensor([0, 1, 4]), torch.tensor([0, 2, 4])
LABELS = torch.tensor([0, 0, 0, 1, 1])


def test_a_difference_with_a_note_but_without_a_cause_is_refused(tmp_path):
    rows = [
        compare("same", True, 0.5, OURS, OURS, Remarks(note="n", cause="c")),
        compare("other", True, 0.5, THEIRS, OURS, Remarks("n")),
    ]
    with pytest.raises(SystemExit, match=r"differ without a cause: other at 0\.5"):
        write_rows(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open() as file:
        same, other = csv.DictReader(file)
    assert (same["jaccard"], same["cause"], same["note"]) == ("1.0", "", "n")
    assert (other["jaccard"], other["cause"], other["note"]) == ("0.5", "", "n")
    write_rows(tmp_path / "table.csv", [compare("other", True, 0.5, THEIRS, OURS, Remarks(cause="c"))])


@pytest.mark.parametrize(("second", "cause"), [(2.0, TIES), (1.0, "")])
def test_differences_by_ties_are_recognised(second, cause):
    scores = torch.tensor([3.0, second, 2.0, 0.0, 1.0])
    assert compare("any", True, 0.5, THEIRS, OURS, ranking=Ranking(scores, LABELS)).cause == cause
