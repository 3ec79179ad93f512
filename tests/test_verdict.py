import pandas as pd
import pytest

from prunetune.report import verdict

BRACKETS = "In brackets: the 95 % t interval of the difference from random, paired by seed."


def part(*rows: tuple) -> pd.DataFrame:
    """Return a setting of a summary from (method, ratio, n, difference, low, high, num_pairs)."""
    columns = ["method", "ratio", "n", "difference", "low", "high", "num_pairs"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(column=table["ratio"].map("{:g}".format))


def random_at(ratio: float, n: int = 3) -> tuple:
    return ("random", ratio, n, None, None, None, 0)


def test_methods_above_below_and_level_are_told_apart_by_the_interval() -> None:
    table = part(
        random_at(0.1, 5),
        ("dlc-topk", 0.1, 5, -37.3, -56.8, -17.8, 5),
        ("herding-topk", 0.1, 5, 3.14, 1.2, 5.04, 5),
        ("dlc-flexrand", 0.1, 5, -0.2, -4.0, 3.6, 5),
    )
    assert verdict.sentences(table) == [
        "At 10 % with 5 seeds: herding-topk is 3.1 points above random [1.2, 5.0]; "
        "dlc-topk is 37.3 points below random [-56.8, -17.8]; dlc-flexrand is not clearly different from random.",
        BRACKETS,
    ]


def test_an_interval_that_ends_at_zero_shows_no_difference() -> None:
    table = part(random_at(0.1), ("a-topk", 0.1, 3, 1.0, 0.0, 2.0, 3), ("b-topk", 0.1, 3, -1.0, -2.0, 0.0, 3))
    said = verdict.sentences(table)[0]
    assert said == "At 10 % with 3 seeds: a-topk and b-topk are not clearly different from random."


def test_several_methods_share_a_phrase_and_long_lists_are_counted() -> None:
    above = [(f"a{place}-topk", 0.1, 3, 9.0 - place, 1.0, 12.0, 3) for place in range(6)]
    level = [(f"l{place}-topk", 0.1, 2, 0.0, -1.0, 1.0, 2) for place in range(7)]
    (sentence, _) = verdict.sentences(part(random_at(0.1), *above, *level))
    assert sentence == (
        "At 10 % with 2 to 3 seeds: above random are a0-topk by 9.0 points [1.0, 12.0], a1-topk by 8.0 points "
        "[1.0, 12.0], a2-topk by 7.0 points [1.0, 12.0] and 3 others; l0-topk, l1-topk, l2-topk, l3-topk, l4-topk, "
        "l5-topk and l6-topk are not clearly different from random."
    )


def test_with_one_seed_there_is_no_verdict() -> None:
    table = part(random_at(0.1, 1), ("dlc-topk", 0.1, 1, -37.3, None, None, 1))
    assert verdict.sentences(table) == ["At 10 %: dlc-topk has one seed, which tells nothing."]
    table = part(
        random_at(0.1),
        ("herding-topk", 0.1, 3, 3.0, 1.0, 5.0, 3),
        ("dlc-topk", 0.1, 3, -37.3, None, None, 1),
        ("el2n-topk", 0.1, 1, None, None, None, 0),
    )
    assert verdict.sentences(table)[0] == (
        "At 10 % with 3 seeds: herding-topk is 3.0 points above random [1.0, 5.0]; "
        "dlc-topk has one seed, which tells nothing; el2n-topk has no seed that random has."
    )


def test_without_random_the_sentence_says_what_to_run_and_without_methods_there_is_none() -> None:
    (sentence,) = verdict.sentences(part(("dlc-topk", 0.1, 3, None, None, None, 0)))
    assert "run random with the same seeds" in sentence
    assert verdict.sentences(part(random_at(0.1), ("random (bf16)", 0.1, 3, None, None, None, 0))) == []
    assert verdict.sentences(part(random_at(0.1), ("whole pool", 1.0, 3, None, None, None, 0))) == []


@pytest.mark.parametrize(
    ("ratios", "shown"),
    [
        ([0.5, 0.3, 0.1], [0.1]),
        ([0.02, 0.05, 0.1, 0.15], [0.02, 0.1]),
        ([0.05, 0.15, 0.9], [0.05, 0.15]),
        ([0.3, 0.5], [0.3]),
        ([0.01, 0.3], [0.01]),
    ],
)
def test_the_smallest_ratio_and_the_one_near_a_tenth_are_shown(ratios: list[float], shown: list[float]) -> None:
    assert verdict.shown_ratios(ratios) == shown


def test_a_method_that_was_not_run_at_a_ratio_is_not_named_there() -> None:
    table = part(
        *(random_at(ratio) for ratio in (0.02, 0.1)),
        ("a-topk", 0.02, 0, None, None, None, 0),
        ("a-topk", 0.1, 3, 2.0, 1.0, 3.0, 3),
        ("b-topk", 0.02, 3, 2.0, 1.0, 3.0, 3),
    )
    assert verdict.sentences(table) == [
        "At 2 % with 3 seeds: b-topk is 2.0 points above random [1.0, 3.0].",
        "At 10 % with 3 seeds: a-topk is 2.0 points above random [1.0, 3.0].",
        BRACKETS,
    ]


def test_a_number_per_class_is_not_mixed_with_the_fraction_that_keeps_as_many() -> None:
    by_fraction = part(random_at(0.1), ("a-topk", 0.1, 3, 2.0, 1.0, 3.0, 3))
    by_count = part(random_at(0.1), ("a-topk", 0.1, 3, -2.0, -3.0, -1.0, 3)).assign(column="4 per class")
    assert verdict.sentences(pd.concat([by_fraction, by_count])) == [
        "At 10 % with 3 seeds: a-topk is 2.0 points above random [1.0, 3.0].",
        "At 4 per class with 3 seeds: a-topk is 2.0 points below random [-3.0, -1.0].",
        BRACKETS,
    ]
