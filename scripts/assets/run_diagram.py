"""Draw docs/assets/run.svg, the diagram of one image run: `python -m scripts.assets.run_diagram`.

The drawing is narrow and tall, so that its text is readable on a telephone. It has its own white background and needs
no font file, so that it does not depend on the page.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

OUT = Path(__file__).parents[2] / "docs" / "assets" / "run.svg"
WIDTH, LEFT, BOX_WIDTH = 460, 10, 300
STORE_LEFT, STORE_WIDTH = 350, 100
GAP, LINE = 26, 19  # The distance in pixels between boxes, and between lines of text.
INK, FILL, ACCENT, STORE_FILL = "#1f2937", "#eef2ff", "#3730a3", "#fef3c7"


@dataclass(frozen=True)
class Step:
    """One box: its title, what it does, the folder of `src/prunetune` that has the code, and its link to the store."""

    title: str
    lines: tuple[str, ...]
    room: str
    stored: str = ""  # The results of the step that the store keeps; empty if there are none.


STEPS = (
    Step("Pool", ("Images and labels, sorted by sample_id.", "The test images are kept apart."), "data/"),
    Step("Decode", ("Every image is read and resized once.",), "data/images/", "images"),
    Step(
        "Signals",
        ("What the scorer asks for: features,", "features of masked networks, or the", "logits of a trained proxy."),
        "networks/, signals/",
        "features",
    ),
    Step("Score", ("One number for each image.", "Ratio and sampler play no part."), "scorers/, selection/", "scores"),
    Step("Prune", ("The sampler keeps a fraction", "of each class."), "samplers/"),
    Step("Fine-tune", ("A linear probe, or all weights,", "on the images that are kept."), "training/"),
    Step("Run folder", ("subset.csv, predictions.csv,", "history.csv; last of all result.json."), "runs/"),
)


def height_of(step: Step) -> int:
    """Return the height of a box in pixels."""
    return 42 + LINE * (len(step.lines) + 1)


def text(x: int, y: int, words: str, size: int, colour: str = INK, extra: str = "") -> str:
    """Return one line of text whose baseline begins at (x, y)."""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" {extra}>{escape(words)}</text>'


def arrow(x1: int, y1: int, x2: int, y2: int, both: bool = False) -> str:
    """Return a line that ends in an arrow head; with `both` it begins in one too."""
    start = 'marker-start="url(#head)" ' if both else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" {start}marker-end="url(#head)"/>'


def box(step: Step, top: int) -> list[str]:
    """Return the rectangle of a step and its words."""
    height = height_of(step)
    parts = [
        f'<rect x="{LEFT}" y="{top}" width="{BOX_WIDTH}" height="{height}" rx="6" fill="{FILL}" stroke="{ACCENT}"/>',
        text(LEFT + 14, top + 26, step.title, 17, ACCENT, 'font-weight="bold"'),
    ]
    rows = [(line, INK, "") for line in step.lines] + [(f"src/prunetune/{step.room}", "#6b7280", 'font-style="italic"')]
    for number, (line, colour, style) in enumerate(rows):
        parts.append(text(LEFT + 14, top + 47 + LINE * number, line, 14, colour, style))
    return parts


def store(steps: list[tuple[Step, int]]) -> list[str]:
    """Return the store beside the steps that read from it and write to it, with an arrow to each."""
    linked = [(step, top + height_of(step) // 2) for step, top in steps if step.stored]
    top, bottom = linked[0][1] - 52, linked[-1][1] + 36
    parts = [
        f'<rect x="{STORE_LEFT}" y="{top}" width="{STORE_WIDTH}" height="{bottom - top}" rx="6" '
        f'fill="{STORE_FILL}" stroke="#b45309"/>',
        text(STORE_LEFT + 14, top + 26, "Store", 17, "#b45309", 'font-weight="bold"'),
    ]
    for step, middle in linked:
        parts.append(arrow(LEFT + BOX_WIDTH + 5, middle, STORE_LEFT - 5, middle, both=True))
        parts.append(text(STORE_LEFT + 14, middle + 5, step.stored, 14))
    return parts


def diagram() -> str:
    """Return the whole drawing as SVG text."""
    tops, top = [], 10
    for step in STEPS:
        tops.append(top)
        top += height_of(step) + GAP
    height = top - GAP + 10
    placed = list(zip(STEPS, tops, strict=True))
    middle = LEFT + BOX_WIDTH // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" role="img" aria-label="The steps of one run, from top to bottom">',
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto-start-reverse">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for step, top in placed:
        parts += box(step, top)
    for (step, top), (_, following) in zip(placed, placed[1:], strict=False):
        parts.append(arrow(middle, top + height_of(step) + 3, middle, following - 3))
    return "\n".join([*parts, *store(placed), "</svg>"]) + "\n"


if __name__ == "__main__":
    OUT.write_text(diagram(), encoding="utf-8")
    print(f"wrote {OUT}")
