"""`prune_text(..., engine="ray")`, with the actors called in this process."""

import json
from types import SimpleNamespace

import pytest

from prunetune import RayEngine, prune_text
from prunetune.base.errors import InputError
from prunetune.instruct.model import passes
from prunetune.instruct.model.language_model import TinyLanguageModel
from prunetune.instruct.own_text import on_ray
from runs import prunetune_here

SMALL = TinyLanguageModel(layers=1, width=32)
ROWS = [{"instruction": f"Say {i}.", "output": f"It is {i} or {'word ' * (i % 5)}."} for i in range(40)]
PICKLE = SimpleNamespace(dumps=lambda work: work, loads=lambda work: work)  # Nothing leaves this process.
SETTINGS = {"model": SMALL, "keep": 0.3, "max_tokens": 200}


class FakeRay:
    """What the code asks of Ray. Calls are answered when they are waited for, the last one first."""

    class exceptions:
        class RayActorError(Exception):
            pass

    def __init__(self, cpus=2, memory=1e12):
        self.resources, self.actors, self.most_waiting, self.asked, self.failure = {}, 0, 0, 0, None
        self.resources |= {"CPU": cpus, "memory": memory}

    def cluster_resources(self):
        return self.resources

    def put(self, value):
        return value

    def kill(self, actor):
        self.actors -= 1

    def remote(self, **options):
        assert options["max_restarts"] == options["max_task_retries"] == 5

        def made(kind):
            def start():
                self.actors += 1
                own = kind()
                return SimpleNamespace(run=SimpleNamespace(remote=lambda *given: lambda: own.run(*given)))

            return SimpleNamespace(remote=start)

        return made

    def wait(self, references, num_returns):
        self.most_waiting = max(self.most_waiting, len(references))
        return [references[-1]], references[:-1]

    def get(self, reference):
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return reference()


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(on_ray, "library", lambda name="ray": PICKLE if name == "ray.cloudpickle" else fake)
    monkeypatch.setattr(on_ray, "started", lambda address: on_ray.ExitStack())
    return fake


@pytest.mark.parametrize("scorer", ["dlc", "dlc_released", "lc_dropout", "ifd_ppl", "perplexity_mid"])
def test_the_scores_are_those_of_one_process(ray, scorer):
    far = prune_text(ROWS, scorer=scorer, engine="ray", **SETTINGS)
    assert ray.asked
    assert ray.actors == 0  # They are ended.
    near = prune_text(ROWS, scorer=scorer, **SETTINGS)
    assert far.pool_scores.equal(near.pool_scores)
    assert far.positions.equal(near.positions)


def test_hidden_states_come_from_the_actors_too(ray):
    settings = {"scorer": "longest", "sampler": "herding", "strata": "cluster", "clusters": 2, **SETTINGS}
    far = prune_text(ROWS, engine="ray", **settings)
    assert ray.asked
    assert far.positions.equal(prune_text(ROWS, **settings).positions)


def test_an_actor_has_two_batches_at_most_and_there_are_as_many_as_memory_allows(ray):
    prune_text(ROWS, scorer="perplexity_mid", engine="ray", **SETTINGS)
    assert ray.most_waiting == 4
    ray.resources["memory"] = 2 * 4 * sum(one.numel() for one in SMALL.skeleton().parameters()) * 1.5
    ray.most_waiting = 0
    prune_text(ROWS, scorer="perplexity_mid", engine="ray", **SETTINGS)
    assert ray.most_waiting == 2


def test_a_scorer_that_runs_no_model_starts_no_actor(ray, monkeypatch):
    monkeypatch.setattr(on_ray, "started", None)
    prune_text(ROWS, scorer="longest", engine="ray", **SETTINGS)
    assert ray.asked == 0


def test_a_killed_driver_goes_on_from_finished_batches(ray, tmp_path, monkeypatch):
    written = passes._write

    def stop(place, index, *rest):
        written(place, index, *rest)
        if len(list(place.glob("batch-*.npz"))) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(passes, "_write", stop)
    settings = {"scorer": "perplexity_mid", "store": tmp_path, **SETTINGS}
    with pytest.raises(KeyboardInterrupt):
        prune_text(ROWS, engine="ray", **settings)
    monkeypatch.setattr(passes, "_write", written)
    before, ray.asked = ray.asked, 0
    subset = prune_text(ROWS, engine="ray", **settings)
    assert before == 3
    total = before + ray.asked
    [meta] = tmp_path.glob("scores/*/meta.json")
    assert json.loads(meta.read_text())["seconds"] > 0
    whole = prune_text(ROWS, scorer="perplexity_mid", **SETTINGS)
    assert subset.pool_scores.equal(whole.pool_scores)
    ray.asked = 0
    prune_text(ROWS, scorer="perplexity_mid", engine="ray", **SETTINGS)
    assert ray.asked == total


def test_faults_of_the_actors_are_one_line(ray, monkeypatch):
    ray.failure = ray.exceptions.RayActorError("gone")
    with pytest.raises(InputError, match="workers died 6 times on the same work"):
        prune_text(ROWS, engine="ray", **SETTINGS)
    ray.failure = None

    def refuse(self, device, dtype):
        raise InputError("tiny lacks 3 weights")

    monkeypatch.setattr(TinyLanguageModel, "load", refuse)
    with pytest.raises(InputError, match="tiny lacks 3 weights"):
        prune_text(ROWS, engine="ray", **SETTINGS)
    assert ray.actors == 0


def test_a_model_in_a_folder_is_named_from_the_root(tmp_path, monkeypatch):
    from prunetune.instruct.model.language_model import LanguageModel
    from prunetune.instruct.scorers.signals import Level, RemotePass

    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    work = RemotePass("losses", LanguageModel(model="model"), "cpu", "fp32", Level(), None)
    assert on_ray._with_whole_path(work).llm.model == str(tmp_path / "model")
    work = RemotePass("losses", LanguageModel(model="someone/model"), "cpu", "fp32", Level(), None)
    assert on_ray._with_whole_path(work) is work


def test_what_one_engine_has_written_is_finished_for_the_other(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["prune-text", "my.jsonl", "--model", "tiny", "--keep", "5", "--scorer", "perplexity_mid"]
    words += ["--store", "store", "--out", "kept"]
    done = prunetune_here(*words, "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "kept/prune.json").read_text())["engine"] == "ray"
    assert "finished before: the same command on the same data" in prunetune_here(*words).stderr
    wrong = prunetune_here(*words, "--ray-address", "auto")
    assert "--ray-address belongs to --engine ray" in wrong.stderr
    assert "engine must be one of local, ray" in prunetune_here(*words, "--engine", "rya").stderr


def test_the_engine_is_a_name_or_its_settings(ray):
    subset = prune_text(ROWS, scorer="perplexity_mid", engine=RayEngine(address="10.0.0.1:6379"), **SETTINGS)
    assert ray.asked
    assert len(subset) == 12
    with pytest.raises(InputError, match="engine must be one of local, ray"):
        prune_text(ROWS, engine="slurm", **SETTINGS)
