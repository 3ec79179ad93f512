"""Faults of the disk: one line each, nothing half-written, the same result afterwards; stores that a group shares."""

import errno
import logging
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunetune import api
from prunetune.base import disk
from prunetune.base.errors import InputError
from prunetune.base.log_file import SHOWN_ONLY, LogFile
from prunetune.base.publish import new_file
from prunetune.base.store import Store
from prunetune.data.readers.textures import Textures
from prunetune.report import output
from prunetune.runs import image_run
from runs import SMALL, lasting, parsed_here, read_result, run_here

RUN = [*SMALL, "scorer=el2n", "proxy.epochs=2", "ratio=0.2"]


def half_written(folder):
    """Return the unfinished files and folders below a folder, and the empty files except the mark of the cleaning."""
    files = [path for path in folder.rglob("*") if path.name != "last_cleaned"]
    return [path for path in files if path.name.startswith(".partial") or (path.is_file() and not path.stat().st_size)]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "change its permissions"),
        (errno.ENAMETOOLONG, "shorten the name"),
        (errno.EMFILE, r"allow more open files \(ulimit -n\)"),
        (errno.ENOENT, "check the path"),
        (errno.EIO, "check the path"),
    ],
)
def test_every_error_of_the_system_is_one_line_with_its_fix(code, remedy):
    words = os.strerror(code)
    with pytest.raises(InputError, match=rf"^a\.csv could not be written \({words}: b\); {remedy} or go elsewhere$"):
        with disk.explained("a.csv", "go elsewhere"):
            raise OSError(code, words, "b")
    assert disk.not_usable(OSError(code, words, "b"), "go elsewhere").startswith(f"b cannot be used ({words})")


def test_the_error_of_safetensors_is_an_error_of_the_disk(tmp_path):
    def make(folder):
        save_file({"weight": torch.zeros(4)}, folder / "nowhere" / "model.safetensors")
        return {}

    with pytest.raises(InputError, match=r"could not be written \(No such file or directory\); check the path or pass"):
        Store(tmp_path).entry("proxies", "words", {}, make)
    assert list((tmp_path / "proxies").iterdir()) == []


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError), disk.explained("a.csv"):
        raise KeyError("a bug")
    with pytest.raises(KeyError), disk.one_line():
        raise KeyError("a bug")
    assert disk.not_usable(ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "") == (
        "ConnectionRefusedError: [Errno 111] refused"
    )


def test_a_long_path_does_not_make_the_line_unreadable():
    line = disk.not_usable(OSError(errno.ENAMETOOLONG, "too long", "x" * 5000), "go elsewhere")
    assert len(line) < 400


def test_a_door_ends_with_one_line_for_an_error_that_a_library_wraps():
    error = ValueError("Unable to configure handler 'file'")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/nowhere")
    with pytest.raises(
        SystemExit, match=r"/nowhere cannot be used \(Permission denied\); change its permissions or pass"
    ):
        with disk.one_line():
            raise error


def logged(path, *lines):
    """Write lines through a log file, and return the warnings that this causes."""
    file, log, warned = LogFile(str(path)), logging.Logger("a run"), []

    class Warned(logging.Handler):
        def emit(self, record):
            warned.append(record.getMessage())

    heard, own = Warned(), logging.getLogger("prunetune.base.log_file")
    own.addHandler(heard)
    log.addHandler(file)
    for line in lines:
        log.info(line)
    own.removeHandler(heard)
    file.close()
    return warned


def test_a_log_that_cannot_be_written_is_said_once_and_does_not_stop_the_run(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run.log"
    [line] = logged(path, "one", "two", "three")
    assert line == f"{path} could not be written (Not a directory: {path}); from here on its lines are only shown"


def test_a_log_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.log")
    [line] = logged(tmp_path / "run.log", "one", "two")
    assert line.endswith("run.log could not be written (it is a pipe); from here on its lines are only shown")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/full"), "a device"),
        (Path.touch, None),
        (Path.mkdir, None),
        (lambda path: None, None),
    ],
)
def test_what_can_be_opened_without_waiting_is_told_from_the_rest(tmp_path, make, kind):
    make(tmp_path / "product")
    assert disk.special_kind(tmp_path / "product") == kind


def test_a_long_word_of_a_message_is_cut_in_the_middle():
    message = str(InputError(f"the list names {'a' * 5000}, which is missing"))
    assert message == f"the list names {'a' * 120}...{'a' * 119}, which is missing"


def test_a_log_that_breaks_ends_with_its_last_whole_line(tmp_path, monkeypatch):
    path = tmp_path / "run.log"
    assert logged(path, "earlier") == []
    file, log = LogFile(str(path)), logging.Logger("a run")
    log.addHandler(file)
    log.info("whole")

    def full():
        os.write(file.stream.fileno(), b"ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file, "flush", full)
    log.info("half")
    log.info("after it")
    assert path.read_text() == "earlier\nwhole\n"


def test_a_log_without_a_whole_line_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "run.log"
    file = LogFile(str(path))

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file, "flush", full)
    file.handle(logging.makeLogRecord({"msg": "half"}))
    assert not path.exists()


def test_a_line_that_is_only_shown_makes_no_log_file(tmp_path):
    file, log = LogFile(str(tmp_path / "run.log")), logging.Logger("a run")
    log.addHandler(file)
    log.info("finished before", extra=SHOWN_ONLY)
    assert list(tmp_path.iterdir()) == []


class Fault:
    """Publishing that fails as on a full disk at its n-th call, and counts the calls."""

    def __init__(self, monkeypatch, at):
        self.calls, self.at = 0, at
        for name in ("replace", "rename"):
            monkeypatch.setattr(f"prunetune.base.publish.os.{name}", self.failing(getattr(os, name)))

    def failing(self, publish):
        def call(partial, place):
            self.calls += 1
            if self.calls == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
            publish(partial, place)

        return call


def test_a_disk_that_fills_up_at_any_write_of_a_run_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    asked = parsed_here(tmp_path / "results", *SMALL, "scorer.levels=2", "ratio=0.2")
    calm, run = tmp_path / "calm", tmp_path / "run"
    with monkeypatch.context() as patches:
        counted = Fault(patches, at=0)
        image_run.execute(replace(asked, results_dir=tmp_path / "calm results"), calm)
    assert counted.calls >= 9  # The features of pool and test set, the scores, the views and the files of the run.
    lines = []
    for _ in range(counted.calls):
        with monkeypatch.context() as patches:
            Fault(patches, at=2)  # Each attempt publishes one file or folder more.
            try:
                image_run.execute(asked, run)
            except InputError as error:
                lines.append(str(error))
        assert half_written(tmp_path) == []
    assert len(lines) >= 5
    for line in lines:
        assert re.search(r"could not be written \(No space left on device: .*\); free some space or", line)
    image_run.execute(asked, run)
    assert lasting(read_result(run)) == lasting(read_result(calm))
    for name in ("subset.csv", "predictions.csv", "history.csv"):
        assert (run / name).read_bytes() == (calm / name).read_bytes()


def test_a_small_disk_fills_up_again_and_again_in_the_middle_of_a_run(small_disk):
    place, resize = small_disk
    asked, run = parsed_here(place / "results", *RUN), place / "run"
    for kib in (48, 120, 200, 320):  # These sizes end in the features, the logits and the networks of the proxy.
        assert resize(kib)
        with pytest.raises(InputError, match="could not be written") as caught:
            image_run.execute(asked, run)
        assert "\n" not in str(caught.value)
        assert half_written(place) == []
    assert resize(20_000)
    image_run.execute(asked, run)
    assert read_result(run)["scorer"] == "el2n"


def test_prune_in_python_names_its_own_argument(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    pool = Textures(num_pool=100, num_test=100, size=16).pool("train")

    def prune(store):
        return api.prune(pool, 0.5, "random", backbone="micro", store=store)

    with pytest.raises(InputError, match=r"the store .*file.* could not be written .*pass store=<another folder>$"):
        prune(tmp_path / "file")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"a temporary folder could not be written .*pass store=<folder>$"):
        prune(None)
    with pytest.raises(InputError, match=r"subset\.csv could not be written .*pass another path$"):
        prune(tmp_path / "store").to_csv(tmp_path / "file" / "subset.csv")


def test_files_of_a_report_are_whole_or_absent(tmp_path, monkeypatch):
    (tmp_path / "table.md").write_text("old")

    def full(self, *args, **options):
        with open(self, "wb") as file:
            file.write(b"ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match=r"table\.md could not be written \(No space left.*pass --out FOLDER$"):
        output.write_text(tmp_path / "table.md", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]
    assert (tmp_path / "table.md").read_text() == "old"


@pytest.fixture
def shared_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_group_can_share_a_results_folder(tmp_path, shared_umask):
    """All folders stay open to the group and hand it on, and all files can be written by it."""
    results = tmp_path / "results"
    results.mkdir()
    os.chown(results, -1, next((group for group in os.getgroups() if group != os.getgid()), os.getgid()))
    results.chmod(0o2775)
    run_here(results, *RUN)
    group = results.stat().st_gid
    for path in results.rglob("*"):
        mode = path.stat().st_mode
        assert stat.S_IMODE(mode) == (0o2775 if path.is_dir() else 0o664), path
        assert path.stat().st_gid == group, path


def test_a_replaced_file_gets_the_mode_of_the_umask(tmp_path, shared_umask):
    path = tmp_path / "result.json"
    path.touch(mode=0o600)
    with new_file(path) as partial:
        partial.write_text("{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_a_read_only_store_is_read(tmp_path, monkeypatch):
    """A group may have filled the store that a member can only read."""
    store = Store(tmp_path / "store")
    entry = store.entry("scores", "words", {}, lambda folder: {"seconds": 1.0})

    def forbidden(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "store"))

    for name in ("mkdir", "touch", "write_text", "unlink"):
        monkeypatch.setattr(f"pathlib.Path.{name}", forbidden)
    assert store.entry("scores", "words", {}, None) == entry
    with pytest.raises(InputError, match=r"not be written \(Permission denied.*change its permissions or pass"):
        store.entry("scores", "other words", {"a": 1}, None)
