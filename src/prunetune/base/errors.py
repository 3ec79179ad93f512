"""The one error that a user can cause and repair."""

import difflib
from collections.abc import Iterable

MOST_LETTERS = 240  # A longer word, such as a path, is cut in the middle, so that the line stays readable.


class InputError(ValueError):
    """A wrong input. The message is one line: what was expected, what came, and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(map(shortened, message.split())))


def shortened(word: str) -> str:
    """Return a word with `...` in the place of its middle if it is longer than `MOST_LETTERS`."""
    half = MOST_LETTERS // 2
    return word if len(word) <= MOST_LETTERS else f"{word[:half]}...{word[-half:]}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean 'x'?' for the known name closest to a misspelt one, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
