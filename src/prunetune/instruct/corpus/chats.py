"""Chats: read their messages, and find the responses in the text of a chat template."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from jinja2 import TemplateError

from prunetune.base.errors import InputError

Messages = tuple[tuple[str, str], ...]  # Pairs (role, content).
Span = tuple[int, int]  # The characters [start, end) of a text.
# The numbers of the messages that a template writes, and the text of the template before, between and after them.
Skeleton = tuple[tuple[int, ...], tuple[str, ...]]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class Answer(NamedTuple):
    """A response in a text, without the token that ends it.

    start, end: its characters [start, end). heading: the character at which its heading begins, such as
    "### Response:", which ends at start; start if it has no heading. first, stop: its tokens [first, stop), or 0 before
    the text is tokenized.
    """

    heading: int
    start: int
    end: int
    first: int = 0
    stop: int = 0


CUTS: tuple[Callable[[str], str], ...] = (lambda text: text, str.strip, str.lstrip, str.rstrip)
# Some templates write today's date, but a run must not depend on the day. This macro replaces the function of the same
# name. The empty expression after it protects a line break at the start of the template, which would otherwise vanish.
FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ '2024-07-26' if form == '%Y-%m-%d' else '26 Jul 2024' }}{% endmacro %}{{ '' }}"
)


def as_messages(turns: Any, where: str) -> Messages:
    """Return the messages of a list of {role, content} or {from, value}.

    Raises:
        InputError: the value is not such a list, or a role is not one of `ROLES`.
    """
    if not isinstance(turns, list | tuple):
        raise InputError(f"{where}: a chat must be a list of messages, got {turns!r:.60}")
    return tuple(_message(turn, where) for turn in turns)


def _message(turn: Any, where: str) -> tuple[str, str]:
    for role_key, content_key in (("role", "content"), ("from", "value")):
        if isinstance(turn, dict) and {role_key, content_key} <= set(turn):
            role, content = turn[role_key], turn[content_key]
            break
    else:
        raise InputError(f"{where}: a message must have role and content, or from and value, got {turn!r:.60}")
    if role not in ROLES:
        raise InputError(f"{where}: a message's role must be one of {', '.join(ROLES)}, got {role!r}")
    if content is not None and not isinstance(content, str):
        raise InputError(f"{where}: a message's content must be text, got {content!r:.60}")
    return ROLES[role], content or ""


def alternating(texts: Any, where: str) -> Messages:
    """Return the messages of a list of texts. The user writes the first one, and then user and assistant alternate."""
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: a chat must be a list of texts, got {texts!r:.60}")
    return tuple((("user", "assistant")[turn % 2], text) for turn, text in enumerate(texts))


def up_to_last_response(messages: Messages) -> Messages:
    """Remove the messages after the assistant's last response, since they cannot influence any response token."""
    answered = [turn for turn, (role, text) in enumerate(messages) if role == "assistant" and text.strip()]
    return messages[: answered[-1] + 1] if answered else messages


def as_single_turn(messages: Messages) -> tuple[str, str] | None:
    """Return instruction and response of a chat with one turn, or None for a longer chat.

    A system message is put before the instruction, followed by an empty line.
    """
    roles = tuple(role for role, _ in messages)
    if roles not in (("user", "assistant"), ("system", "user", "assistant")):
        return None
    contents = [text for _, text in messages]
    return "\n\n".join(text for text in contents[:-1] if text.strip()), contents[-1]


class ChatTemplate:
    """A tokenizer's chat template that also finds the position of each response.

    The template is applied once to messages that are only marks, which gives the text around the messages. The text of
    a chat is then assembled from this surrounding text and its messages, with or without their outer white space. If
    one of these versions equals what the template writes, the positions are known. Otherwise, for example if a template
    drops a part of a response, the surrounding text is searched in what the template writes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._skeletons: dict[tuple[str, ...], Skeleton | None] = {}

    def write(self, messages: Messages, sample_id: str) -> tuple[str, tuple[Span, ...], bool]:
        """Return the text of a chat, the characters of its responses, and whether a special token ends the last one.

        A special token after a response belongs to the response, since the model has to learn to write it.

        Raises:
            InputError: the template refuses the chat, or a response is not found in its text.
        """
        text = self._write(messages, sample_id)
        contents = self._contents(text, messages, sample_id)
        spans: list[Span] = []
        is_ended = False
        for start, end in contents:
            spans.append((start, end))
            ending = self._ending.match(text, end)
            if is_ended := ending is not None:
                spans.append(ending.span(1))
        return text, tuple(spans), is_ended

    def answers(self, text: str, spans: Sequence[Span]) -> tuple[Answer, ...]:
        """Return the responses with their headings, for the text and the spans that `write` has returned.

        The heading is what the template writes if it is asked for an answer, such as "<|im_start|>assistant". Some
        templates write none, and some write more between the heading and a response, such as an empty thought.
        """
        found: list[Answer] = []
        before = 0
        for start, end in spans:
            if not found or not self._ending.fullmatch(text, before, end):
                heading = text.rfind(self._heading, before, start) if self._heading else -1
                found.append(Answer(start if heading < 0 else heading, start, end))
            before = end
        return tuple(found)

    @cached_property
    def _heading(self) -> str:
        asked = [{"role": "user", "content": "a"}]
        try:
            with_heading, without = (
                self.tokenizer.apply_chat_template(
                    asked, chat_template=self._template, tokenize=False, add_generation_prompt=is_asked
                )
                for is_asked in (True, False)
            )
        except TemplateError:
            return ""
        return with_heading.removeprefix(without) if with_heading.startswith(without) else ""

    @cached_property
    def _template(self) -> str:
        try:
            template = self.tokenizer.get_chat_template()
        except ValueError:  # A tokenizer may have several named templates.
            raise InputError(
                "the tokenizer has several chat templates and none is called default; rename one to default"
            ) from None
        return FIXED_DATE + template if "strftime_now" in template else template

    @cached_property
    def _ending(self) -> re.Pattern[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        special = {*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        words = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or "(?!)"
        return re.compile(rf"\s*({words})")

    def _write(self, messages: Messages, sample_id: str) -> str:
        turns = [{"role": role, "content": text} for role, text in messages]
        try:
            return self.tokenizer.apply_chat_template(turns, chat_template=self._template, tokenize=False)
        except TemplateError as error:
            roles = ", ".join(role for role, _ in messages)
            raise InputError(
                f"the tokenizer's chat template refuses sample {sample_id} with the roles {roles} ({error}); "
                "remove it or change its roles"
            ) from None

    def _contents(self, text: str, messages: Messages, sample_id: str) -> list[Span]:
        skeleton = self._skeleton(messages, sample_id)
        spans = (_assembled(skeleton, text, messages) or _matched(skeleton, text)) if skeleton else None
        if spans is None:
            raise InputError(
                f"the responses of sample {sample_id} cannot be found in the text of the tokenizer's chat template; "
                "remove the sample or use corpus.template=alpaca"
            )
        return [spans[turn] for turn, (role, words) in enumerate(messages) if role == "assistant" and words.strip()]

    def _skeleton(self, messages: Messages, sample_id: str) -> Skeleton | None:
        roles = tuple(role for role, _ in messages)
        if roles not in self._skeletons:
            marked = tuple((role, f"\ue000{turn}\ue001") for turn, role in enumerate(roles))
            parts = re.split("\ue000([0-9]+)\ue001", self._write(marked, sample_id))
            turns = tuple(int(turn) for turn in parts[1::2])
            answers = {turn for turn, role in enumerate(roles) if role == "assistant"}
            is_plain = list(turns) == sorted(set(turns)) and answers <= set(turns)
            self._skeletons[roles] = (turns, tuple(parts[::2])) if is_plain else None
        return self._skeletons[roles]


def _assembled(skeleton: Skeleton, text: str, messages: Messages) -> dict[int, Span] | None:
    """Return the position of each message, if skeleton and messages, stripped or not, give exactly the text."""
    for of_response, of_prompt in product(CUTS, CUTS):
        cut = [of_response(words) if role == "assistant" else of_prompt(words) for role, words in messages]
        assembled, spans = _assemble(skeleton, cut)
        if assembled == text:
            return spans
    return None


def _assemble(skeleton: Skeleton, contents: Sequence[str]) -> tuple[str, dict[int, Span]]:
    turns, around = skeleton
    text, spans = around[0], {}
    for turn, behind in zip(turns, around[1:], strict=True):
        spans[turn] = (len(text), len(text) + len(contents[turn]))
        text += contents[turn] + behind
    return text, spans


def _matched(skeleton: Skeleton, text: str) -> dict[int, Span] | None:
    """Return the positions between the parts of the skeleton, even if the template has changed the messages."""
    turns, around = skeleton
    if not all(around[1:-1]):  # Two messages follow each other directly, so their border cannot be found.
        return None
    match = re.fullmatch("(.*?)".join(re.escape(part) for part in around), text, flags=re.DOTALL)
    return {turn: match.span(group) for group, turn in enumerate(turns, start=1)} if match else None
