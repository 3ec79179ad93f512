"""Two actors on one GPU, which Ray is told to have: what each takes, and that other workers decode for them.

The networks run on the CPU here. That they compute on a real GPU is not tested.
"""

import logging
import threading

import pytest
import torch

from cluster_inputs import shards
from cluster_processes import family, title
from prunetune import RayEngine
from prunetune.api import prune
from prunetune.base.errors import InputError
from prunetune.cluster import passes
from prunetune.cluster.engine import started

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
SETTINGS = {"scorer": "dlc", "backbone": "micro", "duplicates": "all"}


@pytest.fixture
def one_gpu(s3, monkeypatch):
    import ray

    plain = ray.init
    monkeypatch.setattr(ray, "init", lambda *given, **words: plain(*given, **words, num_gpus=1))
    monkeypatch.setattr(passes, "uses_gpus", lambda work: True)
    with started(num_cpus=2):
        yield


def data_settings():
    from ray.data import DataContext

    context = DataContext.get_current()
    return context.enable_progress_bars, context.target_max_block_size, logging.getLogger("ray.data").level


def test_two_actors_share_a_gpu(one_gpu, tmp_path):
    import psutil
    import ray

    data = shards(tmp_path / "data", rows=120, files=8)
    left, actors, is_over, before = [], [], threading.Event(), data_settings()

    def watch():
        while not is_over.wait(0.05):
            left.append(ray.available_resources().get("GPU", 0))
            actors.append(sum("MapBatches(Networks)" in title(one) for one in family(psutil.Process())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    chosen = prune(data, 0.2, engine=RayEngine(gpus_per_actor=0.5), store=tmp_path / "a", device="cpu", **SETTINGS)
    is_over.set()
    watcher.join()
    assert data_settings() == before  # Those of a user's own Ray Data come back.
    assert min(left) == 0
    assert max(actors) == 2
    assert chosen.positions.equal(prune(data, 0.2, store=tmp_path / "b", **SETTINGS).positions)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_actor_without_its_gpu_says_so_in_one_line(one_gpu, tmp_path):
    data = shards(tmp_path / "data", rows=30)
    with pytest.raises(InputError, match="device=cuda, but torch sees no CUDA device"):
        prune(data, 0.2, engine="ray", store=tmp_path / "store", **SETTINGS)
