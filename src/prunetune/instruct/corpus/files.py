"""Read the rows of a corpus from the Hugging Face hub, or from a json, jsonl, csv, tsv or parquet file."""

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from prunetune.base.errors import InputError
from prunetune.instruct.extra import needed

Rows = list[dict[str, Any]]
LINES, TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", *LINES, *TABLES, ".parquet")


class OnHub(Protocol):
    """The fields of a hub corpus that this module reads."""

    name: str
    hub: str
    revision: str | None
    split: str
    limit: int | None


def hub_rows(corpus: OnHub, columns: Sequence[str]) -> Rows:
    """Return the rows of one split of a data set of the hub, at most `limit` ones.

    Raises:
        InputError: the data set is missing, gated or cannot be reached, or lacks one of the columns.
    """
    loaded = _load(corpus)
    if missing := [column for column in columns if column not in loaded.column_names]:
        raise InputError(
            f"{corpus.name}: expected the columns {', '.join(columns)} in {corpus.hub}, "
            f"found {', '.join(loaded.column_names) or 'none'}: {', '.join(missing)} missing; "
            "pass corpus.hub=<a dataset with these columns> or corpus=local"
        )
    size = len(loaded) if corpus.limit is None else min(corpus.limit, len(loaded))
    return loaded.select_columns(list(columns)).select(range(size)).to_list()


def _load(corpus: OnHub) -> Any:
    datasets = needed("datasets")
    try:
        return datasets.load_dataset(corpus.hub, revision=corpus.revision, split=corpus.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(_explain(corpus, error)) from None


def _explain(corpus: OnHub, error: Exception) -> str:
    """Return the error in one line, since the messages of the library can have many lines."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "gated dataset" in reason or type(error).__name__ == "GatedRepoError":
        return (
            f"{corpus.name}: {corpus.hub} is gated; accept its terms at https://huggingface.co/datasets/{corpus.hub} "
            "and log in with hf auth login"
        )
    return (
        f"{corpus.name}: {corpus.hub} (revision {corpus.revision}, split {corpus.split}) is not in the cache, and the "
        f"hub cannot be reached ({reason}); run once online, or pass corpus.hub=<folder with its files>"
    )


def hub_identity(corpus: OnHub) -> dict[str, Any]:
    """Return id, revision, split and limit, and the rows' SHA-256 if no revision is set or the id is a folder."""
    identity = {"hub": corpus.hub, "revision": corpus.revision, "split": corpus.split, "limit": corpus.limit}
    if corpus.revision is not None and not Path(corpus.hub).is_dir():
        return identity
    return {**identity, "hub": None, "sha256": content_digest(_load(corpus))}


def local_rows(path: Path, limit: int | None = None) -> Rows:
    """Return the rows of a json, jsonl, csv, tsv or parquet file, at most `limit` ones.

    Text files may be compressed: rows.jsonl.gz. With a limit, the rest of the file is not read; a json file that is one
    list is read whole, but its later rows are not parsed.

    Raises:
        InputError: the suffix is unknown, the file cannot be read, has no rows, or a row is not an object.
    """
    suffix = file_suffix(path)
    if suffix not in SUFFIXES:
        raise InputError(f"{path} must be a file {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")
    if suffix == ".parquet":
        rows = _parquet(path, limit)
    else:
        rows = _text_rows(path, suffix, limit)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} must hold a list of samples, found {'none' if rows == [] else type(rows).__name__}")
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {position + 1} must be an object with named columns, got {row!r:.60}")
    return rows


def file_suffix(path: Path) -> str:
    """Return the suffix that tells the format, such as .jsonl for rows.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and suffixes[1:] else "".join(suffixes[-1:])


def _parquet(path: Path, limit: int | None) -> Rows:
    parquet = needed("pyarrow.parquet")
    try:
        if limit is None:
            return parquet.read_table(path).to_pylist()
        rows: Rows = []
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(min(limit, 10_000)):
                rows += batch.to_pylist()
                if len(rows) >= limit:
                    break
        return rows[:limit]
    except (OSError, ValueError) as error:  # The errors of pyarrow are ValueErrors.
        raise InputError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]})") from None


def _text_rows(path: Path, suffix: str, limit: int | None) -> Any:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="" if suffix in TABLES else "\n") as file:
            if suffix in TABLES:
                return list(islice(_table(path, file, TABLES[suffix]), limit))
            if suffix == ".json":
                return _json(path, file.read(), limit)
            return list(islice(_lines(path, file), limit))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable text file ({error})") from None


def _json(path: Path, text: str, limit: int | None) -> Any:
    """Return the value of a json file, or its values if there is one per line, as in .json files of the hub."""
    try:
        if limit is not None and text.lstrip()[:1] == "[":
            return list(islice(_items(text), limit))
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise InputError(f"{path} is not valid json ({error})") from None
    return list(islice(_lines(path, text.split("\n")), limit))


def _items(text: str) -> Iterator[Any]:
    """Yield the values of a JSON list one by one."""
    decoder, blanks = json.JSONDecoder(), json.decoder.WHITESPACE
    at = blanks.match(text, text.index("[") + 1).end()
    while text[at : at + 1] != "]":
        value, at = decoder.raw_decode(text, at)
        yield value
        at = blanks.match(text, at).end()
        if text[at : at + 1] == ",":
            at = blanks.match(text, at + 1).end()
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)


def _lines(path: Path, lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: line {number} is not valid json ({error})") from None


def _table(path: Path, file: Iterable[str], separator: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # A cell may hold a whole document.
    reader = csv.reader(file, delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise InputError(f"{path} has the column {twice!r} twice; give each column a name of its own")
        for number, cells in enumerate((cells for cells in reader if cells), start=1):
            if len(cells) != len(header):
                raise InputError(
                    f"{path}: row {number} has {len(cells)} fields and the header {len(header)}; write texts with "
                    "separators in double quotes"
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} cannot be read ({error})") from None


def require_columns(where: str, rows: Rows, columns: Iterable[str]) -> None:
    """Refuse rows that lack one of the columns. The error names the first such row."""
    for column in columns:
        for position, row in enumerate(rows):
            if row.get(column) is None:
                raise InputError(
                    f"{where}: row {position + 1} has no {column!r}; it has {', '.join(map(str, row)) or 'nothing'}"
                )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(rows: Iterable[Any]) -> str:
    """Return the SHA-256 of rows, which depends on their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
