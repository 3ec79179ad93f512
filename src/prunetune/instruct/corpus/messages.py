"""Read the messages of chats, in the forms of OpenAI, ShareGPT and TRL."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunetune.base.errors import InputError

Messages = tuple[tuple[str, str], ...]  # Pairs (role, content).
ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",  # ShareGPT's name for a message in which the assistant calls a function.
}
NAMES = (("role", "content"), ("from", "value"))  # The keys of a message, in the two usual forms.
# Chat templates read these fields of a message beside its role and content.
EXTRAS = ("tool_calls", "reasoning_content", "tool_call_id", "name")
WRITTEN = ("tool_calls", "reasoning_content")  # The assistant writes these, so that they belong to its response.


@dataclass(frozen=True)
class Details:
    """What a sample has beside its instruction, response and messages.

    system: the system prompt of a sample without messages. extras: for each message the fields of EXTRAS that it has;
    empty if no message has any. silent: the numbers of the messages with weight 0, which are read but neither scored
    nor trained on. tools: the tools that the assistant may call, as the chat template reads them. is_plain: the text is
    continued as it is, without any template, as TRL trains on text and on prompt and completion.
    """

    system: str = ""
    extras: tuple[Mapping[str, Any], ...] = ()
    silent: frozenset[int] = frozenset()
    tools: Any = None
    is_plain: bool = False

    def extra(self, turn: int) -> Mapping[str, Any]:
        """Return the further fields of a message."""
        return self.extras[turn] if turn < len(self.extras) else {}

    @property
    def needs_chat(self) -> bool:
        """Whether only a chat template can write the sample completely."""
        return bool(self.tools) or any(map(is_rich, self.extras))


NO_DETAILS = Details()


def read_chat(turns: Any, where: str, ignored: Counter[str] | None = None) -> tuple[Messages, Details]:
    """Return the messages of a list of {role, content} or {from, value}, and their further fields.

    Args:
        turns: the list, or the same as JSON text. A content may be a list of parts, of which the texts are joined.
        where: the file and row, for errors.
        ignored: counts the fields that are not read. None: they are not counted.

    Raises:
        InputError: the value is not such a list, or a role is not one of `ROLES`.
    """
    ignored = Counter() if ignored is None else ignored
    turns = from_json(turns)
    if not isinstance(turns, list | tuple):
        raise InputError(f"{where}: a chat must be a list of messages, got {turns!r:.60}")
    read = [_message(turn, where, ignored) for turn in turns]
    extras = tuple(extra for _, _, extra, _ in read)
    silent = frozenset(turn for turn, (*_, is_silent) in enumerate(read) if is_silent)
    details = Details(extras=extras if any(extras) else (), silent=silent)
    return tuple((role, content) for role, content, _, _ in read), details


def as_messages(turns: Any, where: str) -> Messages:
    """Return only the messages that `read_chat` reads."""
    return read_chat(turns, where)[0]


def alternating(texts: Any, where: str) -> Messages:
    """Return the messages of a list of texts. The user writes the first one, and then user and assistant alternate."""
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: a chat must be a list of texts, got {texts!r:.60}")
    return tuple((("user", "assistant")[turn % 2], text) for turn, text in enumerate(texts))


def answers(messages: Messages, details: Details = NO_DETAILS) -> list[int]:
    """Return the numbers of the messages that are scored: those of the assistant that are not blank or silent."""
    return [
        turn
        for turn, (role, text) in enumerate(messages)
        if role == "assistant" and turn not in details.silent and (text.strip() or is_rich(details.extra(turn)))
    ]


def is_rich(extra: Mapping[str, Any]) -> bool:
    """Return whether the assistant writes more in this message than its content."""
    return any(extra.get(key) for key in WRITTEN)


def from_json(value: Any) -> Any:
    """Return the list or object of a JSON text, as a csv file holds it, and any other value as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def chat_or_text(value: Any) -> Any:
    """Return the messages of a JSON text, as a csv file holds them, and any other value as it is."""
    found = from_json(value)
    turns = found if isinstance(found, list) else [found]
    is_chat = bool(turns) and all(isinstance(turn, Mapping) and {"role", "from"} & set(turn) for turn in turns)
    return found if is_chat else value


def _message(turn: Any, where: str, ignored: Counter[str]) -> tuple[str, str, dict[str, Any], bool]:
    """Return role, content, further fields, and whether the message has weight 0."""
    names = next((pair for pair in NAMES if isinstance(turn, Mapping) and set(pair) <= set(turn)), None)
    if names is None and isinstance(turn, Mapping) and "role" in turn and turn.get("tool_calls"):
        names = NAMES[0]  # A message that only calls tools may leave its content out.
    if names is None:
        raise InputError(f"{where}: a message must have role and content, or from and value, got {turn!r:.60}")
    own_role = turn[names[0]]
    role = own_role.strip().lower() if isinstance(own_role, str) else own_role
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"{where}: a message's role must be one of {', '.join(ROLES)}, got {own_role!r}")
    content = _content(turn.get(names[1]), where, ignored)
    extra = {key: turn[key] for key in EXTRAS if not _is_empty(turn.get(key))}
    if role == "function_call":
        content, extra = _called(content, extra)
    if "tool_calls" in extra:
        extra["tool_calls"] = _tool_calls(extra["tool_calls"], where)
    for key in turn:
        if key not in (*names, *EXTRAS, "weight") and not _is_empty(turn[key]):
            ignored[f"{key} of messages"] += 1
    return ROLES[role], content, extra, _is_silent(turn.get("weight"), where)


def _is_silent(weight: Any, where: str) -> bool:
    """Return whether a message has weight 0; it may have none."""
    try:
        return weight is not None and float(weight) == 0
    except (TypeError, ValueError):
        raise InputError(f"{where}: a message's weight must be a number, got {weight!r:.60}") from None


def _content(content: Any, where: str, ignored: Counter[str]) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InputError(f"{where}: a message's content must be text or a list of parts, got {content!r:.60}")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            texts.append(text)
        elif isinstance(part, Mapping):
            ignored[f"{part.get('type', 'other')} parts of messages"] += 1
        else:
            raise InputError(f"{where}: a part of a message must be text or an object, got {part!r:.60}")
    return "".join(texts)


def _called(content: str, extra: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return content and fields of a function call of ShareGPT, whose value is the call as JSON, or just text."""
    call = from_json(content)
    calls = call if isinstance(call, list) else [call]
    if all(isinstance(one, Mapping) and "name" in one for one in calls):
        return "", {**extra, "tool_calls": [{"type": "function", "function": dict(one)} for one in calls]}
    return content, extra


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as objects, since chat templates write objects as JSON."""
    calls = from_json(calls)
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise InputError(f"{where}: tool_calls must be a list of objects, got {calls!r:.60}")
    read = []
    for call in calls:
        function = call.get("function")
        if isinstance(function, Mapping) and "arguments" in function:
            call = {**call, "function": {**function, "arguments": from_json(function["arguments"])}}
        elif "arguments" in call:
            call = {**call, "arguments": from_json(call["arguments"])}
        read.append({key: value for key, value in call.items() if value is not None})
    return read


def _is_empty(value: Any) -> bool:
    """Return whether a field says nothing: null, NaN, an empty text, list or object."""
    return value is None or value != value or (isinstance(value, str | list | tuple | Mapping) and not len(value))
