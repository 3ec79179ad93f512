"""How the rows are cut: parts, which are processed together, and what one task takes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from prunetune.cluster.stages import bundled


@dataclass(frozen=True, slots=True)  # With slots, since the driver holds all parts.
class Part:
    """Rows that are processed together. name: of its files. first: the position of its first row. count: its rows."""

    name: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """Parts that one task takes, in the order of positions, and the name of the files that it writes for them."""

    name: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """How many rows the parts have."""
        return sum(part.count for part in self.parts)


def bundles(name: str, parts: Sequence[Part], most: int) -> list[Bundle]:
    """Return all parts in bundles of at most `most` rows, but at least one part, with numbered names."""
    together = bundled(parts, lambda part: part.count, most)
    return [Bundle(f"{name}-{number:06d}", tuple(some)) for number, some in enumerate(together)]


@dataclass(frozen=True, slots=True)
class Segment:
    """Parts that one worker reads one after another, since they lie in the same rows of a file.

    shard: the index of the file; -1 for images that the driver has listed. groups: the row groups of a parquet file.
    start: the row of the file at which the first of the groups begins.
    """

    shard: int
    parts: tuple[Part, ...]
    groups: tuple[int, ...] = ()
    start: int = 0
