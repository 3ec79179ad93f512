"""Scores of training dynamics against values by hand and slow references, and the directions of the variants."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.store import Store, read_meta
from prunetune.config import catalogue
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone
from prunetune.networks.masking import MaskPath
from prunetune.runs.scores import compute_scores, stored_scores
from prunetune.samplers import TopK
from prunetune.scorers import DeepFool, Grand
from prunetune.scorers.aum import AUM, mean_margin
from prunetune.scorers.dlc_finetuned import DLCFinetuned, head_losses
from prunetune.scorers.dual import DUAL, uncertain_and_hard
from prunetune.scorers.dyn_unc import DynUnc, mean_deviation, windows_of
from prunetune.scorers.el2n import EL2N, error_norms
from prunetune.scorers.forgetting import Forgetting, forgetting_events
from prunetune.scorers.herding import Herding
from prunetune.scorers.k_center import KCenter
from prunetune.scorers.lc_optimisation import LCOptimisation
from prunetune.scorers.tdds import TDDS, movements, weighted_unevenness
from prunetune.scorers.uncertainty import Entropy, LeastConfidence, Margin
from prunetune.signals import network as signals_module
from prunetune.signals import proxy
from prunetune.signals.label_odds import label_log_odds, label_losses, label_probabilities
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.part import PartSignals
from prunetune.signals.proxy import LINEAR_PROBE, ProbeProxy, ProxyRecipe, RecordedProxy
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import made_pool
from prunetune.training.recipe import Recipe

UNCERTAINTIES = [LeastConfidence, Entropy, Margin]
OF_PROXIES = [LeastConfidence(), Entropy(), Margin(), EL2N(), Forgetting(), AUM(), DynUnc(), DUAL(), TDDS()]
OF_PROXIES += [LCOptimisation()]
FULL = ProxyRecipe(Recipe("full", trained="all", epochs=6, learning_rate=1e-2, views=0))


def made_logits(num_epochs: int = 7, num_images: int = 13, num_classes: int = 4) -> torch.Tensor:
    """Return [E, N, C] logits between certain and uncertain."""
    generator = stream("logits", num_epochs, num_images, num_classes)
    logits = torch.randn(num_epochs, num_images, num_classes, generator=generator)
    return logits * torch.logspace(-1, 1.3, num_images).unsqueeze(1)


def made_labels(num_images: int = 13, num_classes: int = 4) -> torch.Tensor:
    return torch.randint(0, num_classes, (num_images,), generator=stream("labels", num_images))


def pool_of(labels: torch.Tensor, num_classes: int) -> Pool:
    count = len(labels)
    classes = tuple(f"class{label}" for label in range(num_classes))
    return Pool("made", labels, tuple(f"{i:03d}" for i in range(count)), ("train",) * count, classes)


def scores_of(scorer, logits: torch.Tensor, labels: torch.Tensor, repeats: int = 3) -> list[float]:
    """Score recorded logits [E, N, C]. All repeats have the same logits."""
    pool = pool_of(labels, logits.shape[2])
    proxies = [RecordedProxy(list(logits))] * repeats
    return compute_scores(scorer, TensorSignals(torch.zeros(len(labels), 1), pool=pool, proxies=proxies), 0)


def softmax_of(row) -> list[float]:
    """Return the probabilities of one image by its list of logits, in Python."""
    largest = max(row)
    powers = [math.exp(value - largest) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.fixture(scope="module")
def golden() -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and label of one image: h = (1, 2) under W = [[1, 0], [0, 1], [-1, 1]] has logits (1, 2, 1)."""
    return torch.tensor([[[1.0, 2.0, 1.0]]]), torch.tensor([0])


@pytest.mark.parametrize(
    ("scorer", "value"),
    [
        (LeastConfidence(), 0.423883),
        (Entropy(), 0.975328),
        (Margin(), -0.364175),
        (EL2N(), 0.998932),
        (AUM(), 1.0),
        (LCOptimisation(), -math.log(0.211942)),
        (LeastConfidence("deepcore"), -2.0),
        (LeastConfidence("deepcore", balanced=False), 2.0),
        (LeastConfidence("released"), 0.576117),
        (Entropy("deepcore"), 0.975325),
        (Entropy("deepcore", balanced=False), -0.975325),
        (Entropy("released"), -0.975328),
        (Margin("deepcore"), -0.364175),
        (Margin("deepcore", balanced=False), 0.364175),
        (Margin("released"), 0.364175),
    ],
    ids=str,
)
def test_the_golden_values(golden, scorer, value):
    assert scores_of(scorer, *golden).tolist() == pytest.approx([value], abs=3e-6)


def test_el2n_is_the_norm_of_the_error_and_between_0_and_the_root_of_2():
    logits, labels = made_logits()[0], made_labels()
    for row, label, value in zip(logits.tolist(), labels.tolist(), error_norms(logits, labels).tolist(), strict=True):
        errors = [p - (c == label) for c, p in enumerate(softmax_of(row))]
        assert value == pytest.approx(math.sqrt(sum(error**2 for error in errors)), rel=1e-9)
    ends = error_norms(torch.tensor([[900.0, 0, 0], [900, 0, 0], [30, 0, 0]]), torch.tensor([0, 1, 0]))
    assert ends.tolist()[:2] == [0, pytest.approx(math.sqrt(2))]
    assert 0 < ends[2] < 1e-12  # Computed as 1 - p, the difference would round to 0.


def test_el2n_averages_repeats_at_its_epoch_and_a_short_proxy_is_read_at_its_last():
    labels, pool = made_labels(), pool_of(made_labels(), 4)
    runs = [made_logits(7), made_logits(7).flip(0), made_logits(7).roll(2, 0)]
    signals = TensorSignals(torch.zeros(13, 1), pool=pool, proxies=[RecordedProxy(list(run)) for run in runs])

    def expected(epoch: int, repeats: int) -> list[float]:
        norms = torch.stack([error_norms(run[epoch - 1], labels) for run in runs[:repeats]])
        return norms.mean(0).tolist()

    assert compute_scores(EL2N(), signals, 0).tolist() == pytest.approx(expected(5, 3))
    assert compute_scores(EL2N(epoch=50, repeats=1), signals, 0).tolist() == pytest.approx(expected(7, 1))
    assert compute_scores(EL2N(epoch=None, repeats=2), signals, 0).tolist() == pytest.approx(expected(7, 2))
    with pytest.raises(InputError, match="reads 4 proxies, got 3"):
        compute_scores(EL2N(repeats=4), signals, 0)


def test_snapshots_read_the_last_epoch_and_kept_features_before_recorded_logits():
    logits, labels = made_logits(), made_labels()
    assert scores_of(Entropy(), logits, labels).equal(scores_of(Entropy(), logits[-1:], labels))
    features, weight, bias = (
        torch.randn(13, 5, generator=stream("h")),
        torch.randn(4, 5, generator=stream("w")),
        torch.arange(4.0),
    )
    online = RecordedProxy(list(logits), {7: features}, {7: (weight, bias)})
    signals = TensorSignals(features, pool=pool_of(labels, 4), proxies=[online])
    seen = compute_scores(Entropy(), signals, 0)
    assert torch.allclose(seen, scores_of(Entropy(), (features @ weight.T + bias).unsqueeze(0), labels))
    # AUM reads the recorded logits.
    assert torch.allclose(compute_scores(AUM(), signals, 0), scores_of(AUM(), logits, labels))


@pytest.mark.parametrize("scorer", UNCERTAINTIES)
def test_variants_keep_the_end_that_their_source_keeps(scorer):
    """Rows from certain to uncertain, by every measure; topk keeps two of five."""
    logits = torch.tensor([[[9.0, 0, 0], [5, 0, 0], [3, 0, 0], [1, 0, 0], [0.1, 0, 0]]])
    labels = torch.zeros(5, dtype=torch.int64)

    def kept(*settings) -> list[int]:
        return TopK().select(scores_of(scorer(*settings), logits, labels), labels, 0.4, torch.Generator()).tolist()

    assert kept() == kept("deepcore", True) == [3, 4]
    assert kept("deepcore", False) == kept("released") == [0, 1]


def test_the_deepcore_and_released_numbers_are_those_of_numpy_in_float32():
    logits, labels = made_logits(1, 300, 7), made_labels(300, 7)
    p = logits[0].softmax(1).numpy()
    for variant, added in (("deepcore", 1e-6), ("released", 1e-10)):
        confidence = (p * np.log(p + added)).sum(1)
        scorer = (
            Entropy(variant, balanced=variant == "released" or False) if variant == "deepcore" else Entropy(variant)
        )
        assert scores_of(scorer, logits, labels).tolist() == confidence.astype(np.float64).tolist()
    top = np.sort(p, 1)
    assert scores_of(Margin("released"), logits, labels).tolist() == (top[:, -1] - top[:, -2]).astype(float).tolist()
    assert scores_of(LeastConfidence("released"), logits, labels).tolist() == top[:, -1].astype(float).tolist()


def test_uncertainties_agree_with_a_loop_and_the_fixed_ones_tell_certain_images_apart():
    logits, labels = made_logits(1, 40, 5), made_labels(40, 5)
    found = {scorer: scores_of(scorer(), logits, labels).tolist() for scorer in UNCERTAINTIES}
    for i, row in enumerate(logits[0].tolist()):
        p = sorted(softmax_of(row))
        assert found[LeastConfidence][i] == pytest.approx(sum(p[:-1]), rel=1e-9)
        assert found[Entropy][i] == pytest.approx(-sum(x * math.log(x) for x in p if x > 0), rel=1e-9)
        assert found[Margin][i] == pytest.approx(p[-2] - p[-1], abs=1e-12)
    certain = torch.tensor([[[60.0, 0], [61.0, 0], [62.0, 0]]])
    for scorer in (LeastConfidence(), Entropy()):
        first, second, third = scores_of(scorer, certain, torch.zeros(3, dtype=torch.int64)).tolist()
        assert first > second > third > 0


def test_entropy_is_between_0_and_the_logarithm_of_the_number_of_classes():
    logits = torch.tensor([[[0.0, 0, 0, 0], [1e4, 0, 0, 0]]])
    assert scores_of(Entropy(), logits, torch.tensor([0, 0])).tolist() == pytest.approx([math.log(4), 0])


@pytest.mark.parametrize(
    ("record", "fixed", "never_0"), [("011010", 2, 2), ("010101", 2, 2), ("111111", 0, 0), ("000000", 6, 0)]
)
def test_forgetting_counts_changes_from_right_to_wrong(record, fixed, never_0):
    is_right = torch.tensor([[digit == "1"] for digit in record])
    assert forgetting_events(is_right, 6).tolist() == [fixed]
    logits = torch.stack(
        [torch.tensor([[1.0, 0.0]]) if digit == "1" else torch.tensor([[0.0, 1.0]]) for digit in record]
    )
    assert scores_of(Forgetting(), logits, torch.tensor([0])).tolist() == [fixed]
    assert scores_of(Forgetting("deepcore"), logits, torch.tensor([0])).tolist() == [never_0]
    assert scores_of(Forgetting("released"), logits, torch.tensor([0])).tolist() == [never_0]


def test_forgetting_agrees_with_a_loop():
    logits, labels = made_logits(9, 31, 3), made_labels(31, 3)
    found = scores_of(Forgetting(), logits, labels).tolist()
    for i, label in enumerate(labels.tolist()):
        right = [row.index(max(row)) == label for row in logits[:, i].tolist()]
        events = sum(a and not b for a, b in zip(right[:-1], right[1:], strict=True))
        assert found[i] == (events if any(right) else 9)


def test_aum_is_minus_the_mean_margin_of_logits():
    logits = torch.tensor([[[3.0, 1, 2], [0, 5, 1]], [[1.0, 1, 4], [0, 2, 9]]])
    assert mean_margin(logits, torch.tensor([0, 1])).tolist() == [(1 - 3) / 2, (4 - 7) / 2]
    assert scores_of(AUM(), logits, torch.tensor([0, 1])).tolist() == [1, 1.5]
    p = logits.double().softmax(2)
    expected = [(p[:, 0, 1:].amax(1) - p[:, 0, 0]).mean().item(), (p[:, 1, [0, 2]].amax(1) - p[:, 1, 1]).mean().item()]
    assert scores_of(AUM("probabilities"), logits, torch.tensor([0, 1])).tolist() == pytest.approx(expected)
    with pytest.raises(InputError, match="of must be one of logits, probabilities"):
        AUM("odds")


def test_the_labels_odds_give_its_probability_and_loss_where_float32_rounds_both_away():
    logits, labels = made_logits(3, 20, 6), made_labels(20, 6)
    exact = logits.double().log_softmax(2).gather(2, labels.expand(3, 20).unsqueeze(2)).squeeze(2)
    assert torch.allclose(label_losses(logits, labels), -exact, rtol=2e-6, atol=0)
    assert torch.allclose(label_probabilities(logits, labels), exact.exp(), rtol=1e-5, atol=0)
    certain = torch.tensor([[[40.0, 0, 0], [41.0, 0, 0]]])
    first, second = label_losses(certain, torch.tensor([0, 0]))[0].tolist()
    assert first == pytest.approx(2 * math.exp(-40), rel=1e-5)
    assert second == pytest.approx(2 * math.exp(-41), rel=1e-5)


def test_dyn_unc_by_hand_and_by_a_loop():
    p = torch.tensor([[0.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
    assert mean_deviation(p, 2).tolist() == pytest.approx([math.sqrt(0.5)])
    assert mean_deviation(p, 3).tolist() == pytest.approx([math.sqrt(1 / 3)])
    logits, labels = made_logits(14, 9, 3), made_labels(9, 3)
    found = scores_of(DynUnc(window=5), logits, labels).tolist()
    for i, label in enumerate(labels.tolist()):
        path = [softmax_of(row)[label] for row in logits[:, i].tolist()]
        deviations = [np.std(path[k : k + 5], ddof=1) for k in range(10)]
        assert found[i] == pytest.approx(sum(deviations) / 10, rel=1e-5, abs=1e-12)


def test_dual_by_hand_and_by_a_loop_over_its_first_epochs():
    odds = torch.tensor([[-math.inf], [math.inf], [0.0]], dtype=torch.float64)  # The probabilities p are 0, 1 and 1/2.
    by_hand = (math.sqrt(0.5) * 0.5 + math.sqrt(0.125) * 0.25) / 2
    assert uncertain_and_hard(odds, 2).tolist() == pytest.approx([by_hand])
    logits, labels = made_logits(14, 9, 3), made_labels(9, 3)
    found = scores_of(DUAL(epochs=11, window=4), logits, labels).tolist()
    for i, label in enumerate(labels.tolist()):
        path = [softmax_of(row)[label] for row in logits[:11, i].tolist()]
        windows = [path[k : k + 4] for k in range(8)]
        values = [np.std(window, ddof=1) * (1 - np.mean(window)) for window in windows]
        assert found[i] == pytest.approx(sum(values) / 8, rel=1e-5, abs=1e-12)
    assert scores_of(DUAL(epochs=14, window=4), logits, labels).tolist() != found


def test_tdds_by_hand_and_by_a_loop():
    moved = torch.tensor([[1.0], [3.0], [3.0], [7.0]], dtype=torch.float64)
    norms = [math.sqrt(2), 0, math.sqrt(8)]  # These are the norms of the deviations from the means of two values.
    assert weighted_unevenness(moved, 3, 0.5).tolist() == pytest.approx([(norms[0] / 4 + norms[2]) / 1.75])
    assert weighted_unevenness(moved, 3, 0.0).tolist() == pytest.approx([norms[2]])
    assert weighted_unevenness(moved, 3, 1.0).tolist() == pytest.approx([sum(norms) / 3])
    halves = torch.tensor([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])  # The probabilities are (1/2, 1/2), then (3/4, 1/4).
    assert movements(halves).tolist() == [pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(2)])]


@pytest.mark.parametrize("decay", [0.9, 0.1])
def test_tdds_agrees_with_a_loop(decay):
    logits, labels = made_logits(12, 8, 3), made_labels(8, 3)
    found = scores_of(TDDS(epochs=10, window=4, decay=decay), logits, labels).tolist()
    for i in range(8):
        p = [softmax_of(row) for row in logits[:10, i].tolist()]
        moved = [
            sum(abs(b * (math.log(b) - math.log(a))) for a, b in zip(p[t], p[t + 1], strict=True)) for t in range(9)
        ]
        average, weight = 0.0, 0.0
        for k in range(7):
            window = moved[k : k + 3]
            mean = sum(window) / 3
            average = decay * average + math.sqrt(sum((value - mean) ** 2 for value in window))
            weight = decay * weight + 1
        assert found[i] == pytest.approx(average / weight, rel=1e-6)


def test_learning_complexity_is_the_mean_loss_over_epochs():
    logits, labels = made_logits(), made_labels()
    losses = torch.stack([torch.nn.functional.cross_entropy(epoch, labels, reduction="none") for epoch in logits])
    assert torch.allclose(scores_of(LCOptimisation(), logits, labels), losses.mean(0).double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scorer", OF_PROXIES, ids=lambda scorer: scorer.name)
def test_every_score_is_finite_where_probabilities_are_exactly_zero(scorer):
    logits = torch.tensor([[[3000.0, -3000, 0], [-3000, 3000, 0], [0, 0, -3000]]]).repeat(4, 1, 1)
    logits[1::2] = logits[1::2].roll(1, 2)
    found = scores_of(scorer, logits, torch.tensor([0, 0, 2]))  # This function rejects scores that are not finite.
    assert found.shape == (3,)
    zeros = torch.tensor([[[0.0, -math.inf, 0], [1, -math.inf, 0], [2, -math.inf, 3]]]).repeat(3, 1, 1)
    assert scores_of(scorer, zeros, torch.tensor([0, 2, 0])).shape == (3,)


@pytest.mark.parametrize("scorer", OF_PROXIES, ids=lambda scorer: scorer.name)
def test_every_score_ranks_the_harder_of_two_images_higher(scorer):
    """The first image is right and certain from the start. The second one changes often and ends uncertain."""
    sure = [[8.0, 0, 0]] * 6
    torn = [[0.0, 0.1, 0], [2, 0, 0], [0, 1, 0.3], [1.5, 0, 0], [0, 0.4, 0], [0.5, 0.3, 0.2]]
    logits = torch.tensor([sure, torn]).transpose(0, 1).contiguous()
    easy, hard = scores_of(scorer, logits, torch.tensor([0, 0])).tolist()
    assert easy < hard


@pytest.mark.parametrize("scorer", OF_PROXIES, ids=lambda scorer: scorer.name)
def test_scores_do_not_depend_on_chunks(scorer, monkeypatch):
    logits, labels = made_logits(6, 23, 5), made_labels(23, 5)
    whole = scores_of(scorer, logits, labels)
    monkeypatch.setattr(proxy, "NUMBERS_AT_ONCE", 4 * 6 * 5)  # Each chunk has 4 images, and the last one has 3.
    assert torch.allclose(whole, scores_of(scorer, logits, labels), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scorer", OF_PROXIES, ids=lambda scorer: scorer.name)
def test_a_proxy_shorter_than_every_window_is_one_window(scorer):
    logits, labels = made_logits(3), made_labels()
    assert len(set(scores_of(scorer, logits, labels).tolist())) > 1
    assert windows_of(torch.zeros(3, 2), 10).shape == (1, 2, 3)


@pytest.mark.parametrize(("scorer", "needed"), [(DynUnc(), 2), (DUAL(), 2), (TDDS(), 3)])
def test_scores_of_movement_say_how_many_epochs_they_need(scorer, needed):
    with pytest.raises(InputError, match=f"needs {needed} epochs of the proxy, got {needed - 1}; raise proxy.epochs"):
        scores_of(scorer, made_logits(needed - 1), made_labels())


@pytest.mark.parametrize("scorer", [AUM(), Margin(), Margin("deepcore")])
def test_a_margin_of_a_single_class_is_refused(scorer):
    with pytest.raises(InputError, match="compares two classes"):
        scores_of(scorer, torch.zeros(3, 2, 1), torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Entropy("paper"), "variant must be one of fixed, deepcore, released, got 'paper'"),
        (lambda: Forgetting("online"), "variant must be one of fixed, deepcore, released, got 'online'"),
        (lambda: Margin("released", balanced=False), "balanced=false goes with scorer.variant=deepcore only"),
        (lambda: EL2N(epoch=0), "epoch must be a whole number of at least 1 or null, got 0"),
        (lambda: EL2N(repeats=2.5), "repeats must be a whole number"),
        (lambda: EL2N(repeats=True), "repeats must be a whole number"),
        (lambda: DynUnc(window=1), "window must be a whole number of at least 2, got 1"),
        (lambda: DUAL(epochs=1), "epochs must be a whole number of at least 2, got 1"),
        (lambda: DUAL(window=None), "window must be a whole number"),
        (lambda: TDDS(window=2), "window must be a whole number of at least 3"),
        (lambda: TDDS(decay=1.5), r"decay must be in \[0, 1\], got 1.5"),
        (lambda: DLCFinetuned(levels=0), "levels is the number of masked networks"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("least_confidence_deepcore", LeastConfidence("deepcore")),
        ("entropy_released", Entropy("released")),
        ("margin_deepcore", Margin("deepcore")),
        ("el2n", EL2N(5, 3)),
        ("el2n_deepcore", EL2N(None, 10)),
        ("el2n_released", EL2N(50, 1)),
        ("forgetting_released", Forgetting("released")),
        ("dual", DUAL(30, 10)),
        ("tdds", TDDS(None, 10, 0.9)),
        ("dlc_finetuned", DLCFinetuned("compound", 5, 0.2)),
    ],
)
def test_the_yaml_files_hold_the_settings_of_their_names(name, made):
    content = catalogue.settings("scorer", name)
    settings = {key: value for key, value in content.items() if key in vars(made)}
    assert type(made)(**settings) == made
    assert (content["_target_"], content["uses_proxy"]) == (f"prunetune.scorers.{type(made).__name__}", True)


def test_a_linear_probe_is_trained_where_tensors_come_without_proxies():
    features = torch.randn(23, 6, generator=stream("features"))
    labels = made_pool().labels
    signals = TensorSignals(features, pool=pool_of(labels, 4))
    proxy = signals.proxy()
    assert isinstance(proxy, ProbeProxy)
    every = torch.stack([proxy.logits(epoch) for epoch in range(1, 51)])
    assert torch.allclose(compute_scores(DynUnc(), signals, 0), scores_of(DynUnc(), every, labels), atol=1e-6)
    assert torch.allclose(compute_scores(DUAL(), signals, 0), scores_of(DUAL(), every[:30], labels), atol=1e-6)


@pytest.fixture(scope="module")
def network():
    return Backbone(model="prunetune_micro", mask_modules="conv2d").load()


def signals_in(folder: Path, network, recipe: ProxyRecipe) -> NetworkSignals:
    return NetworkSignals(made_pool(), Embedding(network, Store(folder), batch_size=8), recipe)


def test_only_the_epochs_that_a_score_reads_are_trained_and_charged(tmp_path, network):
    signals = signals_in(tmp_path, network, FULL)
    compute_scores(EL2N(epoch=2, repeats=2), signals, 0)
    assert sum("proxy" in name for name in signals.charges) == 2
    assert signals.proxy(0, until=2).num_epochs == 2


def test_the_losses_of_the_masked_proxy_use_its_own_head(tmp_path, network):
    signals = signals_in(tmp_path, network, FULL)
    scorer, proxy = DLCFinetuned(levels=3, step=0.4), signals.proxy()
    scores = compute_scores(scorer, signals, 0)
    assert signals.products["losses"].shape == (3, 23)
    assert torch.allclose(signals.products["losses"].mean(0), scores)
    weight, bias = proxy.head(6)
    unmasked = torch.nn.functional.cross_entropy(
        proxy.features(6) @ weight.T + bias, signals.pool.labels, reduction="none"
    )
    assert torch.allclose(signals.products["losses"][0].float(), unmasked, rtol=1e-3, atol=1e-4)
    body = proxy.model(6)[0]
    kernels = [module.weight.data for module in body.modules() if isinstance(module, torch.nn.Conv2d)]
    flat = torch.cat([kernel.flatten().abs() for kernel in kernels])
    border = flat.sort().values[round(0.4 * len(flat)) - 1]
    for kernel in kernels:
        kernel[kernel.abs() <= border] = 0
    with torch.inference_mode():
        features = torch.cat([body(batch) for batch in signals.images()])
    by_hand = torch.nn.functional.cross_entropy(features @ weight.T + bias, signals.pool.labels, reduction="none")
    assert torch.allclose(signals.products["losses"][1].float(), by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scorer", [Grand(epoch=2, repeats=1), DeepFool(iterations=2)], ids=["grand", "deepfool"])
def test_backward_passes_go_to_the_device_of_the_signals(tmp_path, network, monkeypatch, scorer):
    signals, moved = signals_in(tmp_path, network, FULL), []
    signals.proxy()
    monkeypatch.setattr(NetworkSignals, "device", "elsewhere")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device=None, **layout: moved.append(device) or self)
    compute_scores(scorer, PartSignals(signals, torch.arange(23)), 0)
    assert "elsewhere" in moved


@pytest.mark.parametrize(
    "scorer", [Grand(epoch=2, repeats=2), DeepFool(iterations=2), DeepFool("deepcore", 2, 0.0, None)], ids=str
)
def test_an_interrupted_score_of_backward_passes_continues_where_it_stopped(tmp_path, network, monkeypatch, scorer):
    whole = stored_scores(scorer, signals_in(tmp_path / "whole", network, FULL), 0)
    monkeypatch.setattr(signals_module, "PART", 8)  # The 23 images are stored in 3 parts.
    images, asked = NetworkSignals.images, []

    def cut_off(self, positions=None):
        asked.append(positions.tolist())
        if len(asked) == 3:
            raise KeyboardInterrupt
        return images(self, positions)

    monkeypatch.setattr(NetworkSignals, "images", cut_off)
    with pytest.raises(KeyboardInterrupt):
        stored_scores(scorer, signals_in(tmp_path, network, FULL), 0)
    part = next((tmp_path / "parts").iterdir())
    (part / "meta.json").write_text(json.dumps({**read_meta(part), "seconds": 1000.0}))
    scores = stored_scores(scorer, signals_in(tmp_path, network, FULL), 0)
    assert asked[:3] == [[*range(8)], [*range(8, 16)], [*range(16, 23)]]
    assert asked[3] == asked[2], "the first two parts were kept"
    assert torch.allclose(scores.values, whole.values, rtol=1e-4)
    assert 1000 <= scores.seconds < 2000, "the seconds of both runs, once"


def test_parts_of_a_score_are_stored_by_everything_they_depend_on(tmp_path, network):
    def is_new(recipe=FULL, setting=1, **changes) -> bool:
        called, embedding = [], Embedding(network, Store(tmp_path), **{"batch_size": 8, **changes})
        signals = NetworkSignals(made_pool(), embedding, recipe)
        found = signals.per_image({"setting": setting}, lambda batches, rows: called.append(rows) or rows.double(), "x")
        assert found.tolist() == list(range(23))
        return bool(called)

    assert is_new()
    assert not is_new()
    assert is_new(setting=2)
    assert is_new(dataclasses.replace(FULL, augment=False))
    assert is_new(training_precision="bf16")
    assert is_new(short_side=8)
    assert not is_new(batch_size=4)


def test_masked_features_of_another_network_leave_it_as_it_was_and_may_be_of_some_images(tmp_path, network):
    signals = signals_in(tmp_path, network, FULL)
    body = signals.proxy().model(6)[0]
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    path, some = MaskPath(levels=2, step=0.5, modules="conv2d"), torch.tensor([2, 5, 11, 22])
    whole = list(signals.masked_features_of(body, path))
    part = list(PartSignals(signals, some).masked_features_of(body, path, positions=torch.tensor([1, 3])))
    assert all(torch.equal(before[name], tensor) for name, tensor in body.state_dict().items())
    assert not torch.allclose(whole[0], whole[1], atol=1e-2)
    for all_rows, rows in zip(whole, part, strict=True):
        assert torch.allclose(all_rows[[5, 22]], rows, atol=1e-4)


@pytest.mark.parametrize("kind", [Herding, KCenter])
@pytest.mark.parametrize("recipe", [FULL, LINEAR_PROBE], ids=["full", "probe"])
def test_released_picks_of_a_fine_tuned_token_network_read_one_number_for_each_image(tmp_path, recipe, kind):
    vit = Backbone(model="test_vit", pretrained=False, model_args={"img_size": 32}, input_size=32).load()
    # With equal weights of the norm every number would be 0.
    vit.model.norm.weight.data = 1 + torch.linspace(-0.5, 0.5, 64)
    signals = signals_in(tmp_path, vit, recipe)
    body = signals.proxy().model(signals.proxy().num_epochs)[0] if recipe is FULL else vit
    with torch.inference_mode():
        tokens = [body.model.forward_features(body.normalise(batch)) for batch in signals.images()]  # [B, tokens, D]
    numbers = torch.cat([each.mean(dim=(1, 2)) for each in tokens]).unsqueeze(1)
    collapsed = signals.collapsed_features()
    assert torch.allclose(collapsed, numbers, atol=1e-5)
    some = torch.tensor([2, 5, 11, 22])
    assert torch.allclose(PartSignals(signals, some).collapsed_features(), numbers[some], atol=1e-5)
    released = compute_scores(kind("released", features="finetuned"), signals, 0)
    of_numbers = compute_scores(kind("deepcore"), TensorSignals(collapsed, pool=signals.pool), 0)
    assert torch.equal(released, of_numbers)
    assert not torch.equal(released, compute_scores(kind("deepcore", features="finetuned"), signals, 0))


@pytest.mark.parametrize("recipe", [FULL, LINEAR_PROBE], ids=["full", "probe"])
def test_dlc_of_a_part_of_the_pool_is_that_of_its_images(tmp_path, network, recipe):
    signals = signals_in(tmp_path, network, recipe)
    part = PartSignals(signals, torch.tensor([0, 3, 11, 12, 14, 20]))
    scores = compute_scores(DLCFinetuned(levels=2), part, 0)
    assert scores.shape == (6,)
    if recipe is FULL:
        whole = compute_scores(DLCFinetuned(levels=2), signals, 0)
        assert torch.allclose(scores, whole[[0, 3, 11, 12, 14, 20]], rtol=1e-3)


def test_dlc_with_the_head_of_a_linear_probe_reads_the_masked_features_of_the_pretrained_network():
    features = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    masked, labels = [features, features.flip(1)], torch.tensor([0, 1, 0])
    weight, bias = torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([0.5, 0])
    probe = ProbeProxy(features, weight.T.unsqueeze(0), bias.unsqueeze(0))
    signals = TensorSignals(features, masked, pool_of(labels, 2), [probe])
    losses = [torch.nn.functional.cross_entropy(level @ weight.T + bias, labels, reduction="none") for level in masked]
    scores = compute_scores(DLCFinetuned(levels=2), signals, 0)
    assert torch.allclose(scores, torch.stack(losses).mean(0).double(), rtol=1e-5)
    assert torch.allclose(head_losses(features, weight, bias, labels), losses[0].double(), rtol=1e-5)


def test_released_picks_of_a_part_of_tensors_read_the_features_of_that_part_s_proxy():
    features, some = torch.randn(23, 4, generator=stream("tensors")), torch.tensor([2, 5, 11, 12, 14, 22])
    proxy = RecordedProxy([torch.zeros(23, 4)], {1: features})
    signals = TensorSignals(torch.zeros(23, 1), pool=made_pool(), proxies=[proxy])
    assert torch.equal(PartSignals(signals, some).collapsed_features(), features[some])


def test_tensors_have_no_network_to_mask():
    signals = TensorSignals(torch.zeros(2, 1))
    with pytest.raises(InputError, match="reads images; pass a folder or a data set"):
        signals.masked_features_of(None, MaskPath())


def test_log_odds_of_a_class_that_is_alone_are_infinite_and_its_loss_is_0():
    assert label_log_odds(torch.zeros(1, 2, 1), torch.tensor([0, 0])).tolist() == [[math.inf, math.inf]]
    assert label_losses(torch.zeros(1, 2, 1), torch.tensor([0, 0])).tolist() == [[0, 0]]
