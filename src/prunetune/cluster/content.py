"""What a worker reads: the encoded images of a segment, row after row."""

from collections.abc import Iterator, Sequence
from typing import Any

from prunetune.cluster.catalogue import Catalogue
from prunetune.cluster.parquet import is_damage, parquet_file
from prunetune.cluster.parts import Part, Segment
from prunetune.cluster.remote import content_at, open_url
from prunetune.data.readers.hugging_face import content_of

ROWS = 64  # This many rows of a parquet file are in memory at once.


def contents(catalogue: Catalogue, segment: Segment) -> Iterator[tuple[Part, Iterator[bytes | OSError]]]:
    """Yield each part of a segment, with the encoded images of its rows; an OSError stands for a row without one.

    The caller may take parts only in their order, and need not take all images of a part.
    """
    if catalogue.listed is not None:
        for part in segment.parts:
            yield part, _of_places(catalogue.listed_at(part.first, part.count).places)
    elif catalogue.source.layout == "webdataset":
        for part in segment.parts:
            yield part, _of_archive(catalogue, part)
    else:
        yield from _of_parquet(catalogue, segment)


def _of_places(places: Sequence[str]) -> Iterator[bytes | OSError]:
    for place in places:
        try:
            content: bytes | OSError = content_at(place)
        except OSError as error:
            if not is_lasting(error):
                raise
            content = error
        yield content


def is_lasting(error: OSError) -> bool:
    """Return whether an error is a fact of an image, which the record of its part may hold: there is no such file.

    A file without permission, a failing disk, too many open files or storage that does not answer end the call instead.
    Otherwise the image would be left out of all later calls too.
    """
    is_ours = type(error) is OSError and error.errno is None  # Such as that of an empty cell.
    return is_ours or isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)


def _of_archive(catalogue: Catalogue, part: Part) -> Iterator[bytes | OSError]:
    table = catalogue.table(part, "start", "size")
    with open_url(catalogue.files[catalogue.shard_of(part.first)].url) as stream:
        for start, size in zip(table.column("start").to_pylist(), table.column("size").to_pylist(), strict=True):
            stream.seek(start)
            yield stream.read(size)


def _of_parquet(catalogue: Catalogue, segment: Segment) -> Iterator[tuple[Part, Iterator[bytes | OSError]]]:
    """Read row groups once, however many parts they have."""
    file = catalogue.files[segment.shard]
    with open_url(file.url) as stream:
        opened = parquet_file(stream)
        cells = (cell for group in segment.groups for cell in _cells(opened, group, catalogue.columns.image, file.name))
        for part in segment.parts:
            taken = _Taken(cells, part.count)
            yield part, taken
            for _ in taken:  # A part that was finished before is passed over.
                pass


def _cells(opened: Any, group: int, column: str, name: str) -> Iterator[Any]:
    """Yield the cells of a row group; an OSError stands for each row behind the first damage."""
    done = 0
    try:
        for batch in opened.iter_batches(ROWS, row_groups=[group], columns=[column]):
            for cell in batch.column(0).to_pylist():
                done += 1
                yield cell
    except Exception as error:
        if not is_damage(error):
            raise
        reason = f"row group {group} of {name} is damaged: {' '.join(str(error).split())[:200]}"
        for _ in range(opened.metadata.row_group(group).num_rows - done):
            yield OSError(reason)


class _Taken(Iterator[bytes | OSError]):
    """The next few of many cells, as encoded images."""

    def __init__(self, cells: Iterator[Any], count: int) -> None:
        self._cells, self._left = cells, count

    def __next__(self) -> bytes | OSError:
        if self._left == 0:
            raise StopIteration
        self._left -= 1
        cell = next(self._cells)
        if isinstance(cell, OSError):
            return cell
        try:
            return content_of(cell)
        except OSError as error:
            if not is_lasting(error):
                raise
            return error
