"""Class budgets that are equal or follow the recall of held-out images, and that recall."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.runs import sampler_search
from prunetune.samplers import FlexRand, FlexRandReleased, RandomSampler, TopK, class_budgets
from prunetune.samplers.budgets import drop_shares, equal_budgets
from prunetune.signals.class_recall import RECIPE, held_out_recall, split
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import made_signals


def labels_of(*sizes: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def ramp(size: int) -> torch.Tensor:
    return torch.arange(size, dtype=torch.float64)


class Judged(TensorSignals):
    """Signals with a given recall."""

    def __init__(self, recall: list[float], size: int) -> None:
        super().__init__(torch.zeros(size, 2), None, None)
        self._recall = torch.tensor(recall, dtype=torch.float64)

    def class_recall(self) -> torch.Tensor:
        return self._recall


@pytest.mark.parametrize(
    ("sizes", "ratio", "expected"),
    [
        ((10, 20, 30), 0.1, [2, 2, 2]),
        ((10, 20, 50), 0.1, [3, 3, 2]),  # The total is 1 + 2 + 5 = 8, and the lower classes get the two extra images.
        # The total is 1 + 10 + 25 = 36, and the first class passes its unused budget on.
        ((2, 20, 50), 0.5, [2, 17, 17]),
        ((50, 2, 20), 0.5, [17, 2, 17]),
        ((4, 4, 100), 0.9, [4, 4, 90]),
        ((1, 1, 1), 0.1, [1, 1, 1]),
    ],
)
def test_equal_budgets_by_hand(sizes, ratio, expected):
    assert list(class_budgets(labels_of(*sizes), ratio, budgets="equal").values()) == expected


@pytest.mark.parametrize(
    ("sizes", "ratio", "recall", "expected"),
    [
        ((100, 100), 0.1, [0.9, 0.7], [5, 15]),  # The total of 20 is divided in the ratio .1 : .3.
        ((100, 300), 0.1, [0.7, 0.9], [20, 20]),  # The densities are .2 and .0667, and 100 * .3 = 300 * .1.
        ((100, 100), 0.5, [0.9, 0.1], [10, 90]),
        # The second class cannot hold its budget of 162, so the first class gets the rest.
        ((100, 100), 0.9, [0.9, 0.1], [80, 100]),
        # The budgets 24, 0 and 96 change, since the largest class pays for the minimum of one.
        ((50, 50, 100), 0.6, [0.5, 1.0, 0.0], [24, 1, 95]),
        ((50, 50), 0.2, [1.0, 1.0], [10, 10]),  # Both recalls are 1, so the budget is divided by class size.
        ((10, 30), 0.5, [1.0, 1.0], [5, 15]),
        # The remaining 36 - 10 = 26 are divided in the ratio 10 : 20, by class size.
        ((10, 10, 20), 0.9, [0.0, 1.0, 1.0], [10, 9, 17]),
    ],
)
def test_drop_budgets_by_hand(sizes, ratio, recall, expected):
    recall = torch.tensor(recall, dtype=torch.float64)
    assert list(class_budgets(labels_of(*sizes), ratio, budgets="drop", recall=recall).values()) == expected


def handed_on_step_by_step(sizes: dict[int, int], total: int, recall: torch.Tensor) -> dict[int, float]:
    """The published loop. It shares the excess among the classes. What they cannot hold is the next excess."""
    density, open_classes, excess = dict.fromkeys(sizes, 0.0), set(sizes), float(total)
    for _ in range(10_000):
        normaliser = sum(sizes[c] * (1 - float(recall[c])) for c in open_classes) / excess
        excess = 0.0
        for c in sorted(open_classes):
            density[c] += (1 - float(recall[c])) / normaliser
            if density[c] >= 1:
                excess += sizes[c] * (density[c] - 1)
                density[c] = 1.0
                open_classes = open_classes - {c}
        if excess < 1e-9 or not open_classes:
            break
    return {c: density[c] * size for c, size in sizes.items()}


@given(
    classes=st.lists(st.tuples(st.integers(1, 90), st.floats(0, 0.95)), min_size=1, max_size=6),
    ratio=st.floats(0.05, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_drop_shares_are_those_of_the_published_loop(classes, ratio):
    sizes, recall = {c: size for c, (size, _) in enumerate(classes)}, torch.tensor([r for _, r in classes]).double()
    total = max(1, round(sum(sizes.values()) * ratio))
    shares = drop_shares(sizes, total, recall)
    assert shares == pytest.approx(handed_on_step_by_step(sizes, total, recall), abs=1e-6)


@given(
    classes=st.lists(st.tuples(st.integers(1, 90), st.floats(0, 1)), min_size=1, max_size=6),
    ratio=st.floats(0.01, 1),
    least=st.integers(0, 3),
    rounding=st.sampled_from(["half_even", "largest_remainder"]),
)
@settings(max_examples=80, deadline=None)
def test_every_rule_keeps_as_many_images_as_proportional_budgets(classes, ratio, least, rounding):
    labels, recall = labels_of(*(size for size, _ in classes)), torch.tensor([r for _, r in classes]).double()
    total = sum(class_budgets(labels, ratio, least, rounding).values())
    for rule in ("equal", "drop"):
        budgets = class_budgets(labels, ratio, least, rounding, rule, recall)
        assert sum(budgets.values()) == total
        assert all(min(size, least) <= budgets[c] <= size for c, (size, _) in enumerate(classes))
    equal = class_budgets(labels, ratio, least, rounding, "equal")
    open_budgets = [equal[c] for c, (size, _) in enumerate(classes) if equal[c] < size]
    assert not open_budgets or max(equal.values()) - min(open_budgets) <= 1


def test_budgets_keep_the_classes_in_their_order():
    recall = torch.tensor([0.9, 0.1, 0.5])
    for rule in ("equal", "drop"):
        assert list(class_budgets(labels_of(9, 9, 2), 0.9, budgets=rule, recall=recall)) == [0, 1, 2]
    assert equal_budgets({0: 9, 3: 2, 7: 9}, 12) == {0: 5, 3: 2, 7: 5}


def test_recall_must_be_given_for_every_class_and_be_a_fraction():
    for recall in (None, torch.tensor([0.5]), torch.tensor([0.5, 1.2]), torch.tensor([0.5, float("nan")])):
        with pytest.raises(InputError, match=r"need 2 numbers in \[0, 1\]"):
            class_budgets(labels_of(3, 4), 0.5, budgets="drop", recall=recall)


def test_samplers_ask_the_signals_for_the_recall():
    kept = TopK(budgets="drop").select(ramp(200), labels_of(100, 100), 0.1, stream(), Judged([0.9, 0.7], 200))
    assert kept.tolist() == [*range(95, 100), *range(185, 200)]
    with pytest.raises(InputError, match="budgets=drop reads the recall of held-out images; pass signals"):
        TopK(budgets="drop").select(ramp(9), labels_of(4, 5), 0.5, stream())


def test_a_class_whose_budget_is_not_proportional_is_split_by_its_own_ratio():
    labels = labels_of(20, 60)  # The total is 2 + 6 = 8 images. Equal budgets are 4 each, at ratios .2 and .0667.
    kept = FlexRand(gamma=0.25, budgets="equal").select(ramp(80), labels, 0.1, stream("draw"))
    easy = [int((kept < 5).sum()), int(((kept >= 20) & (kept < 35)).sum())]
    assert easy == [2, 2]
    assert len(kept) == 8


@pytest.mark.parametrize("options", [{"budgets": "balanced"}, {"budgets": None}])
def test_an_unknown_rule_is_refused(options):
    with pytest.raises(InputError, match="one of proportional, equal, drop"):
        RandomSampler(**options)


def test_the_released_rounding_has_no_class_budgets():
    with pytest.raises(InputError, match="pass sampler=flexrand"):
        FlexRandReleased(budgets="equal")


def test_a_fifth_of_each_class_is_held_out_and_never_all_of_it():
    labels = labels_of(10, 1, 2, 3, 0, 25)
    kept, held_out = split(labels, stream("split"))
    assert torch.cat([kept, held_out]).sort().values.tolist() == list(range(41))
    assert torch.bincount(labels[held_out], minlength=6).tolist() == [2, 0, 1, 1, 0, 5]
    assert kept.tolist() == sorted(kept.tolist())


def test_the_recall_of_a_large_pool_is_estimated_on_a_part_of_it(monkeypatch):
    monkeypatch.setattr("prunetune.signals.class_recall.MOST_IMAGES", 20)
    labels = labels_of(100, 3, 97)
    kept, held_out = split(labels, stream("split"))
    assert torch.bincount(torch.cat([labels[kept], labels[held_out]])).tolist() == [10, 2, 10]
    assert torch.bincount(labels[held_out]).tolist() == [2, 1, 2]


def test_recall_is_lower_for_classes_that_are_confused():
    generator, labels = stream("recall"), labels_of(41, 30, 30, 1)
    # The second and the third centre are equal.
    centres = torch.tensor([[20.0, 0.0], [0.0, 20.0], [0.0, 20.0], [-20.0, -20.0]])
    features = centres[labels] + torch.randn(len(labels), 2, generator=generator)
    found = held_out_recall(features, labels, 5)
    assert found.dtype == torch.float64
    assert found[0] == 1
    assert 0 < found[1:3].mean() < 0.8
    # Classes with one or no image are never judged, so they get the mean of the others.
    assert found[3] == pytest.approx(float(found[:3].mean()))
    assert found[4] == found[3]
    assert torch.equal(found, held_out_recall(features, labels, 5))


def test_a_pool_of_single_images_has_no_recall():
    assert held_out_recall(torch.randn(3, 2, generator=stream()), torch.arange(3), 3).tolist() == [0, 0, 0]


def test_recall_uses_the_probes_that_evaluate_samplers():
    # Here the stored features are the only view, and the last batch is kept, as in all earlier runs.
    assert replace(RECIPE, views=50, last_batch="balanced") == sampler_search.RECIPE


def test_signals_tell_the_recall_of_their_features():
    signals = made_signals(labels_of(12, 9, 6))
    expected = held_out_recall(signals.features(), signals.pool.labels, 3)
    assert torch.equal(signals.class_recall(), expected)
