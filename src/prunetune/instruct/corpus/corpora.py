"""The instruction corpora. Each class reads one layout of files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.instruct.corpus.files import (
    content_digest,
    file_digest,
    hub_identity,
    hub_rows,
    local_rows,
    require_columns,
)
from prunetune.instruct.corpus.forms import RowReader
from prunetune.instruct.corpus.messages import NO_DETAILS, Details, Messages, alternating, as_messages

TEMPLATES = ("alpaca", "stanford", "none", "released", "chat", "auto")
EMBEDDED = Path(__file__).with_name("embedded.jsonl")


@dataclass(frozen=True)
class Example:
    """One sample of a corpus, before a template is applied.

    sample_id: unique in the corpus. source: the stratum of the sample; if rows have none, the name of the corpus. A
    chat has messages, which are pairs of a role ("system", "user" or "assistant") and a content. Any other sample has
    instruction, input and response, and no messages. is_templated: whether the instruction is a whole prompt that
    already has the Alpaca template. details: what else it has. row: its number in the file, from 0.
    """

    sample_id: str
    source: str
    messages: Messages = ()
    instruction: str = ""
    input: str = ""
    response: str = ""
    is_templated: bool = False
    # The identity of the embedded corpus is made of the fields above, so that these two are left out of repr().
    details: Details = field(default=NO_DETAILS, repr=False)
    row: int = field(default=0, repr=False)


@dataclass(frozen=True, kw_only=True)
class Corpus(ABC):
    """A named corpus, and how its samples become text. Subclasses add where the rows are.

    template: "alpaca", "stanford", "none", "released", "chat" or "auto" (see `templates`). max_length: longer samples
    are cut after so many tokens. limit: use only so many rows, the first ones; None for all.
    """

    name: str | None = None
    template: str = "alpaca"
    max_length: int = 1024
    limit: int | None = None

    def __post_init__(self) -> None:
        checks.choice("corpus.template", self.template, TEMPLATES)
        checks.whole_number("corpus.max_length", self.max_length, least=2, what="a number of tokens")
        checks.whole_number("corpus.limit", self.limit, or_none=True, what="a number of rows")
        checks.fields("corpus", self)

    @property
    def resolved_name(self) -> str:
        """The name of the corpus. A local corpus without a name is called after its file."""
        return self.name or "corpus"

    @abstractmethod
    def examples(self) -> list[Example]:
        """Return the examples in the order of the rows.

        Raises:
            InputError: the rows are missing, or do not have the expected columns.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what identifies the rows, as plain JSON: hub id and revision, or the SHA-256 of the file."""


@dataclass(frozen=True, kw_only=True)
class HubCorpus(Corpus):
    """A corpus of the Hugging Face hub. Row numbers are its sample ids.

    hub: a data set of the hub, or a folder with a copy of its files. revision: its commit. columns: the columns that it
    must have.
    """

    columns: ClassVar[tuple[str, ...]]

    hub: str = ""
    revision: str | None = None
    split: str = "train"

    def fields(self, row: dict[str, Any], position: int) -> dict[str, Any]:
        """Return the fields of an Example from a row, without id, source and row, for rows with prompt and response."""
        return RowReader(self.name).read(row, position)

    def examples(self) -> list[Example]:
        rows = hub_rows(self, self.columns)
        return [
            Example(row_id(position, len(rows)), self.name, **self.fields(row, position), row=position)
            for position, row in enumerate(rows)
        ]

    def identity(self) -> dict[str, Any]:
        return hub_identity(self)


@dataclass(frozen=True, kw_only=True)
class AlpacaCleaned(HubCorpus):
    """Alpaca-Cleaned: 51,760 rows of instruction, input and output."""

    columns: ClassVar[tuple[str, ...]] = ("instruction", "input", "output")

    name: str = "alpaca_cleaned"
    hub: str = "yahma/alpaca-cleaned"
    revision: str | None = "12567cabf869d7c92e573c7c783905fc160e9639"


@dataclass(frozen=True, kw_only=True)
class DollyHHRLHF(HubCorpus):
    """Dolly and HH-RLHF: 59,310 rows of prompt and response; the prompt is already in the Alpaca template.

    So template "alpaca" does not change the prompt, and "released" adds a second template, as the released code does.
    Ids are row numbers. The 5,129 rows of the split "test" are not read.
    """

    columns: ClassVar[tuple[str, ...]] = ("prompt", "response")

    name: str = "dolly_hhrlhf"
    hub: str = "mosaicml/dolly_hhrlhf"
    revision: str | None = "8193c9263cb5b413c723fd2a73b8ae17ab09557b"


@dataclass(frozen=True, kw_only=True)
class EvolInstruct(HubCorpus):
    """WizardLM's Evol-Instruct V2: `conversations`, lists of from ("human" or "gpt") and value.

    The hub's copy has 286,000 rows, since it holds each of its 143,000 chats twice. The second copies are dropped and
    counted as duplicates. Ids are row numbers, because the column `idx` has duplicates too.
    """

    columns: ClassVar[tuple[str, ...]] = ("conversations",)

    name: str = "evol_instruct"
    hub: str = "MaziyarPanahi/WizardLM_evol_instruct_V2_196k"
    revision: str | None = "9d8baa75ac4d1b94e7b0af9887d6beef9df3106e"

    def fields(self, row: dict[str, Any], position: int) -> dict[str, Any]:
        return {"messages": as_messages(row["conversations"], f"{self.name}: row {position + 1}")}


@dataclass(frozen=True, kw_only=True)
class UltraChat(HubCorpus):
    """UltraChat: `data`, a list of texts that are written by user and assistant in turn.

    Ids are row numbers, because it is not documented that the column `id` is unique over the ten files of the corpus.
    """

    columns: ClassVar[tuple[str, ...]] = ("id", "data")

    name: str = "ultrachat"
    template: str = "chat"
    hub: str = "stingning/ultrachat"
    revision: str | None = "f220fe796ce3ed62fbe1681b45ce6cbc9c6cabe0"

    def fields(self, row: dict[str, Any], position: int) -> dict[str, Any]:
        return {"messages": alternating(row["data"], f"{self.name}: row {position + 1}")}


@dataclass(frozen=True, kw_only=True)
class LocalCorpus(Corpus):
    """Your own samples: a json file (a list of objects), a jsonl, csv, tsv or parquet file; text may be gzipped.

    A row is a chat with the column `messages` or `conversations` (a list of role and content, or of from and value), or
    it has the columns instruction and output, prompt and response, or others of `forms.FORMS`. Ids are row numbers
    unless `id_column` names a column. `source_column` names the column of the strata.
    """

    path: str | None = None
    id_column: str | None = None
    source_column: str | None = None

    @property
    def resolved_name(self) -> str:
        return self.name or Path(self.path or "corpus").stem

    def examples(self) -> list[Example]:
        rows = local_rows(self._file(), self.limit)
        where = Path(self.path or "").name
        named = [column for column in (self.id_column, self.source_column) if column is not None]
        require_columns(where, rows, named)
        reader = RowReader(where, beside=named)
        found = read_examples(rows, reader, self.resolved_name, self.id_column, self.source_column)
        reader.warn()
        return found

    def identity(self) -> dict[str, Any]:
        return {"sha256": file_digest(self._file()), "limit": self.limit}

    def _file(self) -> Path:
        path = Path(self.path or "").expanduser()
        if not self.path or not path.is_file():
            raise InputError(f"corpus.path must be a json, jsonl, csv or parquet file, got {self.path!r}")
        return path


@dataclass(frozen=True, kw_only=True)
class EmbeddedCorpus(Corpus):
    """A few hundred short samples that come with the package, generated by scripts/assets/make_corpus.py.

    They are about arithmetic, sorting, counting, colours and similar topics, so that each response follows from its
    prompt. chats: whether to include the chats of several turns, which need a tokenizer with a chat template.
    """

    name: str = "embedded"
    max_length: int = 512
    chats: bool = False

    def examples(self) -> list[Example]:
        rows = [row for row in local_rows(EMBEDDED) if self.chats or "messages" not in row][: self.limit]
        return read_examples(rows, RowReader(EMBEDDED.name), self.name, "id", "source")

    def identity(self) -> dict[str, Any]:
        return {"sha256": content_digest(self.examples())}


def row_id(position: int, num_rows: int) -> str:
    """Return the number of a row with leading zeros, so that the order of ids is the order of rows."""
    return str(position).zfill(max(6, len(str(num_rows - 1))))


def read_examples(
    rows: Sequence[Any], reader: RowReader, name: str, id_column: str | None = None, source_column: str | None = None
) -> list[Example]:
    """Return the examples of rows, in their order.

    Args:
        rows: objects with named columns, of which those named here are present.
        reader: reads the other fields.
        name: the source of all rows if there is no column for it.
        id_column: the column of the sample_ids; None takes the row numbers.
        source_column: the column of the sources.
    """
    return [
        Example(
            sample_id=str(row[id_column]) if id_column else row_id(position, len(rows)),
            source=str(row[source_column]) if source_column else name,
            **reader.read(row, position),
            row=position,
        )
        for position, row in enumerate(rows)
    ]
