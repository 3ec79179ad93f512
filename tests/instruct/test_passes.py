"""Passes on disk: killed and continued, shared by processes, and damaged."""

import logging
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from prunetune.base.errors import InputError
from prunetune.instruct.model.batches import bucketed
from prunetune.instruct.model.passes import run_pass
from prunetune.instruct.model.processes import Processes

LENGTHS = torch.tensor([5, 9, 3, 9, 7, 2, 8, 6, 4, 1])
BUCKETS = bucketed(LENGTHS, 18)
ALONE = Processes(0, 1, "cpu")


@dataclass(frozen=True)
class InSequence(Processes):
    """A process that does not wait for the others, so that a test can run them one after another."""

    def wait(self) -> None:
        pass


class Recorder:
    """Computes [B, 2] and records the batches. On request it fails at one of them."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.rows, self.fails_at = [], fails_at

    def __call__(self, model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        if len(self.rows) == self.fails_at:
            raise KeyboardInterrupt
        self.rows.append(rows.tolist())
        return torch.stack([rows.double().sin(), LENGTHS[rows].double() / 3], dim=1)


def run(folder, compute, processes=ALONE, key=None, network=None):
    network = network or (lambda: nullcontext(nn.Identity()))
    return run_pass(folder, "losses", key or {"a": 1}, BUCKETS, network, compute, processes)


def expected() -> torch.Tensor:
    return torch.stack([torch.arange(10).double().sin(), LENGTHS.double() / 3], dim=1)


def test_values_are_in_pool_order_bit_by_bit(tmp_path):
    outcome = run(tmp_path, Recorder())
    assert torch.equal(outcome.values, expected())
    assert outcome.seconds > 0
    assert outcome.found_seconds == 0


def test_a_killed_pass_continues_and_computes_no_batch_twice(tmp_path):
    killed, resumed = Recorder(fails_at=2), Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed)
    outcome = run(tmp_path, resumed)
    assert killed.rows == [rows.tolist() for rows in BUCKETS[:2]]
    assert resumed.rows == [rows.tolist() for rows in BUCKETS[2:]]
    assert torch.equal(outcome.values, expected())
    assert 0 < outcome.found_seconds < outcome.seconds


def test_a_finished_pass_is_read_without_building_the_network(tmp_path):
    first = run(tmp_path, Recorder())

    @contextmanager
    def none():
        raise AssertionError("the model was loaded")
        yield

    again = run(tmp_path, Recorder(fails_at=0), network=none)
    assert torch.equal(again.values, first.values)
    assert again.seconds == first.seconds == again.found_seconds


def test_another_key_is_another_pass(tmp_path):
    run(tmp_path, Recorder())
    other = Recorder()
    run(tmp_path, other, key={"a": 2})
    assert len(other.rows) == len(BUCKETS)


@pytest.mark.parametrize("damage", [b"", b"PK nonsense", None])
def test_a_damaged_batch_is_named_and_computed_again(tmp_path, damage, caplog):
    run(tmp_path, Recorder())
    [folder] = tmp_path.iterdir()
    file = folder / "batch-000001.npz"
    file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    again = Recorder()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(run(tmp_path, again).values, expected())
    assert again.rows == [BUCKETS[1].tolist()]
    assert "batch-000001.npz is damaged and is computed again" in caplog.text


def test_an_exchanged_batch_is_named_and_computed_again(tmp_path, caplog):
    run(tmp_path, Recorder())
    [folder] = tmp_path.iterdir()
    first, second = (folder / f"batch-00000{index}.npz" for index in (0, 1))
    second.write_bytes(first.read_bytes())
    assert torch.equal(run(tmp_path, Recorder()).values, expected())
    assert "batch-000001.npz is damaged and is computed again" in caplog.text


def test_a_half_written_batch_is_no_batch(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Recorder())
    again = Recorder()
    assert torch.equal(run(tmp_path, again).values, expected())
    assert len(again.rows) == len(BUCKETS)


def test_batches_are_shared_out_and_both_processes_get_all_values(tmp_path):
    second, first = Recorder(), Recorder()
    with pytest.raises(InputError, match="another process has failed"):  # The first process has not run yet.
        run(tmp_path, second, InSequence(1, 2, "cpu"))
    outcome = run(tmp_path, first, InSequence(0, 2, "cpu"))
    assert torch.equal(outcome.values, expected())
    assert first.rows == [rows.tolist() for rows in BUCKETS[0::2]]
    assert second.rows == [rows.tolist() for rows in BUCKETS[1::2]]
    assert torch.equal(run(tmp_path, Recorder(fails_at=0), InSequence(1, 2, "cpu")).values, expected())


def test_one_process_can_finish_what_two_processes_began(tmp_path):
    with pytest.raises(InputError, match="another process has failed"):
        run(tmp_path, Recorder(), InSequence(1, 2, "cpu"))
    alone = Recorder()
    assert torch.equal(run(tmp_path, alone).values, expected())
    assert alone.rows == [rows.tolist() for rows in BUCKETS[0::2]]


def test_a_folder_that_cannot_be_written_gives_a_one_line_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="could not be written .* pass results_dir=<folder>"):
        run(tmp_path / "taken", Recorder())


def test_one_process_needs_no_group_and_no_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    alone = Processes.current("cpu")
    alone.wait()
    assert (alone.rank, alone.size, alone.device, alone.is_main) == (0, 1, "cpu", True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="accelerate"):
        Processes.current("cpu")


TWO = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import tiny
from pathlib import Path
from prunetune.instruct import DLC
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.base.store import Store
from prunetune.runs.scores import stored_scores
processes = Processes.current("cpu")
assert processes.size == 2
folder = Path(sys.argv[2]) / "store"
signals = tiny.signals(folder, tiny.Loaded(tiny.model()), tiny.encoded(), max_tokens=200, processes=processes)
scores = stored_scores(DLC(), TextSource(signals, Store(folder)), 0)
torch.save(scores.values, Path(sys.argv[2]) / f"{processes.rank}.pt")
"""


@pytest.mark.slow
def test_two_real_processes_give_the_scores_of_one(tmp_path):
    import tiny
    from prunetune.instruct import DLC
    from prunetune.runs.scores import compute_scores

    script = tmp_path / "two.py"
    script.write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, str(script), os.path.dirname(__file__), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    signals = tiny.signals(tmp_path / "alone", tiny.Loaded(tiny.model()), tiny.encoded(), max_tokens=200)
    alone = compute_scores(DLC(), signals, 0)
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), alone)
    assert list((tmp_path / "store" / "passes").iterdir()) == []
