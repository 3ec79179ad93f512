"""Checks of settings: values that pass, and the one-line errors of values that do not."""

import numpy as np
import pytest

from prunetune.base import checks
from prunetune.base.errors import InputError


@pytest.mark.parametrize("value", [0, -3, True, 2.0, "2", None, float("nan"), np.int64(2)])
def test_a_value_that_is_no_whole_number_in_the_range_is_refused(value):
    with pytest.raises(InputError) as caught:
        checks.whole_number("scorer.levels", value, what="the number of networks")
    expected = "scorer.levels is the number of networks and must be a whole number of at least 1"
    assert str(caught.value) == f"{expected}, got {value!r}"


def test_limits_of_whole_numbers():
    checks.whole_number("a", 1)
    checks.whole_number("a", 19, most=19)
    checks.whole_number("a", None, or_none=True)
    checks.whole_number("a", -5, least=None)
    with pytest.raises(InputError, match=r"a must be a whole number in 1\.\.19 or null or auto, got 20"):
        checks.whole_number("a", 20, most=19, or_none=True, otherwise=" or auto")
    with pytest.raises(InputError, match="a must be a whole number, got 0.5"):
        checks.whole_number("a", 0.5, least=None)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1]", (1e-9, 0.5, 1), (0, 1.1)),
        ("[0, 1)", (0, 0.5), (-0.1, 1)),
        ("(0, 1)", (0.5,), (0, 1)),
        ("[0, 1]", (0, 1), (-1, 2)),
        ("(0, inf)", (0.1, 10**9), (0, -1)),
        ("[0, inf)", (0, 3.5), (-1e-9,)),
    ],
)
def test_the_brackets_say_whether_an_interval_includes_its_ends(interval, inside, outside):
    for value in inside:
        checks.number("a", value, interval)
    for value in (*outside, float("inf"), float("nan"), True, "1", None):
        with pytest.raises(InputError, match="a must be "):
            checks.number("a", value, interval)


def test_the_message_names_the_interval_and_describes_one_without_an_upper_end():
    with pytest.raises(InputError, match=r"^sampler\.gamma is a share and must be in \(0, 1\) or auto, got 2$"):
        checks.number("sampler.gamma", 2, "(0, 1)", what="a share", otherwise=" or auto")
    with pytest.raises(InputError, match="^a must be a number above 0 or null, got 0$"):
        checks.number("a", 0, "(0, inf)", or_none=True)
    with pytest.raises(InputError, match="^a must be a number of at least 0, got -1$"):
        checks.number("a", -1, "[0, inf)")


def test_a_word_that_is_not_a_choice_gets_the_closest_as_a_suggestion():
    checks.choice("scorer.variant", "fixed", ("fixed", "deepcore"))
    with pytest.raises(InputError) as caught:
        checks.choice("scorer.variant", "deepcor", ("fixed", "deepcore"))
    assert str(caught.value) == (
        "scorer.variant must be one of fixed, deepcore, got 'deepcor'. Did you mean 'deepcore'?"
    )
    with pytest.raises(InputError, match="^a must be one of x, y or auto, got 7$"):
        checks.choice("a", 7, ("x", "y"), otherwise=" or auto")


@pytest.mark.parametrize(("value", "kind"), [(np.int64(3), int), (np.float32(0.5), float), (2, int), (0.5, float)])
def test_numpy_numbers_become_python_numbers(value, kind):
    assert type(checks.plain(value)) is kind
    assert checks.plain(value) == value


def test_a_value_that_is_no_number_is_returned_unchanged():
    assert checks.plain("many") == "many"
    assert checks.plain(True) is True
