import math
from types import SimpleNamespace

import pandas as pd
import pytest

from prunetune.base.errors import InputError
from prunetune.report import statistics


def test_an_estimate_is_mean_spread_and_students_interval():
    found = statistics.estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.std, found.n) == (2.0, 1.0, 3)
    half = 4.302653 / math.sqrt(3)  # The factor is the 97.5 % quantile of Student's t with two degrees of freedom.
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_one_value_has_no_spread_and_none_has_no_mean():
    one, none = statistics.estimate([5.0]), statistics.estimate([])
    assert (one.mean, one.n) == (5.0, 1)
    assert all(math.isnan(value) for value in (one.std, one.low, one.high, none.mean, none.std))
    assert none.n == 0


def test_differences_are_paired_by_the_seeds_that_both_have():
    mine = pd.Series([50.0, 60.0, 99.0], index=[0, 1, 7])
    other = pd.Series([55.0, 49.0, 1.0], index=[1, 0, 2])
    found = statistics.paired_difference(mine, other)
    # The differences are 50 - 49 and 60 - 55, whatever the order of the seeds is.
    assert (found.mean, found.n) == (3.0, 2)
    assert found.std == pytest.approx(math.sqrt(8))


def test_mean_ranks_share_ties_and_one_is_best():
    blocks = pd.DataFrame({"a": [3.0, 5.0], "b": [2.0, 5.0], "c": [1.0, 9.0]})
    found = statistics.ranking(blocks)
    assert found.ranks.to_dict() == {"a": 1.75, "b": 2.25, "c": 2.0}  # The ranks are 1, 2, 3 and 2.5, 2.5, 1.
    assert found.num_blocks == 2


def test_friedman_on_four_blocks_in_one_order_is_eight():
    blocks = pd.DataFrame([[3.0, 2.0, 1.0]] * 4, columns=list("abc"))
    found = statistics.ranking(blocks)
    assert found.statistic == pytest.approx(8.0)  # The formula is 12 / (4 * 3 * 4) * (4^2 + 8^2 + 12^2) - 3 * 4 * 4.
    assert found.p_value == pytest.approx(math.exp(-4))  # This is the chi-square tail with two degrees of freedom.


@pytest.mark.parametrize("blocks", [{"a": [1.0, 2.0], "b": [2.0, 1.0]}, {"a": [1.0], "b": [2.0], "c": [3.0]}])
def test_friedman_needs_three_methods_and_two_blocks(blocks):
    assert math.isnan(statistics.ranking(pd.DataFrame(blocks)).p_value)


def test_methods_that_are_equal_everywhere_are_not_tested():
    found = statistics.ranking(pd.DataFrame([[1.0, 1.0, 1.0]] * 3, columns=list("abc")))
    assert set(found.ranks) == {2.0}
    assert math.isnan(found.p_value)


def test_an_incomplete_block_is_refused():
    with pytest.raises(InputError, match="incomplete"):
        statistics.ranking(pd.DataFrame({"a": [1.0, math.nan], "b": [1.0, 2.0]}))


def test_nemenyi_at_its_critical_difference_is_five_percent():
    # In table 5 of Demsar 2006, q of three methods at 0.05 is 2.343, which gives 1.1715 for 8 blocks.
    found = SimpleNamespace(ranks=pd.Series({"a": 1.0, "b": 1.0 + 1.1715, "c": 2.5}), num_blocks=8)
    values = statistics.nemenyi(found)
    assert values.loc["a", "b"] == pytest.approx(0.05, abs=2e-4)
    assert values.loc["b", "a"] == values.loc["a", "b"]
    assert values.loc["a", "a"] == pytest.approx(1.0)


def test_a_bootstrap_is_paired_and_the_same_every_time():
    other = pd.Series([10.0, 90.0, 30.0, 70.0, 50.0, 20.0, 60.0, 40.0])
    mine = other + pd.Series([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])
    found = statistics.bootstrap_difference(mine, other)
    assert found.mean == 1.5
    assert 1.0 <= found.low < 1.5 < found.high <= 2.0  # An unpaired interval would span tens of points.
    assert found == statistics.bootstrap_difference(mine, other)


def test_a_constant_difference_has_an_interval_of_no_width():
    other = pd.Series(range(8), dtype="float64")
    found = statistics.bootstrap_difference(other + 2, other)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_few_blocks_have_no_bootstrap_interval():
    found = statistics.bootstrap_difference(pd.Series([3.0, 5.0]), pd.Series([1.0, 1.0]))
    assert (found.mean, found.n) == (3.0, 2)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
