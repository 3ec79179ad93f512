"""Count what is done, failed and missing of a sweep, and name what is failed or unreadable with its reason.

python scripts/status.py --sweep main [overrides of the command ...] [--results results]

The overrides are those that the sweep was launched with: finetune=linear_probe 'ratios=[0.1]' and so on. Give that
command again to run what is not done; finished runs are left as they are.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hydra import initialize_config_dir

from prunetune.base import progress
from prunetune.base.errors import InputError
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.instruct.sweeps import TEXT_RUNS
from prunetune.runs import sweeps
from prunetune.runs.sweeps import STATES, CellState

KINDS = [TEXT_RUNS]  # beside image runs
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", required=True, help="a file of configs/sweep, without .yaml")
    parser.add_argument("--results", default="results", help="the results_dir of the runs")
    parser.add_argument("overrides", nargs="*", help="those of the command, key=value")
    options = parser.parse_intermixed_args()
    try:
        show(options.sweep, [*options.overrides, f"results_dir={options.results}"])
    except InputError as error:
        sys.exit(f"error: {error}")


def show(sweep: str, overrides: list[str]) -> None:
    """Print the counts of a sweep, then what is failed or unreadable."""
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        cfg = sweeps.compose_sweep(sweep, overrides, KINDS)
        jobs = sweeps.jobs(cfg, KINDS)
        cells = list(sweeps.states(progress.track(jobs, f"jobs of {sweep}", len(jobs))))
    print(f"{sweep}: {len(jobs)} jobs, {len(cells)} runs")
    if cfg.until != sweeps.last_step(cfg, KINDS):
        print(f"with until={cfg.until} no run is finished: scores are in the store, subsets in the runs' folders")
    for line in table(cells):
        print(line)
    for cell in cells:
        if cell.reason:
            print(f"{cell.state}: {cell.out_dir}: {cell.reason}")


def table(cells: Iterable[CellState]) -> list[str]:
    """Return the lines of a table: data sets by state, and their sum."""
    counts: dict[str, Counter[str]] = {}
    for cell in cells:
        counts.setdefault(cell.dataset, Counter())[cell.state] += 1
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    width = max(len(name) for name, _ in rows)
    lines = ["  ".join([" " * width, *(f"{state:>10}" for state in STATES)])]
    lines += ["  ".join([f"{name:<{width}}", *(f"{count[state]:>10}" for state in STATES)]) for name, count in rows]
    return lines


if __name__ == "__main__":
    main()
