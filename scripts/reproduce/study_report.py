"""Make the tables and figures of the study from its rows.

python -m scripts.reproduce.study_report [--out results/study] [--figures results/figures] [--assets docs/assets]

Reads cells.csv and costs.csv of --out, which `python -m scripts.reproduce.study` writes. Writes summary.csv,
differences.csv, wins.csv, claims.csv, best.csv, method_costs.csv, missing.csv and coverage.csv beside them, and three
figures. results/README.md says what the columns are. `python -m scripts.assets.doc_pages` then writes docs/study.md.
Needs the extra `study` (statsmodels).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from prunetune.base.errors import InputError
from prunetune.report.output import write_csv
from scripts.reproduce import study_figures
from scripts.reproduce.study_claims import claims
from scripts.reproduce.study_rows import Study, missing, read
from scripts.reproduce.study_statistics import coverage
from scripts.reproduce.study_tables import best, costs, differences, summary, wins

DECIMALS = "%.4g"
TABLES: dict[str, Callable[[Study], pd.DataFrame]] = {
    "summary": summary,
    "differences": differences,
    "wins": wins,
    "claims": claims,
    "best": best,
    "method_costs": costs,
    "missing": missing,
    "coverage": lambda study: coverage(),
}


def main() -> None:
    """Write the tables and figures, and print what was not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder of the rows and the tables")
    parser.add_argument("--figures", type=Path, default=Path("results/figures"), help="folder of the figures")
    parser.add_argument("--assets", type=Path, default=Path("docs/assets"), help="folder of the page's own copies")
    options = parser.parse_args()
    try:
        tables = write_tables(options.out)
        paths = [path for folder in (options.figures, options.assets) for path in study_figures.write(folder, tables)]
    except InputError as error:
        sys.exit(f"error: {error}")
    print("\n".join(f"wrote {path}" for path in paths))
    for row in tables["missing"].itertuples():
        print(f"not run: {row.judge}, {row.set}, {row.backbone}: {row.lacking}")


def write_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Write all tables of a folder of rows, and return them by name.

    Raises:
        InputError: there are no rows, or they are not what they must be.
    """
    study, tables = read(folder), {}
    for name, make in TABLES.items():
        tables[name] = make(study)
        write_csv(folder / f"{name}.csv", tables[name], "pass --out FOLDER", float_format=DECIMALS)
        print(f"wrote {folder / name}.csv", flush=True)
    return tables


if __name__ == "__main__":
    main()
