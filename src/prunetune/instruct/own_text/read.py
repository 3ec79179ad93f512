"""Read a user's rows of text: files, folders of shards, saved data sets, the hub, data frames and lists."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.data.readers.hugging_face import (
    HUB,
    as_splits,
    is_hugging_face,
    is_saved,
    joined,
    library,
    open_hub,
    open_saved,
)
from prunetune.instruct.corpus.corpora import EMBEDDED, Corpus, Example, read_examples, row_id
from prunetune.instruct.corpus.files import SUFFIXES, Rows, file_suffix, local_rows, require_columns
from prunetune.instruct.corpus.forms import Form, RowReader
from prunetune.instruct.own_text.words import Words
from prunetune.own.read import ReadOptions
from prunetune.own.read.frame import is_frame
from prunetune.own.read.splits import choose_splits, split_kind

log = logging.getLogger(__name__)
EMBEDDED_NAME = "embedded"  # As DATA, this word means the samples that come with the package.
EXPECTED = (
    "data must be a file or folder, hf:NAME of the Hugging Face hub, a Dataset, a data frame, or a list of objects "
    "with named columns"
)
SHARD = re.compile(r"[-_.]?\d+([-_]of[-_]\d+)?$")  # The end of a name such as train-00000-of-00002.


@dataclass(frozen=True, eq=False)
class TextRows:
    """The rows as the user has them.

    rows: objects with named columns. name: what the data are called in files. where: the same in messages. source: what
    the user gave. notes: what a reader of the first lines must know, such as the split that was chosen.
    """

    rows: Rows
    name: str
    where: str
    source: Any
    notes: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """A hash that changes when a row does."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr(row).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    columns: maps names that prunetune knows to the user's columns. split: as for images. limit: only the first rows.
    id_column, source_column: the columns of the ids and of the sources. words: how the door writes its options.
    """

    words: Words
    columns: Mapping[str, str] | None = None
    split: str | None = None
    limit: int | None = None
    id_column: str | None = None
    source_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class RowsCorpus(Corpus):
    """Rows in memory as a corpus.

    rows: as in `TextRows`. where: what they are called in errors. columns, id_column, source_column: as in `Reading`.
    side: which answer of a preference pair is read. option: how the user names the option `columns`.
    """

    rows: Any = ()
    where: str = "the data"
    columns: Any = None
    id_column: str | None = None
    source_column: str | None = None
    side: str = "chosen"
    option: str = "columns"

    def examples(self) -> list[Example]:
        return self._read[0]

    @property
    def form(self) -> Form:
        """The form of the rows."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[list[Example], Form]:
        """Read the rows once, so that what is not read is said once."""
        named = [column for column in (self.id_column, self.source_column) if column is not None]
        for position, row in enumerate(self.rows):
            if not isinstance(row, Mapping):
                raise InputError(
                    f"{self.where}: row {position + 1} must be an object with named columns, got {row!r:.60}"
                )
        require_columns(self.where, self.rows, named)
        reader = RowReader(self.where, self.columns, named, is_strict=True, side=self.side, option=self.option)
        found = read_examples(self.rows, reader, self.resolved_name, self.id_column, self.source_column)
        reader.warn()
        return found, reader.form

    def identity(self) -> dict[str, Any]:
        return {"rows": TextRows(list(self.rows), self.resolved_name, self.where, None).mark}

    def sample_id(self, row: int) -> str:
        """Return the id of a row."""
        return str(self.rows[row][self.id_column]) if self.id_column else row_id(row, len(self.rows))


def read_rows(data: Any, reading: Reading) -> TextRows:
    """Return a user's rows.

    Args:
        data: a path of a file (json, jsonl, csv, tsv, parquet; text may be gzipped), of a folder with such files or of
            one that `save_to_disk` has written; hf:<name>; "embedded"; a Dataset or DatasetDict; a frame of pandas or
            polars; a list of objects.
        reading: which split, and how many rows.

    Raises:
        InputError: the data cannot be read, or it is not clear which split is meant. The message is one line.
    """
    found = _read(data, reading)
    if not found.rows:
        raise InputError(f"{found.where} has no rows; expected one for each sample")
    return found


def _read(data: Any, reading: Reading) -> TextRows:
    if isinstance(data, str | Path):
        return _of_text(str(data), reading)
    if is_hugging_face(data):
        return _of_hugging_face(data, reading, "the dataset", "dataset", data)
    if is_frame(data):
        return _of_frame(data, reading)
    if isinstance(data, list | tuple):
        _no_split(reading, "the list")
        return TextRows(list(data[: reading.limit]), "rows", "the list", data)
    raise InputError(f"{EXPECTED}, got {type(data).__name__}")


def _of_text(text: str, reading: Reading) -> TextRows:
    """Read a path, or a name on the hub; an existing path always wins."""
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        if is_saved(path):
            return _of_hugging_face(open_saved(path), reading, path.name, path.name, path)
        return _of_folder(path, reading)
    if os.path.isfile(path):
        _no_split(reading, path.name)
        name = path.name.partition(".")[0]
        return TextRows(local_rows(path, reading.limit), name, path.name, path)
    if text.startswith(HUB):
        name = text.removeprefix(HUB)
        if os.path.exists(os.path.expanduser(name)):
            return _of_text(name, reading)
        return _of_hugging_face(open_hub(name), reading, name, name.rpartition("/")[2], text)
    if text == EMBEDDED_NAME:
        rows = [row for row in local_rows(EMBEDDED) if "messages" not in row]
        return TextRows(rows[: reading.limit], EMBEDDED_NAME, EMBEDDED_NAME, text)
    raise InputError(
        f"there is no file or folder {text}; check the path, or write hf:{text} for a dataset of the Hugging Face hub"
    )


def _of_hugging_face(data: Any, reading: Reading, where: str, name: str, source: Any) -> TextRows:
    notes: tuple[str, ...] = ()
    if isinstance(data, Mapping):
        splits = as_splits(data)
        chosen = choose_splits(list(splits), where, _split_options(reading))
        notes = (_split_note(chosen),)
        data = joined([splits[one] for one in chosen])
    else:
        _no_split(reading, where)
    if not isinstance(data, library().Dataset):
        raise InputError(f"expected a Dataset with numbered rows, got {type(data).__name__}; load it without streaming")
    size = len(data) if reading.limit is None else min(reading.limit, len(data))
    plain = data.with_format(None).select(range(size))
    return TextRows(plain.to_list(), name, where, source, notes)


def _of_frame(frame: Any, reading: Reading) -> TextRows:
    if type(frame).__name__ == "LazyFrame":
        raise InputError("the frame is lazy, so that its rows have no numbers; call .collect() on it first")
    _no_split(reading, "the frame")
    names = [str(name) for name in frame.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the frame has the column {twice[0]!r} twice; give each column a name of its own")
    part = frame if reading.limit is None else frame.head(reading.limit)
    rows = part.to_dicts() if hasattr(part, "to_dicts") else part.to_dict("records")
    return TextRows(rows, "frame", "the frame", frame)


def _of_folder(folder: Path, reading: Reading) -> TextRows:
    """Read a folder of files of one kind, such as parquet shards, in the order of their names."""
    files = _data_files(folder)
    kinds = {file: split_kind(SHARD.sub("", _stem(file))) or split_kind(file.parent.name) or "" for file in files}
    notes: tuple[str, ...] = ()
    if any(kinds.values()) or reading.split is not None:
        names = list(dict.fromkeys(kind or _stem(file) for file, kind in kinds.items()))
        chosen = choose_splits(names, str(folder), _split_options(reading))
        rest = [file.name for file, kind in kinds.items() if (kind or _stem(file)) not in chosen]
        if rest:
            log.warning("%d left out (another split): %s", len(rest), ", ".join(rest[:3]))
        files = [file for file, kind in kinds.items() if (kind or _stem(file)) in chosen]
        notes = (_split_note(chosen),)
    rows: Rows = []
    for file in files:
        rows += local_rows(file, None if reading.limit is None else reading.limit - len(rows))
        if reading.limit is not None and len(rows) >= reading.limit:
            break
    if files[1:]:
        notes = (*notes, f"rows are counted through {len(files)} files in the order of their names")
    return TextRows(rows, folder.resolve().name, str(folder), folder, notes)


def _data_files(folder: Path) -> list[Path]:
    """Return the files of rows in a folder, which all have the same suffix; where there is parquet, it is that."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and file_suffix(path) in SUFFIXES]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise InputError(f"{folder} holds no file of rows; expected {', '.join(SUFFIXES)}, or a saved dataset")
    suffixes = sorted({file_suffix(path) for path in found})
    if suffixes[1:] and ".parquet" not in suffixes:
        raise InputError(f"{folder} holds files {' and '.join(suffixes)}; give one of the files, or one kind of them")
    chosen = ".parquet" if ".parquet" in suffixes else suffixes[0]
    if rest := [path.name for path in found if file_suffix(path) != chosen]:
        log.warning("%d left out (not parquet): %s", len(rest), ", ".join(rest[:3]))
    return [path for path in found if file_suffix(path) == chosen]


def _stem(file: Path) -> str:
    return file.name.partition(".")[0]


def _split_options(reading: Reading) -> ReadOptions:
    return ReadOptions(split=reading.split, words=reading.words)


def _split_note(chosen: Sequence[str]) -> str:
    return f"split: {', '.join(chosen)}" + ("; rows are counted through all of them" if chosen[1:] else "")


def _no_split(reading: Reading, where: str) -> None:
    if reading.split is not None:
        raise InputError(f"{where} has no splits; leave {reading.words('split', reading.split)} out")
