"""Weighted training: which weights are used, their effect on probes and whole networks, and the written files."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from prunetune.base.devices import Hardware
from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded, stream
from prunetune.config import parse
from prunetune.data.images.decoded import ShownImages
from prunetune.data.readers.textures import Textures
from prunetune.networks.backbone import Backbone
from prunetune.runs import image_run, records
from prunetune.runs.weights import weigh
from prunetune.samplers import FlexRand, RandomSampler, TopK, TopKEasiest, TopKFlexible
from prunetune.scorers import Random, Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import made_pool
from prunetune.training.full import Batch, MicroBatch, _step, finetune_all
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import FinetuneResult, Recipe
from prunetune.training.sample_order import Static
from runs import SMALL, grid_here, read_result, read_rows, run_here

NUM, WIDTH, NUM_CLASSES = 11, 5, 3
LABELS = torch.arange(NUM) % NUM_CLASSES
RECIPE = Recipe("probe", epochs=8, batch_size=4, learning_rate=0.1, milestones=(5,), weight_decay=1e-2)


@dataclass(frozen=True)
class Picks(Scorer):
    """Ranks the images in the order of the pool and gives them unequal weights."""

    given: tuple[float, ...] | None = None

    name: ClassVar[str] = "picks"
    higher_means: ClassVar[str] = "picked earlier"
    version: ClassVar[int] = 1

    def score(self, pool, signals, generator):
        return torch.arange(len(pool), 0, -1, dtype=torch.float64)

    def weights(self, pool, signals, subset):
        if self.given is not None:
            return torch.tensor(self.given, dtype=torch.float64)
        return (1 + subset.double()) / 3


def features_of() -> Tensor:
    return torch.randn(NUM, WIDTH, generator=stream("features")) + 2 * nn.functional.one_hot(LABELS, WIDTH)


def probe_of(weights: Tensor | None, rows: Tensor | None = None) -> Probe:
    rows = torch.arange(NUM) if rows is None else rows
    return Probe(rows, LABELS[rows], features_of() + 0.1, LABELS, 3, Static(len(rows), weights))


def trained(*probes: Probe, **changes) -> list[FinetuneResult]:
    recipe = Recipe(**{**vars(RECIPE), **changes})
    return train_probes(features_of().unsqueeze(0), probes, NUM_CLASSES, recipe, "cpu")


def losses_of(result: FinetuneResult) -> list[float]:
    return [epoch.train_loss for epoch in result.history]


def weights_of(seed: int = 0) -> Tensor:
    return 0.1 + torch.rand(NUM, generator=stream("weights", seed), dtype=torch.float64)


def test_a_weighted_probe_equals_torchs_layer_under_the_weighted_mean_of_the_losses():
    with seeded("finetune", 3) as generator:
        head = nn.Linear(WIDTH, NUM_CLASSES)
    optimiser = torch.optim.SGD(
        head.parameters(), RECIPE.learning_rate, RECIPE.momentum, 0, RECIPE.weight_decay, RECIPE.nesterov
    )
    relative, expected = (weights_of() / weights_of().mean()).float(), []
    for epoch in range(1, RECIPE.epochs + 1):
        optimiser.param_groups[0]["lr"], total = RECIPE.rate(epoch), 0.0
        for batch in torch.randperm(NUM, generator=generator).split(RECIPE.batch_size):
            losses = nn.functional.cross_entropy(head(features_of()[batch]), LABELS[batch], reduction="none")
            optimiser.zero_grad()
            (losses * relative[batch]).mean().backward()
            optimiser.step()
            total += (losses * relative[batch]).sum().item()
        expected.append(total / NUM)
    [result] = trained(probe_of(weights_of()))
    assert losses_of(result) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(result.predictions, head(features_of() + 0.1).argmax(dim=1))


def test_a_weight_of_two_is_the_image_twice():
    """This holds in full batches, where the weighted mean of the losses is the mean over images repeated w times."""
    weights = torch.tensor([2.0, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1], dtype=torch.float64)
    repeated = torch.repeat_interleave(torch.arange(NUM), weights.long())
    [weighted] = trained(probe_of(weights), batch_size=64)
    [twice] = trained(probe_of(None, repeated), batch_size=64)
    assert losses_of(weighted) == pytest.approx(losses_of(twice), abs=1e-5)


def test_only_the_ratio_of_weights_counts_and_equal_weights_change_nothing():
    plain, equal, once, tenfold = trained(
        probe_of(None), probe_of(torch.full((NUM,), 7.0).double()), probe_of(weights_of()), probe_of(10 * weights_of())
    )
    assert losses_of(plain) == losses_of(equal)
    assert losses_of(once) == pytest.approx(losses_of(tenfold), abs=1e-6)
    assert abs(losses_of(once)[3] - losses_of(plain)[3]) > 1e-3


def test_weighted_and_unweighted_probes_trained_together_equal_those_trained_alone():
    rows = torch.tensor([0, 2, 3, 7, 8])
    probes = [probe_of(weights_of()), probe_of(None), probe_of(weights_of(1)[rows], rows), probe_of(None, rows)]
    for probe, result in zip(probes, trained(*probes), strict=True):
        [alone] = trained(probe)
        assert losses_of(result) == pytest.approx(losses_of(alone), abs=1e-6)


def stepped(images: Tensor, targets: Tensor, weights: Tensor | None, batch_size: int) -> tuple[Tensor, float]:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.GELU(), nn.Linear(8, 4))
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    loss, _ = _step(model, optimiser, Batch(images, targets, weights), MicroBatch(model, batch_size), Hardware())
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]), loss.item()


@pytest.mark.parametrize("batch_size", [6, 4, 1])
def test_a_step_of_a_whole_network_weighs_its_images_also_in_parts(batch_size):
    images, targets = torch.rand(6, 3, 4, 4, generator=stream("images")), torch.arange(6) % 4
    weights = torch.tensor([2.0, 1, 1, 2, 3, 1])
    repeated = torch.repeat_interleave(torch.arange(6), weights.long())
    expected, loss = stepped(images[repeated], targets[repeated], None, 64)
    after, weighted_loss = stepped(images, targets, weights / weights.mean(), batch_size)
    assert torch.allclose(after, expected, atol=1e-6)
    assert weighted_loss / 6 == pytest.approx(loss / 10, rel=1e-5)


def test_whole_networks_are_trained_with_weights():
    dataset = Textures(num_pool=100, num_test=100, size=16)
    pool, test = dataset.pool("train"), dataset.pool("test")
    recipe = Recipe("full", trained="all", epochs=2, batch_size=16, learning_rate=0.05, views=0)

    def losses(weights):
        network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
        shown, judged = ShownImages(pool, pool.images, torch.arange(0, 100, 3)), ShownImages.whole(test, test.images)
        return losses_of(finetune_all(network, shown, judged, recipe, 0, Hardware(), Static(34, weights)))

    uneven = torch.linspace(0.1, 2, 34, dtype=torch.float64)
    assert losses(torch.full((34,), 3.0).double()) == pytest.approx(losses(None), abs=1e-6)
    assert abs(losses(uneven)[0] - losses(None)[0]) > 1e-3
    assert losses(uneven) == pytest.approx(losses(5 * uneven), abs=1e-4)


def signals_of() -> Signals:
    pool = made_pool()
    return TensorSignals(torch.zeros(len(pool), 2), pool=pool)


def test_weights_are_asked_for_where_a_sampler_takes_the_first_picks_and_nowhere_else():
    signals, subset = signals_of(), torch.tensor([0, 2, 5])
    assert weigh(Picks(), TopK(), 0.3, signals, subset).tolist() == pytest.approx([1 / 3, 1, 2])
    for sampler in (RandomSampler(), TopKEasiest(), TopKFlexible(end="hardest"), FlexRand()):
        assert weigh(Picks(), sampler, 0.3, signals, subset) is None
    assert weigh(Picks(), TopK(), 1, signals, torch.arange(23)) is None  # The whole pool is one row for all methods.
    assert weigh(Random(), TopK(), 0.3, signals, subset) is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((1.0, -1.0, 1.0), InputError, "weights of picks should be positive, got -1 to 1"),
        ((1.0, float("nan"), 1.0), InputError, "got nan to nan|must be a list of numbers"),
        ((0.0, 0.0, 0.0), InputError, "got 0 to 0"),
        ((1.0, 1.0), TypeError, r"Picks\.weights must return \[M\] float64, got \[2\]"),
    ],
)
def test_values_that_cannot_be_weights_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        weigh(Picks(given), TopK(), 0.3, signals_of(), torch.tensor([0, 2, 5]))


def test_subset_csv_has_17_digits_or_whole_numbers(tmp_path):
    pool, subset = made_pool(), torch.tensor([1, 4, 6, 7])
    weights = torch.tensor([0.1, 3.0, 1e15, 2 / 3], dtype=torch.float64)
    records.write_subset(tmp_path / "subset.csv", pool, subset, weights)
    rows = read_rows(tmp_path / "subset.csv")
    assert [row["weight"] for row in rows] == ["0.10000000000000001", "3", "1000000000000000", "0.66666666666666663"]
    assert [float(row["weight"]) for row in rows] == weights.tolist()
    assert [int(row["position"]) for row in rows] == subset.tolist()
    records.write_subset(tmp_path / "plain.csv", pool, subset)
    assert {row["weight"] for row in read_rows(tmp_path / "plain.csv")} == {"1"}


@pytest.fixture
def picks(monkeypatch):
    """Let every run score with these picks, whatever its configuration says."""

    def use(scorer):
        made = parse.ImageRun
        monkeypatch.setattr(parse, "ImageRun", lambda **fields: made(**{**fields, "scorer": scorer}))

    return use


TOPK = [*SMALL, "scorer=random", "sampler=topk", "ratio=0.3"]


def watched(monkeypatch) -> list[Tensor | None]:
    seen, train = [], image_run.train_probes

    def watch(bank, probes, *rest):
        seen.extend(probe.sample_order.weights for probe in probes)
        return train(bank, probes, *rest)

    monkeypatch.setattr(image_run, "train_probes", watch)
    return seen


def test_a_run_trains_with_the_scorers_weights_and_writes_them(tmp_path, monkeypatch, picks):
    seen = watched(monkeypatch)
    picks(Picks())
    run = run_here(tmp_path, *TOPK)
    rows = read_rows(run / "subset.csv")
    assert [float(row["weight"]) for row in rows] == [(1 + int(row["position"])) / 3 for row in rows]
    assert seen[0].tolist() == [float(row["weight"]) for row in rows]
    assert read_result(run)["images_per_epoch"] is None
    pruned = run_here(tmp_path / "pruned", *TOPK, "until=prune")
    assert (pruned / "subset.csv").read_bytes() == (run / "subset.csv").read_bytes()


def test_only_the_cells_with_weights_are_weighted_in_a_grid(tmp_path, monkeypatch, picks):
    grid = [*SMALL, "methods=[random,dlc_topk]", "ratios=[0.3,1.0]", "seeds=[0]"]
    seen = watched(monkeypatch)
    picks(Picks())
    grid_here(tmp_path, *grid)
    assert [weights is None for weights in seen] == [True, True, False, True]
    cells = tmp_path / "runs/textures/micro/linear_probe"
    whole, ordinary = cells / "dlc-topk/ratio_1.0", cells / "random-random/ratio_1.0"
    assert (whole / "seed_0/default/predictions.csv").read_bytes() == (
        ordinary / "seed_0/default/predictions.csv"
    ).read_bytes()


def test_an_image_that_a_published_method_gives_no_weight_is_dropped(tmp_path, monkeypatch, picks):
    seen = watched(monkeypatch)
    picks(Picks((0.0, *[2.0] * 28, 0.0)))
    run = run_here(tmp_path, *TOPK)
    assert (len(read_rows(run / "subset.csv")), read_result(run)["num_kept"]) == (28, 28)
    assert seen[0].tolist() == [2.0] * 28


def test_computing_weights_counts_as_sampling_time(tmp_path, monkeypatch, picks):
    import time

    picks(Picks())
    weights = Picks.weights
    monkeypatch.setattr(Picks, "weights", lambda *given: time.sleep(0.5) or weights(*given))
    assert 0.5 <= read_result(run_here(tmp_path, *TOPK))["sample_seconds"] < 5
