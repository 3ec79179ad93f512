"""Tables of the paper as LaTeX, to be input into a document."""

import re

import pandas as pd

from prunetune.report.layout import Grid, Section, Table

READING = "Index: std, or an interval's lower end, the exponent being its upper end; exponent n: fewer seeds."
MANY = 7  # A grid with more than 7 columns is set in a smaller font size.
WIDEST = 45  # A row name with more than 45 characters is split over several lines.
PACKAGES = r"\usepackage{booktabs,longtable}"
SPREAD = re.compile(r"^(?P<mean>-?[\d.]+) ± (?P<std>[\d.]+)(?: \(n=(?P<n>\d+)\))?(?P<rest>.*)$")
GAIN = re.compile(r"^(?P<mean>[+-]?[\d.]+) \[(?P<low>-?[\d.]+), (?P<high>-?[\d.]+)\](?: \(n=(?P<n>\d+)\))?$")
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "±": r"\ensuremath{\pm}",
    "`": "",
}


def to_latex(table: Table) -> str:
    """Return one longtable with booktabs rules for each grid.

    The standard deviation is a subscript, the ends of an interval are subscript and superscript, and the number of
    seeds of a cell with few seeds is a superscript or in brackets. A comment at the top names the required packages.
    """
    parts = [f"% {table.title}; needs {PACKAGES}", f"% {' '.join(table.footer.split())}"]
    parts.append(r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}")
    for number, section in enumerate(table.sections):
        for index, grid in enumerate(section.grids):
            about = f" {table.caption} {READING}" if number == index == 0 else ""
            label = f"tab:{table.name.replace('_', '-')}-{number + 1}-{index + 1}"
            parts.append(_longtable(grid, f"{_heading(table, section, grid)}.{about}", label))
    return "\n".join([*parts, r"\endgroup", ""])


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(SPECIAL.get(character, character) for character in text)


def _heading(table: Table, section: Section, grid: Grid) -> str:
    return ". ".join(part for part in (table.title, section.title, grid.heading) if part)


def _longtable(grid: Grid, caption: str, label: str) -> str:
    heads, *rows = grid.cells
    frame = pd.DataFrame([[_cell(text) for text in row] for row in rows], columns=[escape(head) for head in heads])
    side = "l" if max(len(row[0]) for row in grid.cells) <= WIDEST else r"p{0.25\linewidth}"
    short = escape(caption.split(". ")[0])
    text = frame.to_latex(
        index=False,
        escape=False,  # The text is already escaped here, and mathematics must be kept.
        longtable=True,
        column_format=side + "r" * (len(heads) - 1),
        caption=(escape(caption), short),
        label=label,
    )
    text = text.replace(f"\\caption[]{{{escape(caption)}}}", f"\\caption[]{{{short} (continued)}}")
    return f"{{\\scriptsize\n{text}}}" if len(heads) > MANY else text


def _cell(text: str) -> str:
    if match := GAIN.match(text):
        thin = f" (n={match['n']})" if match["n"] else ""
        return f"${match['mean']}_{{{match['low']}}}^{{{match['high']}}}${thin}"
    match = SPREAD.match(text)
    if not match:
        return re.sub(r"^-(?=\d)", r"\\ensuremath{-}", escape(text)) if text != "-" else "--"
    above = f"^{{n={match['n']}}}" if match["n"] else ""
    return f"${match['mean']}_{{{match['std']}}}{above}${escape(match['rest'])}"
