"""Markdown for the generated pages."""

import re
from collections.abc import Sequence

NOTE = "<!-- Written by `python -m scripts.assets.doc_pages`. Change the code that it reads, not this page. -->"
BACKSLASHED = re.compile(r"[\\*\[\]]|(?<!\w)_|_(?!\w)")  # An underscore inside a word needs no backslash.
ENTITIES = str.maketrans({"<": "&lt;", ">": "&gt;", "|": "&#124;"})  # In Markdown a backslash does not escape these.


def page(title: str, *parts: str, is_wide: bool = False) -> str:
    """Return a page: its title, the note that it is generated, and its parts, an empty line between each.

    is_wide: leave out the table of contents beside the page, to make room for a wide table.
    """
    head = ["---\nhide: [toc]\n---"] if is_wide else []
    return "\n\n".join([*head, f"# {title}", NOTE, *(part.rstrip() for part in parts)]) + "\n"


def escaped(text: str) -> str:
    """Return plain text of a docstring as Markdown. Code between backticks is not changed."""
    pieces = text.split("`")
    return "`".join(piece if number % 2 else _plain(piece) for number, piece in enumerate(pieces))


def _plain(text: str) -> str:
    return BACKSLASHED.sub(lambda match: f"\\{match.group()}", text).translate(ENTITIES)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a column that is empty in every row is left out."""
    shown = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    lines = [[columns[number] for number in shown], ["---"] * len(shown)]
    lines += [[row[number] for number in shown] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
