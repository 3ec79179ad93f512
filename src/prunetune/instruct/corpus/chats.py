"""Chats: find the responses in the text of a chat template."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from os.path import commonprefix
from typing import Any, NamedTuple

from jinja2 import TemplateError

from prunetune.base.errors import InputError
from prunetune.instruct.corpus.messages import NO_DETAILS, Details, Messages, answers, is_rich

Span = tuple[int, int]  # The characters [start, end) of a text.


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
# A chat template is a program. It raises these errors for messages that it does not expect.
REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)
# Some templates write today's date, but a run must not depend on the day. This macro replaces the function of the same
# name. The empty expression after it protects a line break at the start of the template, which would otherwise vanish.
FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ '2024-07-26' if form == '%Y-%m-%d' else '26 Jul 2024' }}{% endmacro %}{{ '' }}"
)


@dataclass(frozen=True)
class Skeleton:
    """The text of a template around messages.

    turns: the numbers of the messages whose place is known, ascending. around: the text before, between and after
    them. inside: maps the number of a message that calls tools or reasons to (part, start, end): its response is
    around[part][start:end].
    """

    turns: tuple[int, ...]
    around: tuple[str, ...]
    inside: Mapping[int, tuple[int, int, int]]


def up_to_last_response(messages: Messages, details: Details = NO_DETAILS) -> Messages:
    """Remove the messages after the assistant's last response, since they cannot influence any response token."""
    answered = answers(messages, details)
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
        self.ignored: Counter[str] = Counter()
        self._skeletons: dict[tuple[str, ...], Skeleton | None] = {}

    def write(
        self, messages: Messages, sample_id: str, details: Details = NO_DETAILS
    ) -> tuple[str, tuple[Span, ...], bool]:
        """Return the text of a chat, the characters of its responses, and whether a special token ends the last one.

        A special token after a response belongs to the response, since the model has to learn to write it. Messages
        of weight 0 are in the text, but their responses are not among these. What the template does not write is
        counted in `ignored`. A chat whose assistant only calls tools has no responses if the template writes no calls.

        Raises:
            InputError: the template refuses the chat, or a response is not found in its text.
        """
        messages, details = self._understood(messages, details)
        text = self._write(messages, sample_id, details)
        contents = self._contents(text, messages, sample_id, details)
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

    def _understood(self, messages: Messages, details: Details) -> tuple[Messages, Details]:
        """Return the messages as this template reads them. A field that it does not name is counted as ignored."""
        template = self._template
        if "developer" not in template:  # The role is OpenAI's newer name of "system".
            messages = tuple(("system" if role == "developer" else role, text) for role, text in messages)
        if details is NO_DETAILS:
            return messages, details
        unknown = {key for extra in details.extras for key in extra if key not in template}
        for extra in details.extras[: len(messages)]:
            self.ignored.update(f"{key} of messages" for key in unknown & set(extra))
        known = tuple({key: value for key, value in extra.items() if key not in unknown} for extra in details.extras)
        tools = details.tools
        if tools and "tools" not in template:
            self.ignored["tools"] += 1
            tools = None
        return messages, Details(extras=known if any(known) else (), silent=details.silent, tools=tools)

    def _write(self, messages: Messages, sample_id: str, details: Details = NO_DETAILS) -> str:
        turns = [{"role": role, "content": text, **details.extra(turn)} for turn, (role, text) in enumerate(messages)]
        try:
            return self.tokenizer.apply_chat_template(
                turns, tools=details.tools or None, chat_template=self._template, tokenize=False
            )
        except REFUSALS as error:
            roles = ", ".join(role for role, _ in messages)
            raise InputError(
                f"the tokenizer's chat template refuses sample {sample_id} with the roles {roles} ({error}); "
                "remove it or change its roles"
            ) from None

    def _contents(self, text: str, messages: Messages, sample_id: str, details: Details) -> list[Span]:
        scored = answers(messages, details)
        if not scored:
            return []
        skeleton = self._skeleton(messages, sample_id, details)
        spans = (_assembled(skeleton, text, messages) or _matched(skeleton, text)) if skeleton else None
        if spans is None:
            raise InputError(
                f"the responses of sample {sample_id} cannot be found in the text of the tokenizer's chat template; "
                "remove the sample or use corpus.template=alpaca"
            )
        for turn, (role, words) in enumerate(messages):
            if turn not in spans and turn not in skeleton.inside and words.strip():
                self.ignored[f"messages of the role {role}, which the chat template does not write"] += 1
        spans = {**spans, **_inside(skeleton, spans)}
        return [spans[turn] for turn in scored]

    def _skeleton(self, messages: Messages, sample_id: str, details: Details) -> Skeleton | None:
        roles = tuple(role for role, _ in messages)
        if details.extras or details.tools:
            return self._rich_skeleton(messages, sample_id, details)
        if roles not in self._skeletons:
            self._skeletons[roles] = self._marked(_marks(messages), sample_id, NO_DETAILS, roles, ())
        return self._skeletons[roles]

    def _rich_skeleton(self, messages: Messages, sample_id: str, details: Details) -> Skeleton | None:
        """Return the skeleton of messages of which some call tools or reason.

        What the assistant writes in such a message is not only its content. So it is written as it is, and its
        borders are found by comparing with the same message without these fields, which is a mark.
        """
        roles = tuple(role for role, _ in messages)
        rich = tuple(turn for turn in range(len(messages)) if is_rich(details.extra(turn)))
        poor = tuple({} if turn in rich else details.extra(turn) for turn in range(len(messages)))
        plain = self._marked(_marks(messages), sample_id, Details(extras=poor, tools=details.tools), roles, ())
        mixed = tuple(messages[turn] if turn in rich else mark for turn, mark in enumerate(_marks(messages)))
        found = self._marked(mixed, sample_id, details, roles, rich)
        if plain is None or found is None:
            return None
        inside = {}
        for turn in rich:
            part = sum(other < turn for other in found.turns)
            at, region = plain.turns.index(turn), found.around[part]
            start = len(commonprefix([region, plain.around[at]]))
            rest = region[start:]
            end = len(region) - len(commonprefix([rest[::-1], plain.around[at + 1][::-1]]))
            inside[turn] = (part, start, end)
        return Skeleton(found.turns, found.around, inside)

    def _marked(
        self, marked: Messages, sample_id: str, details: Details, roles: tuple[str, ...], rich: tuple[int, ...]
    ) -> Skeleton | None:
        """Return the skeleton of messages that are marks, all but those of `rich`."""
        parts = re.split("\ue000([0-9]+)\ue001", self._write(marked, sample_id, details))
        turns = tuple(int(turn) for turn in parts[1::2])
        needed = {turn for turn, role in enumerate(roles) if role == "assistant" and turn not in rich}
        is_plain = list(turns) == sorted(set(turns)) and needed <= set(turns)
        return Skeleton(turns, tuple(parts[::2]), {}) if is_plain else None


def _marks(messages: Messages) -> Messages:
    """Return the messages with marks in the place of their contents."""
    return tuple((role, f"\ue000{turn}\ue001") for turn, (role, _) in enumerate(messages))


def _inside(skeleton: Skeleton, spans: Mapping[int, Span]) -> dict[int, Span]:
    """Return the positions of the responses inside the text around the messages, given those of the messages."""
    found = {}
    for turn, (part, start, end) in skeleton.inside.items():
        base = spans[skeleton.turns[part - 1]][1] if part else 0
        found[turn] = (base + start, base + end)
    return found


def _assembled(skeleton: Skeleton, text: str, messages: Messages) -> dict[int, Span] | None:
    """Return the position of each message, if skeleton and messages, stripped or not, give exactly the text."""
    for of_response, of_prompt in product(CUTS, CUTS):
        cut = [of_response(words) if role == "assistant" else of_prompt(words) for role, words in messages]
        assembled, spans = _assemble(skeleton, cut)
        if assembled == text:
            return spans
    return None


def _assemble(skeleton: Skeleton, contents: Sequence[str]) -> tuple[str, dict[int, Span]]:
    turns, around = skeleton.turns, skeleton.around
    text, spans = around[0], {}
    for turn, behind in zip(turns, around[1:], strict=True):
        spans[turn] = (len(text), len(text) + len(contents[turn]))
        text += contents[turn] + behind
    return text, spans


def _matched(skeleton: Skeleton, text: str) -> dict[int, Span] | None:
    """Return the positions between the parts of the skeleton, even if the template has changed the messages."""
    turns, around = skeleton.turns, skeleton.around
    if not all(around[1:-1]):  # Two messages follow each other directly, so their border cannot be found.
        return None
    match = re.fullmatch("(.*?)".join(re.escape(part) for part in around), text, flags=re.DOTALL)
    return {turn: match.span(group) for group, turn in enumerate(turns, start=1)} if match else None
