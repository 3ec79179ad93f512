import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.runs import tracking
from prunetune.runs.tracking import has_key, open_run, resolve_mode, without_places
from wandb_files import isolate, read_run, read_tables, rows

HISTORY = [
    {"epoch": 1, "learning_rate": 0.01, "train_loss": 2.5, "test_accuracy": None},
    {"epoch": 2, "learning_rate": 0.001, "train_loss": 1.25, "test_accuracy": 0.75},
]
RESULT = {"scorer": "dlc", "ratio": 0.1, "accuracy": 0.75, "gamma": None, "classes": ["a", "b"], "config": {"x": 1}}
CONFIG = {"scorer": {"name": "dlc", "levels": 5}, "ratio": 0.1}
FAKE_KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("home")
    folder = home / "results" / "wandb"
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, home)
        with open_run("auto", "prunetune", "textures dlc", CONFIG, folder) as tracker:
            tracker.log_curves(HISTORY)
            tracker.log_scores(torch.tensor([0.0, 1.0, 1.0, 4.0], dtype=torch.float64))
            tracker.log_subset([(0, "a/0.png", 0, 1), (3, "b/1.png", 1, 1)])
            tracker.log_result(RESULT)
            tracker.log_curves(HISTORY[:1], prefix="dlc/seed_1")
            tracker.log_results([RESULT, {**RESULT, "gamma": 0.25, "accuracy": 1}], prefix="grid")
        return SimpleNamespace(folder=folder, records=read_run(folder), home=home)


def test_an_offline_run_holds_its_name_project_and_config(offline: SimpleNamespace) -> None:
    (run,) = [record["run"] for record in offline.records if record["type"] == "run"]
    assert run["project"] == "prunetune"
    assert run["display_name"] == "textures dlc"
    assert {key: run["config"]["update"][key] for key in CONFIG} == CONFIG


def test_every_epoch_is_a_row_of_the_history_and_what_was_not_measured_is_left_out(offline: SimpleNamespace) -> None:
    epochs = [row for row in rows(offline.records) if "train_loss" in row]
    wanted = [{key: value for key, value in row.items() if value is not None} for row in HISTORY]
    assert [{key: value for key, value in row.items() if not key.startswith("_")} for row in epochs] == wanted


def test_curves_are_drawn_over_the_epoch(offline: SimpleNamespace) -> None:
    steps = {record["metric"].get("name"): record["metric"].get("step_metric") for record in of(offline, "metric")}
    assert steps["train_loss"] == steps["learning_rate"] == steps["test_accuracy"] == "epoch"
    assert steps["dlc/seed_1/train_loss"] == "dlc/seed_1/epoch"


def of(run: SimpleNamespace, kind: str) -> list[dict]:
    return [record for record in run.records if record["type"] == kind]


def test_a_prefix_keeps_the_cells_of_a_grid_apart(offline: SimpleNamespace) -> None:
    (row,) = [row for row in rows(offline.records) if "dlc/seed_1/train_loss" in row]
    assert row["dlc/seed_1/train_loss"] == 2.5
    assert row["dlc/seed_1/epoch"] == 1


def test_the_subset_is_a_table(offline: SimpleNamespace) -> None:
    (table,) = read_tables(offline.folder, "subset")
    assert table["columns"] == ["position", "sample_id", "label", "weight"]
    assert table["data"] == [[0, "a/0.png", 0, 1], [3, "b/1.png", 1, 1]]


def test_the_result_is_a_table_of_scalars_and_the_summary(offline: SimpleNamespace) -> None:
    tables = sorted(read_tables(offline.folder, "result"), key=lambda table: len(table["data"]))
    assert [table["columns"] for table in tables] == [["scorer", "ratio", "accuracy", "gamma"]] * 2
    assert tables[0]["data"] == [["dlc", 0.1, 0.75, None]]
    assert tables[1]["data"] == [["dlc", 0.1, 0.75, None], ["dlc", 0.1, 1, 0.25]]
    assert any(record["summary"].get("update", {}).get("accuracy") == 0.75 for record in of(offline, "summary"))


def test_the_scores_are_a_histogram(offline: SimpleNamespace) -> None:
    (row,) = [row for row in rows(offline.records) if "scores._type" in row]
    counts = row["scores.values"]
    assert len(counts) == 64
    # The values are 0, twice 1 (bin 16 of width 4/64) and 4.
    assert (counts[0], counts[16], counts[63], sum(counts)) == (1, 2, 1, 4)


def test_nothing_about_the_machine_is_kept(offline: SimpleNamespace) -> None:
    (run,) = [record["run"] for record in of(offline, "run")]
    assert {"host", "git", "sweep_id"}.isdisjoint(run)
    assert {record["type"] for record in offline.records}.isdisjoint({"environment", "stats", "output", "output_raw"})
    kept = {path.name for path in offline.folder.glob("offline-run-*/files/*")}
    assert kept == {"media"}


def test_all_files_lie_in_the_given_folder(offline: SimpleNamespace) -> None:
    assert [path.name for path in offline.folder.parent.iterdir()] == ["wandb"]
    assert len(list(offline.folder.glob("offline-run-*"))) == 1
    assert {path.name for path in offline.home.iterdir()} <= {"results", "config", "cache"}
    assert "WANDB_DATA_DIR" not in os.environ


ALONE = """
import atexit, pathlib, socket, sys
import torch
from prunetune.runs.tracking import open_run

asked = []
atexit.register(lambda: print(asked))  # This runs after the functions that the client registers: it sends at the end.

def refuse(*address, **options):
    asked.append(address[1] if isinstance(address[0], socket.socket) else address[0])
    raise OSError("no network")

connect = socket.socket.connect

def connected(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse(self, address)

socket.getaddrinfo = socket.gethostbyname = refuse
socket.socket.connect = connected
config = {"dataset": {"root": "/home/somebody/photos"}, "scorer": {"path": "~/scores.csv"}, "tag": "a/b"}
with open_run("offline", "prunetune", "name", config, pathlib.Path(sys.argv[1])) as tracker:
    tracker.log_scores(torch.rand(5))
    tracker.log_subset([(0, "a", 0, 1)])
    tracker.log_result({"accuracy": 1.0, "place": "/home/somebody/photos"})
    assert tracker.run is not None
"""


def test_an_offline_run_asks_for_no_host_and_writes_into_its_folder_only(monkeypatch, tmp_path: Path) -> None:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for place in ("home", "tmp", "here"):
        (tmp_path / place).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:  # Each process of the client would send requests through it.
        server.setblocking(False)
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ALONE, str(tmp_path / "results" / "wandb")],
            env={**os.environ, **places, "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "ALL_PROXY": proxy},
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
        with pytest.raises(BlockingIOError):
            server.accept()
    assert [list((tmp_path / place).iterdir()) for place in ("home", "tmp", "here")] == [[], [], []]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["wandb"]
    [run] = (tmp_path / "results" / "wandb").glob("offline-run-*/*.wandb")
    content = run.read_bytes()
    assert b"somebody" not in content
    assert b"photos" in content
    assert b"a/b" in content


def test_only_the_last_part_of_an_absolute_path_is_sent() -> None:
    places = {
        "root": "/data/photos/",
        "file": "~/scores.csv",
        "list": ["C:\\data\\a.txt", "D:/b"],
        "path": Path("/x/y"),
    }
    assert without_places(places) == {"root": "photos", "file": "scores.csv", "list": ["a.txt", "b"], "path": "y"}
    assert without_places(["from_file scorer.path=/data/me/a.csv tag=b"]) == ["from_file scorer.path=a.csv tag=b"]
    kept = {"relative": "data/dtd", "ratio": 0.1, "none": None, "true": True, "model": "yahma/alpaca", "url": "a:b"}
    assert without_places(kept) == kept


def test_the_variable_wandb_mode_has_priority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setitem(sys.modules, "wandb", None)  # An import would now fail, and the failure would be reported.
    with open_run("online", "prunetune", "name", CONFIG, tmp_path / "wandb") as tracker:
        assert tracker.run is None
        log_everything(tracker)
    assert not (tmp_path / "wandb").exists()
    assert not caplog.records


def log_everything(tracker: tracking.Tracker) -> None:
    tracker.log_curves(HISTORY)
    tracker.log_scores(torch.rand(5))
    tracker.log_subset([(0, "a", 0, 1)])
    tracker.log_result(RESULT)
    tracker.log_results([RESULT])


@pytest.mark.parametrize(
    ("mode", "with_key", "resolved"),
    [
        ("auto", True, "online"),
        ("auto", False, "offline"),
        ("online", True, "online"),
        ("online", False, "offline"),
        ("offline", True, "offline"),
        ("dryrun", True, "offline"),
        ("run", True, "online"),
        ("typo", True, "typo"),
    ],
)
def test_a_run_is_online_only_with_a_key(mode: str, with_key: bool, resolved: str, caplog) -> None:
    assert resolve_mode(mode, with_key) == resolved
    assert ("has no key" in caplog.text) == (mode == "online" and not with_key)


def test_a_key_is_found_in_the_environment_or_in_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_key("https://api.wandb.ai")
    path = tmp_path / "netrc"
    path.write_text(f"machine wandb.example.org\n  login user\n  password {FAKE_KEY}\n")
    path.chmod(0o600)
    assert has_key("https://wandb.example.org")
    assert not has_key("https://api.wandb.ai")
    path.write_text("machine\n  nonsense")
    assert not has_key("https://wandb.example.org")
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    assert has_key("https://api.wandb.ai")


def test_an_unknown_mode_is_refused_and_an_unknown_variable_only_warns(monkeypatch, tmp_path: Path, caplog) -> None:
    with (
        pytest.raises(InputError, match="must be one of auto, online, offline, disabled, got 'offlin'.*'offline'"),
        open_run("offlin", "prunetune", "name", CONFIG, tmp_path),
    ):
        pass
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with open_run("auto", "prunetune", "name", CONFIG, tmp_path) as tracker:
        log_everything(tracker)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_without_a_network_a_run_with_a_key_is_kept_offline(monkeypatch, tmp_path: Path, caplog) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # No server listens at this address.
    monkeypatch.setitem(tracking.SETTINGS, "init_timeout", 1.0)
    with open_run("auto", "prunetune", "name", CONFIG, tmp_path / "wandb") as tracker:
        tracker.log_curves(HISTORY)
    (record,) = [record for record in caplog.records if record.name == tracking.log.name]
    assert "could not start online" in record.getMessage()
    assert "\n" not in record.getMessage()
    (path,) = (tmp_path / "wandb").glob("offline-run-*")
    assert len([row for row in rows(read_run(path)) if "train_loss" in row]) == 2


def test_a_missing_client_gives_one_warning(monkeypatch, tmp_path: Path, caplog) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with open_run("auto", "prunetune", "name", CONFIG, tmp_path) as tracker:
        log_everything(tracker)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_client_that_cannot_start_gives_one_warning(monkeypatch, tmp_path: Path, caplog) -> None:
    def refuse(**options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.init", refuse)
    with open_run("offline", "prunetune", "name", CONFIG, tmp_path) as tracker:
        log_everything(tracker)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "No space left on device" in record.getMessage()


class BrokenRun:
    """A run whose every call fails, and that counts them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.summary = SimpleNamespace(update=lambda values: self._fail("summary"))

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        raise ConnectionError(f"{call} failed")

    def define_metric(self, name: str, **options: object) -> None:
        self._fail("define_metric")

    def log(self, values: dict) -> None:
        self._fail("log")

    def finish(self, exit_code: int) -> None:
        self._fail("finish")


def test_a_client_that_fails_while_logging_and_closing_warns_once(monkeypatch, tmp_path: Path, caplog) -> None:
    broken = BrokenRun()
    monkeypatch.setattr("wandb.init", lambda **options: broken)
    caplog.set_level(logging.DEBUG, logger=tracking.log.name)
    with open_run("offline", "prunetune", "name", CONFIG, tmp_path) as tracker:
        log_everything(tracker)
    assert broken.calls == ["define_metric", "log", "log", "summary", "log", "finish"]
    levels = [record.levelname for record in caplog.records if record.name == tracking.log.name]
    assert levels == ["WARNING", *["DEBUG"] * 5]


@pytest.mark.parametrize(("error", "exit_code"), [(None, 0), (InputError("no"), 1), (KeyboardInterrupt(), 1)])
def test_a_run_is_closed_once_with_the_outcome_of_its_block(error, exit_code: int, monkeypatch, tmp_path: Path) -> None:
    codes = []
    monkeypatch.setattr(
        "wandb.init", lambda **options: SimpleNamespace(finish=lambda exit_code: codes.append(exit_code))
    )

    def work() -> None:
        with open_run("offline", "prunetune", "name", CONFIG, tmp_path):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert codes == [exit_code]


def test_closing_is_bounded_in_time_and_every_setting_is_known_to_the_client() -> None:
    import wandb

    assert 0 < tracking.SETTINGS["finish_timeout"] <= 60
    assert set(tracking.SETTINGS) <= set(wandb.Settings.model_fields)
    wandb.Settings(**tracking.SETTINGS)  # The constructor rejects a value of the wrong type.


def test_a_large_subset_is_cut_to_what_the_client_shows(monkeypatch) -> None:
    logged = []
    tracker = tracking.Tracker(SimpleNamespace(log=logged.append))
    tracker.log_subset((position, str(position), 0, 1) for position in range(10_001))
    (table,) = [values["subset"] for values in logged]
    assert len(table.data) == 10_000
    assert table.data[-1] == [9_999, "9999", 0, 1]
