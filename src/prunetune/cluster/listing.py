"""The first stage: every shard is listed once, so that labels, counts and places are known before images are read.

The list of a shard is a parquet file with a row for each of its rows. Its columns are `name` (tar archives only),
`start` and `size` in bytes of the image in the archive (tar archives only), and one column of labels as JSON texts for
each place where labels can be: `.cls` for files of this ending, `json:<key>` for a key of JSON objects. How often
each label occurs stands in a file beside it, which the driver reads shard after shard: it holds the sums only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.cluster.engine import Failure, guarded
from prunetune.cluster.parquet import damaged, is_damage, parquet_file
from prunetune.cluster.remote import File, open_url
from prunetune.cluster.sources import Source
from prunetune.cluster.stages import Item, Stage, named_file
from prunetune.own.read.columns import SPLIT_COLUMNS, Columns, choose_columns, usual, without_labels
from prunetune.own.read.labels import is_empty, plain
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.splits import split_kind
from prunetune.own.read.table import class_names_of
from prunetune.own.read.webdataset import (
    DamagedArchive,
    Member,
    Sample,
    image_of,
    index_of,
    json_object,
    label_ending,
    label_keys,
    label_text,
)

COUNTS = ".counts"  # A file of this ending maps each column of labels of a shard to Counts, in JSON.
OF_JSON = "json:"  # A column of labels from .json files is called after the key, with this in front.
LIST_ROWS = 8192  # A row group of a list has this many rows, and the last one has the rest.
MOST_KEYS = 20  # A message names at most this many other keys.
Counts = dict[str, list[int]]  # Maps a label as a JSON text to how often it occurs and to the first row that has it.


@dataclass(frozen=True)
class Header:
    """What the first parquet file says about all: the columns, and the names of classes that labels are indices of."""

    columns: Columns
    class_names: list[str] | None = None
    warning: str = ""


def list_shards(source: Source, stage: Stage, options: ReadOptions) -> tuple[Header | None, dict[str, dict[str, Any]]]:
    """List all shards in the workers. Return the header of parquet files, and the record of each shard.

    A record has `rows`, and `labels`, the names of the columns of labels. That of a parquet file has
    `groups`, the rows of each row group. That of an archive has `endings`, and `left_out`, samples without an image;
    where JSON objects can hold the labels also `keys`, or `no_object`, the first sample whose file holds none.
    A shard that cannot be read has `error`, and no rows; with on_error="stop" it ends the run.

    Raises:
        InputError: a shard cannot be read and is not to be skipped, or no column can hold the image.
    """
    header = None if source.layout == "webdataset" else parquet_header(source, options)
    function: Callable[..., Any] = list_parquet if header is not None else list_archive
    items = [Item(f"{i:06d}", 1, file) for i, file in enumerate(source.files)]
    records = stage.run(items, function, header, options, what="listing shards")
    broken = next((record["error"] for record in records.values() if "error" in record), None)
    if broken is not None and options.on_error != "skip":  # An earlier call has left it out.
        raise InputError(broken)
    return header, records


def parquet_header(source: Source, options: ReadOptions) -> Header:
    """Return the columns of images, or of embeddings, and of labels.

    They are those of the first file, or of the first that can be read where damaged files are left out.

    Raises:
        InputError: the file is damaged, its columns can be read in two ways, or its images are paths.
    """
    found = guarded(_first_schema, source.files if options.on_error == "skip" else source.files[:1])
    if isinstance(found, Failure):
        raise InputError(found.text)
    file, schema = found
    if source.layout == "embeddings":
        columns = _embedding_columns(schema, file, options)
    else:
        columns = choose_columns(schema.names, file.name, options)
        if str(schema.field(columns.image).type) in ("string", "large_string"):
            word = options.words("engine", "ray")
            raise InputError(
                f"the column {columns.image} of {file.name} holds paths, and {word} reads images inside the parquet "
                "files; give the folder of the images, or a list of them as csv, tsv or jsonl"
            )
    names = None if columns.label is None else class_names_of(schema.metadata, columns.label)
    return Header(columns, names, without_labels(schema.names, columns, options))


def _first_schema(files: Sequence[File]) -> tuple[File, Any]:
    """Return the first file whose schema can be read, and its schema.

    Raises:
        InputError: no file can be read; the message is that of the first one.
    """
    damage = None
    for file in files:
        try:
            with open_url(file.url) as stream:
                return file, parquet_file(stream).schema_arrow
        except Exception as error:
            if not is_damage(error):
                raise
            damage = damage or damaged(file.url, error)
    raise damage


def _embedding_columns(schema: Any, file: File, options: ReadOptions) -> Columns:
    """Return the only column of lists of numbers, or the one that the user named, and the column of labels."""
    lists = [field.name for field in schema if "list<" in str(field.type) or "list[" in str(field.type)]
    given = options.image_column
    if (given is None and len(lists) != 1) or (given is not None and given not in lists):
        raise InputError(
            f"{file.name} has the columns {', '.join(schema.names)}, of which {len(lists)} hold lists of numbers; name "
            f"that of the embeddings with {options.words('image_column', '<name>')}"
        )
    named = replace(options, image_column=given or lists[0])
    return choose_columns(
        [name for name in schema.names if name not in lists or name == named.image_column], file.name, named
    )


def list_parquet(item: Item, stage: Stage, header: Header, options: ReadOptions) -> dict[str, Any]:
    """List a parquet file: read its footer and its labels."""
    file = item.work
    try:
        with open_url(file.url) as stream:
            opened = parquet_file(stream)
            groups = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
            _check_columns(file, opened.schema_arrow.names, header)
            label = header.columns.label
            cells = None if label is None else opened.read(columns=[label]).column(label)
            _check_splits(file, opened, header)
    except Exception as error:
        if not is_damage(error):
            raise
        return _skipped(item, stage, damaged(file.url, error), options)
    table = {} if label is None else {label: _texts(cells)}
    return _finished(item, stage, table, {"rows": sum(groups), "groups": groups})


def _check_columns(file: File, names: list[str], header: Header) -> None:
    wanted = [header.columns.image] + ([] if header.columns.label is None else [header.columns.label])
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{file.name} has no column {missing[0]!r}, and the first file has; give files of one kind")


def _check_splits(file: File, opened: Any, header: Header) -> None:
    """Refuse a column that names several splits; the in-process engine chooses among them, row by row."""
    used = (header.columns.image, header.columns.label)
    for name in opened.schema_arrow.names:
        if usual(name, SPLIT_COLUMNS) and name not in used:
            values = set(map(str, opened.read(columns=[name]).column(name).unique().to_pylist()))
            if values and all(split_kind(value) for value in values):
                raise InputError(
                    f"the column {name} of {file.name} names splits, and the engine ray takes splits from files: "
                    f"write each split into files of its own, such as train-00000.parquet, or drop the column {name}"
                )


def list_archive(item: Item, stage: Stage, header: None, options: ReadOptions) -> dict[str, Any]:
    """List an archive: read the headers of its files, and the small files that can hold labels."""
    file = item.work
    arrow = needed("pyarrow", "cluster", "tar archives")
    try:
        with open_url(file.url) as stream:
            samples = index_of(stream, file.url)
            chosen = {f"{file.name}/{key}": one for key, one in samples.items() if image_of(one) is not None}
            labels, facts = _labels_of(chosen, stream, options)
    except DamagedArchive as error:
        return _skipped(item, stage, error, options)
    images = [image_of(sample) for sample in chosen.values()]
    table = {
        "name": arrow.array(list(chosen), arrow.string()),
        "start": arrow.array([image.start for image in images], arrow.int64()),
        "size": arrow.array([image.size for image in images], arrow.int64()),
    }
    table |= {column: arrow.array(texts, arrow.string()) for column, texts in labels.items()}
    facts |= {
        "rows": len(chosen),
        "endings": sorted({ending for sample in chosen.values() for ending in sample}),
        "left_out": [f"{file.name}/{key}" for key, sample in samples.items() if image_of(sample) is None],
    }
    return _finished(item, stage, table, facts)


def _labels_of(
    samples: Mapping[str, Sample], stream: Any, options: ReadOptions
) -> tuple[dict[str, list[str | None]], dict[str, Any]]:
    """Return the columns of labels that the samples of an archive can have, and what their JSON files are.

    The driver chooses one column for all archives. The samples of an archive without that column have no label.
    """
    endings = {ending for sample in samples.values() for ending in sample}
    ending, is_key = label_ending(endings, options) if options.reads_labels else (None, False)
    if ending is None:
        return {}, {}
    if not is_key:
        contents = (_read(stream, one[ending]) if ending in one else b"" for one in samples.values())
        return {f".{ending}": [as_text(label_text(content)) for content in contents]}, {}
    objects = {name: json_object(_read(stream, one["json"])) if "json" in one else {} for name, one in samples.items()}
    if None in objects.values():
        return {}, {"no_object": next(name for name, content in objects.items() if content is None)}
    keys = {key for content in objects.values() for key in content}
    found = label_keys(keys, options)
    columns = {f"{OF_JSON}{key}": [as_text(content.get(key)) for content in objects.values()] for key in found}
    return columns, {"keys": sorted({*found, *sorted(keys)[:MOST_KEYS]})}


def _read(stream: Any, member: Member) -> bytes:
    stream.seek(member.start)
    return stream.read(member.size)


def _texts(column: Any) -> Any:
    """Return a column of labels as JSON texts. Of equal numbers and texts one is converted."""
    arrow = needed("pyarrow", "cluster", "parquet files")
    kinds = arrow.types
    if any(is_one(column.type) for is_one in (kinds.is_integer, kinds.is_string, kinds.is_large_string)):
        coded = column.combine_chunks().dictionary_encode()
        return arrow.array(map(as_text, coded.dictionary.to_pylist()), arrow.string()).take(coded.indices)
    return arrow.array(map(as_text, column.to_pylist()), arrow.string())


def as_text(cell: Any) -> str | None:
    """Return a label as a JSON text; None for one that is empty."""
    label = plain(cell)
    if is_empty(label):
        return None
    return json.dumps(label, default=str)


def _skipped(item: Item, stage: Stage, error: InputError, options: ReadOptions) -> dict[str, Any]:
    """Record a damaged shard, if such shards are to be left out."""
    if options.on_error != "skip":
        raise error
    return stage.finish(item.name, [], {"rows": 0, "groups": [], "labels": [], "error": str(error)})


def _finished(item: Item, stage: Stage, table: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Write the list of a shard and its record."""
    arrow = needed("pyarrow", "cluster", "parquet files")
    parquet = needed("pyarrow.parquet", "cluster", "parquet files")
    path, counts = stage.file(item.name, ".parquet"), stage.file(item.name, COUNTS)
    with named_file(path) as file:
        parquet.write_table(arrow.table(dict(table)), file, row_group_size=LIST_ROWS)
    labels = {name: _counts(column) for name, column in table.items() if name not in ("name", "start", "size")}
    with named_file(counts) as file:
        file.write(json.dumps(labels).encode())
    return stage.finish(item.name, [path, counts], {**facts, "labels": list(labels)})


def _counts(column: Any) -> Counts:
    """Return how often each text occurs, in the order of their first rows."""
    coded = column.dictionary_encode()
    texts = [*coded.dictionary.to_pylist(), "null"]
    codes = coded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
    values, firsts, counts = (found.tolist() for found in np.unique(codes, return_index=True, return_counts=True))
    return {texts[value]: [count, first] for first, value, count in sorted(zip(firsts, values, counts, strict=True))}


def read_counts(place: Path, column: str) -> Counts:
    """Return how often each label occurs in a shard. place: a file that ends in COUNTS."""
    return json.loads(place.read_text(encoding="utf-8"))[column]


def read_list(path: Path, first: int, count: int, columns: Sequence[str]) -> Any:
    """Return some rows of the list of a shard as an Arrow table; columns that the list does not have are left out.

    No more is read than the row groups that have these rows, so that a part of a large shard costs what a part costs.
    """
    with needed("pyarrow.parquet", "cluster", "parquet files").ParquetFile(path, memory_map=True) as file:
        present = [column for column in columns if column in file.schema_arrow.names]
        groups = range(first // LIST_ROWS, -(-(first + count) // LIST_ROWS))
        table = file.read_row_groups(list(groups), columns=present)
        return table.slice(first - groups.start * LIST_ROWS, count).combine_chunks()
