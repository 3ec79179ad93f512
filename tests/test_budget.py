import re

from budget import over_budget
from runs import ROOT

pytest_plugins = ["pytester"]


def test_a_run_within_its_budget_says_nothing():
    assert over_budget(540, 9) is None
    assert over_budget(1, 9) is None


def test_a_run_over_its_budget_says_by_how_much_and_what_to_do():
    line = over_budget(588, 9)
    assert line.startswith("OVER BUDGET: the tests took 9.8 minutes, the budget is 9; make one of the slowest")
    assert "\n" not in line


def test_make_test_has_a_budget_of_nine_minutes_and_lists_its_slowest():
    recipe = re.search(r"^test: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    assert "--budget 9" in recipe
    assert "--durations=20" in recipe


def test_the_line_ends_the_output_of_a_run_and_is_no_failure(pytester):
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile("import pytest\n\ndef test_nothing():\n    pytest.skip('no reason')\n")
    done = pytester.runpytest("--budget", "0.00001", "-rs", "--durations=1")
    assert done.ret == 0
    assert done.outlines[-2].startswith("OVER BUDGET")
    assert done.outlines[-1].strip("= ").startswith("1 skipped")
