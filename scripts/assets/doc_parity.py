"""The page of agreement with the code of other authors, from results/parity/methods.csv."""

from pathlib import Path

import pandas as pd

from scripts.assets.doc_text import escaped, page, table


def parity_page(path: Path) -> str:
    """Return the page of all methods that were compared, by the code that they were compared with."""
    frame = pd.read_csv(path, keep_default_na=False)
    counts = frame["verdict"].value_counts()
    said = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in ("identical", "up to ties"))
    rows = [
        [escaped(f"{line.peer}: {line.method}"), line.verdict, f"{line.lowest_jaccard:.2f}", _about(line)]
        for line in frame.itertuples()
    ]
    return page(
        "Agreement with other code",
        "`make parity PEERS=<folder>` gives our methods and the code of their authors the same features, logits, "
        "labels and draws,\nand compares the kept sets at several ratios. Nothing is trained. Overlap is the smallest "
        "Jaccard index of a method.",
        f"Of {len(frame)} lines, {said}; the others have their cause beside them. Every comparison is in "
        "results/parity/.\nWhere we differ on purpose, [Deviations](deviations.md) says why.",
        "## Checkouts",
        "The folder has any of these repositories, each called `name`, `owner+name` or `owner/name`. "
        "Peers that are not there are named.\nCORDS also needs the extra `parity`.",
        table(["peer", "repository at commit"], _repositories(frame)),
        "## Methods",
        table(["peer and method", "verdict", "overlap", "cause, and what was made equal"], rows),
        is_wide=True,
    )


def _repositories(frame: pd.DataFrame) -> list[list[str]]:
    return [
        [peer, f"`{code}`".replace(" and ", "` and `")] for peer, code in frame.groupby("peer")["code"].first().items()
    ]


def _about(line: tuple) -> str:
    cause = f"**{escaped(line.cause)}**" if line.cause else ""
    return ". ".join(part for part in (cause, escaped(line.note)) if part)
