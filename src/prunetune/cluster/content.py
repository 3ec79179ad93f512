"""What a worker reads: the encoded images of a segment, row after row."""

from collections.abc import Iterator
from typing import Any

from prunetune.cluster.catalogue import Catalogue, Part, Segment
from prunetune.cluster.parquet import is_damage, parquet_file
from prunetune.cluster.remote import open_url
from prunetune.data.images.own import EncodedImages
from prunetune.data.readers.hugging_face import content_of

ROWS = 64  # This many rows of a parquet file are in memory at once.


def contents(catalogue: Catalogue, segment: Segment) -> Iterator[tuple[Part, Iterator[bytes | OSError]]]:
    """Yield each part of a segment, with the encoded images of its rows; an OSError stands for a row without one.

    The caller may take parts only in their order, and need not take all images of a part.
    """
    if catalogue.held is not None:
        for part in segment.parts:
            yield part, _of_held(catalogue.held.pool.images, part)
    elif catalogue.source.layout == "webdataset":
        yield segment.parts[0], _of_archive(catalogue, segment)
    else:
        yield from _of_parquet(catalogue, segment)


def _of_held(images: Any, part: Part) -> Iterator[bytes | OSError]:
    for position in range(part.first, part.first + part.count):
        try:
            if isinstance(images, EncodedImages):
                yield images.content(images.indices[position])
            else:
                yield images.paths[position].read_bytes()
        except OSError as error:
            if not is_lasting(error):
                raise
            yield error


def is_lasting(error: OSError) -> bool:
    """Return whether an error is a fact of an image, which the record of its part may hold: there is no such file.

    A file without permission, a failing disk, too many open files or storage that does not answer end the call instead.
    Otherwise the image would be left out of all later calls too.
    """
    is_ours = type(error) is OSError and error.errno is None  # Such as that of an empty cell.
    return is_ours or isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)


def _of_archive(catalogue: Catalogue, segment: Segment) -> Iterator[bytes | OSError]:
    part = segment.parts[0]
    table = catalogue.table(segment.shard, ["start", "size"]).slice(segment.start, part.count)
    with open_url(catalogue.files[segment.shard].url) as stream:
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
