"""Helpers for small runs on embedded data: in this process, as one command, or as many commands after one start."""

import contextlib
import csv
import ctypes
import importlib
import io
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

torch.set_num_threads(1)  # On such small networks threads wait longer than they compute.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parent.parent
MICRO = ["backbone=micro", "backbone.pretrained=false", "backbone.input_size=16"]
TEXTURES = ["dataset=textures", "dataset.num_pool=100", "dataset.num_test=100", "dataset.size=16"]
QUICK = ["finetune.epochs=3", "finetune.views=1", "wandb=disabled", "precision=fp32"]
IMAGE_RUNS = ("prunetune.config.cells", "prunetune.runs.grid", "prunetune.runs.image_run")
SMALL = [*TEXTURES, *MICRO, *QUICK]
# Each number is within its range. Together they multiply the weights by about -1e6 in every step.
DIVERGING = ["finetune.learning_rate=1000", "finetune.weight_decay=1000", "finetune.epochs=20"]


def compose_here(results: Path, *overrides: str, config: str = "config") -> Any:
    """Return the configuration that run.py would compose."""
    from hydra import compose, initialize_config_dir

    import prunetune.config  # noqa: F401  registers the schemas of image runs
    import prunetune.instruct.registration  # noqa: F401  and that of text runs

    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        return compose(config, overrides=[*overrides, f"results_dir={results}"])


def parsed_here(results: Path, *overrides: str) -> Any:
    """Return the image run that run.py would carry out."""
    from prunetune.config.parse import parse_image_run

    return parse_image_run(compose_here(results, *overrides))


def run_here(results: Path, *overrides: str) -> Path:
    """Carry out an image run in this process and return its folder."""
    from prunetune import doors
    from prunetune.config.names import run_folder

    cfg = compose_here(results, *overrides)
    folder = results / "runs" / run_folder(cfg)
    doors.image(cfg, folder)
    return folder


def run_text_here(results: Path, *overrides: str) -> Path:
    """Carry out a text run in this process and return its folder."""
    from prunetune import doors
    from prunetune.instruct.names import text_run_folder

    cfg = compose_here(results, *overrides, config="instruct")
    folder = results / "runs" / text_run_folder(cfg)
    doors.instruct(cfg, folder)
    return folder


def grid_here(results: Path, *overrides: str, remote: Any = None) -> None:
    """Carry out a grid in this process."""
    from hydra import initialize_config_dir

    from prunetune.config.cells import parse_grid
    from prunetune.runs import grid

    cfg = compose_here(results, *overrides, config="grid")
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        asked = parse_grid(cfg, [*overrides, f"results_dir={results}"])
    grid.execute(asked, remote)


def read_result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without its volatile keys."""
    from prunetune.instruct.text_run import VOLATILE  # These are the volatile keys of image runs and further ones.

    return {key: value for key, value in result.items() if key not in VOLATILE}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python run.py ...` in a process of its own, from a folder that is not the repository."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **{"cwd": "/", "env": ONE_THREAD, **options},
    )


def prunetune_here(*words: str) -> SimpleNamespace:
    """Run the command line `prunetune <words>` in this process; return returncode, stdout and stderr."""
    from prunetune import cli

    out, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", ["prunetune", *words]),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    code = stop.value.code
    if isinstance(code, str):
        print(code, file=errors)
    return SimpleNamespace(
        returncode=code if isinstance(code, int) else int(code is not None),
        stdout=out.getvalue(),
        stderr=errors.getvalue(),
    )


def run_commands(
    folder: Path, jobs: list[dict[str, Any]], together: bool = False, imports: tuple[str, ...] = IMAGE_RUNS
) -> list[SimpleNamespace]:
    """Run `python run.py <arguments>` for every job and return returncode, stdout and stderr of each.

    A job is {"arguments": [...], "as_command": whether the arguments are those of `prunetune` instead, "environment":
    variables or None, "modes": {path: mode} to set first; the job then obeys modes even if it belongs to root}. One
    process imports everything and forks once for each job. It computes nothing before, so a fork behaves like a newly
    started process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "jobs.json"
    plan.write_text(json.dumps({"jobs": jobs, "together": together, "imports": imports}))
    subprocess.run([sys.executable, __file__, str(plan)], check=True, timeout=600, cwd=folder, env=ONE_THREAD)
    return [SimpleNamespace(**outcome) for outcome in json.loads((folder / "outcomes.json").read_text())]


def obey_modes() -> None:
    """Let this process obey the modes of files, also if it belongs to root: Linux lets root give up that right."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # Version 3, this process.
    libc.capget(header, sets)
    for place in range(3):  # The low halves of the effective, permitted and inheritable rights.
        sets[place] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER.
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "root's rights cannot be given up")


def _main(plan: Path) -> None:
    work = json.loads(plan.read_text())
    for module in work["imports"]:  # Torch and the other modules are imported once for all runs.
        importlib.import_module(module)
    started, outcomes = [], []
    for number, job in enumerate(work["jobs"]):
        started.append(_start(plan.parent, number, job))
        if not work["together"]:
            outcomes.append(_wait(plan.parent, number, started[-1]))
    if work["together"]:
        outcomes = [_wait(plan.parent, number, child) for number, child in enumerate(started)]
    (plan.parent / "outcomes.json").write_text(json.dumps(outcomes))


def _start(folder: Path, number: int, job: dict[str, Any]) -> int:
    for path, mode in job.get("modes", {}).items():
        os.chmod(path, mode)
    pid = os.fork()
    if pid:
        return pid
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / f"{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.update(job.get("environment") or {})
    code = 0
    try:
        if "modes" in job:
            obey_modes()
        if job.get("as_command"):
            sys.argv = ["prunetune", *job["arguments"]]
            runpy.run_module("prunetune", run_name="__main__", alter_sys=False)
        else:
            sys.argv = [str(ROOT / "run.py"), *job["arguments"]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(folder: Path, number: int, pid: int) -> dict[str, Any]:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    stdout, stderr = ((folder / f"{number}.{name}").read_text() for name in ("stdout", "stderr"))
    return {"returncode": code, "stdout": stdout, "stderr": stderr}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
