"""A report as one HTML file without links, so that it can be mailed: tables, figures, and the runs behind them."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

import pandas as pd

from prunetune.report import tables
from prunetune.report.output import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .8rem 0 } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
td, th { text-align: right; white-space: nowrap } td:first-child, th:first-child { text-align: left }
img { max-width: 100%; height: auto } .foot { color: #555; font-size: .85rem } .wide { overflow-x: auto }
.verdict { border-left: 3px solid #0072b2; padding-left: .8rem }
"""
RUN_COLUMNS = ("run", "accuracy", "num_kept", "num_pool", "score_seconds", "finetune_seconds", "device", "commit")


def write(path: Path, table: pd.DataFrame, results: pd.DataFrame, pictures: Mapping[str, Path]) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        table: the frame of `tables.summary`.
        results: the runs behind the table, which are listed at the end.
        pictures: maps headings to PNG files.
    """
    parts = ["<h1>Accuracy after pruning</h1>", *(_section(block) for block in tables.blocks(table))]
    parts += [f"<h2>{escape(heading)}</h2>\n{_image(picture, heading)}" for heading, picture in pictures.items()]
    parts += [f'<p class="foot">{escape(tables.footer(results))}</p>', _runs(results)]
    head = f'<meta charset="utf-8"><title>prunetune report</title><style>{STYLE}</style>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"
    write_text(path, page)


def _section(block: tables.Block) -> str:
    parts = [f"<h2>{escape(block.title)}</h2>"]
    parts += [f'<p class="verdict">{escape(" ".join(block.verdict))}</p>'] if block.verdict else []
    parts += [f"<p>{escape(block.caption)}</p>", _table(block.accuracy)]
    parts += [f"<p>{escape(line)}</p>" for line in block.whole_pool]
    if block.difference:
        parts += [f"<p>{escape(tables.ABOVE_RANDOM)}</p>", _table(block.difference)]
    return "\n".join(parts)


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = ["<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>" for tag, row in _tagged(rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _tagged(rows: list[list[str]]) -> list[tuple[str, list[str]]]:
    return [("th", rows[0]), *(("td", row) for row in rows[1:])]


def _image(picture: Path, description: str) -> str:
    content = base64.b64encode(picture.read_bytes()).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{content}">'


def _runs(results: pd.DataFrame) -> str:
    rows = [[_shown(value) for value in row] for row in results[list(RUN_COLUMNS)].itertuples(index=False)]
    heads = [name.replace("_", " ") for name in RUN_COLUMNS]
    summary = f"<summary>All {len(results)} runs (accuracy as a fraction)</summary>"
    return f"<details>{summary}\n{_table([heads, *rows])}</details>"


def _shown(value: object) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
