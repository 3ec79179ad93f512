"""Facility location against the rankings that apricot's tests hold, on scikit-learn's digits."""

import ast
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from prunetune.selection.greedy import Similarity, facility_location
from prunetune.selection.neighbours import Points
from scripts.parity.agreement import Remarks, Row, compare

CASES: dict[str, tuple[str, Similarity]] = {
    "euclidean": ("euclidean", lambda distances, farthest: farthest**2 - distances**2),
    "cosine": ("cosine", lambda distances, farthest: (1 - distances) ** 2),
}
STORED = "the first picks that its tests hold, as sets; orders agree too"
NOT_THE_ORDER = "the first picks that its tests hold, as sets; orders agree but where two gains are equal"


def rows(checkout: Path) -> Iterator[Row]:
    """Compare the stored rankings of 100 images as a whole and at two earlier cuts."""
    images = torch.from_numpy(load_digits().data)
    for name, (metric, similarity) in CASES.items():
        stored = stored_ranking(checkout / "tests" / "test_functions" / "test_facility_location.py", name)
        picks = facility_location(Points(images.float(), metric), similarity, len(stored))
        for count in (10, 50, len(stored)):
            theirs, ours = torch.tensor(stored[:count]), picks[:count]
            note = STORED if theirs.equal(ours) else NOT_THE_ORDER
            share = round(count / len(images), 4)
            sets = theirs.sort().values, ours.sort().values
            yield compare(f"facility_location, {name}", False, share, *sets, Remarks(note))


def stored_ranking(file: Path, metric: str) -> list[int]:
    """Return the list digits_<metric>_ranking of a test file."""
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == f"digits_{metric}_ranking":
            return ast.literal_eval(statement.value)
    raise KeyError(f"{file} has no ranking for {metric}")
