"""The forms of rows: which columns hold prompt and response, and how a row becomes the fields of an `Example`.

A form is known by its columns. Column names are compared without regard to case.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any

from prunetune.base.errors import InputError, suggestion
from prunetune.instruct.corpus.messages import NO_DETAILS, Details, Messages, chat_or_text, from_json, read_chat
from prunetune.instruct.corpus.prompts import carries_template

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """A form of rows. needed: its columns, in lower case. kind: how they are read."""

    needed: tuple[str, ...]
    kind: str

    @property
    def name(self) -> str:
        """The columns in words."""
        return " and ".join(self.needed)


# In the order in which they are tried.
FORMS = (
    Form(("chosen", "rejected"), "pair"),
    Form(("messages",), "chat"),
    Form(("conversations",), "chat"),
    Form(("instruction", "output"), "prompted"),
    Form(("instruction", "response"), "prompted"),
    Form(("prompt", "response"), "prompted"),
    Form(("prompt", "completion"), "continued"),
    Form(("query", "response"), "prompted"),
    Form(("question", "answer"), "prompted"),
    Form(("input", "output"), "prompted"),
    Form(("text",), "text"),
)
INPUTS = ("input", "context")
BESIDE = ("system", "history", "tools")  # Columns that a row of any form may have.
PROMPTS = ("prompt", "instruction", "question", "query")  # The prompt of a preference pair.
KNOWN = tuple(dict.fromkeys([*(name for form in FORMS for name in form.needed), *INPUTS, *BESIDE]))
SIDES = ("chosen", "rejected")
EXPECTED = "instruction and output, prompt and response, prompt and completion, messages, conversations, or text"


class RowReader:
    """Reads the rows of one file or data set, and counts what it does not read.

    Args:
        where: the name of the data, for errors.
        columns: maps names of KNOWN to the user's own columns.
        beside: columns that are used otherwise, such as that of the ids, and are not counted as ignored.
        is_strict: refuse a row of another form than the first row.
        side: which answer of a preference pair is read, "chosen" or "rejected".
        option: how the user writes the option that names columns.
    """

    def __init__(
        self,
        where: str,
        columns: Mapping[str, str] | None = None,
        beside: Sequence[str] = (),
        is_strict: bool = False,
        side: str = "chosen",
        option: str = "columns",
    ) -> None:
        self.where, self.columns, self.side, self.option = where, dict(columns or {}), side, option
        self.ignored: Counter[str] = Counter()
        self.form: Form | None = None  # The form of the first row.
        self._beside, self._is_strict = frozenset(beside), is_strict
        self._layouts: dict[tuple[Any, ...], tuple[dict[str, Any], list[Form]]] = {}
        for name in self.columns.keys() - set(KNOWN):
            raise InputError(
                f"{option} maps names that prunetune knows to your columns, and it does not know {name!r}; known: "
                f"{', '.join(KNOWN)}.{suggestion(name, KNOWN)}"
            )

    def read(self, row: Any, position: int) -> dict[str, Any]:
        """Return the fields of an `Example` but its id, source and row.

        Args:
            row: an object with named columns.
            position: its number, from 0. Errors count from 1.

        Raises:
            InputError: the row is no object, has no known form, another form than the first row, or a cell of a wrong
                type.
        """
        at = f"{self.where}: row {position + 1}"
        if not isinstance(row, Mapping):
            raise InputError(f"{at} must be an object with named columns, got {row!r:.60}")
        names, forms = self._layout_of(row, at)
        cells = _Cells(row, names, at, self.ignored)
        form = self._form_of(cells, forms)
        fields = getattr(self, f"_{form.kind}")(cells, form)
        if tools := _tools(cells):
            fields["details"] = replace(fields.get("details", NO_DETAILS), tools=tools)
        cells.count_ignored(self._beside)
        return fields

    def warn(self) -> None:
        """Say in the log which fields were not read, and of how many rows."""
        if self.ignored:
            log.warning("%s", ignored_line(self.where, self.ignored))

    def _layout_of(self, row: Mapping[str, Any], at: str) -> tuple[dict[str, Any], list[Form]]:
        """Return the user's name of each known column that the row has, and the forms whose columns it has."""
        keys = tuple(row)
        if keys not in self._layouts:
            for own in self.columns.values():
                if own not in row:
                    raise InputError(
                        f"{at} has no column {own!r}, which {self.option} names; it has "
                        f"{', '.join(map(str, keys)) or 'none'}"
                    )
            names = known_columns(keys, self.columns)
            forms = [form for form in FORMS if set(form.needed) <= names.keys()]
            forms.sort(key=lambda form: -len(self.columns.keys() & set(form.needed)))  # What is named comes first.
            self._layouts[keys] = names, forms
        return self._layouts[keys]

    def _form_of(self, cells: "_Cells", forms: list[Form]) -> Form:
        if not forms:
            raise InputError(
                f"{cells.at} has the columns {', '.join(map(str, cells.row)) or 'none'}; expected {EXPECTED}"
                + (f", or {self.option} to name them" if self._is_strict else "")
            )
        filled = next((form for form in forms if _is_filled(cells, form)), None)
        form = filled or forms[0]
        self.form = self.form or form
        if self._is_strict and form != self.form:
            if self.form in forms and filled is None:
                return self.form
            raise InputError(
                f"{cells.at} has {form.name}, and the rows before have {self.form.name}; put rows of one form into "
                f"each file, or choose the columns with {self.option}"
            )
        return form

    def _chat(self, cells: "_Cells", form: Form) -> dict[str, Any]:
        value = cells.get(form.needed[0])
        messages, details = ((), NO_DETAILS) if value is None else read_chat(value, cells.at, self.ignored)
        return _of_chat(*_with_system(cells.text("system"), messages, details))

    def _prompted(self, cells: "_Cells", form: Form) -> dict[str, Any]:
        instruction, response = (cells.text(name) for name in form.needed)
        texts = [cells.text(name) for name in INPUTS if cells.has(name) and name not in form.needed]
        context = next((text for text in texts if text.strip()), "")
        return self._of_texts(cells, instruction, context, response)

    def _continued(self, cells: "_Cells", form: Form) -> dict[str, Any]:
        prompt, completion = (cells.get(name) for name in form.needed)
        if isinstance(prompt, list | tuple) or isinstance(completion, list | tuple):
            return self._of_prompt_chat(cells, prompt, completion)
        return _continued(self._of_texts(cells, cells.text("prompt"), "", cells.text("completion")))

    def _text(self, cells: "_Cells", form: Form) -> dict[str, Any]:
        return {"response": cells.text("text"), "details": Details(is_plain=True)}

    def _pair(self, cells: "_Cells", form: Form) -> dict[str, Any]:
        cells.get("chosen")
        cells.get("rejected")  # Both count as read, whichever is scored.
        answer = chat_or_text(cells.get(self.side))
        name = next((name for name in PROMPTS if cells.has(name)), None)
        if isinstance(answer, str | None):
            if name is None:
                return self._of_whole_texts(cells)
            texts = [cells.text(one) for one in INPUTS if cells.has(one)]
            prompt = chat_or_text(cells.get(name))
            if not isinstance(prompt, list | tuple):
                context = next((text for text in texts if text.strip()), "")
                fields = self._of_texts(cells, cells.text(name), context, answer or "")
                return _continued(fields) if name == "prompt" else fields
            return self._of_prompt_chat(cells, prompt, answer)
        answer = [answer] if isinstance(answer, Mapping) else answer
        messages, details = read_chat(answer, cells.at, self.ignored)
        if any(role == "user" for role, _ in messages):
            return _of_chat(*_with_system(cells.text("system"), messages, details))
        before = next((one for one in ("messages", "conversations") if cells.has(one)), name)
        return self._of_prompt_chat(cells, None if before is None else cells.get(before), answer)

    def _of_whole_texts(self, cells: "_Cells") -> dict[str, Any]:
        """Read a pair of whole texts, whose common beginning is the prompt."""
        start = len(commonprefix([cells.text("chosen"), cells.text("rejected")]))
        whole = cells.text(self.side)
        return {"instruction": whole[:start], "response": whole[start:], "details": Details(is_plain=True)}

    def _of_prompt_chat(self, cells: "_Cells", prompt: Any, answer: Any) -> dict[str, Any]:
        """Read a prompt and an answer, messages or texts. Responses within the prompt are not scored or trained on."""
        parts = []
        for value, role in ((prompt, "user"), (answer, "assistant")):
            turns = chat_or_text(value)
            if isinstance(turns, str | None):
                turns = [{"role": role, "content": value}] if value else []
            parts.append(read_chat(turns, cells.at, self.ignored))
        (before, about), (after, more) = parts
        extras = (*(about.extras or ({},) * len(before)), *(more.extras or ({},) * len(after)))
        silent = {turn for turn, (role, _) in enumerate(before) if role == "assistant"}
        silent |= {len(before) + turn for turn in more.silent}
        details = Details(extras=extras if any(extras) else (), silent=frozenset(silent))
        return _of_chat(*_with_system(cells.text("system"), before + after, details))

    def _of_texts(self, cells: "_Cells", instruction: str, context: str, response: str) -> dict[str, Any]:
        system = cells.text("system")
        history = _history(from_json(cells.get("history")), cells.at)
        if history:
            question = "\n\n".join(text for text in (instruction, context) if text.strip())
            messages = (*history, ("user", question), ("assistant", response))
            return _of_chat(*_with_system(system, messages, NO_DETAILS))
        fields = {
            "instruction": instruction,
            "input": context,
            "response": response,
            # A templated prompt is not changed, so an input beside it would be lost.
            "is_templated": carries_template(instruction) and not context.strip(),
        }
        return {**fields, "details": Details(system=system)} if system.strip() else fields


def known_columns(keys: Sequence[Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the user's name of each column of KNOWN that is among the keys of a row.

    Args:
        keys: the user's names of the columns.
        columns: maps names of KNOWN to the user's, where these differ in more than their case.
    """
    lowered = {str(key).strip().lower(): key for key in reversed(keys)}
    exact = {key: key for key in keys if isinstance(key, str)}
    taken = set(columns.values())
    names = {name: exact.get(name, lowered.get(name)) for name in KNOWN}
    return {**{name: own for name, own in names.items() if own is not None and own not in taken}, **columns}


class _Cells:
    """The cells of one row by the names that prunetune knows, and which of them were read."""

    def __init__(self, row: Mapping[Any, Any], names: Mapping[str, Any], at: str, ignored: Counter[str]) -> None:
        self.row, self.names, self.at = row, names, at
        self._ignored, self._read = ignored, set()

    def has(self, name: str) -> bool:
        return name in self.names

    def peek(self, name: str) -> Any:
        """Return a cell without counting it as read. NaN, by which data frames mean nothing, becomes None."""
        value = self.row[self.names[name]] if name in self.names else None
        return None if value is None or (isinstance(value, float) and value != value) else value

    def get(self, name: str) -> Any:
        if name in self.names:
            self._read.add(self.names[name])
        return self.peek(name)

    def text(self, name: str) -> str:
        """Return a cell of text. A missing value becomes an empty text, and a value of another type is refused."""
        value = self.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(f"{self.at}: {self.names[name]} must be text, got {value!r:.60}")
        return value

    def count_ignored(self, beside: frozenset[str]) -> None:
        for key, value in self.row.items():
            if key not in self._read and key not in beside and not _is_empty(value):
                self._ignored[f"column {key}"] += 1


def ignored_line(where: str, ignored: Counter[str]) -> str:
    """Return the sentence about fields that are not a part of the text that is scored."""
    parts = ", ".join(f"{name} ({count} times)" for name, count in ignored.most_common())
    return f"{where}: not read, so that it does not count in the scores: {parts}"


def _is_filled(cells: _Cells, form: Form) -> bool:
    """Return whether a row has a value in one of the columns of a form; a pair needs both answers."""
    values = [cells.peek(name) is not None for name in form.needed]
    return all(values) if form.kind == "pair" else any(values)


def _is_empty(value: Any) -> bool:
    if value is None or (isinstance(value, float) and value != value):
        return True
    return not value.strip() if isinstance(value, str) else isinstance(value, list | tuple | dict) and not value


def _tools(cells: _Cells) -> list[Any] | None:
    tools = from_json(cells.get("tools"))
    if tools is None or isinstance(tools, list | tuple):
        return list(tools or ()) or None
    if isinstance(tools, str) and not tools.strip():
        return None
    raise InputError(f"{cells.at}: tools must be a list of objects, got {tools!r:.60}")


def _history(value: Any, where: str) -> Messages:
    """Return the earlier turns of a row: a list of pairs of a question and an answer."""
    if value is None or (hasattr(value, "__len__") and not len(value)):
        return ()
    is_pairs = isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str | None) for text in pair)
        for pair in value
    )
    if not is_pairs:
        raise InputError(f"{where}: history must be a list of pairs of a question and an answer, got {value!r:.60}")
    return tuple((role, text or "") for pair in value for role, text in zip(("user", "assistant"), pair, strict=True))


def _with_system(system: str, messages: Messages, details: Details) -> tuple[Messages, Details]:
    """Return a chat with the system prompt of its row before it, unless it has one of its own."""
    if not system.strip() or not messages or messages[0][0] in ("system", "developer"):
        return messages, details
    extras = ({}, *details.extras) if details.extras else ()
    silent = frozenset(turn + 1 for turn in details.silent)
    return (("system", system), *messages), replace(details, extras=extras, silent=silent)


def _continued(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a prompt that is continued as it is, unless a system prompt or a history comes before it."""
    if fields.get("messages") or "details" in fields:
        return fields
    return {**fields, "details": Details(is_plain=True)}


def _of_chat(messages: Messages, details: Details) -> dict[str, Any]:
    return {"messages": messages} if details == NO_DETAILS else {"messages": messages, "details": details}
