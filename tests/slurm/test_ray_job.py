"""`scripts/slurm/ray.sbatch` on a real Slurm of one node: Ray starts in the job, runs one command, and is gone."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from one_node import OneNode, wait_for

from cluster_inputs import shards
from runs import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
PATIENCE = 900  # Seconds. On a busy machine Ray alone takes a minute to start.
SCRIPT = ROOT / "scripts/slurm/ray.sbatch"
SHOW = "import os; print('found', os.environ['RAY_ADDRESS'], os.environ['RAY_USAGE_STATS_ENABLED'])"


@pytest.fixture(autouse=True)
def _ray() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; pip install -e '.[cluster]'")


def submit(cluster: OneNode, folder: Path, *command: object) -> str:
    """Submit the script with two CPUs and 1 GB, and return the number of the job."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{cluster.environment['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "RAY_SCRATCH": str(cluster.folder),
    }
    exported = ",".join(["ALL", *(f"{name}={value}" for name, value in environment.items())])
    words = ["--parsable", "--cpus-per-task=2", "--mem=1000", f"--export={exported}", f"--chdir={folder}"]
    words += [f"--output={folder}/job-%j.txt", str(SCRIPT), *map(str, command)]
    return cluster.command("sbatch", *words).strip()


def ended(cluster: OneNode, folder: Path, job: str) -> tuple[str, str]:
    """Wait for the end of a job, and return its state with its exit code, and what it printed."""
    log = folder / f"job-{job}.txt"
    wait_for(lambda: job not in cluster.jobs(), PATIENCE, lambda: log.read_text() if log.exists() else "no output")
    facts = dict(word.split("=", 1) for word in cluster.command("scontrol", "show", "job", job).split() if "=" in word)
    return f"{facts['JobState']} {facts['ExitCode']}", log.read_text()


def ray_of(cluster: OneNode, job: str) -> list[int]:
    """Return the processes that have the folder of the job's Ray in their command line."""
    mark = f"{cluster.folder}/ray-{job}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # The process has ended meanwhile.
            continue
    return found


def test_two_jobs_on_one_node_have_a_ray_each_and_leave_nothing(cluster, tmp_path):
    jobs = [submit(cluster, tmp_path, sys.executable, "-c", SHOW) for _ in range(2)]
    addresses = set()
    for job in jobs:
        state, said = ended(cluster, tmp_path, job)
        assert state == "COMPLETED 0:0", said
        [(_, address, statistics)] = [line.split() for line in said.splitlines() if line.startswith("found")]
        assert statistics == "0"
        addresses.add(address)
    assert len(addresses) == 2
    for job in jobs:
        wait_for(lambda job=job: not ray_of(cluster, job), 30)
        assert not (cluster.folder / f"ray-{job}").exists()


def test_a_pruning_runs_on_the_ray_of_its_job(cluster, tmp_path):
    data = shards(tmp_path / "data", rows=60)
    words = ["prune", data, "--keep", "0.2", "--scorer", "dlc", "--backbone", "micro", "--engine", "ray"]
    words += ["--store", tmp_path / "store", "--out", tmp_path / "out"]
    state, said = ended(cluster, tmp_path, submit(cluster, tmp_path, sys.executable, "-m", "prunetune", *words))
    assert state == "COMPLETED 0:0", said
    assert len((tmp_path / "out/kept.txt").read_text().splitlines()) == 12
    assert json.loads((tmp_path / "out/prune.json").read_text())["engine"] == "ray"


def test_the_status_of_a_command_that_fails_is_that_of_the_job(cluster, tmp_path):
    job = submit(cluster, tmp_path, sys.executable, "-c", "import sys; sys.exit(3)")
    assert ended(cluster, tmp_path, job)[0] == "FAILED 3:0"
    wait_for(lambda: not ray_of(cluster, job), 30)


def test_a_job_that_is_cancelled_stops_its_ray(cluster, tmp_path):
    job = submit(cluster, tmp_path, sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(600)")
    log = tmp_path / f"job-{job}.txt"
    wait_for(lambda: log.exists() and "runs" in log.read_text(), PATIENCE)
    assert ray_of(cluster, job)
    cluster.command("scancel", job)
    wait_for(lambda: not ray_of(cluster, job) and not (cluster.folder / f"ray-{job}").exists(), 60)


def test_a_script_without_a_command_says_what_it_needs(cluster, tmp_path):
    state, said = ended(cluster, tmp_path, submit(cluster, tmp_path))
    assert state == "FAILED 2:0"
    assert said.startswith("error: expected a command after ray.sbatch")
