"""An interrupted fine-tuning continues with bit-equal results."""

import logging
import multiprocessing
import os
import signal
import socket

import pytest
import torch

import tiny
from prunetune.base.errors import InputError
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.tuning import sft_checkpoint
from prunetune.instruct.tuning.adapter import adapter_state
from prunetune.instruct.tuning.sft import SftJob, fine_tune
from prunetune.instruct.tuning.sft_checkpoint import Checkpoint
from prunetune.instruct.tuning.sft_settings import SftSettings

SETTINGS = SftSettings(
    "x", epochs=2, batch_size=4, learning_rate=0.05, warmup_steps=2, lora_r=4, lora_dropout=0.3, checkpoint_every=2
)
ADAMW = SftSettings(**{**vars(SETTINGS), "optimizer": "adamw", "learning_rate": 3e-3, "momentum": 0.0})
KEY = {"llm": {"model": "tiny"}}


def train(folder, settings=SETTINGS, key=KEY, subset=range(10), seed=0, observe=None):
    model = tiny.model()
    job = SftJob(tiny.reader(tiny.Loaded(model), tiny.encoded()), torch.tensor(list(subset)), settings, seed)
    checkpoint = None if folder is None else Checkpoint(folder, key)
    return fine_tune(model, job, "fp32", Processes(0, 1, "cpu"), checkpoint, observe)


def same(first, second):
    first, second = adapter_state(first), adapter_state(second)
    return all(torch.equal(first[name], second[name]) for name in first)


class Stopped(Exception):
    pass


def stopping_at(last, seen):
    def observe(step, model):
        seen.append(step)
        if step == last:
            raise Stopped

    return observe


def stop(folder, step, **arguments):
    with pytest.raises(Stopped):
        train(folder, observe=stopping_at(step, []), **arguments)


@pytest.mark.parametrize("settings", [SETTINGS, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("last", [1, 2, 3, 5, 6])
def test_a_stopped_training_continues_to_the_same_adapter(tmp_path, settings, last):
    whole, result = train(None, settings)
    stop(tmp_path, last, settings=settings)
    seen = []
    model, resumed = train(tmp_path, settings, observe=stopping_at(None, seen))
    kept = 2 * ((last - 1) // 2)  # The training was stopped before the checkpoint of its last step.
    assert seen == list(range(kept + 1 if kept else 0, 7))
    assert same(model, whole)
    assert resumed.history == result.history
    assert resumed.steps == 6
    assert resumed.tokens_per_second > 0


def _killed(folder):
    def observe(step, model):
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    train(folder, observe=observe)


def test_a_killed_process_loses_nothing(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [sft_checkpoint.NAME]
    seen = []
    model, _ = train(tmp_path, observe=stopping_at(None, seen))
    assert seen == [5, 6]
    assert same(model, train(None)[0])


def test_a_finished_training_is_not_trained_again(tmp_path):
    model, result = train(tmp_path)
    seen = []
    again, same_result = train(tmp_path, observe=stopping_at(None, seen))
    assert seen == []
    assert same(model, again)
    assert same_result == result  # The seconds are equal too.


@pytest.mark.parametrize(
    "other",
    [
        {"key": {"llm": {"model": "another"}}},
        {"subset": range(1, 11)},
        {"seed": 1},
        {"settings": SftSettings(**{**vars(SETTINGS), "learning_rate": 0.04})},
    ],
    ids=["model", "subset", "seed", "settings"],
)
def test_a_checkpoint_of_another_training_is_not_used(tmp_path, other, caplog):
    stop(tmp_path, 5)
    seen = []
    model, _ = train(tmp_path, **other, observe=stopping_at(None, seen))
    assert "belongs to another training (model, subset or settings) and is not used" in caplog.text
    assert seen[0] == 0
    assert same(model, train(None, **other)[0])


def test_the_interval_of_checkpoints_and_the_name_of_the_preset_do_not_matter(tmp_path, caplog):
    stop(tmp_path, 5)
    seen = []
    train(
        tmp_path, SftSettings(**{**vars(SETTINGS), "name": "y", "checkpoint_every": 5}), observe=stopping_at(None, seen)
    )
    assert seen == [5, 6]
    assert not caplog.records


@pytest.mark.parametrize("left", [0, 500, -100])
def test_a_damaged_checkpoint_is_named_and_not_used(tmp_path, caplog, left):
    stop(tmp_path, 5)
    path = tmp_path / sft_checkpoint.NAME
    path.write_bytes(path.read_bytes()[:left])
    model, _ = train(tmp_path)
    assert "is damaged" in caplog.text
    assert same(model, train(None)[0])


def test_one_changed_bit_of_a_weight_is_damage(tmp_path, caplog):
    stop(tmp_path, 5)
    path = tmp_path / sft_checkpoint.NAME
    content, weight = bytearray(path.read_bytes()), torch.load(path)["adapter"]
    [start] = [content.find(next(iter(weight.values())).numpy().tobytes())]
    content[start + 1] ^= 4
    path.write_bytes(content)
    model, _ = train(tmp_path)
    assert "has changed); the fine-tuning starts again" in caplog.text
    assert same(model, train(None)[0])


def test_a_checkpoint_with_missing_parts_is_damaged(tmp_path, caplog):
    torch.save({"key": "x"}, tmp_path / sft_checkpoint.NAME)
    train(tmp_path)
    assert "is damaged (parts are missing)" in caplog.text


def test_a_message_says_that_training_continues_from_a_checkpoint(tmp_path, caplog):
    stop(tmp_path, 5)
    with caplog.at_level(logging.INFO):
        train(tmp_path)
    assert "fine-tuning continues after step 4 of 6" in caplog.text


def test_a_folder_that_cannot_be_written_gives_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the checkpoint .* could not be written \(Not a directory"):
        train(tmp_path / "file" / "folder")


def test_forget_deletes_the_checkpoint_and_what_a_killed_process_left(tmp_path):
    folder = tmp_path / "work"
    train(folder)
    (folder / f".partial-{socket.gethostname()}-{2**22 + 1}-aaaaaaaa").write_text("half")  # No process has this id.
    sft_checkpoint.forget(folder)
    assert not folder.exists()
    sft_checkpoint.forget(folder)


def test_forget_leaves_the_files_of_others(tmp_path):
    train(tmp_path)
    (tmp_path / "notes").write_text("mine")
    sft_checkpoint.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
