"""The page of the forms of text: what a row of each form becomes, and what wrong data are answered.

The outcomes are computed here by the reader and the chat template that `prunetune prune-text` uses. A test compares the
page with them, so that it cannot be out of date.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunetune.base.errors import InputError
from prunetune.instruct.corpus.chats import ChatTemplate
from prunetune.instruct.corpus.templates import answered, render
from prunetune.instruct.own_text.read import Reading, RowsCorpus, read_rows
from prunetune.instruct.own_text.words import command
from scripts.assets.doc_text import page, table

# A chat template in the style of ChatML that knows tools and reasoning, for the examples of this page.
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{% if m['reasoning_content'] %}<think>{{ m['reasoning_content'] }}</think>"
    "{% endif %}{{ m['content'] }}{% for call in m['tool_calls'] or [] %}<call>{{ call.function | tojson }}</call>"
    "{% endfor %}<end>\n{% endfor %}"
)
USER, ANSWER = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}


@dataclass(frozen=True)
class Form:
    """One row of the table. name: what the rows are called. row: an example. columns: what `--columns` would say."""

    name: str
    row: Mapping[str, Any]
    columns: Mapping[str, str] = field(default_factory=dict)


FORMS = (
    Form("Alpaca", {"instruction": "Add.", "input": "1 and 2", "output": "3"}),
    Form(
        "Alpaca with system and history",
        {
            "instruction": "And 3?",
            "input": "",
            "output": "6",
            "system": "Be brief.",
            "history": [["1 and 2?", "3"]],
        },
    ),
    Form("any case", {"Instruction": "Add 1 and 2.", "Response": "3"}),
    Form("prompt and response", {"prompt": "Add 1 and 2.", "response": "3"}),
    Form("query and response", {"query": "Add 1 and 2.", "response": "3"}),
    Form("question and answer", {"question": "1 and 2?", "answer": "3"}),
    Form("your own columns", {"Frage": "1 und 2?", "Antwort": "3"}, {"prompt": "Frage", "response": "Antwort"}),
    Form("TRL prompt and completion", {"prompt": "The sky is", "completion": " blue."}),
    Form("the same as messages", {"prompt": [USER], "completion": [ANSWER]}),
    Form("text", {"text": "The sky is blue."}),
    Form("OpenAI messages", {"messages": [USER, ANSWER]}),
    Form("ShareGPT", {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]}),
    Form("a developer message", {"messages": [{"role": "developer", "content": "Be brief."}, USER, ANSWER]}),
    Form("content in parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}, ANSWER]}),
    Form("weight 0", {"messages": [USER, {**ANSWER, "weight": 0}, {"role": "user", "content": "Bye."}, ANSWER]}),
    Form("reasoning", {"messages": [USER, {**ANSWER, "reasoning_content": "A greeting."}]}),
    Form(
        "tool calls",
        {
            "messages": [
                {"role": "user", "content": "1 and 2?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "3"},
                {"role": "assistant", "content": "It is 3."},
            ],
            "tools": [{"type": "function", "function": {"name": "add"}}],
        },
    ),
    Form(
        "ShareGPT function calls",
        {
            "conversations": [
                {"from": "human", "value": "1 and 2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "It is 3."},
            ],
        },
    ),
    Form("preference pairs", {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
    Form(
        "the same as messages", {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No."}]}
    ),
    Form(
        "the same in LLaMA-Factory's form",
        {
            "conversations": [{"from": "human", "value": "Hi."}],
            "chosen": {"from": "gpt", "value": "Hello."},
            "rejected": {"from": "gpt", "value": "No."},
        },
    ),
)
FAULTS: tuple[tuple[str, Sequence[Any], Mapping[str, str]], ...] = (
    ("a row that is no object", [{"text": "a"}, ["b"]], {}),
    ("rows of two forms", [{"text": "a"}, {"prompt": "b", "response": "c"}], {}),
    ("no known column", [{"topic": "a"}], {}),
    ("a column that is not there", [{"text": "a"}], {"text": "body"}),
    ("an unknown name in --columns", [{"text": "a"}], {"txt": "text"}),
    ("no rows", [], {}),
    ("a number in place of a text", [{"prompt": "a", "response": 3}], {}),
    ("an unknown role", [{"messages": [{"role": "robot", "content": "a"}]}], {}),
    ("a history of another form", [{"instruction": "a", "output": "b", "history": ["c"]}], {}),
)


class Tokenizer:
    """What the chat template reads of a tokenizer. No language library is needed for this page."""

    all_special_tokens = ("<end>",)
    added_tokens_decoder: Mapping[int, Any] = {}

    def get_chat_template(self) -> str:
        return TEMPLATE

    def apply_chat_template(
        self,
        messages: Any,
        *,
        chat_template: str,
        tokenize: bool,
        tools: Any = None,
        add_generation_prompt: bool = False,
    ) -> str:
        from jinja2 import Environment

        environment = Environment(trim_blocks=True, lstrip_blocks=True)
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
        environment.filters["tojson"] = json.dumps
        return environment.from_string(chat_template).render(messages=messages, tools=tools)


def outcome(form: Form) -> str:
    """Return the text that a row becomes, with its scored responses between » and «."""
    corpus = _corpus([form.row], form.columns)
    [example] = corpus.examples()
    if not answered(example):
        return "no response"
    written = render(example, "auto", ChatTemplate(Tokenizer()))
    text, at = "", 0
    for start, end in _joined(written.responses):
        text += f"{written.text[at:start]}»{written.text[start:end]}«"
        at = end
    return text + written.text[at:]


def fault(rows: Sequence[Any], columns: Mapping[str, str]) -> str:
    """Return the message about wrong data."""
    try:
        _corpus(rows, columns).examples()
    except InputError as error:
        return str(error)
    raise AssertionError(f"{rows} are accepted")


def text_forms_page() -> str:
    """Return the page of all forms."""
    forms = [[form.name, _code(json.dumps(form.row, ensure_ascii=False)), _code(outcome(form))] for form in FORMS]
    faults = [[name, _code(fault(rows, columns))] for name, rows, columns in FAULTS]
    return page(
        "Forms of text",
        "`prunetune prune-text` and `prune_text()` read rows of these forms, in json, jsonl, csv, tsv and parquet\n"
        "files, as a Dataset, a data frame or a list. The last column shows the text that the model reads, with what\n"
        "is scored between » and «. Its chat template is a made one, so that the examples are short.",
        table(["form", "a row", "what is scored"], forms),
        "The names of columns may be in any case. A system prompt, a history and tools are read in every form with a\n"
        "prompt. Other fields that are not empty are counted in a WARNING, and so is what the model's chat template\n"
        "does not write, such as tool calls. Without a chat template, the template of Alpaca is used.",
        "## Wrong data",
        "Each fault ends the command with one line, and nothing is written. Rows are counted from 1 here.",
        table(["fault", "message"], faults),
        is_wide=True,
    )


def _corpus(rows: Sequence[Any], columns: Mapping[str, str]) -> RowsCorpus:
    reading = Reading(command, columns)
    data = read_rows(list(rows), reading)
    return RowsCorpus(name="rows", rows=data.rows, where="my.jsonl", columns=columns, option="--columns")


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans of which those that follow each other directly are one, such as a response and its end."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _code(text: str) -> str:
    """Return a text as code in a cell of a table."""
    return f"`{text.rstrip().replace('|', '&#124;').replace(chr(10), '⏎')}`"
