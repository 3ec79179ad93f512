"""A run with engine=ray, with the workers' functions called one after another in this process."""

import json
import pickle
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from made_data import make_dtd
from prunetune.base.errors import InputError
from prunetune.cluster import engine, pool_passes, stages
from prunetune.config.named import SCORERS
from runs import SMALL, grid_here, lasting, parsed_here, read_result, run_here

QUICK = [*SMALL, "finetune.views=0", "finetune.epochs=1", "ratio=0.3", "batch_size=16"]


class Worker:
    """What replaces Ray: a crew runs over its rows in this process. parts: how many were computed."""

    def __init__(self):
        self.parts, self.stop_after = 0, None

    def streamed(self, rows, place, crew):
        assert crew.gpus == 0
        actor = crew.both(place=str(place))
        for row in rows:
            if self.parts == self.stop_after:
                raise KeyboardInterrupt
            [found] = actor({name: [value] for name, value in row.items()})
            done = {name: values[0] for name, values in found.items()}
            if done["error"]:
                raise InputError(done["error"])
            self.parts += 1
            yield done["name"], done["rows"], json.loads(done["record"])


@pytest.fixture
def worker(monkeypatch):
    def in_turn(function, items, *shared, memory=None):
        return ((item, function(item, *shared)) for item in items)

    @contextmanager
    def started(address):
        yield

    worker = Worker()
    monkeypatch.setattr(pool_passes, "library", lambda name="ray": pickle)
    monkeypatch.setattr(pool_passes, "started", started)
    monkeypatch.setattr(pool_passes, "streamed", worker.streamed)
    monkeypatch.setattr(pool_passes, "worker_device", lambda device: "cpu")
    monkeypatch.setattr(pool_passes, "VIEW_BYTES", 3 * 16**2 * 40)  # 40 views: parts of two batches.
    monkeypatch.setattr(stages, "run_tasks", in_turn)
    return worker


def scores_of(results):
    return [
        np.loadtxt(path, delimiter=",", skiprows=1, usecols=3) for path in results.glob("store/scores/*/scores.csv")
    ]


def names_of(results, kind):
    return sorted(path.name for path in results.glob(f"store/{kind}/*"))


METHODS = [
    ["scorer=dlc"],
    ["scorer=dlc", "scorer.include_unmasked=false", "scorer.masking=random", "seed=3"],
    ["scorer=dlc_released", "scorer.levels=3"],  # Its networks see a new crop at each level.
    ["scorer=herding"],
    ["scorer=el2n", "proxy=linear_probe"],
]


@pytest.mark.parametrize("words", METHODS, ids=lambda words: " ".join(words))
def test_a_run_is_equal_to_that_of_one_process(worker, tmp_path, words):
    far = run_here(tmp_path / "far", *QUICK, *words, "engine=ray")
    assert worker.parts
    near = run_here(tmp_path / "near", *QUICK, *words)
    results = lasting(read_result(far)), lasting(read_result(near))
    assert [one.pop("engine") for one in results] == ["ray", "local"]
    assert results[0] == results[1]
    assert (far / "subset.csv").read_bytes() == (near / "subset.csv").read_bytes()
    [there], [here] = scores_of(tmp_path / "far"), scores_of(tmp_path / "near")
    np.testing.assert_array_equal(there, here)
    for kind in ("scores", "features"):
        assert names_of(tmp_path / "far", kind) == names_of(tmp_path / "near", kind) != []


def test_what_one_engine_has_finished_is_finished_for_the_other(worker, tmp_path):
    done = run_here(tmp_path, *QUICK, "scorer=herding", "engine=ray") / "result.json"
    written = done.read_bytes()
    run_here(tmp_path, *QUICK, "scorer=herding")
    run_here(tmp_path, *QUICK, "scorer=herding", "engine=ray", "ray_address=10.0.0.1:6379")
    assert done.read_bytes() == written
    assert not {"engine", "ray_address"} & json.loads(written)["config"].keys()


def test_a_driver_that_was_killed_goes_on_from_finished_parts(worker, tmp_path):
    worker.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path, *QUICK, "scorer=herding", "until=score", "engine=ray")
    worker.stop_after = None
    run_here(tmp_path, *QUICK, "scorer=herding", "until=score", "engine=ray")
    assert worker.parts == 4  # Of 100 images in parts of 32.


def test_broken_images_are_counted_and_named_and_their_parts_are_not_finished(worker, tmp_path, caplog):
    root = make_dtd(tmp_path / "dtd", per_split={"train": 13, "val": 1, "test": 2})
    words = [
        "dataset=dtd",
        f"dataset.root={root}",
        "dataset.num_classes=3",
        "dataset.num_pool=42",
        "dataset.num_test=6",
    ]
    words += [*QUICK[4:], "scorer=herding", "until=score", "engine=ray"]
    files = sorted((root / "images").rglob("*.jpg"))
    contents = files[0].read_bytes()
    files[0].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 42 images cannot be read, first: .*banded_0001\.jpg"):
        run_here(tmp_path / "results", *words)
    assert "cannot read" in caplog.text
    files[0].write_bytes(contents)
    run_here(tmp_path / "results", *words)
    assert len(scores_of(tmp_path / "results")) == 1


def test_a_grid_runs_on_the_same_workers(worker, tmp_path):
    words = [*[word for word in QUICK if not word.startswith("ratio")], "methods=[herding,dlc_topk]", "seeds=[0]"]
    with pool_passes.RayPasses(None, "auto", tmp_path / "store") as remote:
        grid_here(tmp_path, *words, "engine=ray", remote=remote)
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert [one["engine"] for one in found] == ["ray", "ray"]
    assert worker.parts == 2 * 4 + 4  # The features of pool and test set, and all masked networks in one pass.
    with pytest.raises(InputError, match="the methods of a grid may differ in scorer and sampler, but not in engine"):
        grid_here(tmp_path, *words[:-2], "methods=[herding,'dlc engine=ray']", "seeds=[0]")


REFUSED = [
    (["scorer=deepfool"], "engine=ray computes features, and deepfool runs networks over images itself"),
    (["scorer=grand"], "any scorer but deepfool, deepfool_deepcore, grand, grand_released, lc_knn"),
    (["scorer=el2n"], r"engine=ray trains no whole network, and el2n-\w+ reads one that is trained as proxy=full"),
]


@pytest.mark.parametrize(("words", "text"), REFUSED, ids=lambda value: str(value)[:20])
def test_what_needs_more_than_features_is_refused_before_anything_is_read(worker, tmp_path, words, text):
    with pytest.raises(InputError, match=text):
        run_here(tmp_path, *QUICK, *words, "engine=ray")
    assert not (tmp_path / "store").exists()


def test_the_engine_and_its_address_are_checked(tmp_path):
    with pytest.raises(InputError, match="engine must be one of local, ray, got 'rya'"):
        parsed_here(tmp_path, *QUICK, "engine=rya")
    with pytest.raises(InputError, match="ray_address=auto needs engine=ray"):
        parsed_here(tmp_path, *QUICK, "ray_address=auto")
    assert parsed_here(tmp_path, *QUICK, "engine=ray", "ray_address=auto").ray_address == "auto"


def test_all_other_scorers_read_features_only():
    assert {name for name, scorer in SCORERS.items() if scorer.reads_images} == {
        "deepfool",
        "deepfool_deepcore",
        "grand",
        "grand_released",
        "lc_knn",
    }


def test_a_network_of_computed_weights_is_refused(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_passes, "maskable", lambda model, modules: SimpleNamespace(is_plain=False))
    with pytest.raises(InputError, match="computes its weights from others, which engine=ray cannot mask"):
        run_here(tmp_path, *QUICK, "scorer=dlc", "engine=ray")


def test_images_that_share_a_large_object_are_sent_once(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_passes, "SENT_ALONE", 10)
    for name, words in (("far", ["engine=ray"]), ("near", [])):
        run_here(tmp_path / name, *QUICK, "scorer=herding", "until=score", *words)
    [there], [here] = scores_of(tmp_path / "far"), scores_of(tmp_path / "near")
    np.testing.assert_array_equal(there, here)


def test_without_ray_the_fix_is_named(monkeypatch, tmp_path):
    def missing(name, extra, what):
        raise InputError(f"{what} need {name}")

    monkeypatch.setattr(engine, "needed", missing)
    with pytest.raises(InputError, match="runs on Ray need ray"):
        run_here(tmp_path, *QUICK, "scorer=herding", "engine=ray")
