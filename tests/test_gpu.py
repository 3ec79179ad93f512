"""The same logic on the CPU and, where there is one, on a CUDA device."""

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from prunetune.base.devices import Hardware
from prunetune.base.store import Store
from prunetune.data.images.decoded import ShownImages
from prunetune.data.images.device_views import DeviceView, Source
from prunetune.data.readers import Textures
from prunetune.loop.recorder import Recorder
from prunetune.loop.samplers import InfoBatchSampler
from prunetune.networks.backbone import Backbone
from prunetune.networks.frozen_pass import training
from prunetune.runs.scores import compute_scores
from prunetune.scorers import DLC, DeepFool, Grand
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import LINEAR_PROBE
from prunetune.training import full
from prunetune.training.full import finetune_all
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe
from prunetune.training.sample_order import Slices, ThinnedPasses

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SET = Textures(num_pool=120, num_test=100)
MICRO = Backbone(model="prunetune_micro", mask_modules="conv2d")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dlc_ranks_as_on_the_cpu_in_fp32(device, precision, tmp_path):
    def scores(device, precision):
        embedding = Embedding(MICRO.load(), Store(tmp_path / device / precision), precision, device)
        return compute_scores(DLC(), NetworkSignals(SET.pool("train"), embedding), 0)

    expected = scores("cpu", "fp32")
    assert spearmanr(scores(device, precision), expected).statistic > (0.999 if precision == "fp32" else 0.99)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scorer", [Grand(epoch=2, repeats=1), DeepFool(iterations=5)], ids=["grand", "deepfool"])
def test_backward_passes_rank_as_on_the_cpu_and_run_on_the_device(device, scorer, tmp_path, monkeypatch):
    ran_on = set()

    def scores(device, folder):  # Each has its own store. A common store would return the first scores for the second.
        embedding = Embedding(MICRO.load(), Store(tmp_path / folder), "fp32", device)
        return compute_scores(scorer, NetworkSignals(SET.pool("train"), embedding, LINEAR_PROBE), 0)

    expected, forward = scores("cpu", "expected"), nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, h: ran_on.add(h.device.type) or forward(self, h))
    assert spearmanr(scores(device, "found"), expected).statistic > 0.999
    assert ran_on == {device}


@pytest.mark.parametrize("device", DEVICES)
def test_probes_train_as_on_the_cpu(device):
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(2, 60, 16, generator=generator)
    labels = torch.arange(60) % 3
    probes = [Probe(torch.arange(n), labels[:n], bank[0], labels, seed=0) for n in (60, 31)]
    recipe = Recipe("linear_probe", epochs=4, batch_size=16)
    expected = train_probes(bank, probes, 3, recipe, "cpu")
    for mine, reference in zip(train_probes(bank, probes, 3, recipe, device), expected, strict=True):
        losses = [epoch.train_loss for epoch in mine.history]
        assert losses == pytest.approx([epoch.train_loss for epoch in reference.history], rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_full_fine_tuning_learns(device):
    pool, test = SET.pool("train"), SET.pool("test")
    recipe = Recipe("full", trained="all", epochs=4, batch_size=32, learning_rate=0.02, evaluate_every=4)
    shown, judged = ShownImages.whole(pool, pool.images), ShownImages.whole(test, test.images)
    result = finetune_all(MICRO.load(), shown, judged, recipe, 0, Hardware(device))
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert len(result.predictions) == len(test)


@pytest.mark.parametrize("device", DEVICES)
def test_a_grid_of_probes_trains_as_each_alone_on_the_cpu(device):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 5
    bank = torch.randn(3, 90, 16, generator=generator) + 2 * nn.functional.one_hot(labels, 16)
    subsets = [torch.randperm(90, generator=generator)[: 9 * n] for n in range(1, 10)]
    orders = [None] * 9 + [Slices(90, 31), ThinnedPasses(90, 40, 0.5, 200)]
    subsets += [torch.arange(90)] * 2
    probes = [
        Probe(rows, labels[rows], bank[0], labels, seed, order)
        for rows, order in zip(subsets, orders, strict=True)
        for seed in (0, 1)
    ]
    recipe = Recipe("linear_probe", epochs=6, batch_size=16)
    for probe, mine in zip(probes, train_probes(bank.half(), probes, 5, recipe, device), strict=True):
        [alone] = train_probes(bank.half(), [probe], 5, recipe, "cpu")
        losses = [epoch.train_loss for epoch in mine.history]
        assert losses == pytest.approx([epoch.train_loss for epoch in alone.history], abs=1e-5)
        assert torch.equal(mine.uses, alone.uses)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("resident", [None, 0])
def test_training_views_made_on_the_device_are_those_of_the_threads(device, resident):
    pool = SET.pool("train")
    positions = torch.arange(0, 120, 5)
    source = Source.of(pool.images, positions, device, resident)
    made = torch.cat(list(DeviceView(source, 24, pool.sample_ids, ("crop", 1)).batches(positions.tolist(), 7))).cpu()
    threads = training(pool.images, 24, pool, "crop", 1)
    difference = made.int() - torch.stack([threads(position) for position in positions.tolist()]).int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.999


@pytest.mark.gpu
def test_full_fine_tuning_follows_the_cpu():
    pool, test = SET.pool("train"), SET.pool("test")
    recipe = Recipe("full", trained="all", epochs=3, batch_size=32, learning_rate=0.01, evaluate_every=3)

    def losses(device: str) -> list[float]:
        shown, judged = ShownImages.whole(pool, pool.images), ShownImages.whole(test, test.images)
        result = finetune_all(MICRO.load(), shown, judged, recipe, 0, Hardware(device))
        return [epoch.train_loss for epoch in result.history]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [None, 0])
def test_the_inner_loop_of_full_fine_tuning_waits_for_nothing(resident):
    pool = SET.pool("train")
    network = MICRO.load()
    model = nn.Sequential(network, nn.Linear(network.num_features, 10)).cuda()
    recipe = Recipe("full", trained="all", batch_size=32)
    optimizer = full._optimizer(model, recipe)
    source = Source.of(pool.images, torch.arange(120), "cuda", resident)
    view = DeviceView(source, network.input_size, pool.sample_ids, ("crop",))
    labels, micro_batch = pool.labels.cuda(), full.MicroBatch(model, 32)

    def train() -> torch.Tensor:
        part = full._Part(view.batches(range(120), 32), labels, labels, None)
        return full._train_part(model, optimizer, part, micro_batch, "bf16", "cuda", lambda *_: None)

    train()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")  # Any wait for the GPU now raises an error.
    try:
        after = train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert after.isfinite().item()


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_is_split_without_changing_the_result():
    pool, test = SET.pool("train"), SET.pool("test")
    backbone = Backbone(model="test_vit", mask_modules="linear", pretrained=False)
    recipe = Recipe("full", trained="all", epochs=1, batch_size=64, learning_rate=0.01, evaluate_every=1)

    def train() -> float:
        shown, judged = ShownImages(pool, pool.images, torch.arange(64)), ShownImages.whole(test, test.images)
        result = finetune_all(backbone.load(), shown, judged, recipe, 0, Hardware("cuda"))
        return result.history[-1].train_loss

    whole = train()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    # This is too little memory for 64 images at once.
    torch.cuda.set_per_process_memory_fraction((before + 200 * 2**20) / total)
    try:
        assert train() == pytest.approx(whole, rel=1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_recorder_and_infobatch_take_batches_of_the_device(device, dtype):
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    labels = torch.arange(20, device=device) % 5
    there, here = Recorder(20), Recorder(20)
    sampler = InfoBatchSampler(20, 4)
    indices = torch.tensor(list(sampler), device=device)
    there.record(indices, logits[indices], labels[indices])
    here.record(indices.cpu(), logits[indices].cpu(), labels[indices].cpu())
    assert there.scores("el2n").equal(here.scores("el2n"))
    assert there.scores("el2n").device.type == "cpu"
    assert sampler.weights(indices).device.type == device
    sampler.update(indices, nn.functional.cross_entropy(logits[indices], labels[indices], reduction="none"))
    assert len(sampler) < 20
