"""A model of what the cluster engine costs, fitted to the rows of results/bench/cluster.csv.

CPU seconds of a run of N images through L passes of the network are

    start + N (reading + L pass)

with three numbers that are fitted to the rows of `plain` (L = 1) and `dlc` (L = 5), all but one, by least squares of
relative errors. The largest run of DLC is held back and predicted. `reading` holds all that is done once for an image:
listing, decoding, losses, sorting, selecting and writing. Bytes are a fixed number for each row of data, except those
of features, which are 4 L D.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.bench.cluster_table import KINDS, Row, medians

PASSES = {"plain": 1, "dlc": 5}
ENOUGH = 3  # Rows that are needed beside the one that is held back.
Point = tuple[str, int]  # Method and size.
GOAL = 0.2  # The prediction should be within this share of the measurement.
MICRO_WIDTH = 96  # D of the micro network.


@dataclass(frozen=True)
class Model:
    """CPU seconds: start, of one run; reading, of one image; network, of one pass of one image."""

    start: float
    reading: float
    network: float

    def cpu_seconds(self, size: float, passes: int) -> float:
        """Return the CPU seconds of a run."""
        return self.start + size * (self.reading + passes * self.network)


def points(rows: Sequence[Row]) -> dict[Point, Row]:
    """Return the rows of images through a network that Ray has finished, by method and size."""
    found = medians(rows)
    return {key[1:3]: row for key, row in found.items() if key[0] == "images" and key[1] in PASSES and key[3] == "ray"}


def held_back(measured: Mapping[Point, Row]) -> Point:
    """Return the method and size of the row that the model does not see: the largest run of DLC."""
    return max(point for point in measured if point[0] == "dlc")


def are_enough(rows: Sequence[Row]) -> bool:
    """Whether the rows determine the model, and one is left to be predicted."""
    measured = points(rows)
    if not any(method == "dlc" for method, _ in measured):
        return False
    others = [point for point in measured if point != held_back(measured)]
    return len(others) >= ENOUGH and np.linalg.matrix_rank(_inputs(others) / _inputs(others).max(axis=0)) == 3


def _inputs(chosen: Iterable[Point]) -> np.ndarray:
    return np.array([[1.0, size, size * PASSES[method]] for method, size in chosen])


def fitted(measured: Mapping[Point, Row]) -> Model:
    """Return the model of some rows, which `are_enough`.

    Raises:
        ValueError: one of the three numbers would be negative.
    """
    seconds = np.array([row["cpu_seconds"] for row in measured.values()])
    scaled = _inputs(measured) / seconds[:, None]
    scale = scaled.max(axis=0)
    found = np.linalg.lstsq(scaled / scale, np.ones(len(seconds)), rcond=None)[0] / scale
    if (found < 0).any():
        raise ValueError(f"the rows give negative costs: {found}")
    return Model(*map(float, found))


def checked(rows: Sequence[Row]) -> tuple[Model, float, float]:
    """Return the model without the row that is held back, the CPU seconds that it predicts, and the measured ones."""
    measured = points(rows)
    method, size = out = held_back(measured)
    model = fitted({point: row for point, row in measured.items() if point != out})
    return model, model.cpu_seconds(size, PASSES[method]), measured[out]["cpu_seconds"]


def bytes_a_row(rows: Sequence[Row]) -> dict[str, float]:
    """Return the bytes a row of the run that is held back, by kind, and those of its shards as "input".

    "features" is 4 L D of them; "passes" is the rest of what the passes leave: positions, labels and hashes. "out" is
    that of the largest run of FlexRand on embeddings, if there is one: tables of many rows are parquet files.
    """
    measured = points(rows)
    method, size = out = held_back(measured)
    found = {kind: measured[out][f"{kind}_bytes"] / size for kind in ("input", *KINDS)}
    found["features"] = 4.0 * PASSES[method] * MICRO_WIDTH
    found["passes"] -= found["features"]
    tables = [row for key, row in medians(rows).items() if key[:2] == ("embeddings", "flexrand") and key[3] == "ray"]
    if tables:
        largest = max(tables, key=lambda row: row["size"])
        found["out"] = largest["out_bytes"] / largest["size"]
    return found
