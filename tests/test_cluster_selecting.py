"""What the engine on Ray chooses: the rows of one process, near cuts, and classes of two levels; without Ray."""

import re
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cluster_inputs import shards
from cluster_steps import OPTIONS, in_this_process, pruned
from prunetune.api import prune
from prunetune.base.errors import InputError
from prunetune.cli import app
from prunetune.cluster import command as cluster_command
from prunetune.cluster import job, selecting, workers
from prunetune.cluster.by_class import POSITIONS, ROWS, Runs, write_run
from prunetune.cluster.outcome import as_subset
from prunetune.cluster.room import COPIES
from prunetune.cluster.selecting import ClassWork, _near, class_works, near_cuts, selected
from prunetune.cluster.stages import Item, Stage
from prunetune.cluster.two_level import MEASURES, measure_loss, order_of, part_of, picks_of_part
from prunetune.networks.micro import WIDTHS
from prunetune.samplers import DoubleEnd, FlexRand, RandomSampler, TopK, TopKEasiest, Window
from prunetune.scorers import FacilityLocation, Herding, KCenter


@pytest.fixture
def here(monkeypatch):
    in_this_process(monkeypatch)


METHODS = [("dlc", "auto"), ("dlc", "topk"), ("herding", "auto"), ("k_center", "auto"), ("facility_location", "auto")]


@pytest.mark.parametrize(("scorer", "sampler"), [*METHODS, ("moderate", "auto"), ("random", "auto")])
def test_the_same_rows_are_kept_as_in_process(here, tmp_path, scorer, sampler):
    data = shards(tmp_path / "data")
    for keep in (0.2, 20):
        outcome = pruned(data, tmp_path, keep, scorer, sampler)
        subset = prune(
            data, keep, scorer, sampler, "micro", 5, duplicates="all", store=tmp_path / "store", device="cpu"
        )
        assert np.flatnonzero(outcome.kept).tolist() == subset.positions.tolist()
        assert np.allclose(outcome.scores, subset.scores.numpy(), rtol=1e-6)
        assert as_subset(outcome, OPTIONS.rule).kept_names == subset.kept_names


def test_blocks_and_parts_change_nothing(here, tmp_path, monkeypatch):
    whole = pruned(shards(tmp_path / "a", files=1, group=90), tmp_path, 0.2, "dlc")
    monkeypatch.setattr(workers, "MOST_ROWS", 7)
    cut = pruned(shards(tmp_path / "b", files=5, group=20), tmp_path, 0.2, "dlc")
    monkeypatch.setattr(selecting, "PIECE", 5)
    pieces = pruned(tmp_path / "b", tmp_path / "pieces", 0.2, "dlc")
    assert len(cut.parts) > len(whole.parts)
    for other in (cut, pieces):
        assert other.kept.tolist() == whole.kept.tolist()
        assert other.ranks.tolist() == whole.ranks.tolist()


@pytest.mark.parametrize(
    ("scorer", "sampler", "keep", "words"),
    [
        (
            "dlc",
            "auto",
            0.2,
            r"class kind \d has \d+ rows, and a worker of 8e-07 GB holds 20 of one class; give the ",
        ),
        ("random", "auto", 0.2, r"give the workers more memory with engine=RayEngine\(worker_gb=0.01\)$"),
        (
            "maxherding",
            "auto",
            0.2,
            "holds 0 of one class; use herding, k_center or facility_location, which select in",
        ),
        ("herding", "auto", 0.9, r"\d+ images of one class are to be kept, and a worker holds 0"),
    ],
)
def test_a_class_that_cannot_be_selected_is_refused_before_anything_is_read(
    here, tmp_path, monkeypatch, scorer, sampler, keep, words
):
    monkeypatch.setattr(job, "run_passes", lambda *_: pytest.fail("the images are read"))
    with pytest.raises(InputError, match=words):
        pruned(shards(tmp_path / "data"), tmp_path, keep, scorer, sampler, worker_gb=8e-7)


@pytest.mark.parametrize("sampler", [RandomSampler(), TopK(), TopKEasiest(), FlexRand(), Window(), DoubleEnd()])
@pytest.mark.parametrize("ratio", [0.03, 0.3, 0.9])
def test_replayed_draws_are_those_of_one_process(sampler, ratio, monkeypatch):
    labels = torch.randint(0, 6, (700,), generator=torch.Generator().manual_seed(1))
    scores = torch.rand(700, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    from prunetune.base.seeding import seeded
    from prunetune.samplers.budgets import class_budgets

    with seeded("sample", 9, ratio) as generator:
        expected = sampler.select(scores, labels, ratio, generator)
    sizes = dict(enumerate(labels.bincount().tolist()))
    permuted, randperm = [], torch.randperm
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randperm", lambda *given, **words: permuted.append(given) or randperm(*given, **words))
        works = class_works(sampler, sizes, class_budgets(labels, ratio), ratio, True, 9)
    drawn = [work for work in works if work.state is not None]
    assert len(permuted) == len(sampler.draw_sizes(100, ratio)) * (len(drawn) - 1)  # None behind the last class.
    kept = torch.zeros(700, dtype=torch.bool)
    for work in reversed(works):  # In any order.
        members = torch.nonzero(labels == work.label).flatten()
        kept[members] = selected(work, sampler, scores[members])
    assert torch.nonzero(kept).flatten().equal(expected)


def test_scores_near_a_cut_are_counted():
    ranked = torch.tensor([1.0, 2.0, 2.0 + 1e-7, 3.0], dtype=torch.float64)
    assert _near(ranked, 2) == 2
    assert _near(ranked, 1) == 0
    work = ClassWork(0, 4, 2, 0.5)
    kept = torch.tensor([False, False, True, True])
    assert near_cuts(work, TopK(), ranked, kept) == 2
    assert near_cuts(work, RandomSampler(), ranked, kept) == 0


@pytest.mark.parametrize("seed", range(5))
def test_rounding_moves_only_scores_that_are_counted_as_near_a_cut(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = 1 + 1e-5 * torch.rand(400, generator=generator, dtype=torch.float64)
    rounded = scores * (1 + 0.9e-6 * (2 * torch.rand(400, generator=generator, dtype=torch.float64) - 1))
    work = ClassWork(0, 400, 80, 0.2)
    kept, other = (selected(work, TopK(), one) for one in (scores, rounded))
    differ = int((kept != other).sum())
    assert 0 < differ <= near_cuts(work, TopK(), scores, kept) < 400


@pytest.mark.parametrize("scorer", ["herding", "k_center", "facility_location"])
def test_a_class_that_no_worker_holds_is_selected_in_two_levels(here, tmp_path, scorer):
    data = shards(tmp_path / "data")
    one = pruned(data, tmp_path, 0.2, scorer)
    width = WIDTHS[-1]
    two = pruned(data, tmp_path, 0.2, scorer, worker_gb=20 * 4 * COPIES * width / 1e9)  # A worker holds 20 rows.
    assert two.kept.sum() == one.kept.sum()
    assert two.budgets == one.budgets
    scores = two.scores[two.kept]
    assert scores.max() == 1
    assert (two.scores[~two.kept] == 0).all()
    assert one.losses == ()
    sizes = {f"kind {label}": (two.sizes[label], two.budgets[label]) for label in range(3)}
    assert {loss.name for loss in two.losses} == set(sizes)
    for loss in two.losses:
        size, budget = sizes[loss.name]
        assert (loss.parts, loss.kept) == (-(-size // 20), round(budget * loss.rows / size))
        assert re.search(
            r"of [23] parts; on \d+ of its rows, of which \d are kept, the .* is .* instead of ", loss.line
        )
    lost = min((tmp_path / "cluster store").glob("cluster/choices-*/*-union-*.choice.npz"))
    lost.unlink()
    again = pruned(data, tmp_path, 0.2, scorer, worker_gb=20 * 4 * COPIES * width / 1e9)
    assert lost.exists()
    assert again.kept.tolist() == two.kept.tolist()


def test_an_outcome_of_two_levels_is_made_again_with_other_memory_or_in_process(here, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_command, "started", lambda address: nullcontext())
    data, out = shards(tmp_path / "data"), tmp_path / "out"
    words = ["prune", str(data), "--keep", "0.2", "--backbone", "micro", "--scorer", "herding", "--out", str(out)]
    words += ["--duplicates", "all", "--store", str(tmp_path / "store")]

    def kept(*more):
        app([*words, *more], standalone_mode=False)
        return (out / "prune.json").stat().st_mtime_ns, (out / "kept.txt").read_text()

    small = ["--engine", "ray", "--worker-gb", str(20 * 4 * COPIES * WIDTHS[-1] / 1e9)]  # A worker holds 20 rows.
    two_levels = kept(*small)
    assert kept(*small) == two_levels
    one_level = kept("--engine", "ray")
    assert one_level[1] != two_levels[1]
    assert kept(*small) == one_level  # What one level keeps is as good.
    shutil.rmtree(out)
    kept(*small)
    here_kept = kept()
    assert here_kept[1] == one_level[1]
    assert kept("--engine", "ray") == here_kept


def test_parts_of_different_sizes_pick_enough_for_the_whole_class(tmp_path):
    size, held, budget = 101, 100, 100
    rows = torch.randn(size, 4, generator=torch.Generator().manual_seed(0)).numpy()
    work, uneven = ClassWork(0, size, budget, 0.5), 0
    for seed in range(9):
        stage = Stage(tmp_path / str(seed))
        stage.folder.mkdir()
        write_run("run", stage, np.zeros(size, dtype=int), 1, {POSITIONS: [np.arange(size)], ROWS: [rows]})
        runs = Runs(stage, ("run",), np.array([size]))
        selecting.cut_run(Item("cut", size, (work, 2, runs)), stage, seed)
        pieces = Runs(stage, ("cut",), np.zeros(0))
        assert [pieces.whole(part, POSITIONS).tolist() for part in range(2)] == [
            np.flatnonzero(part_of(np.arange(size), 2, seed) == part).tolist() for part in range(2)
        ]
        for item in selecting.LargeClass(work, 2, pieces).items(held):
            selecting.pick_part(item, stage, SimpleNamespace(scorer=Herding()))
        picked = [np.load(file)["positions"] for file in stage.folder.glob("*" + selecting.PICKS)]
        assert len(np.unique(np.concatenate(picked))) >= budget
        uneven += abs(len(picked[0]) - len(picked[1])) > 1
    assert uneven > 0


@pytest.mark.parametrize(("scorer", "most"), [(Herding(), 1.3), (KCenter(), 1.15), (FacilityLocation(), 1.1)])
def test_two_levels_lose_little(scorer, most):
    """The loss against one level, on Gaussian features; a random draw is much worse or the measure says nothing."""
    features = torch.randn(600, 16, generator=torch.Generator().manual_seed(4))
    loss = measure_loss(scorer, features, 30, 4, "all")
    assert loss.two_levels <= most * loss.one_level
    value = MEASURES[type(scorer)][1]
    assert loss.one_level == value(features, order_of(scorer, features, 30))
    drawn = [value(features, torch.randperm(600, generator=torch.Generator().manual_seed(i))[:30]) for i in range(9)]
    assert loss.two_levels < sorted(drawn)[4]


def test_parts_of_a_large_class_are_even_and_fixed():
    part = part_of(np.arange(10_000), 7, 3)
    assert np.bincount(part).min() > 1250
    assert part[5000:5010].tolist() == part_of(np.arange(5000, 5010), 7, 3).tolist()
    with pytest.raises(InputError, match="900 images of one class are to be kept, and a worker holds 500"):
        picks_of_part(900, 4, 500)
