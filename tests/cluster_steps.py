"""The stages of the engine on Ray, run in one process without Ray."""

import json

from prunetune import RayEngine
from prunetune.api import make_plan
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.cluster import job, passes, stages
from prunetune.cluster.engine import Cluster, Failure, guarded
from prunetune.cluster.job import check_plan, list_rows, prune_rows
from prunetune.cluster.passes import rows_of
from prunetune.cluster.shared import shared_folder
from prunetune.cluster.sources import find
from prunetune.cluster.workers import Networks, decoded
from prunetune.own.keep import understood
from prunetune.own.read import ReadOptions

OPTIONS = ReadOptions()


def in_this_process(monkeypatch):
    """Let the stages run in this process, in the order of their items."""

    def in_turn(function, items, *shared, memory=None):
        for item in items:
            outcome = guarded(function, item, *shared)
            if isinstance(outcome, Failure):
                raise InputError(outcome.text)
            yield item, outcome

    def streamed(catalogue, stage, work, segments, gpus):
        with shared_folder(stage, (catalogue.bare(), stage, work)) as place:
            networks = Networks(str(place))
            for one in rows_of(catalogue, segments):
                for views in decoded({"segment": [one["segment"]]}, str(place)):
                    row = {name: values[0] for name, values in networks(views).items()}
                    if row["error"]:
                        raise InputError(row["error"])
                    yield row["name"], row["rows"], json.loads(row["record"])

    class NoCluster:
        cluster_resources = staticmethod(lambda: {"CPU": 2})

    monkeypatch.setattr(stages, "run_tasks", in_turn)
    monkeypatch.setattr(passes, "_streamed", streamed)
    monkeypatch.setattr(job, "library", lambda: NoCluster)


def pruned(data, tmp_path, keep, scorer, sampler="auto", options=OPTIONS, worker_gb=2.0):
    plan = make_plan(scorer, sampler, "micro", 5, duplicates="all")
    cluster = Cluster(Store(tmp_path / "cluster store"), RayEngine(worker_gb=worker_gb))
    amount = understood(keep)
    check_plan(plan, amount, options)
    return prune_rows(list_rows(find(data, options), cluster, options), amount, plan, cluster, options)
