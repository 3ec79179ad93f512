"""Tables in files: csv, tsv and jsonl with a header, and parquet."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.data.images.rule import OWN_SUFFIXES
from prunetune.own.data import OwnData
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.records import Records, read_records

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = frozenset({*DELIMITERS, ".jsonl", ".ndjson", ".parquet"})


def read_table(path: Path, options: ReadOptions) -> OwnData:
    """Return the images that a table names.

    Raises:
        InputError: the table cannot be read, or see `read_records`. The message names the line.
    """
    return read_records(table_records(path), options)


def table_records(path: Path) -> Records:
    """Return the rows of a table; `place` names the line of the file.

    Raises:
        InputError: the file cannot be read or is no such table.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_records([path])
    try:
        if suffix in DELIMITERS:
            names, rows, lines = _separated(path, DELIMITERS[suffix])
        else:
            names, rows, lines = _json_lines(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    return Records(
        names=tuple(names),
        column=lambda name: [row[names.index(name)] for row in rows],
        count=len(rows),
        place=lambda row: f"line {lines[row]}",
        base=path.parent,
        layout="table",
        source=path,
        called=path.name,
    )


def _separated(path: Path, delimiter: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the header, the rows and their lines of a file of fields that are separated by a character."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.readline()
        # Spreadsheets of many countries write .csv files with semicolons.
        used = delimiter if delimiter in start else next((one for one in ";\t" if one in start), delimiter)
        file.seek(0)
        reader = csv.reader(file, delimiter=used, strict=True)
        rows, lines = [], []
        try:
            for fields in reader:
                if fields and any(field.strip() for field in fields):
                    rows.append(fields)
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise InputError(f"{path.name}, line {reader.line_num}: {error}; correct the quotes of this line") from None
    if not rows:
        raise InputError(f"{path.name} is empty; expected a header such as path,label and one line for each image")
    header = [name.strip() for name in rows[0]]
    _check_header(path, header)
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{path.name}, line {line}: {len(row)} fields where the header has {len(header)}; put a field that "
                f"holds {used!r} into quotes"
            )
    return header, rows[1:], lines[1:]


def _check_header(path: Path, header: Sequence[str]) -> None:
    for name in header:
        if Path(name).suffix.lower() in OWN_SUFFIXES:
            raise InputError(
                f"the first line of {path.name} is no header, it names the image {name!r}; put a line such as "
                "path,label above it"
            )
        if header.count(name) > 1:
            raise InputError(f"{path.name} has the column {name!r} twice; give each column a name of its own")


def _json_lines(path: Path) -> tuple[list[str], list[list[Any]], list[int]]:
    """Return the keys, the rows and their lines of a file with a JSON object in each line."""
    objects, lines = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise InputError(
                f"{path.name}, line {number} is no JSON object; expected lines such as "
                '{"path": "a.jpg", "label": "cat"}'
            )
        objects.append(content)
        lines.append(number)
    names = list(dict.fromkeys(key for content in objects for key in content))
    if not names:
        raise InputError(f"{path.name} is empty; expected a JSON object in each line")
    return names, [[content.get(name) for name in names] for content in objects], lines


def parquet_records(files: Sequence[Path]) -> Records:
    """Return the rows of parquet files with the same columns, one file after another.

    Raises:
        InputError: the extra `data` is not installed, or a file is damaged or has other columns.
    """
    needed("pyarrow", "data", "parquet files")
    parquet = needed("pyarrow.parquet", "data", "parquet files")
    arrow = needed("pyarrow", "data", "parquet files")
    tables = []
    for file in files:
        try:
            tables.append(parquet.read_table(file, memory_map=True))
        except (OSError, arrow.ArrowInvalid) as error:
            raise InputError(f"{file} cannot be read as parquet ({' '.join(str(error).split())[:200]})") from None
    try:
        table = arrow.concat_tables(tables)
    except arrow.ArrowInvalid:
        raise InputError(f"the parquet files from {files[0].name} to {files[-1].name} have different columns") from None
    return Records(
        names=tuple(table.column_names),
        column=lambda name: _ArrowColumn(table.column(name)),
        count=table.num_rows,
        place=lambda row: f"row {row}",
        base=files[0].parent,
        layout="parquet",
        source=files[0] if len(files) == 1 else list(files),
        called=files[0].name,
        class_names=lambda name: class_names_of(table.schema.metadata, name),
    )


class _ArrowColumn(Sequence):
    """A column of an Arrow table whose values become Python objects one by one."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> Any:
        return self._column[row].as_py()


def class_names_of(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Return the names of the classes that the library `datasets` has written beside a column, if there are any."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
