"""Read the rows of a corpus from the Hugging Face hub, or from a json, jsonl or parquet file."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prunetune.base.errors import InputError
from prunetune.instruct.extra import needed

Rows = list[dict[str, Any]]
SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")


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


def local_rows(path: Path) -> Rows:
    """Return the rows of a json, jsonl or parquet file.

    Raises:
        InputError: the suffix is unknown, the file cannot be read, or a row is not an object.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} must be a file {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")
    rows = _parquet(path) if path.suffix == ".parquet" else _json(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} must hold a list of samples, found {'none' if rows == [] else type(rows).__name__}")
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {position + 1} must be an object with named columns, got {row!r:.60}")
    return rows


def _parquet(path: Path) -> Rows:
    parquet = needed("pyarrow.parquet")
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # The errors of pyarrow are ValueErrors.
        raise InputError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]})") from None


def _json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable text file ({error})") from None
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            # "Extra data" means one value per line, which .json files of the hub can have.
            if error.msg != "Extra data":
                raise InputError(f"{path} is not valid json ({error})") from None
    return [_line(path, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {number} is not valid json ({error})") from None


def require_columns(where: str, rows: Rows, columns: Iterable[str]) -> None:
    """Refuse rows that lack one of the columns. The error names the first such row."""
    for column in columns:
        for position, row in enumerate(rows):
            if row.get(column) is None:
                raise InputError(
                    f"{where}: row {position + 1} has no {column!r}; it has {', '.join(map(str, row)) or 'nothing'}"
                )


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return a text column. A missing value becomes an empty text, and a value of another type is refused."""
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} must be text, got {value!r:.60}")
    return value


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
