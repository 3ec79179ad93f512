"""Names of unfinished files tell host and process, and what killed processes leave behind is removed."""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from prunetune.base import leftovers
from prunetune.base.publish import new_file, new_folder, scratch_folder
from prunetune.base.store import Store
from prunetune.data.prepare.disk import staging


@pytest.fixture(scope="module")
def dead() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def make_left(folder, host, pid, days=0, as_folder=True):
    """Make an unfinished folder or file of a process, last changed some days ago."""
    place = folder / f".partial-{host}-{pid}-aaaaaaaa"
    folder.mkdir(parents=True, exist_ok=True)
    inside = place
    if as_folder:
        place.mkdir()
        inside = place / "product.npy"
    inside.write_text("half")
    for path in {inside, place}:
        os.utime(path, (time.time() - days * 86400,) * 2)
    return place


@pytest.mark.parametrize("opened", [new_file, new_folder])
def test_a_temporary_name_holds_host_process_and_a_random_part(tmp_path, opened):
    with opened(tmp_path / "product") as first, opened(tmp_path / "product 2") as second:
        for partial in (first, second):
            assert re.fullmatch(rf"\.partial-{socket.gethostname()}-{os.getpid()}-[0-9a-f]{{8}}", partial.name)
            partial.touch()
        assert first != second


def test_live_jobs_of_two_hosts_leave_each_other_alone(tmp_path, monkeypatch, dead):
    """Host b has no process with the id of the job on host a, so that only the name of the host protects the job."""
    monkeypatch.setattr(socket, "gethostname", lambda: "a")
    with ExitStack() as job:
        with monkeypatch.context() as patches:
            patches.setattr(os, "getpid", lambda: dead)
            of_a = job.enter_context(new_folder(tmp_path / "of-a"))
            file_of_a = job.enter_context(new_file(tmp_path / "file-of-a"))
        (of_a / "product").write_text("whole")
        file_of_a.write_text("whole")
        monkeypatch.setattr(socket, "gethostname", lambda: "b")
        leftovers.remove_from(tmp_path)
        with new_folder(tmp_path / "of-b") as of_b:
            (of_b / "product").write_text("whole")
            with monkeypatch.context() as patches:  # A process of a third host looks while the job on host b works.
                patches.setattr(socket, "gethostname", lambda: "c")
                patches.setattr(leftovers, "is_alive", lambda pid: False)
                leftovers.remove_from(tmp_path)
            assert (of_b / "product").exists()
    assert (tmp_path / "of-a" / "product").read_text() == (tmp_path / "file-of-a").read_text() == "whole"
    assert (tmp_path / "of-b" / "product").read_text() == "whole"


@pytest.mark.parametrize("as_folder", [True, False], ids=["folder", "file"])
def test_what_a_dead_process_or_an_old_one_left_is_removed(tmp_path, dead, as_folder):
    here, mine = socket.gethostname(), os.getpid()
    gone = [
        make_left(tmp_path, here, dead, as_folder=as_folder),
        make_left(tmp_path, "another", 77, days=8, as_folder=as_folder),
        make_left(tmp_path, f"{here}-2", dead, days=8, as_folder=as_folder),
        make_left(tmp_path, here, os.getppid(), days=8, as_folder=as_folder),  # The id belongs to a new process now.
    ]
    kept = [
        make_left(tmp_path, "another", dead, days=6, as_folder=as_folder),
        make_left(tmp_path, here, mine, days=8, as_folder=as_folder),
        make_left(tmp_path, here, 1, days=6, as_folder=as_folder),
    ]
    leftovers.remove_from(tmp_path)
    assert [path.exists() for path in gone] == [False] * len(gone)
    assert [path.exists() for path in kept] == [True] * len(kept)


def test_an_old_folder_in_which_a_file_still_grows_is_kept(tmp_path):
    place = make_left(tmp_path, "another", 77, days=8)
    os.utime(place / "product.npy")
    leftovers.remove_from(tmp_path)
    assert place.exists()


def test_leftovers_are_removed_wherever_they_lie_and_searched_for_once_a_day(tmp_path, dead):
    results = tmp_path / "results"
    store, here = results / "store", socket.gethostname()
    run = results / "runs" / "dtd" / "resnet18" / "linear_probe" / "random-random" / "ratio_0.1" / "seed_0" / "default"
    places = [run, results / "grids" / "dtd", store / "scores", store / "views" / "dtd", store / "passes" / "a" / "b"]
    left = [make_left(place, here, dead) for place in places]
    whole = store / "scores" / "dtd-dlc" / "scores.csv"
    whole.parent.mkdir()
    whole.write_text("whole")
    leftovers.sweep(store, [results / "runs", results / "grids"])
    assert [path.exists() for path in left] == [False] * len(left)
    assert whole.read_text() == "whole"
    again = make_left(store / "scores", here, dead)
    leftovers.sweep(store, [results / "runs"])
    assert again.exists()
    leftovers.tidy(store)
    assert not again.exists()
    again = make_left(store / "scores", here, dead)
    os.utime(store / leftovers.LAST, (time.time() - 2 * leftovers.DAY,) * 2)
    leftovers.sweep(store, [results / "runs"])
    assert not again.exists()


def test_the_next_writer_beside_it_removes_a_leftover(tmp_path, dead):
    here = socket.gethostname()
    left = [make_left(tmp_path / place, here, dead) for place in ("data", "store/scores", "runs")]
    with staging(tmp_path / "data" / "dtd") as partial:
        (partial / "image.jpg").touch()
    Store(tmp_path / "store").entry("scores", "words", {}, lambda folder: {})
    with new_file(tmp_path / "runs" / "subset.csv") as partial:
        partial.touch()
    assert [path.exists() for path in left] == [False] * 3


def test_a_scratch_folder_is_private_and_removed(tmp_path, monkeypatch, dead):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    left = make_left(tmp_path, socket.gethostname(), dead)
    with scratch_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "features.npy").touch()
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []
