"""Grids through `hydra/launcher=slurm` on a real Slurm of one node."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from one_node import OneNode, wait_for

from prunetune.runs import status
from prunetune.runs.status import STATES
from runs import MICRO, QUICK, ROOT, SMALL, TEXTURES, lasting, read_result, run_here

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
PATIENCE = 240  # The unit is seconds. On a busy machine importing torch alone takes half a minute.
WHOLE = ["finetune=full", "finetune.epochs=25"]  # These runs train one after another, and each takes some seconds.
ONES = ["dataset.num_pool=600", "ratios=[0.1]"]  # Scoring this pool takes some seconds.


BY_FILE = (str(ROOT / "run.py"), "--config-name", "grid")
BY_COMMAND = ("-m", "prunetune", "grid")


@contextmanager
def submitted(cluster: OneNode, results: Path, *overrides: str, entry: tuple[str, ...] = BY_FILE):
    """Submit a grid with the preset as it is and give the launcher's process, which waits for the jobs."""
    words = ["sweep=main", "hydra/launcher=slurm", *overrides, f"results_dir={results}"]
    with (results.parent / "launcher.txt").open("ab") as output:
        launcher = subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, *entry, *words],
            stdout=output,
            stderr=output,
            cwd=results.parent,
            env={**cluster.environment, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield launcher
    finally:
        with suppress(ProcessLookupError):
            launcher.kill()
        launcher.wait()


def run_to_the_end(cluster: OneNode, results: Path, *overrides: str, entry: tuple[str, ...] = BY_FILE) -> None:
    with submitted(cluster, results, *overrides, entry=entry) as launcher:
        assert launcher.wait(PATIENCE) == 0, said(results)


def said(results: Path) -> str:
    """Return what the launcher and the tasks printed last."""
    logs = [results.parent / "launcher.txt", *sorted((results / "grids" / ".submitit").glob("*/*_log.*"))]
    return "\n".join(f"{log}: {log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())


def task_log(results: Path, job: str) -> str:
    [log] = (results / "grids" / ".submitit" / job).glob("*_log.err")
    return log.read_text()


def finished(results: Path, part: str = "") -> list[Path]:
    return sorted(file.parent for file in results.glob("runs/**/result.json") if part in str(file))


def made_at(results: Path) -> dict[Path, int]:
    """Return when each file of finished runs and of the store's entries was written."""
    entries = [folder for folder in results.glob("store/*/*") if not folder.name.startswith(".")]
    files = [file for folder in [*finished(results), *entries] for file in folder.iterdir()]
    return {file: file.stat().st_mtime_ns for file in files}


def leftovers(results: Path) -> list[Path]:
    """Return unfinished output: the hidden files and folders of runs and store, except those of Hydra."""
    hidden = [*results.glob("runs/**/.*"), *results.glob("store/**/.*")]
    return [path for path in hidden if path.name != ".hydra"]


def counted(results: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, int]:
    """Return how many runs of the grid are in each state, from what `prunetune status` prints."""
    capsys.readouterr()
    status.show("main", [*overrides, f"results_dir={results}"])
    lines = capsys.readouterr().out.splitlines()
    [states], [counts] = ([line.split() for line in lines if line.split()[0] == word] for word in (STATES[0], "all"))
    return {state: int(count) for state, count in zip(states, counts[1:], strict=True) if count != "0"}


def wait_until(cluster: OneNode, results: Path, holds: Callable[[], object]) -> None:
    wait_for(holds, PATIENCE, lambda: f"{cluster.jobs()}\n{said(results)}")


@pytest.mark.parametrize("entry", [BY_FILE, BY_COMMAND], ids=["run.py", "prunetune"])
def test_a_grid_runs_to_its_end_and_gives_what_the_same_runs_give_here(cluster, tmp_path, entry):
    results = tmp_path / "results"
    runs = [*SMALL, "finetune=linear_probe", "backbone.normalization=imagenet"]
    run_to_the_end(
        cluster, results, *runs, "methods=[random,dlc_g0.25]", "ratios=[0.1],[0.3]", "seeds=[0]", entry=entry
    )
    assert len(finished(results)) == 4
    tasks = [path.name for path in (results / "grids" / ".submitit").glob("[0-9]*_*")]
    # The four runs are one array of two jobs with two runs each.
    assert sorted(name.split("_")[1] for name in tasks) == ["0", "1"]
    assert not leftovers(results)
    for method in ("random", "dlc_g0.25"):
        alone = run_here(tmp_path / "alone", *runs, f"method={method}", "ratio=0.3")
        folder = results / alone.relative_to(tmp_path / "alone")
        assert lasting(read_result(folder)) == lasting(read_result(alone))
        assert (folder / "predictions.csv").read_bytes() == (alone / "predictions.csv").read_bytes()


def test_what_was_cancelled_in_the_queue_or_killed_while_running_is_finished_by_submitting_again(
    cluster, tmp_path, capsys
):
    results = tmp_path / "results"
    runs = [*TEXTURES, *MICRO, *QUICK, *WHOLE, *ONES, "seeds=[0,1,2]"]
    grid = [*runs, "methods=[random],[dlc_topk],[dlc_topk_easiest]"]
    with submitted(cluster, results, *grid, "hydra.launcher.array_parallelism=2") as launcher:
        wait_until(cluster, results, lambda: list(cluster.jobs().values()).count("RUNNING") == 2)
        tuning, scoring, queued = sorted(cluster.jobs())
        assert cluster.jobs()[queued] == "PENDING"
        cluster.command("scancel", queued)

        wait_until(cluster, results, lambda: half_scored(cluster, results, scoring))
        kill(cluster, scoring)
        assert leftovers(results)
        wait_until(cluster, results, lambda: finished(results, "random-random"))
        kill(cluster, tuning)
        wait_until(cluster, results, lambda: not cluster.jobs())
        # Without Slurm's accounting the launcher would wait for jobs that never return.
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(60) != 0
    assert "interrupted; give the same command again" in said(results)
    before = made_at(results)
    done = finished(results)
    assert {folder.parents[2].name for folder in done} == {"random-random"}
    assert len(done) < 3
    assert counted(results, capsys, *grid) == {"done": len(done), "missing": 9 - len(done)}

    run_to_the_end(cluster, results, *grid)
    assert len(finished(results)) == 9
    assert counted(results, capsys, *grid) == {"done": 9}
    assert not leftovers(results)
    after = made_at(results)
    assert {path: after[path] for path in before} == before  # Nothing is lost, and nothing is computed twice.
    last = max((results / "grids" / ".submitit").glob("[0-9]*_0"), key=lambda path: int(path.name.split("_")[0]))
    assert f"3 runs, {len(done)} finished before" in task_log(results, last.name)


def half_scored(cluster: OneNode, results: Path, job: str) -> bool:
    """Return whether a job has begun to write scores into the store."""
    return any(list(results.glob(f"store/scores/.partial-*-{pid}-*")) for pid in cluster.processes(job))


def kill(cluster: OneNode, job: str) -> None:
    pids = cluster.processes(job)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_job_that_is_warned_of_its_time_limit_or_preempted_comes_back_by_itself(cluster, tmp_path):
    results = tmp_path / "results"
    # The training is so long that a job cannot end in the seconds between Slurm's warning and its kill.
    grid = [*SMALL, *WHOLE, "finetune.epochs=120", "methods=[random],[dlc_topk]", "ratios=[0.3]", "seeds=[0,1,2]"]
    with submitted(cluster, results, *grid, "hydra.launcher.timeout_min=9") as launcher:
        wait_until(cluster, results, lambda: len(cluster.jobs()) == 2)
        warned, preempted = sorted(cluster.jobs())
        wait_until(cluster, results, lambda: finished(results, "random-random"))
        # Slurm sends this signal signal_delay_s before a time limit. With such a short limit submitit takes the signal
        # for a warning of the time limit.
        cluster.command("scancel", "--signal=USR2", warned)
        wait_until(cluster, results, lambda: cluster.jobs()[warned] == "PENDING")
        wait_until(cluster, results, lambda: list(results.glob("store/scores/textures-dlc-*")))
        before = made_at(results)
        cluster.command("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
        wait_until(cluster, results, lambda: cluster.jobs()[preempted] == "PENDING")
        assert launcher.wait(PATIENCE) == 0, said(results)
    assert len(finished(results)) == 6
    assert not leftovers(results)
    after = made_at(results)
    assert {path: after[path] for path in before} == before
    assert "this job is timed-out" in said_by(results, warned)
    assert f"preempted JobId={preempted}" in (cluster.folder / "slurmctld.log").read_text()
    for job in (warned, preempted):
        assert task_log(results, job).count("3 runs, ") == 2, task_log(results, job)
        assert "Restarts=0" not in cluster.command("scontrol", "show", "job", job)


def said_by(results: Path, job: str) -> str:
    return "\n".join(log.read_text() for log in (results / "grids" / ".submitit" / job).glob("*_log.*"))
