"""Class budgets, FlexRand and its companions: the tables of docs/method_notes.md, Class budgets and FlexRand."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.config.named import SAMPLERS
from prunetune.data.pool import Pool
from prunetune.samplers import (
    FlexRand,
    FlexRandReleased,
    RandomSampler,
    TopK,
    TopKEasiest,
    TopKFlexible,
    class_budgets,
)
from prunetune.samplers.flexrand import released_shares, shares
from prunetune.signals.contract import Signals
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import check_sampler, made_signals

RATIOS = [i / 10 for i in range(1, 10)]
MISSES_BUDGETS = {
    "flexrand_released",  # As published, each share is rounded on its own, so the number may be off by one.
    "nucs",  # This sampler has class budgets of its own.
    "infobatch",  # This sampler and rs2 keep the whole pool and choose images during training.
    "rs2",
}
QUICK = {"activeft": {"steps": 2}}  # These settings do not change the contract.

# The columns are n, ratio, gamma, B, (n_e, n_h), (b_e, b_h), and (b_e, b_h) of the released code.
FLEXRAND_TABLE = [
    (20, 0.1, 0.25, 2, (5, 15), (1, 1), (1, 1)),
    (20, 0.1, 0.7, 2, (14, 6), (1, 1), (1, 1)),
    (20, 0.5, 0.25, 10, (5, 15), (5, 5), (5, 5)),
    (20, 0.5, 0.7, 10, (14, 6), (5, 5), (5, 5)),
    (53, 0.1, 0.25, 5, (13, 40), (3, 2), (3, 3)),
    (53, 0.1, 0.7, 5, (37, 16), (2, 3), (3, 3)),
    (53, 0.5, 0.25, 26, (13, 40), (13, 13), (13, 13)),
    (53, 0.5, 0.7, 26, (37, 16), (13, 13), (13, 13)),
    (7, 0.1, 0.25, 1, (2, 5), (0, 1), (0, 0)),
    (7, 0.1, 0.7, 1, (5, 2), (1, 0), (0, 0)),
    (7, 0.5, 0.25, 4, (2, 5), (2, 2), (2, 2)),
    (7, 0.5, 0.7, 4, (5, 2), (2, 2), (2, 2)),
    (29, 0.05, 0.25, 1, (7, 22), (1, 0), (1, 1)),
    (29, 0.05, 0.7, 1, (20, 9), (0, 1), (1, 1)),
    (12, 0.1, 0.25, 1, (3, 9), (1, 0), (1, 1)),
    (12, 0.1, 0.7, 1, (8, 4), (0, 1), (1, 1)),
]


def one_class(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.int64)


def labels_of(*sizes: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def ramp(size: int) -> torch.Tensor:
    """Return scores that increase with the position, so that the first n_e positions are the easy ones."""
    return torch.arange(size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("sizes", "ratio", "rounding", "expected"),
    [
        ((7, 20, 53), 0.1, "half_even", [1, 2, 5]),
        ((7, 20, 53), 0.1, "largest_remainder", [1, 2, 5]),
        ((25, 25, 25), 0.1, "half_even", [2, 2, 2]),
        ((25, 25, 25), 0.1, "largest_remainder", [3, 3, 2]),
        ((15, 15, 15, 15), 0.1, "half_even", [2, 2, 2, 2]),
        ((15, 15, 15, 15), 0.1, "largest_remainder", [2, 2, 1, 1]),
        ((45,), 0.7, "half_even", [31]),  # The product is 31.499999999999996 in floating point.
        ((45,), 0.7, "largest_remainder", [31]),
        ((100, 3, 2), 0.1, "half_even", [10, 1, 1]),
        ((3, 50, 4, 40, 2), 0.02, "half_even", [1, 1, 1, 1, 1]),
        # The total budget M grows to the number of classes C.
        ((3, 50, 4, 40, 2), 0.02, "largest_remainder", [1, 1, 1, 1, 1]),
        ((100, 3, 2), 0.1, "largest_remainder", [8, 1, 1]),  # M is 10, and the largest budget pays for both minima.
        ((60, 60, 3, 2), 0.1, "largest_remainder", [5, 5, 1, 1]),  # M is 12, and tied classes pay in their order.
        ((60, 60, 3), 0.1, "largest_remainder", [5, 6, 1]),
        ((9, 6), 1, "half_even", [9, 6]),
        ((9, 6), 1, "largest_remainder", [9, 6]),
    ],
)
def test_class_budgets_by_hand(sizes, ratio, rounding, expected):
    assert list(class_budgets(labels_of(*sizes), ratio, 1, rounding).values()) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (400, [40, 80, 120, 160, 200, 240, 280, 320, 360]),  # This class size is that of cxrb10.
        (800, [80, 160, 240, 320, 400, 480, 560, 640, 720]),  # This class size is that of deepweeds.
        (80, [8, 16, 24, 32, 40, 48, 56, 64, 72]),  # This class size is that of dtd.
        (66, [7, 13, 20, 26, 33, 40, 46, 53, 59]),  # This is the size of 33 classes of fgvcaircraft.
        (67, [7, 13, 20, 27, 34, 40, 47, 54, 60]),  # This is the size of 67 classes of fgvcaircraft.
        (64, [6, 13, 19, 26, 32, 38, 45, 51, 58]),  # This class size is that of sketch.
    ],
)
def test_the_five_sets_have_the_published_class_budgets(size, expected):
    assert [class_budgets(one_class(size), ratio)[0] for ratio in RATIOS] == expected


@pytest.mark.parametrize("rounding", ["half_even", "largest_remainder"])
def test_without_a_minimum_a_small_class_vanishes(rounding):
    assert class_budgets(labels_of(100, 3), 0.1, 0, rounding) == {0: 10, 1: 0}
    kept = TopK(min_per_class=0, rounding=rounding).select(ramp(103), labels_of(100, 3), 0.1, stream())
    assert kept.tolist() == list(range(90, 100))


def test_a_minimum_above_the_class_size_keeps_the_whole_class():
    assert class_budgets(labels_of(30, 2), 0.1, 5) == {0: 5, 1: 2}


def test_budgets_are_for_the_classes_that_occur():
    assert class_budgets(torch.tensor([3, 3, 0, 3]), 0.5) == {0: 1, 3: 2}


@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6), ratio=st.floats(0.01, 1), least=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_largest_remainders_meet_the_total_of_the_pool(sizes, ratio, least):
    budgets = class_budgets(labels_of(*sizes), ratio, least, "largest_remainder")
    minima = [min(size, least) for size in sizes]
    assert sum(budgets.values()) == max(round(sum(sizes) * ratio), sum(minima))
    assert all(low <= budgets[label] <= size for label, (low, size) in enumerate(zip(minima, sizes, strict=True)))


@pytest.mark.parametrize(("size", "ratio", "gamma", "budget", "parts", "expected", "released"), FLEXRAND_TABLE)
def test_flexrand_takes_the_shares_of_the_table(size, ratio, gamma, budget, parts, expected, released):
    assert class_budgets(one_class(size), ratio) == {0: budget}
    assert shares(size, budget, ratio, gamma) == expected
    assert released_shares(size, ratio, gamma) == released
    kept = FlexRand(gamma=gamma).select(ramp(size), one_class(size), ratio, stream("draw"))
    assert (int((kept < parts[0]).sum()), int((kept >= parts[0]).sum())) == expected
    split = round(gamma * 20)
    kept = FlexRandReleased(twentieths=split).select(ramp(size), one_class(size), ratio, stream("draw"))
    assert (int((kept < parts[0]).sum()), int((kept >= parts[0]).sum())) == released


@pytest.mark.parametrize(("size", "ratio", "gamma", "budget", "parts", "expected", "released"), FLEXRAND_TABLE)
def test_images_of_one_part_are_kept_equally_often(size, ratio, gamma, budget, parts, expected, released):
    num_draws, generator, sampler = 400, stream("rates", size, ratio, gamma), FlexRand(gamma=gamma)
    counts = torch.zeros(size)
    for _ in range(num_draws):
        counts[sampler.select(ramp(size), one_class(size), ratio, generator)] += 1
    rates = counts / num_draws
    for part, members, share in (
        (rates[: parts[0]], parts[0], expected[0]),
        (rates[parts[0] :], parts[1], expected[1]),
    ):
        inclusion = share / members
        deviation = (inclusion * (1 - inclusion) / num_draws) ** 0.5
        assert part.mean().item() == pytest.approx(inclusion, abs=1e-6)
        assert (part - inclusion).abs().max() <= 4.5 * deviation + 1e-6


@pytest.mark.parametrize(("gamma", "easy", "expected"), [(0.05, 1, (1, 17)), (0.25, 5, (5, 13)), (0.95, 19, (17, 1))])
def test_an_infeasible_gamma_keeps_the_small_part_whole(gamma, easy, expected):
    kept = FlexRand(gamma=gamma).select(ramp(20), one_class(20), 0.9, stream("draw"))
    assert (int((kept < easy).sum()), int((kept >= easy).sum())) == expected


@pytest.mark.parametrize(("gamma", "moved_to"), [(0.05, 0.45), (0.45, 0.45), (0.5, 0.5), (0.95, 0.55)])
def test_clip_gamma_moves_gamma_to_the_nearest_end_of_the_valid_range(gamma, moved_to):
    clipped = FlexRand(gamma=gamma, on_infeasible="clip_gamma").select(ramp(40), one_class(40), 0.9, stream("draw"))
    moved = FlexRand(gamma=moved_to).select(ramp(40), one_class(40), 0.9, stream("draw"))
    assert clipped.tolist() == moved.tolist()


def test_an_infeasible_gamma_is_an_error_on_request_and_the_ends_of_the_range_are_not():
    with pytest.raises(InputError, match=r"must be in \[0\.45, 0\.55\] at ratio 0\.9, got 0\.25.*clip_share"):
        FlexRand(gamma=0.25, on_infeasible="error").select(ramp(20), one_class(20), 0.9, stream())
    for ratio in RATIOS:
        for gamma in (ratio / 2, 1 - ratio / 2, round(ratio / 2, 2), round(1 - ratio / 2, 2)):
            FlexRand(gamma=gamma, on_infeasible="error").select(ramp(20), one_class(20), ratio, stream())


def test_images_that_exceed_the_second_part_move_to_the_first():
    assert shares(3, 3, 0.9, 0.5) == (2, 1)  # The easy share is 1, and only one of the two other images is hard.
    assert shares(3, 3, 0.9, 0.51) == (2, 1)


def test_at_a_gamma_of_one_half_the_easy_share_is_the_one_that_is_rounded():
    assert shares(10, 3, 0.3, 0.5) == (2, 1)  # The easy share of 1.5 is rounded to 2, and the hard part gets the rest.
    assert shares(10, 3, 0.3, 0.51) == (1, 2)  # If gamma is above one half, the hard share is rounded instead.


def test_ties_at_the_border_of_the_easy_part_go_to_the_smaller_position():
    scores = torch.zeros(20, dtype=torch.float64)
    kept = FlexRand(gamma=0.25).select(scores, one_class(20), 0.5, stream("draw"))
    assert [position for position in kept.tolist() if position < 5] == [0, 1, 2, 3, 4]


def test_the_released_rounding_misses_36_percent_of_the_budgets_by_one():
    cells = [
        sum(released_shares(size, ratio, 0.05 * split)) - round(size * ratio)
        for size in range(1, 101)
        for ratio in RATIOS
        for split in range(1, 20)
    ]
    assert {abs(cell) for cell in cells} == {0, 1}
    assert sum(cell != 0 for cell in cells) / len(cells) == pytest.approx(0.36, abs=0.005)


@pytest.mark.parametrize(("size", "missed"), [(80, 0), (400, 0), (800, 0), (64, 64), (66, 75), (67, 79)])
def test_the_released_rounding_by_class_size(size, missed):
    cells = [
        sum(released_shares(size, ratio, 0.05 * split)) != round(size * ratio)
        for ratio in RATIOS
        for split in range(1, 20)
    ]
    assert sum(cells) == missed


def test_the_released_gamma_is_a_float_product_which_moves_the_border_for_thirty_images():
    moved = [split for split in range(1, 20) if round(30 * (0.05 * split)) != round(30 * (split / 20))]
    assert moved == [3, 7, 19]
    generator = stream("draw")
    # The easy part is kept whole: round(4.500000000000001) is 5 images, while 30 * 3 / 20 would give 4.
    for _ in range(60):
        kept = FlexRandReleased(twentieths=3).select(ramp(30), one_class(30), 0.9, generator)
        assert kept[:5].tolist() == [0, 1, 2, 3, 4]


def test_a_class_can_vanish_under_the_released_rounding():
    kept = FlexRandReleased().select(ramp(27), labels_of(20, 7), 0.1, stream("draw"))
    assert int((kept >= 20).sum()) == 0
    assert len(kept) == 2


def test_topk_keeps_the_highest_scores_of_each_class_and_ties_go_to_the_smaller_position():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    scores = torch.tensor([2, 9, 2, 8, 2, 8, 1, 8], dtype=torch.float64)
    assert TopK().select(scores, labels, 0.5, stream()).tolist() == [0, 1, 2, 3]
    assert TopKEasiest().select(scores, labels, 0.5, stream()).tolist() == [0, 3, 5, 6]


def test_topk_flexible_keeps_the_end_that_is_asked_for():
    scores, labels = torch.rand(40, dtype=torch.float64, generator=stream("scores")), labels_of(10, 25, 5)
    for end, same in (("hardest", TopK()), ("easiest", TopKEasiest())):
        kept = TopKFlexible(end=end).select(scores, labels, 0.3, stream())
        assert kept.tolist() == same.select(scores, labels, 0.3, stream()).tolist()


def test_the_random_sampler_reads_no_score_and_keeps_all_images_equally_often():
    labels, counts, generator = labels_of(4, 12), torch.zeros(16), stream("rates")
    for _ in range(600):
        counts[RandomSampler().select(ramp(16), labels, 0.25, generator)] += 1
    assert (counts / 600 - 0.25).abs().max() < 4.5 * (0.25 * 0.75 / 600) ** 0.5
    one, other = (RandomSampler().select(s, labels, 0.25, stream("draw")) for s in (ramp(16), -ramp(16)))
    assert one.tolist() == other.tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_the_contract(name):
    sampler = dataclasses.replace(SAMPLERS[name], **QUICK.get(name, {}))
    check_sampler(sampler, keeps_budgets=name not in MISSES_BUDGETS)


def test_the_contract_notices_a_sampler_that_breaks_it():
    class Repeats(TopK):
        def select(self, scores, labels, ratio, generator, signals=None):
            return super().select(scores, labels, ratio, generator).repeat(2)

    with pytest.raises(AssertionError, match="unique"):
        check_sampler(Repeats())
    with pytest.raises(AssertionError, match="budgets"):
        check_sampler(FlexRandReleased())


class Judged(TensorSignals):
    """Signals of a pool whose recall is known: .9, .8, ..."""

    def class_recall(self):
        return 0.9 - torch.arange(len(self.pool.classes), dtype=torch.float64) / 10


def listed_pool(sizes: list[int], order: list[int]) -> tuple[Pool, torch.Tensor, Signals]:
    """Return a pool listed in some order, with scores (many ties) and signals that belong to the images."""
    labels = labels_of(*sizes)
    made, ids = made_signals(labels), [f"image{i:03d}" for i in range(len(labels))]
    names = tuple(map(str, range(len(sizes))))
    pool = Pool("made", labels[order], tuple(ids[i] for i in order), ("train",) * len(ids), names)
    rows = torch.tensor([ids.index(sample_id) for sample_id in pool.sample_ids])
    proxy = made.proxy().take(rows)
    return pool, (rows * 37 % 11).double() / 7, Judged(made.features()[rows], None, pool, [proxy])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    ratio=st.floats(0.01, 0.999),
    name=st.sampled_from(sorted(set(SAMPLERS) - MISSES_BUDGETS)),
    gamma=st.integers(1, 19),
    rounding=st.sampled_from(["half_even", "largest_remainder"]),
    budgets=st.sampled_from(["proportional", "equal", "drop"]),
    least=st.integers(0, 2),
    shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_every_subset_meets_its_budgets_whatever_the_listing_order(
    sizes, ratio, name, gamma, rounding, budgets, least, shuffle
):
    options = {"gamma": gamma / 20} if name == "flexrand" else QUICK.get(name, {})
    sampler = dataclasses.replace(SAMPLERS[name], rounding=rounding, budgets=budgets, min_per_class=least, **options)
    chosen, everyone = [], list(range(sum(sizes)))
    for order in (everyone, shuffle.sample(everyone, len(everyone))):
        pool, scores, signals = listed_pool(sizes, order)
        expected = class_budgets(pool.labels, ratio, least, rounding, budgets, signals.class_recall())
        if not any(expected.values()):
            continue
        kept = sampler.select(scores, pool.labels, ratio, stream("draw"), signals)
        assert kept.dtype == torch.int64
        assert torch.equal(kept, kept.unique())
        assert {c: int((pool.labels[kept] == c).sum()) for c in expected} == expected
        chosen.append({pool.sample_ids[i] for i in kept.tolist()})
    assert chosen[:1] == chosen[1:]


@pytest.mark.parametrize("name", sorted(name for name, made in SAMPLERS.items() if made.needs != "nothing"))
def test_a_sampler_that_reads_signals_is_refused_without_them(name):
    with pytest.raises(InputError, match=rf"reads {SAMPLERS[name].needs} beside the scores; pass signals"):
        SAMPLERS[name].select(ramp(9), labels_of(4, 5), 0.5, stream())


def test_signals_of_other_images_are_refused():
    with pytest.raises(InputError, match="same images, got 9 and 8"):
        SAMPLERS["d2"].select(ramp(9), labels_of(4, 5), 0.5, stream(), made_signals(labels_of(4, 4)))


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()), ids=list(SAMPLERS))
def test_a_ratio_of_one_keeps_everything_and_draws_nothing(sampler):
    generator = stream("draw")
    before = generator.get_state()
    assert sampler.select(ramp(9), labels_of(4, 5), 1, generator).tolist() == list(range(9))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("sampler", [FlexRand(), FlexRandReleased(), TopK()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, 10, float("nan"), True, "0.1"])
def test_a_ratio_outside_the_unit_interval_is_refused(sampler, ratio):
    with pytest.raises(InputError, match=r"fraction kept and must be in \(0, 1\]"):
        sampler.select(ramp(9), labels_of(4, 5), ratio, stream())


@pytest.mark.parametrize("sampler", [FlexRand(), FlexRandReleased(), TopK()], ids=lambda s: type(s).__name__)
def test_scores_that_do_not_fit_the_labels_are_refused(sampler):
    with pytest.raises(InputError, match=r"got \[8\] and \[9\]"):
        sampler.select(ramp(8), labels_of(4, 5), 0.5, stream())


@pytest.mark.parametrize("sampler", [FlexRand(), FlexRandReleased(), TopK()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(sampler, value):
    scores = ramp(9)
    scores[3] = value
    with pytest.raises(InputError, match="must be finite, got 1 of 9 that are not"):
        sampler.select(scores, labels_of(4, 5), 0.5, stream())


def test_a_ratio_may_be_a_number_of_numpy():
    found = TopK().select(ramp(9), labels_of(4, 5), np.float32(0.5), stream())
    assert found.tolist() == TopK().select(ramp(9), labels_of(4, 5), 0.5, stream()).tolist()


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (FlexRand, {"gamma": 0}, r"in \(0, 1\) or \(in a run\) auto"),
        (FlexRand, {"gamma": 1}, r"in \(0, 1\) or \(in a run\) auto"),
        # The pipeline resolves auto before this point.
        (FlexRand, {"gamma": "auto"}, r"in \(0, 1\) or \(in a run\) auto"),
        (FlexRand, {"on_infeasible": "clip"}, "clip_share, clip_gamma, error"),
        (FlexRandReleased, {"twentieths": 0}, r"1\.\.19"),
        (FlexRandReleased, {"twentieths": 0.25}, r"1\.\.19"),
        (FlexRandReleased, {"min_per_class": 1}, "sampler.min_per_class must be 0, got 1; pass sampler=flexrand"),
        (FlexRandReleased, {"rounding": "largest_remainder"}, "sampler.rounding must be half_even"),
        (TopKFlexible, {"end": "auto"}, "hardest, easiest"),
        (TopK, {"rounding": "half_up"}, "half_even, largest_remainder"),
        (TopK, {"min_per_class": -1}, "at least 0"),
    ],
)
def test_a_setting_that_a_sampler_does_not_know_is_refused(made, options, message):
    with pytest.raises(InputError, match=message):
        made(**options)
