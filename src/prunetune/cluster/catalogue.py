"""What all rows of a cluster run are: classes, counts, and the parts that workers process."""

import bisect
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base.errors import InputError
from prunetune.cluster.listing import COUNTS, OF_JSON, Header, read_counts, read_list
from prunetune.cluster.parts import Part, Segment
from prunetune.cluster.remote import File
from prunetune.cluster.sources import Source
from prunetune.cluster.stages import Stage, bundled, sliced
from prunetune.data.images.own import OwnFiles
from prunetune.own.data import OwnData
from prunetune.own.read.assemble import WITHOUT_LABELS
from prunetune.own.read.columns import Columns
from prunetune.own.read.labels import Labels, read_labels
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.webdataset import label_ending, label_key, no_object, refuse_no_label

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Listed:
    """Images that the driver has listed: n of them, from the position `first` on.

    places: their paths or addresses; () if they are not read. names: as the user knows them. labels: [n] int32.
    """

    first: int
    places: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What all rows are. A position is the place of a row in the order of sample_id, as in a Pool.

    source: where the data are. files: the shards. firsts: the position of the first row of each shard. counts: the rows
    of each shard. groups: the row groups of each parquet file. lists: the folder of the lists of the shards. columns:
    those of parquet files. label: the column of the lists that holds the labels; None if they are not read. indices:
    maps a label as a JSON text to the index of its class. classes: their names. sizes: rows of each class, also those
    that turn out to be unreadable. left_out: maps shards and samples that are no candidates to the reason. unlabelled:
    how many rows have no label and are left out. listed: those images that a worker has got, of all that the driver has
    listed.
    """

    source: Source
    classes: tuple[str, ...]
    total: int
    files: tuple[File, ...] = ()
    firsts: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    lists: Path | None = None
    columns: Columns | None = None
    label: str | None = None
    indices: Mapping[str, int] = field(default_factory=dict)
    is_labelled: bool = True
    sizes: tuple[int, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    unlabelled: int = 0
    notes: tuple[str, ...] = ()
    listed: Listed | None = None

    @property
    def held(self) -> OwnData | None:
        """The candidates, if the driver has listed them."""
        return self.source.held

    def bare(self) -> "Catalogue":
        """Return the catalogue as all workers get it: without a word about single images."""
        return replace(self, source=replace(self.source, held=None, left_out={}), left_out={})

    def listed_at(self, first: int, count: int) -> Listed | None:
        """Return the images from a position on that the driver has listed; None if shards are read."""
        if (own := self.listed) is not None:
            rows = slice(first - own.first, first - own.first + count)
            return Listed(first, own.places[rows], own.names[rows], own.labels[rows])
        if (data := self.held) is None:
            return None
        images, rows = data.pool.images, slice(first, first + count)
        if isinstance(images, OwnFiles):
            places = tuple(map(str, images.paths[rows]))
        else:
            places = tuple(images.content.urls[item] for item in images.indices[rows])
        return Listed(first, places, data.names[rows], data.pool.labels[rows].numpy().astype(np.int32))

    def segments(self, most: int) -> list[Segment]:
        """Return all rows in parts of at most `most` rows; the same ones whatever the workers are."""
        if self.held is not None:
            return [
                Segment(-1, (Part(f"{first:09d}", first, count),), start=first)
                for first, count in sliced(self.total, most)
            ]
        return [segment for shard in range(len(self.files)) for segment in self._of_shard(shard, most)]

    def _of_shard(self, shard: int, most: int) -> Iterator[Segment]:
        first = self.firsts[shard]
        if self.source.layout == "webdataset":
            for start, count in sliced(self.counts[shard], most):
                yield Segment(shard, (Part(f"{shard:06d}-{start:09d}", first + start, count),), start=start)
            return
        for groups, start, rows in _bundled(self.groups[shard], most):
            parts = tuple(
                Part(f"{shard:06d}-{start + offset:09d}", first + start + offset, count)
                for offset, count in sliced(rows, most)
            )
            yield Segment(shard, parts, groups, start)

    def shard_of(self, position: int) -> int:
        """Return the index of the shard that holds a row."""
        return bisect.bisect_right(self.firsts, position) - 1

    def table(self, part: Part, *columns: str) -> Any:
        """Return the rows of a part in the list of its shard as an Arrow table of those columns that the list has."""
        shard = self.shard_of(part.first)
        file = Stage(self.lists).file(f"{shard:06d}", ".parquet")
        return read_list(file, part.first - self.firsts[shard], part.count, columns)

    def labels(self, part: Part) -> np.ndarray:
        """Return the class of each row of a part, [n] int32; -1 for a row without a label."""
        if (listed := self.listed_at(part.first, part.count)) is not None:
            return listed.labels
        if self.label is None:
            return np.zeros(part.count, dtype=np.int32)
        table = self.table(part, self.label)
        if not table.num_columns:  # No sample of the archive has such a file.
            return np.full(part.count, -1, dtype=np.int32)
        coded = table.column(self.label).combine_chunks().dictionary_encode()
        lookup = np.array([self.indices.get(text, -1) for text in coded.dictionary.to_pylist()] + [-1], dtype=np.int32)
        codes = coded.indices.fill_null(len(lookup) - 1).to_numpy(zero_copy_only=False)
        return lookup[codes]

    def names(self, part: Part) -> list[str]:
        """Return the name of each row of a part, as the user knows it."""
        if (listed := self.listed_at(part.first, part.count)) is not None:
            return list(listed.names)
        if self.source.layout != "webdataset":
            return [str(position) for position in range(part.first, part.first + part.count)]
        return self.table(part, "name").column("name").to_pylist()

    def full_names(self, part: Part) -> list[str]:
        """Return the names of the rows of a part; behind the folder of their archive if another one has its name."""
        if self.source.layout != "webdataset":
            return self.names(part)
        return _full_names(self.files[self.shard_of(part.first)], self.names(part), self._twice)

    @cached_property
    def _twice(self) -> set[str]:
        return _names_of_several(self.files)

    def sample_ids(self, part: Part) -> list[str]:
        """Return the sample_id of each row of a part; those of shards are numbers of equal width."""
        if self.held is not None:
            return list(self.held.pool.sample_ids[part.first : part.first + part.count])
        width = len(str(max(self.total - 1, 0)))
        return [f"{position:0{width}d}" for position in range(part.first, part.first + part.count)]

    def described(self, sizes: Sequence[int]) -> list[str]:
        """Return the lines that say what was understood; sizes: candidates of each class."""
        what = "rows" if self.source.layout == "embeddings" else "images"
        shards = f" in {len(self.files)} shards" if self.files else ""
        if not self.is_labelled:
            return [f"{sum(sizes)} {what} without labels{shards}", *self.notes]
        order = sorted(range(len(sizes)), key=lambda label: (-sizes[label], label))
        shown = ", ".join(f"{self.classes[label]} {sizes[label]}" for label in order[:5])
        more = ", ..." if len(order) > 5 else ""
        return [f"{sum(sizes)} {what}{shards}, {len(sizes)} classes: {shown}{more}", *self.notes]


def _bundled(groups: Sequence[int], most: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield row groups that are read together, the row at which they begin, and their rows: at most `most` if many."""
    start = 0
    for some in bundled(enumerate(groups), lambda group: group[1], most):
        rows = sum(count for _, count in some)
        if rows:
            yield tuple(group for group, _ in some), start, rows
        start += rows


def of_held(source: Source) -> Catalogue:
    """Return the catalogue of images that the driver has listed."""
    data = source.held
    return Catalogue(
        source,
        data.pool.classes,
        len(data.pool),
        is_labelled=data.is_labelled,
        sizes=tuple(data.pool.labels.bincount(minlength=len(data.pool.classes)).tolist()),
        left_out=source.left_out,
        notes=source.notes,
    )


def of_shards(
    source: Source, header: Header | None, records: Mapping[str, Mapping[str, Any]], lists: Path, options: ReadOptions
) -> Catalogue:
    """Return the catalogue of shards that were listed.

    Raises:
        InputError: there is no row, or a label is missing or wrong.
    """
    found = list(records.values())
    counts = tuple(record["rows"] for record in found)
    firsts = tuple(int(first) for first in np.concatenate([[0], np.cumsum(counts)[:-1]]))
    left_out = _left_out(source, found)
    if sum(counts) == 0:
        raise InputError(f"{source.name} holds no images that can be read; {len(left_out)} rows or files are left out")
    if header is not None and header.warning:
        log.warning("%s", header.warning)
    catalogue = Catalogue(
        source,
        classes=(WITHOUT_LABELS,),
        total=sum(counts),
        files=source.files,
        firsts=firsts,
        counts=counts,
        groups=tuple(tuple(record.get("groups", ())) for record in found),
        lists=lists,
        columns=None if header is None else header.columns,
        is_labelled=False,
        sizes=(sum(counts),),
        left_out=left_out,
        notes=(*source.notes, *(() if header is None else header.columns.notes)),
    )
    label = _label_column(header, found, options)
    return catalogue if label is None else _labelled(catalogue, label, header, found, options)


def _names_of_several(files: Sequence[File]) -> set[str]:
    """Return the names that several shards have, in different folders."""
    return {name for name, count in Counter(file.name for file in files).items() if count > 1}


def _full_names(file: File, names: Sequence[str], twice: set[str]) -> list[str]:
    folder = f"{file.url.rpartition('/')[0]}/" if file.name in twice else ""
    return [f"{folder}{name}" for name in names]


def _left_out(source: Source, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the shards and samples that are no candidates, and the reasons."""
    left_out, twice = dict(source.left_out), _names_of_several(source.files)
    for file, record in zip(source.files, records, strict=True):
        if "error" in record:
            left_out[file.url] = record["error"]
            log.warning("the shard %s is left out: %s", file.url, record["error"])
        names = _full_names(file, record.get("left_out", ()), twice)
        left_out.update(dict.fromkeys(names, "samples without an image"))
    return left_out


def _labelled(
    catalogue: Catalogue,
    label: str,
    header: Header | None,
    records: Sequence[Mapping[str, Any]],
    options: ReadOptions,
) -> Catalogue:
    """Return a catalogue with the classes of its rows.

    Raises:
        InputError: a label is missing or wrong.
    """
    merged = _merged(catalogue, label, records)
    _add_missing(merged, records, label, catalogue.firsts)
    unlabelled = merged.pop("null", [0, 0])
    read = _read_labels(merged, unlabelled, header, catalogue.total, options, catalogue.source)
    notes = catalogue.notes
    if header is None:
        words = f"{label.removeprefix(OF_JSON)} in .json" if label.startswith(OF_JSON) else label
        notes = (f"labels from {words}", *notes)
    indices = {text: read.indices[i] for text, i in _places(merged).items()}
    sizes = [0] * len(read.classes)
    for text, index in indices.items():
        sizes[index] += merged[text][0]
    return replace(
        catalogue,
        classes=read.classes,
        label=label,
        indices=indices,
        is_labelled=True,
        sizes=tuple(sizes),
        unlabelled=unlabelled[0],
        notes=(*notes, *read.notes),
    )


def _label_column(header: Header | None, records: Sequence[Mapping[str, Any]], options: ReadOptions) -> str | None:
    """Return the column of the lists that holds the labels.

    Raises:
        InputError: see `own.read.webdataset`, the rules of which these are.
    """
    if header is not None:
        return header.columns.label
    if not options.reads_labels:
        return None
    endings = {ending for record in records for ending in record.get("endings", ())}
    ending, is_key = label_ending(endings, options)
    if ending is None:
        refuse_no_label(endings, options)
        return None
    if not is_key:
        return f".{ending}"
    if bad := next((record["no_object"] for record in records if "no_object" in record), None):
        raise no_object(bad)
    key = label_key({key for record in records for key in record.get("keys", ())}, options)
    return None if key is None else f"{OF_JSON}{key}"


def _merged(catalogue: Catalogue, label: str, records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return how often each label occurs in all shards, and the first row that has it. One shard is read at a time."""
    merged: dict[str, list[int]] = {}
    for shard, (record, first) in enumerate(zip(records, catalogue.firsts, strict=True)):
        if label in record["labels"]:
            place = Stage(catalogue.lists).file(f"{shard:06d}", COUNTS)
            for text, (count, row) in read_counts(place, label).items():
                merged.setdefault(text, [0, first + row])[0] += count
    return merged


def _add_missing(
    merged: dict[str, list[int]], records: Sequence[Mapping[str, Any]], label: str, firsts: Sequence[int]
) -> None:
    """Count the rows of archives that have no label of the chosen kind at all."""
    for record, first in zip(records, firsts, strict=True):
        if label not in record["labels"] and record["rows"]:
            merged.setdefault("null", [0, first])[0] += record["rows"]


def _places(merged: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the place of each label in the list that `_read_labels` checks."""
    places, place = {}, 0
    for text, (count, _) in merged.items():
        places[text] = place
        place += min(count, 2)
    return places


def _read_labels(
    merged: Mapping[str, Sequence[int]],
    unlabelled: Sequence[int],
    header: Header | None,
    total: int,
    options: ReadOptions,
    source: Source,
) -> Labels:
    """Return the classes of the labels. A label stands twice in what is checked if several rows have it.

    Raises:
        InputError: rows have no label and are not to be left out, or see `read_labels`.
    """
    word = "sample" if source.layout == "webdataset" else "row"
    if unlabelled[0] == total:
        raise InputError(f"no row has a label; score without labels with {options.without_labels()}")
    if unlabelled[0] and options.on_error != "skip":
        raise InputError(
            f"{unlabelled[0]} of {total} rows cannot be read: {word} {unlabelled[1]} (it has no label); repair or "
            f"remove them, or leave them out with {options.words('on_error', 'skip')}"
        )
    values, rows = [], []
    for text, (count, row) in merged.items():
        values += [json.loads(text)] * min(count, 2)
        rows += [row] * min(count, 2)
    names = None if header is None else header.class_names
    return read_labels(values, lambda i: f"{word} {rows[i]}", options, names)
