"""Which images each epoch of a training uses: static subsets, RS2, InfoBatch, and the runs with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunetune.base.devices import Hardware
from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded, stream
from prunetune.data.images.decoded import ShownImages
from prunetune.data.readers.textures import Textures
from prunetune.networks.backbone import Backbone
from prunetune.runs import image_run
from prunetune.samplers import RS2, InfoBatch, TopK, class_budgets
from prunetune.training.full import finetune_all
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe
from prunetune.training.sample_order import SampleOrder, Slices, Static, ThinnedPasses, Walk, thinned_weights
from runs import SMALL, grid_here, lasting, parsed_here, read_result, read_rows, run_here

NUM, WIDTH, NUM_CLASSES = 23, 5, 3
LABELS = torch.arange(NUM) * 7 % 5 % NUM_CLASSES
RECIPE = Recipe("probe", epochs=9, batch_size=4, learning_rate=0.1, milestones=(4, 7), weight_decay=1e-2)
DYNAMIC = {"rs2": RS2(), "infobatch": InfoBatch()}


def shown(sample_order: SampleOrder, epochs: int, losses: Tensor | None = None) -> list[list[int]]:
    """Return the images of each epoch. After an image was shown, its loss is the given one."""
    walk, way = Walk(sample_order, stream("walk")), []
    for _ in range(epochs):
        way.append([])
        for indices, _ in walk.epoch():
            way[-1] += indices.tolist()
            if losses is not None:
                walk.observe(indices, losses[indices])
    return way


def test_a_static_subset_is_shown_whole_in_every_epoch_in_the_order_of_a_permutation():
    generator = stream("walk")
    assert shown(Static(6), 3) == [torch.randperm(6, generator=generator).tolist() for _ in range(3)]


@pytest.mark.parametrize("size", [1, 7, 8, 22])
def test_slices_use_every_image_before_any_comes_again_and_none_twice_in_an_epoch(size):
    uses = torch.zeros(NUM)
    for epoch in shown(Slices(NUM, size), 40):
        assert len(set(epoch)) == len(epoch) == size
        uses[epoch] += 1
        assert uses.max() - uses.min() <= 1


def test_slices_are_drawn_over_the_pool_and_shuffled_anew():
    first, second = shown(Slices(6, 3), 4)[:2], shown(Slices(6, 3), 4)[2:]
    assert sorted(first[0] + first[1]) == sorted(second[0] + second[1]) == list(range(6))
    assert first != second


def test_slices_of_the_whole_pool_give_the_static_order():
    assert shown(Slices(NUM, NUM), 3) == shown(Static(NUM), 3)


def test_the_easy_images_are_halved_and_the_kept_ones_of_them_doubled():
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 8.0, math.nan])  # The mean of the known losses is 18.5 / 7.
    weights = thinned_weights(losses, 0.5, stream("thin"))
    assert sorted(weights[:5].tolist()) == [0, 0, 2, 2, 2]  # Half of five is rounded down to two.
    assert weights[5:].tolist() == [1, 1, 1]
    quarter = thinned_weights(losses, 0.25, stream("thin"))
    assert sorted(quarter[:5].tolist()) == pytest.approx([0, *[4 / 3] * 4])
    drawn = {tuple(thinned_weights(losses, 0.5, stream("thin", seed)).tolist()) for seed in range(30)}
    assert len(drawn) > 5


@pytest.mark.parametrize("losses", [[math.nan] * 4, [1.0] * 4, [0.5, 2.0, 2.0, math.nan]])
def test_nothing_is_left_out_without_known_losses_or_with_fewer_than_two_below_the_mean(losses):
    assert thinned_weights(torch.tensor(losses), 0.5, stream("thin")).tolist() == [1, 1, 1, 1]


def test_thinned_passes_are_cut_into_epochs_and_end_in_whole_passes():
    # Eleven losses are below the mean of 11, and five of these images are left out.
    losses = torch.arange(NUM, dtype=torch.float32)
    epochs = shown(ThinnedPasses(NUM, 10, 0.5, whole_from=70), 12, losses)
    assert {len(epoch) for epoch in epochs} == {10}
    way = sum(epochs, [])
    assert sorted(way[:NUM]) == list(range(NUM))  # No loss is known yet, so the first pass is whole.
    for start, end in ((23, 41), (41, 59)):
        assert len(set(way[start:end])) == 18
        assert set(way[start:end]) >= set(range(11, NUM))
    assert len(set(way[59:70])) == 11  # This pass is interrupted.
    assert sorted(way[70:93]) == sorted(way[93:116]) == list(range(NUM))


def test_the_weights_of_a_pass_are_two_for_easy_images_and_none_in_whole_passes():
    walk = Walk(ThinnedPasses(NUM, NUM, 0.5, whole_from=40), stream("walk"))
    assert [weights for _, weights in walk.epoch()] == [None]
    walk.observe(torch.arange(NUM), torch.arange(NUM).float())
    (thinned, weights), (_, whole) = walk.epoch()
    assert torch.equal(weights == 2, thinned < 11)
    assert set(weights.tolist()) == {1, 2}
    assert whole is None


def test_a_training_shorter_than_a_pass_is_a_random_part_of_the_pool_shown_once():
    [*epochs] = shown(InfoBatch().sample_order(torch.zeros(100, dtype=torch.int64), 0.1, 9), 9, torch.rand(100))
    # The final whole passes would begin at 79, but they do not interrupt a whole pass.
    assert len(set(sum(epochs, []))) == 90


def test_a_walk_stops_at_the_end_of_a_part_and_counts_what_was_drawn():
    walk = Walk(Slices(5, 3), stream("walk"))
    assert [len(walk.draw(2)[0]) for _ in range(3)] == [2, 1, 2]
    assert walk.uses().sum() == 5
    ahead = walk.draw(9)[0]
    assert len(ahead) == 1
    assert walk.uses().sum() == 6


@pytest.mark.parametrize("sampler", DYNAMIC.values(), ids=DYNAMIC)
@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0])
def test_a_dynamic_sampler_keeps_the_pool_and_shows_what_a_subset_would(sampler, ratio):
    kept = sampler.select(torch.zeros(NUM), LABELS, ratio, stream())
    assert torch.equal(kept, torch.arange(NUM))
    sample_order = sampler.sample_order(LABELS, ratio, epochs=6)
    assert sample_order.num_images == NUM
    assert sample_order.images_per_epoch == sum(class_budgets(LABELS, ratio).values())
    assert TopK().sample_order(LABELS, ratio, 6) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropped": 1}, "sampler.dropped"),
        ({"dropped": -0.1}, "got -0.1"),
        ({"whole_end": 1.1}, r"sampler.whole_end must be in \[0, 1\], got 1.1"),
        ({"whole_end": True}, "got True"),
        ({"dropped": "half"}, "got 'half'"),
        ({"budgets": "equal"}, "InfoBatch draws from the whole pool"),
    ],
)
def test_invalid_options_of_infobatch_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        InfoBatch(**options)


def bank_of(num_views: int) -> Tensor:
    return torch.randn(num_views, NUM, WIDTH, generator=stream("bank")) + 2 * nn.functional.one_hot(LABELS, WIDTH)


def probe_of(sample_order: SampleOrder | None, seed: int = 0, num: int = NUM) -> Probe:
    return Probe(torch.arange(num), LABELS[:num], bank_of(4)[3], LABELS, seed, sample_order)


def reference(bank: Tensor, sampler: RS2 | InfoBatch, ratio: float, recipe: Recipe, seed: int) -> tuple:
    """Return losses, the head's logits and the uses of a probe on the whole pool, written out image by image."""
    with seeded("finetune", seed) as generator:
        head = nn.Linear(WIDTH, NUM_CLASSES)
    optimiser = torch.optim.SGD(
        head.parameters(), recipe.learning_rate, recipe.momentum, 0, recipe.weight_decay, recipe.nesterov
    )
    known, queue, uses, history = {}, [], [0] * NUM, []
    size = sum(class_budgets(LABELS, ratio).values())
    whole_from, total = round(0.875 * size * recipe.epochs), 0
    for epoch in range(1, recipe.epochs + 1):
        optimiser.param_groups[0]["lr"] = recipe.rate(epoch)
        left, summed = size, 0.0
        while left:
            if not queue and isinstance(sampler, RS2):
                queue = [(i, 1.0) for i in torch.randperm(NUM, generator=generator).tolist()]
                carried = []
            elif not queue:
                weights = dict.fromkeys(range(NUM), 1.0)
                mean = sum(known.values()) / max(len(known), 1)
                easy = [i for i in sorted(known) if known[i] < mean]
                if total < whole_from and len(easy) > 1:
                    weights.update(dict.fromkeys(easy, 2.0))
                    for j in torch.randperm(len(easy), generator=generator)[: len(easy) // 2].tolist():
                        del weights[easy[j]]
                order = [i for i in torch.randperm(NUM, generator=generator).tolist() if i in weights]
                queue = [(i, weights[i]) for i in (order if len(order) == NUM else order[: whole_from - total])]
            if isinstance(sampler, RS2):
                if left == size and len(queue) < size:  # The slice continues in the next permutation.
                    fresh, carried = torch.randperm(NUM, generator=generator).tolist(), [i for i, _ in queue]
                    later = [i for i in fresh if i in carried]
                    queue += [(i, 1.0) for i in [*(i for i in fresh if i not in carried), *later]]
            piece, queue = queue[:left], queue[left:]
            for part in batches_of(torch.arange(len(piece)), recipe):
                batch = [piece[i] for i in part.tolist()]
                chosen, weights = torch.tensor([i for i, _ in batch]), torch.tensor([w for _, w in batch])
                logits = head(bank[(epoch - 1) % len(bank)][chosen])
                losses = nn.functional.cross_entropy(logits, LABELS[chosen], reduction="none")
                optimiser.zero_grad()
                (losses * weights).mean().backward()
                optimiser.step()
                known.update(zip(chosen.tolist(), losses.tolist(), strict=True))
                for i in chosen.tolist():
                    uses[i] += 1
                summed += (losses * weights).sum().item()
            left, total = left - len(piece), total + len(piece)
        history.append(summed / size)
    return history, head(bank_of(4)[3]).argmax(dim=1), uses


def batches_of(order, recipe):
    if recipe.last_batch == "keep":
        return order.split(recipe.batch_size)
    number = max(1, min(math.ceil(len(order) / recipe.batch_size), len(order) // 2))
    return [torch.from_numpy(part) for part in np.array_split(order.numpy(), number)]


def losses_of(result) -> list[float]:
    return [epoch.train_loss for epoch in result.history]


@pytest.mark.parametrize("sampler", DYNAMIC.values(), ids=DYNAMIC)
@pytest.mark.parametrize(("ratio", "last_batch"), [(0.1, "keep"), (0.5, "keep"), (0.5, "balanced"), (1.0, "balanced")])
def test_a_dynamic_probe_equals_a_loop_written_out(sampler, ratio, last_batch):
    sample_order, recipe = sampler.sample_order(LABELS, ratio, RECIPE.epochs), replace(RECIPE, last_batch=last_batch)
    [result] = train_probes(bank_of(3), [probe_of(sample_order)], NUM_CLASSES, recipe, "cpu")
    history, predictions, uses = reference(bank_of(3), sampler, ratio, recipe, seed=0)
    assert result.uses.tolist() == uses
    assert losses_of(result) == pytest.approx(history, abs=1e-5)
    assert torch.equal(result.predictions, predictions)
    assert result.uses.sum() == sample_order.images_per_epoch * RECIPE.epochs
    assert [epoch.learning_rate for epoch in result.history] == [RECIPE.rate(epoch) for epoch in range(1, 10)]


def test_dynamic_and_static_probes_trained_together_equal_those_trained_alone():
    orders = [sampler.sample_order(LABELS, ratio, 9) for sampler in DYNAMIC.values() for ratio in (0.3, 0.7, 1.0)]
    probes = [probe_of(sample_order, seed) for sample_order in orders for seed in (0, 1)]
    probes += [probe_of(None, 2, num=10), probe_of(Static(NUM, torch.rand(NUM).double() + 0.1), 3)]
    together = train_probes(bank_of(3), probes, NUM_CLASSES, RECIPE, "cpu")
    assert [result.trained_together for result in together] == [8] * 6 + [1] * 6 + [8] * 2
    for probe, result in zip(probes, together, strict=True):
        [alone] = train_probes(bank_of(3), [probe], NUM_CLASSES, RECIPE, "cpu")
        assert losses_of(result) == pytest.approx(losses_of(alone), abs=1e-6)
        assert torch.equal(result.predictions, alone.predictions)
        assert torch.equal(result.uses, alone.uses)


@pytest.mark.parametrize("order", [Slices(NUM, NUM), ThinnedPasses(NUM, NUM, 0.0, NUM)], ids=["rs2", "infobatch"])
def test_at_ratio_one_with_nothing_left_out_it_is_ordinary_training(order):
    [dynamic] = train_probes(bank_of(3), [probe_of(order)], NUM_CLASSES, RECIPE, "cpu")
    [ordinary] = train_probes(bank_of(3), [probe_of(None)], NUM_CLASSES, RECIPE, "cpu")
    assert dynamic.history == ordinary.history
    assert torch.equal(dynamic.predictions, ordinary.predictions)
    assert dynamic.uses.tolist() == ordinary.uses.tolist() == [RECIPE.epochs] * NUM


def test_whole_networks_follow_the_same_orders_as_probes(monkeypatch):
    """A network that is only a head, trained on views that are the features, equals the probe."""
    dataset = Textures(num_pool=100, num_test=100, size=16)
    pool, test = dataset.pool("train"), dataset.pool("test")

    class Pixels(nn.Module):
        num_features, input_size = 3, 16

        def forward(self, images):
            return images.float().mean(dim=(2, 3)) / 64 - 2

    features = torch.stack([pool.images.decode(i) for i in range(100)]).float().mean(dim=(2, 3)) / 64 - 2
    test_features = torch.stack([test.images.decode(i) for i in range(100)]).float().mean(dim=(2, 3)) / 64 - 2
    monkeypatch.setattr("prunetune.training.full.training", lambda images, *_: images.decode)
    recipe = Recipe("both", epochs=6, batch_size=8, learning_rate=0.3, milestones=(3,), views=0)
    for sampler in DYNAMIC.values():
        sample_order = sampler.sample_order(pool.labels, 0.5, recipe.epochs)
        probe = Probe(torch.arange(100), pool.labels, test_features, test.labels, 4, sample_order)
        [expected] = train_probes(features.unsqueeze(0), [probe], 10, recipe, "cpu")
        result = finetune_all(
            Pixels(),
            ShownImages.whole(pool, pool.images),
            ShownImages.whole(test, test.images),
            recipe,
            4,
            Hardware(),
            sample_order,
        )
        assert losses_of(result) == pytest.approx(losses_of(expected), abs=1e-4)
        assert torch.equal(result.uses, expected.uses)
        assert (result.predictions == expected.predictions).double().mean() >= 0.95


def test_a_whole_network_at_ratio_one_under_rs2_is_ordinary_training():
    dataset = Textures(num_pool=100, num_test=100, size=16)
    pool, test = dataset.pool("train"), dataset.pool("test")
    recipe = Recipe("full", trained="all", epochs=2, batch_size=16, learning_rate=0.05, views=0)

    def tuned(sample_order):
        network = Backbone(model="prunetune_micro", pretrained=False, input_size=16).load()
        shown, judged = ShownImages.whole(pool, pool.images), ShownImages.whole(test, test.images)
        return finetune_all(network, shown, judged, recipe, 0, Hardware(), sample_order)

    rs2, ordinary = tuned(RS2().sample_order(pool.labels, 1.0, 2)), tuned(None)
    assert rs2.history == ordinary.history
    assert torch.equal(rs2.predictions, ordinary.predictions)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("dynamic")


@pytest.fixture(scope="module")
def finished(results):
    """Return the results folder of a grid with dynamic and static methods."""
    grid_here(results, *SMALL, "methods=[rs2,infobatch,random]", "ratios=[0.3,1.0]", "seeds=[0]", "finetune.epochs=5")
    return results


@pytest.mark.parametrize("method", DYNAMIC)
def test_a_dynamic_run_lists_what_it_has_used_and_how_often(finished, method):
    run = finished / "runs/textures/micro/linear_probe" / f"none-{method}" / "ratio_0.3/seed_0/default"
    result, rows = read_result(run), read_rows(run / "subset.csv")
    weights = [int(row["weight"]) for row in rows]
    assert (result["images_per_epoch"], result["num_pool"], result["num_kept"]) == (30, 100, len(rows))
    assert (sum(weights), min(weights)) == (150, 1)
    assert len(rows) == 100  # The 150 images shown are more than the pool has.
    assert len(read_rows(run / "history.csv")) == 5
    assert result["accuracy"] == float(read_rows(run / "history.csv")[-1]["test_accuracy"])
    static = finished / "runs/textures/micro/linear_probe/random-random/ratio_0.3/seed_0/default"
    assert read_result(static)["images_per_epoch"] is None
    assert {row["weight"] for row in read_rows(static / "subset.csv")} == {"1"}


@pytest.mark.parametrize("method", DYNAMIC)
def test_a_dynamic_cell_equals_the_same_run_alone(finished, tmp_path, method):
    alone = run_here(tmp_path, *SMALL, f"method={method}", "ratio=0.3", "finetune.epochs=5")
    cell = finished / alone.relative_to(tmp_path)
    assert lasting(read_result(alone)) == lasting(read_result(cell))
    assert (alone / "subset.csv").read_bytes() == (cell / "subset.csv").read_bytes()
    assert (alone / "predictions.csv").read_bytes() == (cell / "predictions.csv").read_bytes()


def test_rs2_on_the_whole_pool_equals_random_on_the_whole_pool(finished):
    runs = finished / "runs/textures/micro/linear_probe"
    rs2, ordinary = runs / "none-rs2/ratio_1.0/seed_0/default", runs / "random-random/ratio_1.0/seed_0/default"
    assert (rs2 / "predictions.csv").read_bytes() == (ordinary / "predictions.csv").read_bytes()
    assert read_result(rs2)["accuracy"] == read_result(ordinary)["accuracy"]
    assert {row["weight"] for row in read_rows(rs2 / "subset.csv")} == {"5"}


@pytest.mark.parametrize("method", DYNAMIC)
def test_whole_networks_are_trained_dynamically_too(results, method):
    full = ["finetune=full", "finetune.epochs=2", "finetune.views=0"]
    run = run_here(results, *SMALL, *full, f"method={method}", "ratio=0.2")
    rows = read_rows(run / "subset.csv")
    assert {row["weight"] for row in rows} == {"1"}
    assert (len(rows), read_result(run)["num_kept"], read_result(run)["images_per_epoch"]) == (40, 40, 20)


def test_a_dynamic_run_that_stops_after_pruning_leaves_no_subset(results, tmp_path):
    run = run_here(tmp_path, *SMALL, "method=rs2", "ratio=0.2", "until=prune")
    assert not run.exists() or list(run.iterdir()) == []


def test_a_dynamic_epoch_without_images_is_refused(tmp_path):
    run = parsed_here(tmp_path, *SMALL, "method=rs2", "ratio=0.001", "sampler.min_per_class=0")
    task = image_run.open_task(run)
    with pytest.raises(InputError, match="nothing is kept of 100 images"):
        image_run.prune(run, task, image_run.score(run, task))


@pytest.mark.parametrize("joins", [False, True])
def test_no_piece_of_an_epoch_is_a_single_image_if_asked(joins):
    class Cut(Slices):
        """Parts of 4, 1, 5, 4, 1, 5, ... images out of ten; the first of them weigh 2."""

        def parts(self, generator, losses):
            while True:
                for start, end in ((0, 4), (4, 5), (5, 10)):
                    weights = None if start else torch.full((end - start,), 2.0)
                    yield torch.arange(start, end), weights

    walk = Walk(Cut(10, 5), torch.Generator())
    pieces = [[len(indices) for indices, _ in walk.epoch(joins)] for _ in range(2)]
    assert pieces == ([[5], [5]] if joins else [[4, 1], [5]])
    longer = Walk(Cut(10, 11), torch.Generator())
    found = [[(indices.tolist(), weights) for indices, weights in longer.epoch(joins)] for _ in range(2)]
    shown = [[position for indices, _ in epoch for position in indices] for epoch in found]
    assert shown == [[*range(10), 0], [*range(1, 10), 0, 1]]  # The same images in the same order.
    assert all(len(indices) > 1 for epoch in found for indices, _ in epoch) == joins
    if joins:
        assert found[0][1][1].tolist() == [1, 1, 1, 1, 1, 1, 2]  # Images keep the weights of their parts.
    alone = Walk(Static(1), torch.Generator())
    assert [len(indices) for indices, _ in alone.epoch(joins)] == [1]
