"""How much is kept: what each way to write it means, and how many each class keeps."""

import numpy as np
import pytest
import torch

from prunetune import prune
from prunetune.base.errors import InputError
from prunetune.own.keep import Keep, understood


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.2, Keep(fraction=0.2)),
        ("0.2", Keep(fraction=0.2)),
        ("20%", Keep(fraction=0.2)),
        ("20 %", Keep(fraction=0.2)),
        ("0.5%", Keep(fraction=0.005)),
        ("1e-1", Keep(fraction=0.1)),
        (1.0, Keep(fraction=1.0)),
        ("1.0", Keep(fraction=1.0)),
        ("100%", Keep(fraction=1.0)),
        (1, Keep(count=1)),
        ("1", Keep(count=1)),
        (500, Keep(count=500)),
        (np.int64(7), Keep(count=7)),
        (np.float32(0.5), Keep(fraction=0.5)),
    ],
)
def test_a_percent_sign_or_a_point_makes_a_fraction_and_a_whole_number_a_count(value, expected):
    assert understood(value) == expected


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, 1.5, 2.0, "0%", "101%", "-3", "0,2", "some", "", True, None, []])
def test_what_is_no_amount_is_refused_by_name(value):
    with pytest.raises(InputError, match="--keep"):
        understood(value, words=("--keep", "--ratio", "--per-class"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match="keep must be a fraction such as"):
        understood(value)


def test_ratio_is_a_fraction_and_per_class_a_count():
    assert understood(None, ratio=0.3) == Keep(fraction=0.3)
    assert understood(None, ratio=1) == Keep(fraction=1.0)
    assert understood(None, per_class="5") == Keep(per_class=5)
    for wrong in ({"ratio": 5}, {"ratio": 0}, {"per_class": 0}, {"per_class": 0.5}, {"per_class": "half"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            understood(None, **wrong)


@pytest.mark.parametrize("given", [{"ratio": 0.1}, {"per_class": 3}])
def test_two_amounts_are_refused(given):
    with pytest.raises(InputError, match="exactly one of keep, ratio, per_class"):
        understood(0.2, **given)


def test_a_fraction_meets_the_total_that_it_promises():
    labels = torch.arange(5).repeat_interleave(12)  # 12 images a class: each rounds down to 2, which would be 16.7 %.
    assert Keep(fraction=0.2).budgets(labels) == {0: 3, 1: 3, 2: 2, 3: 2, 4: 2}
    assert sum(Keep(fraction=0.2).budgets(labels, "half_even").values()) == 10


def test_a_count_is_met_exactly_also_below_the_number_of_classes():
    labels = torch.tensor([0] * 50 + [1] * 30 + [3] * 20)
    assert Keep(count=10).budgets(labels) == {0: 5, 1: 3, 3: 2}
    assert Keep(count=3).budgets(labels) == {0: 1, 1: 1, 3: 1}
    assert sum(Keep(count=2).budgets(labels).values()) == 2
    assert Keep(count=100).budgets(labels) == {0: 50, 1: 30, 3: 20}
    with pytest.raises(InputError, match="there are 100 candidates, so that 101 cannot be kept"):
        Keep(count=101).budgets(labels)


def test_a_number_per_class_keeps_a_smaller_class_whole():
    assert Keep(per_class=4).budgets(torch.tensor([0] * 9 + [1] * 2)) == {0: 4, 1: 2}


def test_what_was_understood_can_be_read():
    assert str(understood("20%")) == "keep 20 % of each class"
    assert str(understood(50)).startswith("keep 50 in all")
    assert str(understood(None, per_class=3)) == "keep 3 of each class"


@pytest.mark.parametrize("scorer", ["herding", "maxherding", "facility_location"])
@pytest.mark.parametrize("keep", [0.1, 13])
def test_of_large_classes_only_what_is_kept_is_ordered(monkeypatch, caplog, scorer, keep):
    features = torch.randn(150, 8, generator=torch.Generator().manual_seed(0))
    labels = ["a"] * 90 + ["b"] * 60
    whole = prune(embeddings=features, labels=labels, keep=keep, scorer=scorer)
    monkeypatch.setattr("prunetune.own.choose.LARGE_CLASS", 50)
    caplog.set_level("INFO", "prunetune")
    part = prune(embeddings=features, labels=labels, keep=keep, scorer=scorer)
    assert "the largest class has 90 samples" in caplog.text
    assert part.positions.tolist() == whole.positions.tolist()
    assert (whole.scores > 0).all()
    assert len(part) <= int((part.scores > 0).sum()) <= len(part) + 2
    picked = part.scores > 0
    assert torch.equal(part.scores[picked], whole.scores[picked])


@pytest.mark.parametrize("options", [{"sampler": "topk_easiest"}, {"per_class": 5, "keep": None}, {"keep": 1.0}])
def test_whole_large_classes_are_ordered_where_more_than_the_first_picks_can_be_kept(monkeypatch, options):
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("prunetune.own.choose.LARGE_CLASS", 20)
    assert (prune(embeddings=features, labels=["a"] * 60, **{"keep": 0.1, **options}).scores > 0).all()
