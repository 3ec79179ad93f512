"""Count the done, failed and missing runs of a sweep, and print the reason for each failed or unreadable one.

This is the body of `prunetune status`. It composes the sweep and reads the folders of its runs. It runs nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_module

from prunetune.base import progress
from prunetune.base.errors import InputError
from prunetune.config import sweeps
from prunetune.config.sweeps import PlannedRun, SingleRuns
from prunetune.runs import failures, records

DONE, FAILED, MISSING, UNREADABLE = STATES = ("done", "failed", "missing", "unreadable")


@dataclass(frozen=True)
class CellState:
    """The state of one run of a sweep.

    state: one of `STATES`. reason: one line for a failed or unreadable run, else empty.
    """

    dataset: str
    out_dir: Path
    state: str
    reason: str


def show(sweep: str, overrides: list[str], kinds: Sequence[SingleRuns] = ()) -> None:
    """Print the counts of a sweep, then its failed and unreadable runs.

    Args:
        sweep: the name of a file in configs/sweep, without .yaml.
        overrides: those that the sweep was launched with, and results_dir.
        kinds: the kinds of runs other than image runs.

    Raises:
        InputError: there is no such preset, or it cannot be composed with these overrides.
    """
    with initialize_config_module("prunetune.configs", version_base="1.3"):
        cfg = sweeps.compose_sweep(sweep, overrides, kinds)
        jobs = sweeps.jobs(cfg, kinds)
        cells = list(map(state, sweeps.planned(progress.track(jobs, f"jobs of {sweep}", len(jobs)))))
    print(f"{sweep}: {len(jobs)} jobs, {len(cells)} runs")
    if cfg.until != sweeps.last_step(cfg, kinds):
        print(f"with until={cfg.until} no run is finished: scores are in the store, subsets in the runs' folders")
    for line in table(cells):
        print(line)
    for cell in cells:
        if cell.reason:
            print(f"{cell.state}: {cell.out_dir}: {cell.reason}")


def state(run: PlannedRun) -> CellState:
    """Return the state of a run.

    A run without a result is "failed" if the last attempt left a failed.json in the folder of the run or of its job.
    Otherwise it is "missing": it was not started, is waiting, is running, or was killed. A run whose folder holds the
    result of another configuration is "failed" too, since it cannot be run before the user has settled that. A run one
    of whose files was deleted or changed is "unreadable". It will be done again.
    """

    def told(name: str, reason: str = "") -> CellState:
        return CellState(run.dataset, run.out_dir, name, reason)

    try:
        result = records.read_result(run.out_dir)
    except InputError as error:
        return told(UNREADABLE, str(error))
    if result is None:
        failure = failures.read(run.out_dir) or (run.job_folder and failures.read(run.job_folder))
        return told(FAILED, f"{failure.error} ({failure.time})") if failure else told(MISSING)
    try:
        records.check_configuration(run.out_dir, result, run.record)
        change = records.changed_file(run.out_dir, result)
    except InputError as error:
        return told(FAILED, str(error))
    return told(DONE) if change is None else told(UNREADABLE, f"{change} since the run has finished")


def table(cells: Iterable[CellState]) -> list[str]:
    """Return the lines of a table with the number of runs per data set and state, and their sum."""
    counts: dict[str, Counter[str]] = {}
    for cell in cells:
        counts.setdefault(cell.dataset, Counter())[cell.state] += 1
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    width = max(len(name) for name, _ in rows)
    lines = ["  ".join([" " * width, *(f"{state:>10}" for state in STATES)])]
    lines += ["  ".join([f"{name:<{width}}", *(f"{count[state]:>10}" for state in STATES)]) for name, count in rows]
    return lines
