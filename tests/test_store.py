"""The store: complete entries or none, keys, several processes, full disks."""

import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.base.store import Store, read_meta, write_stack
from prunetune.data.readers.textures import Textures
from prunetune.networks.backbone import Backbone
from prunetune.runs import scores as scores_module
from prunetune.runs.scores import stored_scores
from prunetune.scorers import DLC
from prunetune.signals.network import Embedding, NetworkSignals
from runs import SMALL, run_commands

KEY = {"made": "from this"}


def write_one(folder):
    (folder / "product.txt").write_text("whole")
    return {"seconds": 1.5}


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_an_entry_holds_its_product_its_key_and_its_cost(tmp_path):
    entry = Store(tmp_path).entry("features", "words", KEY, write_one)
    assert entry == Store(tmp_path).place("features", "words", KEY)
    assert sorted(path.name for path in entry.iterdir()) == ["key.json", "meta.json", "product.txt"]
    assert json.loads((entry / "key.json").read_text()) == KEY
    assert read_meta(entry) == {"seconds": 1.5}
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_an_entry_is_computed_once(tmp_path):
    store = Store(tmp_path)
    first = store.entry("features", "words", KEY, write_one)

    def never(folder):
        raise AssertionError("made twice")

    assert store.entry("features", "words", KEY, never) == first


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
    def interrupted(folder):
        write_one(folder)
        raise error("stop")

    with pytest.raises(error):
        Store(tmp_path).entry("features", "words", KEY, interrupted)
    assert names_in(tmp_path / "features") == []


def test_an_entry_is_not_readable_before_it_is_complete(tmp_path):
    store = Store(tmp_path)
    place = store.place("features", "words", KEY)
    seen = []

    def make(folder):
        seen.append(place.exists())
        meta = write_one(folder)
        seen.append(place.exists())
        return meta

    store.entry("features", "words", KEY, make)
    assert seen == [False, False]


def test_the_second_writer_reads_the_entry_of_the_first(tmp_path):
    store = Store(tmp_path)

    def overtaken(folder):
        store.entry("features", "words", KEY, write_one)  # Another process finishes the entry in the meantime.
        (folder / "product.txt").write_text("late")
        return {"seconds": 9.0}

    entry = store.entry("features", "words", KEY, overtaken)
    assert (entry / "product.txt").read_text() == "whole"
    assert read_meta(entry) == {"seconds": 1.5}
    assert len(list((tmp_path / "features").iterdir())) == 1


@pytest.mark.parametrize("error", [OSError("no such file"), InputError("the batches are missing")])
def test_a_writer_whose_work_was_removed_by_the_first_reads_the_entry_of_the_first(tmp_path, error):
    store = Store(tmp_path)

    def robbed(folder):
        store.entry("features", "words", KEY, write_one)
        raise error

    entry = store.entry("features", "words", KEY, robbed)
    assert (entry / "product.txt").read_text() == "whole"


def test_files_of_dead_processes_are_removed_and_those_of_running_ones_are_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, folder = socket.gethostname(), tmp_path / "features"
    left = folder / f".partial-{host}-{dead.pid}-aaaaaaaa"
    kept = [
        folder / f".partial-{host}-{os.getpid()}-bbbbbbbb",
        folder / f".partial-another-{dead.pid}-cccccccc",
        folder / f".partial-{host}-2-{dead.pid}-dddddddd",  # This folder belongs to a host named <host>-2.
        folder / f".partial-{host}-words-eeeeeeee",
    ]
    for partial in [left, *kept]:
        partial.mkdir(parents=True)
        (partial / "product.txt").write_text("half")
    Store(tmp_path).entry("features", "words", KEY, write_one)
    assert not left.exists()
    assert all((partial / "product.txt").exists() for partial in kept)


def test_the_order_of_a_keys_parts_does_not_matter_and_their_values_do(tmp_path):
    store = Store(tmp_path)
    assert store.place("f", "w", {"a": 1, "b": 2}) == store.place("f", "w", {"b": 2, "a": 1})
    assert store.place("f", "w", {"a": 1, "b": 2}) != store.place("f", "w", {"a": 1, "b": 3})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_read_only_disk_gives_a_one_line_error_and_leaves_nothing(tmp_path, code):
    def full(folder):
        write_one(folder)
        raise OSError(code, os.strerror(code))

    with pytest.raises(InputError, match=r"could not be written .*results_dir=<folder>") as caught:
        Store(tmp_path).entry("features", "words", KEY, full)
    assert os.strerror(code) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path / "features") == []


def test_a_store_that_cannot_be_made_gives_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"could not be written .*results_dir=<folder>"):
        Store(tmp_path / "file" / "store").entry("features", "words", KEY, write_one)


def test_a_store_in_a_read_only_folder_gives_a_one_line_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"could not be written .*results_dir=<folder>"):
        Store(tmp_path / "store").entry("features", "words", KEY, write_one)


def test_a_stack_is_the_file_that_numpy_would_write(tmp_path):
    stack = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_stack(tmp_path / "ours.npy", iter(stack), stack.shape, np.float16)
    np.save(tmp_path / "numpys.npy", stack.astype(np.float16))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from prunetune.base.errors import InputError
from prunetune.base.store import Store, write_stack
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def make(folder):
    write_stack(folder / "views.npy", [np.zeros(2000, np.float16)] * 4, (4, 2000), np.float16)
    return {}
try:
    Store(Path(sys.argv[1])).entry("views", "words", {}, make)
except InputError as error:
    sys.exit(f"error: {error}")
"""


def test_a_disk_that_fills_up_in_the_middle_of_an_array_does_not_kill_the_process(tmp_path):
    outcome = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: the store")
    assert outcome.stderr.count("\n") == 1
    assert names_in(tmp_path / "views") == []


class Asked(Exception):
    """Carries the key that the store was asked for."""


def score_key(monkeypatch, tmp_path, scorer=None, seed=0, pool=None, precision="fp32", short_side=None, **backbone):
    """Return the key under which a scorer's scores would be stored."""

    def entry(self, kind, prefix, key, make):
        raise Asked(json.dumps(key, sort_keys=True))

    monkeypatch.setattr(Store, "entry", entry)
    backbone = {"model": "prunetune_micro", "pretrained": False, "mask_modules": "conv2d", **backbone}
    embedding = Embedding(Backbone(**backbone).load(), Store(tmp_path), precision, short_side=short_side)
    with pytest.raises(Asked) as asked:
        stored_scores(scorer or DLC(), NetworkSignals(pool or textures(), embedding), seed)
    return str(asked.value)


def textures(**changes):
    return Textures(num_pool=100, num_test=100, size=16, **changes).pool("train")


def other_weights(folder):
    model = Backbone(model="prunetune_micro", pretrained=False).load().model
    with torch.no_grad():
        next(model.parameters())[0] += 1e-3
    torch.save(model.state_dict(), folder / "other.pth")
    return folder / "other.pth"


def test_scores_are_stored_by_everything_they_depend_on_and_nothing_else(monkeypatch, tmp_path):
    def key(**changes):
        return score_key(monkeypatch, tmp_path, **changes)

    relabelled = textures()
    relabelled.labels[0] = 1
    usual = key()
    others = {
        "weights": key(checkpoint=str(other_weights(tmp_path))),
        "label": key(pool=relabelled),
        "images": key(pool=textures(seed=1)),
        "precision": key(precision="bf16"),
        "input size": key(input_size=16),
        "statistics": key(normalization="imagenet"),
        "short side": key(short_side=8),
        "levels": key(scorer=DLC(levels=4)),
        "masked modules": key(mask_modules="all"),
        "masked modules of the scorer": key(scorer=DLC(mask_modules="all")),
        "random masks": key(scorer=DLC(masking="random")),
        "other random masks": key(scorer=DLC(masking="random"), seed=1),
    }
    assert len({usual, *others.values()}) == 1 + len(others)
    assert key(seed=1) == usual  # DLC does not use the seed
    assert key(name="another name") == usual
    monkeypatch.setattr(DLC, "version", DLC.version + 1)
    assert key() != usual


def test_a_score_is_charged_for_the_signals_that_an_earlier_scorer_asked_for(tmp_path):
    network = Backbone(model="prunetune_micro", pretrained=False, mask_modules="conv2d", input_size=16).load()
    signals = NetworkSignals(textures(), Embedding(network, Store(tmp_path)))
    stored_scores(DLC(levels=2), signals, 0)
    [features] = (tmp_path / "features").iterdir()
    meta = read_meta(features)
    (features / "meta.json").write_text(json.dumps({**meta, "seconds": 1000.0}))
    assert stored_scores(DLC(levels=1), NetworkSignals(textures(), signals.embedding), 0).seconds >= 1000
    # The time is charged although these signals already hold the features.
    assert stored_scores(DLC(levels=3), signals, 0).seconds >= 1000


def test_scores_from_the_store_keep_the_seconds_that_they_cost(tmp_path):
    network = Backbone(model="prunetune_micro", pretrained=False, mask_modules="conv2d", input_size=16).load()
    embedding = Embedding(network, Store(tmp_path))
    first = stored_scores(DLC(levels=2), NetworkSignals(textures(), embedding), 0)
    second = stored_scores(DLC(levels=2), NetworkSignals(textures(), embedding), 0)
    assert first.seconds == second.seconds > 0
    assert torch.equal(first.values, second.values)


def test_damaged_scores_are_refused_with_the_folder_to_delete(tmp_path):
    network = Backbone(model="prunetune_micro", pretrained=False, mask_modules="conv2d", input_size=16).load()
    embedding = Embedding(network, Store(tmp_path))
    first = stored_scores(DLC(levels=1), NetworkSignals(textures(), embedding), 0)
    file = first.folder / "scores.csv"
    whole = file.read_text()
    for damaged in ["", whole[: len(whole) // 2], whole.replace(",0,", ",zero,", 1).replace("score", "points")]:
        file.write_text(damaged)
        with pytest.raises(InputError, match=f"delete the folder {first.folder.name} and run again"):
            scores_module.read_scores(file, textures())


def test_eight_processes_score_one_pool_at_once_and_agree(tmp_path):
    results = tmp_path / "results"
    jobs = [
        {"arguments": [*SMALL, "scorer.levels=2", f"ratio=0.{number}", "until=prune", f"results_dir={results}"]}
        for number in range(1, 9)
    ]
    outcomes = run_commands(tmp_path, jobs, together=True)
    assert [outcome.returncode for outcome in outcomes] == [0] * 8, [outcome.stderr for outcome in outcomes]
    for kind in ("features", "scores"):
        [entry] = (results / "store" / kind).iterdir()  # There is exactly one complete entry and nothing else.
        assert not entry.name.startswith(".")
    assert len(list((results / "runs").rglob("subset.csv"))) == 8


EIGHT_WRITERS = """
import os, sys, time
from pathlib import Path
from prunetune.base.store import Store
def make(folder):
    (folder / "product").write_bytes(os.urandom(100_000))
    return {"seconds": 0.0}
while time.time() < float(sys.argv[2]):
    pass
print((Store(Path(sys.argv[1])).entry("scores", "words", {}, make) / "product").read_bytes().hex()[:40])
"""


def test_eight_writers_of_one_key_all_read_the_same_product(tmp_path):
    import time

    at = str(time.time() + 2.5)
    writers = [
        subprocess.Popen([sys.executable, "-c", EIGHT_WRITERS, str(tmp_path), at], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    read = [writer.communicate(timeout=60)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    assert len(set(read)) == 1
    assert len(read[0]) == 41
    assert len(list((tmp_path / "scores").iterdir())) == 1
