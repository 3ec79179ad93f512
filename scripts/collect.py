"""Gather every finished run into results.csv, one sorted row per run; results/README.md defines the columns.

python scripts/collect.py [--results results]
"""

import argparse
import sys
from pathlib import Path

from prunetune.report import collect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results_dir of the runs")
    folder = parser.parse_args().results
    results, skipped = collect.collect(folder)
    for line in skipped:
        print(line, file=sys.stderr)
    if results.empty:
        sys.exit(f"error: no finished runs below {folder / 'runs'}; run `make run`, or pass --results=<results_dir>")
    collect.write(results, folder / "results.csv")
    print(f"{folder / 'results.csv'}: {len(results)} runs")


if __name__ == "__main__":
    main()
