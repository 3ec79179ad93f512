"""The body of `prunetune tables`: write the paper's tables, with our and the published numbers.

The files are Markdown, CSV and LaTeX. results/README.md explains the columns.
"""

import sys
from pathlib import Path

import pandas as pd

from prunetune.base.errors import InputError, suggestion
from prunetune.report import analysis_figures, cells, collect, latex, layout, output, paper, paper_tables, table_parts

CORRELATIONS = "rank_correlation"  # `prunetune analyse` writes this file into <results>/analysis.


def make(names: list[str], results_dir: Path, published: Path, out: Path, allow_dirty: bool) -> None:
    """Write the named tables, or every one that has runs, into the folder `out`.

    Raises:
        InputError: a name is unknown, a named table has no runs, or runs cannot be compared in one table.
    """
    for name in names:
        if name not in paper_tables.TABLES:
            known = ", ".join(paper_tables.TABLES)
            raise InputError(f"no table {name!r}; tables are {known}.{suggestion(name, paper_tables.TABLES)}")
    results, refused = _runs(results_dir, published, allow_dirty)
    of_images, of_text = cells.prepared(results), collect.texts(results)
    sources = table_parts.Sources(published, _correlations(results_dir))
    lacking = []
    for name in names or paper_tables.TABLES:
        try:
            table = paper_tables.TABLES[name](of_text if name in paper_tables.TEXT_TABLES else of_images, sources)
        except table_parts.NoRuns as error:
            lacking.append(str(error))
            continue
        for path in _write(table, out, refused):
            print(f"wrote {path}")
    if lacking and names:
        raise InputError("; ".join([*lacking, *refused]))
    for line in lacking:
        print(line)


def _runs(results_dir: Path, published: Path, allow_dirty: bool) -> tuple[pd.DataFrame, list[str]]:
    results, skipped = collect.collect(results_dir)
    results, refused = paper.refuse(results, published, allow_dirty)
    for line in (*skipped, *refused):
        print(line, file=sys.stderr)
    return results, refused


def _correlations(results_dir: Path) -> pd.DataFrame:
    folder = results_dir / "analysis"
    is_there = (folder / f"{CORRELATIONS}.csv").is_file()
    return analysis_figures.read(CORRELATIONS, folder) if is_there else pd.DataFrame()


def _write(table: layout.Table, out: Path, refused: list[str]) -> list[Path]:
    paths = [out / f"{table.name}.{kind}" for kind in ("md", "csv", "tex")]
    markdown = layout.to_markdown(table) + "".join(f"\n{line}\n" for line in refused)
    output.write_text(paths[0], markdown)
    layout.to_csv(table, paths[1])
    output.write_text(paths[2], latex.to_latex(table))
    return paths
