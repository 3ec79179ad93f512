"""What is kept depends neither on the engine nor on the number of workers, the blocks and their order."""

import numpy as np
import pytest
import torch

from cluster_inputs import archives, shards
from prunetune.api import make_plan, prune
from prunetune.base.seeding import seeded
from prunetune.base.store import Store
from prunetune.cluster import job, passes, stages
from prunetune.cluster.by_class import sort_by_class
from prunetune.cluster.engine import Cluster, started
from prunetune.cluster.parts import Part, bundles
from prunetune.cluster.scores import SCORES
from prunetune.cluster.selecting import Chooser, choose_all, class_works, read_choices
from prunetune.cluster.sources import find
from prunetune.cluster.stages import Stage
from prunetune.cluster.workers import FEATURES
from prunetune.own.keep import understood
from prunetune.own.read import ReadOptions
from prunetune.samplers import DoubleEnd, FlexRand, RandomSampler, TopK, TopKEasiest, Window
from prunetune.samplers.budgets import class_budgets

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
ROWS, CLASSES = 700, 6


@pytest.fixture(scope="module", params=[1, 2])
def workers(request, s3):
    """Start Ray with one worker or two."""
    with started(num_cpus=request.param):
        yield request.param


@pytest.fixture(params=[(600, False), (37, True)])
def blocks(request, monkeypatch):
    """Return the most rows of a block; with the second setting the blocks are handed out in the opposite order."""
    most, is_reversed = request.param
    monkeypatch.setattr("prunetune.cluster.workers.MOST_ROWS", most)
    if is_reversed:
        run_tasks, streamed = stages.run_tasks, passes._streamed
        backwards = lambda function, items, *shared, **words: run_tasks(function, items[::-1], *shared, **words)  # noqa: E731
        monkeypatch.setattr(stages, "run_tasks", backwards)
        monkeypatch.setattr(
            passes, "_streamed", lambda rows, stage, work, todo, gpus: streamed(rows, stage, work, todo[::-1], gpus)
        )
    return most


def given_scores(folder, labels, scores, most):
    """Write labels and scores as the workers write them; return the rows in the order of classes."""
    features, values, parts = Stage(folder / "passes"), Stage(folder / "scores"), []
    for first in range(0, ROWS, most):
        rows = np.arange(first, min(first + most, ROWS))
        parts.append(Part(f"{first:06d}", first, len(rows)))
        for stage in (features, values):
            stage.folder.mkdir(parents=True, exist_ok=True)
        np.savez(features.file(parts[-1].name, FEATURES), positions=rows, labels=labels[rows].numpy())
    together = bundles("scores", parts, 2 * most)
    for bundle in together:
        rows = np.concatenate([np.arange(part.first, part.first + part.count) for part in bundle.parts])
        np.save(values.file(bundle.name, SCORES), scores[rows].numpy())
    return sort_by_class(together, features, values, Stage(folder / "runs"), CLASSES, 0)


def test_the_same_scores_give_the_same_subset(workers, blocks, tmp_path):
    labels = torch.randint(0, CLASSES, (ROWS,), generator=torch.Generator().manual_seed(1))
    scores = torch.rand(ROWS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores[::9] = scores[0]  # Some are equal.
    runs = given_scores(tmp_path, labels, scores, blocks)
    sizes = dict(enumerate(labels.bincount().tolist()))
    for sampler in (RandomSampler(), FlexRand(), TopK(), TopKEasiest(), Window(), DoubleEnd()):
        for ratio in (0.05, 0.4):
            with seeded("sample", 9, ratio) as generator:
                expected = sampler.select(scores, labels, ratio, generator)
            works = class_works(sampler, sizes, class_budgets(labels, ratio), ratio, True, 9)
            chooser = Chooser(runs, None, sampler, tuple("abcdef"), 9)
            stage = Stage(tmp_path / f"{sampler.name}-{ratio}")
            names, _ = choose_all(works, chooser, stage, 0, 2 * 10**9)
            chosen = [choice["positions"][choice["kept"]] for choice in read_choices(stage, names)]
            assert sorted(np.concatenate(chosen).tolist()) == expected.tolist()


METHODS = [("random", "auto"), ("dlc", "auto"), ("dlc", "topk")]
METHODS += [("herding", "auto"), ("k_center", "auto"), ("facility_location", "auto")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return what the engine in process keeps of the same images, by scorer and sampler."""
    folder = tmp_path_factory.mktemp("here")
    data = shards(folder / "data", rows=90, files=1, group=90)
    settings = {"backbone": "micro", "seed": 5, "duplicates": "all", "store": folder / "store"}
    return {
        (scorer, sampler): prune(data, 0.2, scorer, sampler, **settings).positions.tolist()
        for scorer, sampler in METHODS
    }


def test_images_that_each_engine_scores(workers, blocks, tmp_path, expected):
    many = blocks < 100
    data = shards(tmp_path / "data", rows=90, files=5 if many else 1, group=7 if many else 90)
    options, cluster = ReadOptions(), Cluster(Store(tmp_path / "store"))
    for scorer, sampler in METHODS:
        plan = make_plan(scorer, sampler, "micro", 5, duplicates="all")
        rows = job.list_rows(find(data, options), cluster, options)
        outcome = job.prune_rows(rows, understood(0.2), plan, cluster, options)
        assert scorer != "dlc" or outcome.near == 0  # Only images near a cut may differ. Here there are none.
        assert np.flatnonzero(outcome.kept).tolist() == expected[scorer, sampler], (scorer, sampler)


def test_shards_in_another_order(workers, tmp_path):
    files = sorted(map(str, archives(tmp_path / "tars", rows=30, files=3).glob("*.tar")), reverse=True)
    settings = {"keep": 0.3, "scorer": "random", "backbone": "micro", "duplicates": "all"}
    chosen = prune(files, engine="ray", store=tmp_path / "a", **settings)
    assert chosen.kept_names == prune(files, store=tmp_path / "b", **settings).kept_names
