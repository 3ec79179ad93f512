"""The page of all sweeps, from the headers of configs/sweep."""

import re
from dataclasses import dataclass
from pathlib import Path

from scripts.assets.doc_text import escaped, page, table

COUNTS = re.compile(r"^Jobs: (\d+)\. Runs: (\d+)\. GPU hours: (\d+)(?: \((.*)\))?\.$")

TARGET = re.compile(r"make [a-z0-9-]+")  # Finds make targets in the line about the product.


@dataclass(frozen=True)
class Header:
    """The contents of the comment at the top of a sweep's file."""

    name: str
    about: str
    jobs: int
    runs: int
    hours: int
    command: str
    product: str
    cheap: str  # Empty if there is no cheap variant.
    notes: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read the header of one file of configs/sweep.

    Raises:
        ValueError: the header lacks its counts, its command or its product.
    """
    comments = [line.removeprefix("#") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    lines: list[str] = []
    for line in comments:
        if line.startswith("   ") and lines:  # The line continues the previous one.
            lines[-1] += f" {line.strip()}"
        elif "@package" not in line:
            lines.append(line.strip())
    counts = [match for line in lines if (match := COUNTS.match(line))]
    commands = [line for line in lines if re.match(r"(python run\.py|prunetune) ", line)]
    products = [line.removeprefix("Product: ") for line in lines if line.startswith("Product: ")]
    if not (counts and commands and products):
        raise ValueError(f"{path.name}: the header needs its counts, a command and a product")
    cheap = [line.removeprefix("Cheap: ") for line in lines if line.startswith("Cheap: ")]
    told = {lines[0], counts[0].group(0), *commands}
    notes = [line for line in lines if line not in told and not line.startswith(("Product: ", "Cheap: "))]
    jobs, runs, hours = (int(counts[0].group(number)) for number in (1, 2, 3))
    return Header(path.stem, lines[0], jobs, runs, hours, commands[0], products[0], "".join(cheap[:1]), tuple(notes))


def sweeps_page(folder: Path) -> str:
    """Return the page of all sweeps of a folder."""
    headers = [read_header(path) for path in sorted(folder.glob("*.yaml"))]
    rows = [
        [f"[`{header.name}`](#{header.name})", escaped(header.about), f"{header.jobs:,}", f"{header.runs:,}"]
        + [f"{header.hours:,}", ", ".join(f"`{target}`" for target in TARGET.findall(header.product))]
        for header in headers
    ]
    return page(
        "Sweeps",
        "A sweep is a set of runs behind one table or figure: a file of `configs/sweep`.\n"
        "GPU hours are estimates from assumed speeds and were not measured.\n"
        "The target makes the table from finished runs.",
        table(["sweep", "what", "jobs", "runs", "GPU hours", "target"], rows),
        *(_section(header) for header in headers),
    )


def _section(header: Header) -> str:
    parts = [f"## {header.name}", escaped(header.about), f"```text\n{header.command}\n```"]
    lines = [f"- Product: {escaped(header.product)}"]
    if header.cheap:
        lines.append(f"- Cheap variant: {escaped(header.cheap)}")
    lines += [f"- {escaped(note)}" for note in header.notes]
    return "\n\n".join([*parts, "\n".join(lines)])
