"""Say in the words of `prunetune prune-text` or of `prune_text()` what an error says in the keys of a run."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prunetune.base.errors import InputError

# Maps an option's name, such as "max_length", and a value to what the user types.
Words = Callable[[str, str], str]
# A key of a run, such as corpus.max_length=512 or text_scorer.queries.
KEY = re.compile(r"(?<![\w.])(?:corpus|llm|text_scorer|scorer|sampler)\.(\w+)(?:=(<[^>]*>|[\w./\-]+))?")
GROUP = re.compile(r"(?<![\w.\-])(sampler|text_scorer|max_tokens|device)=(<[^>]*>|[\w./\-]+)")
OF_SCORER = ("text_scorer.", "scorer.")


def command(name: str, value: str = "") -> str:
    """Return an option of `prunetune prune-text`, such as `--max-length 512`."""
    return f"--{name.replace('_', '-')} {value}".rstrip()


def python(name: str, value: str = "") -> str:
    """Return an argument of `prune_text()`, such as `max_length=512`."""
    is_number = value.isdecimal()
    return f"{name}={value if is_number else repr(value)}" if value else name


@contextmanager
def spoken(words: Words) -> Iterator[None]:
    """Let the errors of a block name the options of a door instead of the keys of a run."""
    try:
        yield
    except InputError as error:
        raise InputError(translated(str(error), words)) from error


def translated(message: str, words: Words) -> str:
    """Return a message in the words of a door."""

    def option(match: re.Match[str]) -> str:
        name, value = match.group(1), match.group(2) or ""
        if match.group().startswith(OF_SCORER):
            return words("option", f"{name}={value or '<value>'}")
        return words(name, value)

    message = message.replace("llm=local ", "")
    message = KEY.sub(option, message)
    return GROUP.sub(lambda match: words(match.group(1).removeprefix("text_"), match.group(2)), message)
